//! What others wrote into etcd, and an etcd that takes nothing more.

use std::time::Duration;

use registry::Lease;
use test_servers::{Etcd, EtcdOptions};

use crate::{Service, is_held, node, store};

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_no_services_do_not_hide_those_that_are() {
    let etcd = Etcd::start(1);
    let service = Service::of(&etcd);
    let first = service.directory.register(node("a", 1));
    is_held(&first).await;
    let large = "x".repeat(1 << 20);
    for (key, value) in [
        ("/ringcast/nodes/b", "no JSON"),
        ("/ringcast/nodes/c", r#"{"kind":"node","id":"other","incarnation":1,"grpc_address":"h:1"}"#),
        ("/ringcast/unknown/d", "{}"),
        ("/ringcast/nodes/", "{}"),
        ("/ringcast/nodes/e", &large),
        ("/ringcast/nodes/f", &large),
        ("/ringcast/nodes/g", &large),
        ("/ringcast/nodes/h", &large),
        ("/ringcast/nodes/i", &large),
    ] {
        etcd.put(key, value);
    }
    service.sees_nodes(&[("a", 1)]).await;
    // The watch and the list go on.
    let second = service.directory.register(node("z", 2));
    is_held(&second).await;
    service.sees_nodes(&[("a", 1), ("z", 2)]).await;
    drop(first);
    service.sees_nodes(&[("z", 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_keeps_who_is_there_and_takes_others_when_it_has_room() {
    let etcd = Etcd::with(EtcdOptions { quota: Some(8 << 20), ..EtcdOptions::default() });
    let service = Service::with(&store(&etcd));
    let first = service.directory.register(node("a", 1));
    is_held(&first).await;
    etcd.fill();
    let second = service.directory.register(node("b", 1));
    let mut renewals = first.watch();
    for _ in 0..5 {
        renewals.changed().await.expect("the first lives");
        assert!(matches!(first.lease(), Lease::Held { .. }), "{:?}", first.lease());
    }
    assert_eq!(second.lease(), Lease::Waiting);
    assert!(service.directory.view().age(std::time::Instant::now()) < Duration::from_secs(3));
    etcd.disarm();
    is_held(&second).await;
    service.sees_nodes(&[("a", 1), ("b", 1)]).await;
}
