//! Where things are: the binaries under test, the scripts of the clients, their interpreters.
//!
//! Owns: paths. Must not: start anything.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().map_or_else(|| tests.to_owned(), Path::to_owned)
}

/// A binary under test.
pub fn binary(name: &str) -> PathBuf {
    let folder = match std::env::var_os("RINGCAST_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // A test runs as <target>/release/deps/<test>.
        None => {
            let test = std::env::current_exe().expect("a test knows its own path");
            test.ancestors().nth(2).expect("a test lies in deps/").to_owned()
        }
    };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there: run `cargo xtask test`, or build the binaries first",
        path.display()
    );
    path
}

/// A script of the test clients.
pub fn client_script(name: &str) -> PathBuf {
    root().join("tests/clients").join(name)
}

/// The Python that has the clients' packages.
pub fn python() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    set_up(target.join("clients-venv/bin/python"))
}

/// Node, with the clients' packages beside the script.
pub fn node() -> PathBuf {
    set_up(root().join("tests/clients/node_modules/ws"));
    PathBuf::from("node")
}

/// Where screenshots are kept.
pub fn shots() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = target.join("browser-shots");
    std::fs::create_dir_all(&folder).expect("a folder beside the build");
    folder
}

fn set_up(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is not there: run `cargo xtask setup`", path.display());
    path
}
