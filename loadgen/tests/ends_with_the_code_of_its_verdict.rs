//! Promise: scripts can trust the exit code: 0 pass, 99 failed, 3 invalid, 2 for what is wrong with the call.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use loadgen::result::{Invalid, RunResult, Verdict};

fn loadgen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(args).output().unwrap()
}

fn sample_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/room-push.json")
}

fn sample() -> RunResult {
    loadgen::kept::read(&sample_path()).unwrap()
}

/// Keeps the sample, changed, and shows it with these further arguments.
fn report(change: impl FnOnce(&mut RunResult), args: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.json");
    let mut result = sample();
    change(&mut result);
    loadgen::kept::write(&path, &result).unwrap();
    let output = loadgen(&[&["report", path.to_str().unwrap()], args].concat());
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn pass_is_0() {
    let (code, text) = report(|_| (), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("PASS "), "{text}");
}

#[test]
fn fail_is_99() {
    let (code, text) = report(|_| (), &["--slo", "room_push p99 < 3 ms"]);
    assert_eq!(code, 99, "{text}");
    assert!(text.contains("\nFAIL room_push p99 < 3 ms: 3.1 ms, n=1500"), "{text}");
    let (code, text) = report(|result| result.correctness.lost = 1, &[]);
    assert_eq!(code, 99, "what is lost fails a run whatever it is held to: {text}");
}

#[test]
fn invalid_is_3_even_where_something_failed() {
    let limit = |result: &mut RunResult| {
        result.invalid.push(Invalid { check: "generator-cpu".into(), found: "0.97 of a core".into() });
    };
    let (code, text) = report(limit, &["--slo", "room_push p99 < 3 ms"]);
    assert_eq!(code, 3, "{text}");
    assert!(!text.contains("PASS") && !text.contains("FAIL"), "{text}");
    let (code, text) = report(|_| (), &["--slo", "broadcast p99 < 100 ms", "--slo", "room_push p99 < 3 ms"]);
    assert_eq!(code, 3, "what was not measured: {text}");
}

#[test]
fn of_several_runs_the_worst_decides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    loadgen::kept::write(&path("good.json"), &sample()).unwrap();
    let mut bad = sample();
    bad.correctness.duplicate = 2;
    loadgen::kept::write(&path("bad.json"), &bad).unwrap();
    let (good, bad) = (path("good.json"), path("bad.json"));
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    assert_eq!(loadgen(&["report", "-q", good, good, good]).status.code(), Some(0));
    let output = loadgen(&["report", "-q", good, bad, good]);
    assert_eq!(output.status.code(), Some(99), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("FAIL duplicate = 0: median 0, worst 2 of 3 runs")
    );
}

#[test]
fn what_is_wrong_with_the_call_is_2_and_one_line() {
    for args in [
        &["report", "nowhere.json"][..],
        &["report", sample_path().to_str().unwrap(), "--slo", "fast"],
        &["compare", "nowhere.json", "nowhere.json"],
        &["fly"],
        &[],
    ] {
        let output = loadgen(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{args:?}: {told}");
    }
}

#[test]
fn what_is_kept_reads_back_as_it_was_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (json, html) = (path("out.json"), path("out.html"));
    let sample = sample_path();
    let args = ["report", sample.to_str().unwrap(), "--json", &json, "--html", &html];
    assert_eq!(loadgen(&args).status.code(), Some(0));
    let kept = loadgen::kept::read(Path::new(&json)).unwrap();
    assert_eq!((kept.verdict, kept.objectives.len()), (Verdict::Pass, 13));
    assert!(std::fs::read_to_string(&html).unwrap().contains("13 of 13 objectives hold"));
}
