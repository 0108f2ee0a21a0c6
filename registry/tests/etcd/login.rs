//! An etcd that does not answer everybody.

use std::time::{Duration, Instant};

use registry::Lease;
use settings::EtcdStore;
use test_servers::{Etcd, EtcdOptions};

use crate::{Service, is_held, node, store};

/// An etcd with a user who may read and write below `/ringcast/`, and nothing else.
fn etcd_with_user() -> Etcd {
    let etcd =
        Etcd::with(EtcdOptions { root_password: Some("root-secret".into()), ..EtcdOptions::default() });
    for args in [
        &["role", "add", "services"][..],
        &["role", "grant-permission", "services", "readwrite", "/ringcast/", "--prefix=true"],
        &["user", "add", "ringcast:hunter2"],
        &["user", "grant-role", "ringcast", "services"],
    ] {
        etcd.etcdctl(args).expect("etcdctl");
    }
    etcd
}

fn as_user(etcd: &Etcd, password: &str) -> EtcdStore {
    EtcdStore { user: Some("ringcast".into()), password: Some(password.into()), ..store(etcd) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_the_least_rights_registers_and_is_seen_to_leave() {
    let etcd = etcd_with_user();
    let store = as_user(&etcd, "hunter2");
    let (one, other) = (Service::with(&store), Service::with(&store));
    let registration = one.directory.register(node("a", 1));
    is_held(&registration).await;
    other.sees_nodes(&[("a", 1)]).await;
    let began = Instant::now();
    registration.revoke().await;
    other.sees_nodes(&[]).await;
    assert!(began.elapsed() < crate::TTL / 2, "seen after {:?}: it was not given back", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_etcd_has_forgotten_is_made_again() {
    let mut etcd = etcd_with_user();
    let service = Service::with(&as_user(&etcd, "hunter2"));
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    // Logins are kept in memory.
    etcd.kill(0);
    etcd.start_again(0);
    let back = Instant::now();
    service.sees("a list since", |view| view.as_of.is_some_and(|as_of| as_of > back)).await;
    let second = service.directory.register(node("b", 1));
    is_held(&second).await;
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1), ("b", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_registers_nobody_and_does_not_end_the_service() {
    let etcd = etcd_with_user();
    let service = Service::with(&as_user(&etcd, "wrong"));
    let registration = service.directory.register(node("a", 1));
    tokio::time::timeout(Duration::from_secs(2), service.directory.watch().changed())
        .await
        .expect_err("a list without a login");
    assert_eq!((registration.lease(), service.directory.view().as_of), (Lease::Waiting, None));
    etcd.etcdctl(&["user", "delete", "ringcast"]).expect("etcdctl");
    etcd.etcdctl(&["user", "add", "ringcast:wrong"]).expect("etcdctl");
    etcd.etcdctl(&["user", "grant-role", "ringcast", "services"]).expect("etcdctl");
    is_held(&registration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_with_certificates_are_asked_with_ours() {
    let etcd = Etcd::with(EtcdOptions { tls: true, ask_for_certificates: true, ..EtcdOptions::default() });
    let files = etcd.certificates().expect("certificates");
    let secured = EtcdStore {
        ca: Some(files.authority.clone()),
        certificate: Some((files.certificate.clone(), files.key.clone())),
        ..store(&etcd)
    };
    let service = Service::with(&secured);
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
    let without = Service::with(&EtcdStore { certificate: None, ..secured });
    tokio::time::timeout(Duration::from_secs(2), without.directory.watch().changed())
        .await
        .expect_err("a list without our certificate");
}
