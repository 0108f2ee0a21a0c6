//! `control/schema.sql`: the tables for those who let an administrator make them.

use std::fmt::Write as _;

use super::opening::MIGRATIONS;
use super::*;

const SCHEMA: &str = include_str!("../../../schema.sql");

/// Set, the file is written instead of being compared.
const WRITE: &str = "RINGCAST_WRITE_SCHEMA";

/// What the file is to hold: the migrations, and the driver's note that each has been made.
fn schema() -> String {
    let mut text = String::from(
        "-- The controllers' tables in MySQL or MariaDB. Made from control/migrations/mysql: change those, then run\n\
         -- RINGCAST_WRITE_SCHEMA=1 cargo test -p control --features cluster schema\n\
         --\n\
         -- A controller makes its tables itself, where its user may. Otherwise load this as somebody who may:\n\
         --   mysql -h localhost -u root -p pubsub < schema.sql\n\
         -- Before the first controller starts or later, and as often as you like: what is there stays as it is.\n\n\
         CREATE TABLE IF NOT EXISTS _sqlx_migrations (\n    \
             version BIGINT PRIMARY KEY,\n    \
             description TEXT NOT NULL,\n    \
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,\n    \
             success BOOLEAN NOT NULL,\n    \
             checksum BLOB NOT NULL,\n    \
             execution_time BIGINT NOT NULL\n\
         );\n",
    );
    for migration in MIGRATIONS.iter() {
        let checksum: String = migration.checksum.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(
            text,
            "\n{}\nINSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)\n\
             VALUES ({}, '{}', TRUE, x'{checksum}', -1)\nON DUPLICATE KEY UPDATE success = TRUE;\n",
            migration.sql.as_str(),
            migration.version,
            migration.description
        )
        .unwrap();
    }
    text
}

fn load(store: &MysqlStore) {
    shared().sql(&format!("use `{}`;\n{SCHEMA}", store.database));
}

#[test]
fn the_schema_file_is_what_the_migrations_say() {
    if std::env::var_os(WRITE).is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.sql");
        std::fs::write(file, schema()).unwrap();
    } else {
        assert!(SCHEMA == schema(), "run {WRITE}=1 cargo test -p control --features cluster schema");
    }
}

#[tokio::test]
async fn the_schema_file_may_be_loaded_before_the_first_start_and_after_it_and_twice() {
    let (before, after) = (fresh_database(), fresh_database());
    load(&before);
    load(&before);
    made(&open(&before).await, "a", 5).await.unwrap();
    made(&open(&after).await, "a", 5).await.unwrap();
    for store in [&before, &after] {
        load(store);
        load(store);
        let rooms = open(store).await;
        assert_eq!(made(&rooms, "a", 6).await.unwrap().created_at, 5, "what was there stays");
        let applied = format!("select count(*), min(success) from `{}`._sqlx_migrations", store.database);
        assert_eq!(shared().sql(&applied).trim(), "1\t1");
    }
    let table = |store: &MysqlStore| {
        let table = shared().sql(&format!("show create table `{}`.rooms", store.database));
        table.replace(&store.database, "")
    };
    assert_eq!(table(&before), table(&after), "either way makes the same table");
}

#[tokio::test]
async fn with_the_schema_loaded_a_user_who_may_not_make_tables_will_do() {
    let store = fresh_database();
    let user = format!("writer_of_{}", store.database);
    shared().sql(&format!(
        "create user '{user}'@'%' identified by 'secret'; \
         grant select, insert, update, delete on `{}`.* to '{user}'@'%'",
        store.database
    ));
    let writer = MysqlStore { user, password: Some("secret".into()), ..store.clone() };
    let error = not_opened(&writer).await;
    assert!(error.key == "DB_USER" && error.remedy.contains("control/schema.sql"), "{error}");
    load(&store);
    let rooms = open(&writer).await;
    rooms.set(room("a"), named("Hall"), 5).await.unwrap();
    assert_eq!(rooms.forget(vec![room("a")], 6).await.unwrap(), 1);
}

#[tokio::test]
async fn a_migration_that_was_broken_off_is_mended_by_the_schema_file() {
    let store = fresh_database();
    open(&store).await;
    shared().sql(&format!(
        "drop table `{0}`.rooms; update `{0}`._sqlx_migrations set success = false",
        store.database
    ));
    let error = not_opened(&store).await;
    assert!(error.key == "DB_NAME" && error.remedy.contains("control/schema.sql"), "{error}");
    load(&store);
    made(&open(&store).await, "a", 5).await.unwrap();
}

#[tokio::test]
async fn a_database_of_a_newer_version_will_do() {
    let store = fresh_database();
    open(&store).await;
    shared().sql(&format!(
        "insert into `{}`._sqlx_migrations values (9999, 'newer', now(), true, x'00', -1)",
        store.database
    ));
    made(&open(&store).await, "a", 5).await.unwrap();
}
