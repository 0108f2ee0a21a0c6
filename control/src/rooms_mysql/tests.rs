//! What holds beyond the promises of every store: several controllers, and a server that is away, over real MariaDB.

use std::sync::OnceLock;

use settings::{MysqlStore, SettingError};
use test_servers::{Forwarder, MariaDb};

use super::*;

mod controllers;
mod faults;
mod schema;

/// The server of those tests that do it no harm.
fn shared() -> &'static MariaDb {
    static SHARED: OnceLock<MariaDb> = OnceLock::new();
    SHARED.get_or_init(MariaDb::primary)
}

/// An empty database of a server that lives as long as the tests.
pub(crate) fn fresh_database() -> MysqlStore {
    database_of(shared())
}

fn database_of(server: &MariaDb) -> MysqlStore {
    MysqlStore {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: server.user().into(),
        password: Some(server.password().into()),
        database: server.fresh_database(),
        tls: "preferred".into(),
        ca: None,
    }
}

/// The same server by another way.
fn through(front: &Forwarder, store: &MysqlStore) -> MysqlStore {
    MysqlStore { port: front.port(), ..store.clone() }
}

fn errors() -> IntCounter {
    IntCounter::new("errors", "errors").unwrap()
}

async fn open(store: &MysqlStore) -> MysqlRooms {
    MysqlRooms::open(store, 1000, errors()).await.unwrap()
}

async fn not_opened(store: &MysqlStore) -> SettingError {
    MysqlRooms::open(store, 1000, errors()).await.unwrap_err()
}

fn room(id: &str) -> RoomId {
    RoomId::new(id).unwrap()
}

fn named(name: &str) -> RoomPatch {
    RoomPatch { name: Some(name.into()), ..RoomPatch::default() }
}

/// Reads a room, or makes it.
async fn made(rooms: &MysqlRooms, id: &str, now: i64) -> Result<StoredRoom, StoreError> {
    let (_, found) = rooms.load(vec![(room(id), true)], now).await?.remove(0);
    found.map(|found| found.unwrap())
}

#[tokio::test]
async fn what_no_time_would_help_ends_the_start_and_shows_no_password() {
    let store = fresh_database();
    let wrong = MysqlStore { password: Some("hunter2".into()), ..store.clone() };
    let none = MysqlStore { password: None, ..store.clone() };
    let absent = MysqlStore { database: "ringcast_absent".into(), ..store.clone() };
    let elsewhere = MysqlStore { database: "mysql".into(), ..store.clone() };
    let tls = MysqlStore { tls: "required".into(), ..store.clone() };
    let mode = MysqlStore { tls: "sometimes".into(), ..store.clone() };
    for (store, key, remedy) in [
        (wrong, "DB_USER", "DB_PASSWORD"),
        (none, "DB_USER", "DB_PASSWORD"),
        (absent, "DB_NAME", "CREATE DATABASE ringcast_absent"),
        (elsewhere, "DB_NAME", "grant"),
        (tls, "DB_TLS", "TLS"),
        (mode, "DB_TLS", "verify_ca"),
    ] {
        let error = not_opened(&store).await;
        assert_eq!(error.key, key, "{error}");
        assert!(error.remedy.contains(remedy), "{error}");
        assert!(!format!("{error} {error:?} {store:?}").contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn over_tls_the_authority_is_what_is_asked_for() {
    let server = MariaDb::with(test_servers::MariaDbOptions { tls: true });
    let plain = database_of(&server);
    let authority = server.certificates().unwrap().authority.clone();
    for tls in ["preferred", "required"] {
        let store = MysqlStore { tls: tls.into(), ..plain.clone() };
        made(&open(&store).await, "a", 5).await.unwrap();
    }
    let known = MysqlStore { tls: "verify_ca".into(), ca: Some(authority), ..plain.clone() };
    made(&open(&known).await, "b", 5).await.unwrap();
    let encrypted = server.sql(
        "select variable_value from information_schema.global_status where variable_name = 'ssl_accepts'",
    );
    assert_ne!(encrypted.trim(), "0");
    // Its authority is not one of the system's.
    let unknown = MysqlStore { tls: "verify_ca".into(), ..plain };
    let error = timeout(Duration::from_secs(5), not_opened(&unknown)).await.expect("no time would help");
    assert!(error.key == "DB_TLS" && error.remedy.contains("DB_CA_FILE"), "{error}");
}
