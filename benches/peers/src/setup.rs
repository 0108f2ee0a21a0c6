//! Installs what the contestants need, from their registries, and builds the one in C++.
//!
//! Owns: the list of needs. Must not: let a package start a service (the developer's set-up script, which is used here
//! too, sees to that). Talks to: apt-get, npm, cargo, the C++ compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::contestant::{NCHAN_MODULE, Place};

/// Installs Debian packages as root without letting them start a service; its text says how.
const INSTALL: &str = include_str!("../../../xtask/src/install_packages.sh");

/// What Debian asks before it starts a service.
const POLICY_FILE: &str = "/usr/sbin/policy-rc.d";

/// The sources of uSockets that a server without TLS on Linux needs.
const USOCKETS: [&str; 6] = ["context", "socket", "loop", "udp", "bsd", "eventing/epoll_kqueue"];

/// Something that must be there, and the Debian package that brings it.
const NEEDS: [(&str, &str); 7] = [
    ("/usr/sbin/nginx", "nginx"),
    (NCHAN_MODULE, "libnginx-mod-nchan"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("g++", "g++"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
    ("taskset", "util-linux"),
];

/// Installs and builds what is missing. What fails is said and leaves its contestant out.
pub fn set_up(place: &Place) -> Result<()> {
    let mut failed = Vec::new();
    for (name, done) in
        [("packages", packages()), ("node-ws", node_modules(place)), ("uws", build_uws(place))]
    {
        match done {
            Ok(said) => println!("{name}: {said}"),
            Err(error) => {
                println!("{name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("not set up: {}", failed.join(", "));
    }
    Ok(())
}

/// Builds our own programs as they are shipped: what the tests leave behind may carry the core's checks.
pub fn build_ours() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo =
        ["build", "--release", "--locked", "--quiet", "-p", "connect-uring", "-p", "control", "-p", "peers"];
    run(Command::new("cargo").args(cargo).current_dir(root))
}

fn packages() -> Result<String> {
    let missing: Vec<&str> =
        NEEDS.iter().filter(|(what, _)| !is_there(what)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok("all there".into());
    }
    println!("installing with apt-get, no service is started: {}", missing.join(" "));
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("sh")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    };
    run(command.args(["-c", INSTALL, "install_packages.sh", POLICY_FILE]).args(&missing))?;
    Ok(format!("installed {}", missing.join(" ")))
}

fn is_there(what: &str) -> bool {
    if what.starts_with('/') {
        return Path::new(what).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(what).exists())
}

fn node_modules(place: &Place) -> Result<String> {
    let folder = place.servers.join("node");
    if folder.join("node_modules/ws").exists() {
        return Ok("all there".into());
    }
    let npm = ["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"];
    run(Command::new("npm").args(npm).current_dir(&folder))?;
    Ok("installed from its lock file".into())
}

/// Compiles `servers/uws/uws.cpp` with the uWebSockets that a crate carries.
fn build_uws(place: &Place) -> Result<String> {
    let folder = place.servers.join("uws");
    let source = folder.join("uws.cpp");
    let built = place.built();
    let binary = built.join("uws");
    let newer = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    if binary.exists() && newer(&binary) > newer(&source) {
        return Ok("built".into());
    }
    fs::create_dir_all(&built)?;
    let library = uwebsockets(&folder)?;
    let sockets = library.join("uSockets/src");
    let mut objects = Vec::new();
    for unit in USOCKETS {
        let object = built.join(unit.replace('/', "-")).with_extension("o");
        let flags = ["-std=c11", "-O3", "-flto", "-DLIBUS_NO_SSL", "-c", "-I"];
        let mut gcc = Command::new("gcc");
        gcc.args(flags).arg(&sockets).arg(sockets.join(unit).with_extension("c")).arg("-o").arg(&object);
        run(&mut gcc)?;
        objects.push(object);
    }
    let mut gxx = Command::new("g++");
    gxx.args(["-std=c++20", "-O3", "-flto", "-DLIBUS_NO_SSL", "-I"]).arg(library.join("src"));
    gxx.arg("-I").arg(&sockets).arg(&source).args(&objects).arg("-lz").arg("-o").arg(&binary);
    run(&mut gxx)?;
    Ok("built with g++".into())
}

/// Where cargo keeps the crate that carries the sources of uWebSockets; it is downloaded where it is not there.
fn uwebsockets(folder: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(folder.join("Cargo.toml"));
    let output = cargo.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages in cargo's metadata")?;
    let package = packages.iter().find(|package| package["name"] == "libuwebsockets-sys");
    let manifest =
        package.and_then(|package| package["manifest_path"].as_str()).context("no libuwebsockets-sys")?;
    let sources = Path::new(manifest).with_file_name("uWebSockets");
    if !sources.is_dir() {
        bail!("{} does not carry uWebSockets", sources.display());
    }
    Ok(sources)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
