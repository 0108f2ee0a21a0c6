//! Promise: a MariaDB can be ended, and made to refuse writes; a replica has the primary's rows, and takes its
//! place at the same address.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::process::Command;

use test_servers::{MariaDb, MariaDbOptions};

/// Runs a statement as the user, over TCP; gives what was printed, also where it failed.
fn as_user(port: u16, password: &str, options: &[&str], statement: &str) -> String {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--host=127.0.0.1", "--user=ringcast", "--batch", "--skip-column-names"]);
    client.arg(format!("--port={port}")).args(options).env("MYSQL_PWD", password);
    let output = client.args(["-e", statement]).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[test]
fn what_was_committed_outlives_a_kill_and_read_only_binds_the_user() {
    let mut db = MariaDb::primary();
    let name = db.fresh_database();
    assert_ne!(name, db.fresh_database());
    let user = |statement: &str| as_user(db.port(), db.password(), &[], statement);
    assert_eq!(user(&format!("create table {name}.t (a int); insert into {name}.t values (1), (2)")), "");
    db.read_only(true);
    let refused = user(&format!("insert into {name}.t values (3)"));
    assert!(refused.contains("read-only"), "{refused}");
    db.read_only(false);
    assert_eq!(user(&format!("insert into {name}.t values (3)")), "");
    db.kill();
    assert!(db.try_sql("select 1").is_err());
    db.start_again();
    assert_eq!(db.sql(&format!("select a from {name}.t order by a")), "1\n2\n3\n");
}

#[test]
fn a_wrong_password_is_refused_and_tls_is_spoken() {
    let db = MariaDb::with(MariaDbOptions { tls: true });
    let refused = as_user(db.port(), "wrong", &[], "select 1");
    assert!(refused.contains("Access denied"), "{refused}");
    let ca = format!("--ssl-ca={}", db.certificates().unwrap().authority.display());
    let options = [ca.as_str(), "--ssl-verify-server-cert"];
    let cipher = as_user(db.port(), db.password(), &options, "show status like 'Ssl_version'");
    assert!(cipher.contains("TLSv1"), "{cipher}");
}

#[test]
fn a_promoted_replica_has_the_rows_and_is_found_at_the_same_address() {
    let mut pair = MariaDb::pair();
    let name = pair.fresh_database();
    let (port, password) = (pair.port(), pair.password());
    let user = |statement: String| as_user(port, password, &[], &statement);
    assert_eq!(user(format!("create table {name}.t (a int); insert into {name}.t values (1)")), "");
    let refused = as_user(pair.replica().port(), password, &[], &format!("insert into {name}.t values (9)"));
    assert!(refused.contains("read-only"), "{refused}");
    assert_eq!(user(format!("insert into {name}.t values (2)")), "");
    pair.promote();
    assert_eq!(pair.port(), port);
    assert_eq!(
        user(format!("insert into {name}.t values (3); select a from {name}.t order by a")),
        "1\n2\n3\n"
    );
}
