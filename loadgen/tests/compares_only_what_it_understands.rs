//! Promise: a result in another version of the form is refused by name, never misread.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::path::Path;
use std::process::{Command, Output};

fn compare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("compare").args(args).output().unwrap()
}

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/room-push.json");
    path.to_str().unwrap().to_owned()
}

/// What `compare` says of the sample beside a file with this text.
fn refusal(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.json");
    std::fs::write(&other, text).unwrap();
    let output = compare(&[&sample(), other.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("other.json") && told.lines().count() == 1, "{told}");
    told
}

#[test]
fn another_version_is_refused() {
    let later = std::fs::read_to_string(sample()).unwrap().replacen(
        "\"schema_version\": 1",
        "\"schema_version\": 7",
        1,
    );
    let told = refusal(&later);
    assert!(told.contains("has schema_version 7, and this loadgen reads 1"), "{told}");
    let other_form = refusal(r#"{"schema_version": 2, "numbers": []}"#);
    assert!(other_form.contains("has schema_version 2"), "{other_form}");
}

#[test]
fn what_is_no_result_is_refused() {
    assert!(refusal("{}").contains("has no schema_version"));
    assert!(refusal("p99 3 ms").contains("is not a result in JSON"));
    assert!(refusal(r#"{"schema_version": 1}"#).contains("does not have the form of a result"));
}

#[test]
fn the_same_on_both_sides_has_no_difference() {
    let sample = sample();
    let output = compare(&[&sample, &sample]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let ratios: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter(|last| last.ends_with('x'))
        .collect();
    assert!(ratios.len() > 20 && ratios.iter().all(|ratio| *ratio == "1.00x"), "{text}");
}

#[test]
fn one_side_alone_is_no_comparison() {
    let sample = sample();
    for args in [&[sample.as_str()][..], &["--a", &sample], &[]] {
        assert_eq!(compare(args).status.code(), Some(2), "{args:?}");
    }
}
