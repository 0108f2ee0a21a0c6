//! Who is registered is seen by the others, as it told of itself, and until it is gone.

use std::time::{Duration, Instant};

use registry::{Directory, Entry, Kind, Lease};
use test_servers::Etcd;

use crate::{LONG, Service, TTL, is_held, lease_is, node};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_is_seen_as_it_was_told() {
    let etcd = Etcd::start(1);
    let (one, other) = (Service::of(&etcd), Service::of(&etcd));
    let entries = [(Kind::Controller, "c-1"), (Kind::PushManager, "p-1"), (Kind::Node, "n-1")]
        .map(|(kind, id)| Entry { kind, ..node(id, 7) });
    let registrations = entries.clone().map(|entry| one.directory.register(entry));
    for registration in &registrations {
        is_held(registration).await;
    }
    let view = other.sees("all three", |view| view.entries.len() == 3).await;
    assert_eq!(view.entries, entries);
    assert!(!other.directory.is_fixed() && view.age(Instant::now()) < LONG);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_is_renewed_three_times_within_its_time() {
    let etcd = Etcd::start(1);
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    let Lease::Held { renewed: mut last } = is_held(&registration).await else { unreachable!() };
    for _ in 0..4 {
        let next = lease_is(&registration, "renewed", |lease| lease != Lease::Held { renewed: last }).await;
        let Lease::Held { renewed } = next else { panic!("{next:?}") };
        assert!(renewed - last < TTL / 2, "renewed after {:?}", renewed - last);
        last = renewed;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_given_back_is_seen_at_once() {
    let etcd = Etcd::start(1);
    let (one, other) = (Service::of(&etcd), Service::of(&etcd));
    let registration = one.directory.register(node("a", 1));
    other.sees_nodes(&[("a", 1)]).await;
    let began = Instant::now();
    registration.revoke().await;
    assert!(began.elapsed() < Duration::from_millis(2500), "it took {:?}", began.elapsed());
    other.sees_nodes(&[]).await;
    assert!(
        began.elapsed() < TTL / 2,
        "seen after {:?}: the lease may have run out by itself",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drops_its_registration_is_gone_when_the_lease_has_run_out() {
    let etcd = Etcd::start(1);
    let (one, other) = (Service::of(&etcd), Service::of(&etcd));
    let registration = one.directory.register(node("a", 1));
    other.sees_nodes(&[("a", 1)]).await;
    let Lease::Held { renewed } = registration.lease() else { panic!("seen and not held") };
    drop(registration);
    other.sees_nodes(&[]).await;
    assert!(renewed.elapsed() >= TTL, "it was gone before its lease had run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_back_takes_two_seconds_at_most_where_etcd_is_away() {
    let mut etcd = Etcd::start(1);
    let service = Service::of(&etcd);
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    etcd.stop(0);
    let began = Instant::now();
    registration.revoke().await;
    assert!(began.elapsed() < Duration::from_millis(2500), "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn at_fixed_addresses_nothing_is_registered_and_nothing_is_lost() {
    let directory = Directory::fixed(vec!["a:1".into(), "b:2".into()]);
    let registration = directory.register(node("n", 1));
    assert_eq!(registration.lease(), Lease::Fixed);
    let mut watched = registration.watch();
    let changed = tokio::time::timeout(Duration::from_millis(50), watched.changed()).await;
    assert!(changed.is_err(), "whoever watches must wait, not spin");
    assert!(directory.is_fixed() && directory.view().of(Kind::Controller).count() == 2);
    registration.revoke().await;
}
