//! Promise: the members of an etcd can be ended, held and emptied, and what the cluster does then is what etcd does.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use test_servers::{Etcd, EtcdOptions};

#[test]
fn a_killed_leader_is_replaced_and_comes_back() {
    let mut etcd = Etcd::start(3);
    etcd.put("a", "1");
    let first = etcd.leader();
    etcd.kill(first);
    let second = etcd.leader();
    assert_ne!(first, second);
    etcd.put("a", "2");
    etcd.start_again(first);
    etcd.stop(second);
    assert_ne!(etcd.leader(), second, "a held leader is replaced, too");
    etcd.cont(second);
    assert_eq!(etcd.get("a").as_deref(), Some("2"));
    (0..3).for_each(|i| etcd.kill(i));
    assert!(etcd.try_put("a", "lost").is_err());
    (0..3).for_each(|i| etcd.start_again(i));
    assert_eq!(etcd.get("a").as_deref(), Some("2"), "all were away, and have what they had");
}

#[test]
fn a_wiped_cluster_is_empty_and_stands_where_it_stood() {
    let mut etcd = Etcd::start(1);
    let endpoints = etcd.endpoints();
    etcd.put("a/1", "one");
    etcd.put("a/2", "two");
    etcd.put("b", "other");
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(etcd.get_prefix("a/"), [pair("a/1", "one"), pair("a/2", "two")]);
    etcd.kill(0);
    assert!(etcd.try_put("a/1", "lost").is_err());
    etcd.start_again(0);
    assert_eq!(etcd.get("a/1").as_deref(), Some("one"), "what was put outlives a kill");
    etcd.delete("a/1");
    assert_eq!(etcd.get("a/1"), None);
    etcd.wipe();
    assert_eq!(etcd.get_prefix(""), []);
    assert_eq!(etcd.endpoints(), endpoints);
}

#[test]
fn a_full_database_refuses_until_it_is_disarmed() {
    let etcd = Etcd::with(EtcdOptions { quota: Some(8 << 20), ..EtcdOptions::default() });
    etcd.put("before", "1");
    etcd.fill();
    assert!(etcd.try_put("a", "1").is_err());
    assert_eq!(etcd.get("before").as_deref(), Some("1"), "reads go on");
    etcd.disarm();
    etcd.put("a", "1");
}

#[test]
fn a_compacted_revision_is_refused() {
    let etcd = Etcd::start(1);
    for value in ["1", "2", "3"] {
        etcd.put("a", value);
    }
    etcd.compact();
    let error = etcd.etcdctl(&["get", "a", "--rev=2"]).unwrap_err().to_string();
    assert!(error.contains("compacted"), "{error}");
}

#[test]
fn only_who_has_the_password_and_a_certificate_gets_in() {
    let etcd = Etcd::with(EtcdOptions {
        root_password: Some("secret".into()),
        tls: true,
        ask_for_certificates: true,
        ..EtcdOptions::default()
    });
    etcd.put("a", "1");
    let denied = |args: &[&str]| {
        let mut etcdctl = std::process::Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").arg("--dial-timeout=1s").arg("--command-timeout=1s");
        etcdctl.arg(format!("--endpoints={}", etcd.endpoints()[0])).args(args).args(["get", "a"]);
        String::from_utf8(etcdctl.output().unwrap().stderr).unwrap()
    };
    let files = etcd.certificates().unwrap();
    let authority = format!("--cacert={}", files.authority.display());
    let certificate = format!("--cert={}", files.certificate.display());
    let key = format!("--key={}", files.key.display());
    let with_certificate = [authority.as_str(), &certificate, &key];
    // etcd takes the certificate's name for a user's, and there is none of that name.
    assert!(denied(&with_certificate).contains("permission denied"), "{}", denied(&with_certificate));
    let wrong = [&with_certificate[..], &["--user=root:wrong"]].concat();
    assert!(denied(&wrong).contains("authentication failed"), "{}", denied(&wrong));
    assert!(!denied(&[&authority, "--user=root:secret"]).is_empty(), "without a certificate");
    assert_eq!(denied(&[&with_certificate[..], &["--user=root:secret"]].concat()), "");
}
