//! Promise: the page that is served is what its sources make, and its client keeps what its own tests say, by types and by
//! deeds.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::process::Command;
use std::time::Duration;

use ringcast_tests::{Process, Variant, place};

const PATIENCE: Duration = Duration::from_secs(180);

fn in_web(name: &str, program: &str, arguments: &[&str]) {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(place::root().join("web"));
    let mut process = Process::start(name, &mut command);
    let status = process.wait(PATIENCE);
    let (out, err) = process.output();
    assert!(status.success(), "{name}: {status}\n{out}\n{err}");
}

#[test]
fn the_page_is_what_its_sources_make() {
    in_web("the build of the page", "node", &["build.mjs", "--check"]);
}

#[test]
fn the_types_of_the_client_and_the_page_fit() {
    in_web("the types", "npm", &["run", "--silent", "check"]);
}

#[test]
fn the_client_keeps_its_promises() {
    in_web("the client's tests", "npm", &["run", "--silent", "test"]);
}
