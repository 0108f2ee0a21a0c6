//! The data folder of a fresh MariaDB: made once a host, copied for each server.
//!
//! Owns: the copy that is kept in the temporary folder. Making one takes seconds, copying it does not.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::client;
use crate::mariadb::{FILE_SIZES, PACKAGE};

/// How long making one may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Makes `data` a data folder of a server that was never started.
pub(crate) fn copy_to(data: &Path) -> Result<()> {
    let program = client::find("mariadb-install-db");
    let program = program.with_context(|| {
        format!("mariadb-install-db is missing: run `cargo xtask setup`, or install {PACKAGE}")
    })?;
    // Of another version or another user is another one.
    let version = fs::metadata(&program)?;
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    let name = format!("ringcast-mariadb-{user}-{}", version.mtime());
    let kept = std::env::temp_dir().join(&name);
    let lock = File::create(kept.with_extension("lock")).context("cannot lock the prepared data folder")?;
    lock.lock()?;
    if !kept.exists() {
        let unfinished = kept.with_extension("unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        install(&unfinished)?;
        fs::rename(&unfinished, &kept)?;
    }
    // Everybody may write to the temporary folder.
    ensure!(fs::metadata(&kept)?.uid() == user, "{} belongs to somebody else: remove it", kept.display());
    let mut copy = client::command("cp", "coreutils")?;
    copy.args(["-a", "--sparse=always"]).arg(&kept).arg(data);
    client::run(&mut copy, "", LIMIT).map(drop)
}

fn install(data: &Path) -> Result<()> {
    let mut install = client::command("mariadb-install-db", PACKAGE)?;
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.args(FILE_SIZES).args(crate::mariadb::as_root());
    let mut datadir = std::ffi::OsString::from("--datadir=");
    datadir.push(data);
    client::run(install.arg(datadir), "", LIMIT).map(drop)
}
