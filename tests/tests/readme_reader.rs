//! Promise: who follows only the README's first screen gets to a message on the page. What stands there is read from it:
//! what to run, what it answers, what to open, what to type next.
//!
//! Every day `cargo` stands for what was built already; at night it is cargo itself, in a fresh clone.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringcast_tests::{Process, Variant, enter_own_network_with_cards, eventually, place};

/// How long a browser may take, on two cores.
const SEEN: Duration = Duration::from_secs(90);

/// What `cargo run` stands for where all has been built.
const CARGO: &str = r#"#!/bin/bash
case "$*" in
  "run --release") exec "$BIN/ringcast" ;;
  "run --release -p biz -- "*) shift 5; exec "$BIN/biz" "$@" ;;
esac
echo "cargo $*: the README says something else now" >&2
exit 64
"#;

/// What the README's first screen says.
struct FirstScreen {
    /// What to run.
    command: String,
    /// What it answers, from where it serves.
    answer: Vec<String>,
    open: String,
    then: String,
}

impl FirstScreen {
    fn read() -> Self {
        let text = std::fs::read_to_string(place::root().join("README.md")).unwrap();
        let block = |kind: &str| {
            let (_, after) = text.split_once(&format!("```{kind}\n")).unwrap();
            after.split_once("```").unwrap().0.to_owned()
        };
        let command = block("sh").lines().next().unwrap().split('#').next().unwrap().trim().to_owned();
        let answer: Vec<String> = block("text").lines().map(str::to_owned).collect();
        let after = |word: &str| {
            let line = answer.iter().find_map(|line| line.trim().strip_prefix(word)).unwrap();
            line.trim().to_owned()
        };
        Self { command, open: after("open"), then: after("type"), answer }
    }
}

/// Where the reader works, with what he types.
struct Reader {
    folder: PathBuf,
    path: String,
}

impl Reader {
    fn types(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("exec {line}")).current_dir(&self.folder).env("PATH", &self.path);
        command.env("BIN", place::binary("ringcast").parent().unwrap());
        // What a test runner sets is not the reader's.
        command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
        command
    }

    async fn follows(&self, screen: &FirstScreen, patience: Duration) {
        let mut system = Process::start("the README's first command", &mut self.types(&screen.command));
        let last = screen.answer.iter().rfind(|line| !line.is_empty()).unwrap();
        eventually("it says that it serves", patience, async || {
            if let Some(status) = system.exited() {
                panic!("{status}: {}", system.stderr());
            }
            if system.stdout().contains(last) { Ok(()) } else { Err(system.stderr()) }
        })
        .await;
        let said = system.stdout();
        // How many shards a node has, and how it does its I/O, is the machine's matter.
        for line in screen.answer.iter().filter_map(|line| line.split("   2 shards").next()) {
            assert!(said.lines().any(|said| said.starts_with(line)), "{line:?} is not in {said}");
        }
        let mut command = Command::new(place::node());
        command
            .arg(place::root().join("tests/browser/reader.mjs"))
            .env("READER_URL", &screen.open)
            .env("READER_TEXT", "Hello everyone!")
            .env("READER_PATIENCE_MS", patience.as_millis().to_string())
            .env("RINGCAST_SHOTS", place::shots());
        let mut browser = Process::start("the browser", &mut command);
        eventually("the page has joined the room", SEEN, async || {
            if let Some(status) = browser.exited() {
                panic!("{status}: {}", browser.stderr());
            }
            if browser.stdout().contains("joined") { Ok(()) } else { Err(browser.stderr()) }
        })
        .await;
        let mut push = Process::start("the README's second command", &mut self.types(&screen.then));
        let status = push.wait(patience);
        let (out, err) = push.output();
        assert!(status.success() && out.contains("written 1"), "{status}\n{out}\n{err}");
        let status = browser.wait(SEEN);
        let (out, err) = browser.output();
        assert!(status.success(), "{status}\n{out}\n{err}");
        system.signal_group(libc::SIGINT);
        assert!(system.wait(patience).success(), "Ctrl+C stops it");
    }
}

fn run(reader: &Reader, patience: Duration) {
    enter_own_network_with_cards();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(reader.follows(&FirstScreen::read(), patience));
}

#[test]
fn the_first_screen_leads_to_a_message_on_the_page() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cargo = folder.path().join("cargo");
    std::fs::write(&cargo, CARGO).unwrap();
    std::fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", folder.path().display());
    run(&Reader { folder: folder.path().to_owned(), path }, Duration::from_secs(60));
}

#[test]
#[ignore = "nightly: cargo itself builds all of it in a fresh clone"]
fn the_first_screen_leads_there_from_a_fresh_clone() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clone = folder.path().join("ringcast");
    let cloned = Command::new("git").args(["clone", "--quiet"]).arg(place::root()).arg(&clone).status();
    assert!(cloned.unwrap().success());
    assert!(Path::new(&clone).join("README.md").exists());
    let path = std::env::var("PATH").unwrap();
    run(&Reader { folder: clone, path }, Duration::from_secs(45 * 60));
}
