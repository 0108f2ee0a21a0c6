//! An id has one live holder at a time.

use registry::Lease;
use test_servers::Etcd;

use crate::{Service, is_held, lease_is, node};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_live_holder_waits_and_gets_the_id_when_the_first_is_gone() {
    let etcd = Etcd::start(1);
    let (one, other) = (Service::of(&etcd), Service::of(&etcd));
    let first = one.directory.register(node("a", 1));
    is_held(&first).await;
    let second = other.directory.register(node("a", 2));
    lease_is(&second, "taken", |lease| lease == Lease::Taken).await;
    // The first goes on renewing for longer than one lease, so the second must not get it.
    let mut renewals = first.watch();
    for _ in 0..5 {
        renewals.changed().await.expect("the first lives");
    }
    assert_eq!(second.lease(), Lease::Taken);
    one.sees_nodes(&[("a", 1)]).await;
    drop(first);
    is_held(&second).await;
    one.sees_nodes(&[("a", 2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_this_very_start_is_taken_over_and_held() {
    let etcd = Etcd::start(1);
    let (one, other) = (Service::of(&etcd), Service::of(&etcd));
    // The first is gone without a word; its lease is still running.
    let first = one.directory.register(node("a", 1));
    let Lease::Held { renewed } = is_held(&first).await else { unreachable!() };
    drop(first);
    let second = other.directory.register(node("a", 1));
    is_held(&second).await;
    assert!(renewed.elapsed() < crate::TTL, "the first lease ran out before: nothing was shown");
    // The first lease runs out and must not take the key with it.
    let mut renewals = second.watch();
    for _ in 0..5 {
        renewals.changed().await.expect("the second lives");
        assert!(matches!(second.lease(), Lease::Held { .. }), "{:?}", second.lease());
    }
    one.sees_nodes(&[("a", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_a_lease_is_nobodys() {
    let etcd = Etcd::start(1);
    etcd.put("/ringcast/nodes/a", "left behind by hand");
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
}
