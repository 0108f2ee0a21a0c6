//! The `config.yaml` of this repository is read as it stands, asks for no cluster store, and each key that it
//! shows in a comment is known.

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
