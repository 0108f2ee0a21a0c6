//! A temporary folder of servers: removed with the test, and, where the test was killed, by the next one.
//!
//! Owns: the folder and the lock that says that its test lives.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// How folders that are in use, or were, are called.
const PREFIX: &str = "ringcast-servers-";

/// Before its lock is held a folder has another name, so that nobody takes it for one left behind.
const PREFIX_UNLOCKED: &str = "ringcast-starting-";

/// The file in a folder that is locked while its test lives.
const LOCK: &str = "lock";

/// Exists while this lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(crate) fn make() -> Result<Self> {
        sweep();
        let unlocked = tempfile::Builder::new()
            .prefix(PREFIX_UNLOCKED)
            .tempdir()
            .context("cannot make a temporary folder")?;
        let lock = File::create(unlocked.path().join(LOCK))?;
        lock.lock()?;
        let name = unlocked.path().file_name().unwrap_or_default().to_string_lossy();
        let path = unlocked.path().with_file_name(name.replacen(PREFIX_UNLOCKED, PREFIX, 1));
        fs::rename(unlocked.keep(), &path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder in it.
    pub(crate) fn subfolder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}

/// Removes what killed tests have left: a database's folder is too large to lie about.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            // Where it cannot be removed it is another user's, who will.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_dead_test_is_swept_and_a_living_one_is_kept() {
        let living = Folder::make().unwrap();
        // What a killed process leaves: the folder and an unlocked file.
        let dead = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap().keep();
        File::create(dead.join(LOCK)).unwrap();
        sweep();
        assert!(living.path().is_dir());
        assert!(!dead.exists());
        let path = living.path().to_owned();
        drop(living);
        assert!(!path.exists());
    }
}
