//! The `config.yaml` of this repository is read as it stands, asks for no cluster store, each key that it shows in
//! a comment is known, and each key that is known is shown.

use std::collections::BTreeSet;
use std::path::Path;

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config.yaml");
    std::fs::read_to_string(path).expect("config.yaml at the root of the repository")
}

/// The line without the `#` before its key or list item, where it has one.
fn uncommented(line: &str) -> String {
    let Some((before, rest)) = line.split_once("# ") else { return line.into() };
    let item = rest.trim_start();
    let key = item.split(':').next().unwrap_or_default();
    let is_key = item.contains(':') && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let shown = before.trim().is_empty() && (is_key || item.starts_with("- "));
    if shown { format!("{before}{rest}") } else { line.into() }
}

#[test]
fn it_works_with_the_embedded_stores() {
    let file = settings::parse(&text(), "config.yaml").expect("a file that can be read");
    assert!(file.database.is_none() && file.redis.is_none() && file.etcd.is_none());
    assert_eq!(file.server.port, Some(50051));
}

#[test]
fn every_key_that_it_shows_is_known() {
    let whole: Vec<String> = text().lines().map(uncommented).collect();
    let file = settings::parse(&whole.join("\n"), "config.yaml").unwrap_or_else(|error| panic!("{error}"));
    assert!(file.database.is_some() && file.redis.is_some() && file.etcd.is_some());
    assert_eq!(file.connect.limits.rooms_per_session, Some(128));
    assert_eq!((file.push.grpc_port, file.room.max_rooms), (Some(50053), Some(1_000_000)));
}

/// The keys that are known in a section (its keys from the outermost), as the refusal of an unknown one lists them;
/// `None` where it is no section.
fn known_keys(section: &[&str]) -> Option<Vec<String>> {
    const UNKNOWN: &str = "surely_there_is_no_such_key";
    let mut text = String::new();
    for (depth, key) in section.iter().chain([&UNKNOWN]).enumerate() {
        text.push_str(&format!("{}{key}:{}\n", "  ".repeat(depth), if *key == UNKNOWN { " 1" } else { "" }));
    }
    let error = settings::parse(&text, "config.yaml").expect_err("an unknown key was taken");
    let (_, known) = error.remedy.split_once("known here: ")?;
    Some(known.split(", ").map(str::to_owned).collect())
}

/// The path of each key in a text whose sections are indented.
fn keys_of(text: &str) -> BTreeSet<String> {
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let item = line.trim_start();
        let Some((key, _)) = item.split_once(':').filter(|_| !item.starts_with(['#', '-'])) else { continue };
        let indent = line.len() - item.len();
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, key));
        keys.insert(path.iter().map(|(_, key)| *key).collect::<Vec<_>>().join("."));
    }
    keys
}

#[test]
fn every_key_that_is_known_is_shown() {
    let whole: Vec<String> = text().lines().map(uncommented).collect();
    let shown = keys_of(&whole.join("\n"));
    let mut sections: Vec<Vec<String>> = vec![Vec::new()];
    let mut known = 0;
    while let Some(section) = sections.pop() {
        let outer: Vec<&str> = section.iter().map(String::as_str).collect();
        for key in known_keys(&outer).expect("a section") {
            let path: Vec<&str> = outer.iter().copied().chain([key.as_str()]).collect();
            known += 1;
            assert!(shown.contains(&path.join(".")), "config.yaml does not show {}", path.join("."));
            if known_keys(&path).is_some() {
                sections.push(path.iter().map(|key| (*key).to_owned()).collect());
            }
        }
    }
    assert!(known > 60, "only {known} keys were looked for");
}
