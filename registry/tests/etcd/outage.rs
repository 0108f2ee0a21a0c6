//! etcd goes away, comes back, loses its data, forgets its past.

use std::time::{Duration, Instant};

use registry::Lease;
use test_servers::Etcd;

use crate::{Service, TTL, is_held, lease_is, node, store};

/// The age at which a list counts as old.
const OLD: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_etcd_waits_for_it() {
    let mut etcd = Etcd::start(1);
    etcd.kill(0);
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    // Nobody can have answered; what is shown is that it goes on trying.
    tokio::time::timeout(Duration::from_secs(2), service.directory.watch().changed())
        .await
        .expect_err("a list without etcd");
    assert_eq!(registration.lease(), Lease::Waiting);
    assert_eq!(service.directory.view().age(Instant::now()), Duration::MAX);
    etcd.start_again(0);
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_grows_old_while_etcd_is_away_and_stays_as_it_was() {
    let mut etcd = Etcd::start(1);
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
    etcd.kill(0);
    let view = service.sees("an old list", |view| view.age(Instant::now()) > OLD).await;
    assert_eq!(view.entries, [node("a", 1)]);
    let lost = lease_is(&registration, "lost", |lease| matches!(lease, Lease::Lost { .. })).await;
    assert!(!lost.is_live(Instant::now(), TTL), "given up before its time");
    etcd.start_again(0);
    let back = Instant::now();
    service.sees("a fresh list", |view| view.age(Instant::now()) < OLD).await;
    is_held(&registration).await;
    assert!(back.elapsed() < Duration::from_secs(5), "back after {:?}", back.elapsed());
    service.sees_nodes(&[("a", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_etcd_makes_the_list_old_and_is_forgiven() {
    let mut etcd = Etcd::start(1);
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    etcd.stop(0);
    service.sees("an old list", |view| view.age(Instant::now()) > OLD).await;
    etcd.cont(0);
    service.sees("a fresh list", |view| view.age(Instant::now()) < OLD).await;
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_lost_its_data_is_filled_again_and_nobody_is_seen_to_leave() {
    let mut etcd = Etcd::start(1);
    let (one, other) = (Service::of(&etcd), Service::of(&etcd));
    let registrations = [("a", 1), ("b", 1)].map(|(id, start)| one.directory.register(node(id, start)));
    for registration in &registrations {
        is_held(registration).await;
    }
    other.sees_nodes(&[("a", 1), ("b", 1)]).await;
    let mut views = other.directory.watch();
    views.mark_unchanged();
    etcd.wipe();
    let back = Instant::now();
    for key in ["/ringcast/nodes/a", "/ringcast/nodes/b"] {
        while etcd.get(key).is_none() {
            assert!(back.elapsed() < Duration::from_secs(10), "{key} is not back");
            tokio::task::yield_now().await;
        }
    }
    for registration in &registrations {
        is_held(registration).await;
    }
    other.sees("a fresh list", |view| view.age(Instant::now()) < Duration::from_secs(1)).await;
    assert!(
        !views.has_changed().expect("the directory lives"),
        "somebody was seen to leave: {:?}",
        views.borrow()
    );
    // Who does not come back is gone after the time of a lease.
    let [first, second] = registrations;
    drop(first);
    is_held(&second).await;
    other.sees_nodes(&[("b", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_deleted_is_made_again() {
    let etcd = Etcd::start(1);
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
    etcd.delete("/ringcast/nodes/a");
    lease_is(&registration, "lost", |lease| matches!(lease, Lease::Lost { .. })).await;
    is_held(&registration).await;
    service.sees_nodes(&[("a", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_that_was_compacted_away_is_not_missed() {
    let mut etcd = Etcd::start(1);
    let (one, other) = (Service::with(&store(&etcd)), Service::of(&etcd));
    let first = one.directory.register(node("a", 1));
    other.sees_nodes(&[("a", 1)]).await;
    for round in 0..3_u64 {
        // The member is held, so that the list has to follow on from before what is then compacted.
        etcd.stop(0);
        other.sees("an old list", |view| view.age(Instant::now()) > OLD).await;
        etcd.cont(0);
        etcd.put("/elsewhere", &round.to_string());
        etcd.compact();
        let more = one.directory.register(node("b", round));
        other.sees_nodes(&[("a", 1), ("b", round)]).await;
        more.revoke().await;
        other.sees_nodes(&[("a", 1)]).await;
    }
    is_held(&first).await;
}
