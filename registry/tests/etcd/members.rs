//! Three members, one of them dead or worse.

use std::time::{Duration, Instant};

use registry::Lease;
use settings::EtcdStore;
use test_servers::Etcd;

use crate::{Service, is_held, node, store};

/// The lease that services have.
const LEASE: Duration = Duration::from_secs(10);

/// Follows a registration through some renewals, each of which must come before the lease has run out.
async fn is_renewed(registration: &registry::Registration, times: usize) {
    let mut watched = registration.watch();
    let Lease::Held { mut renewed } = *watched.borrow_and_update() else { panic!("not held at first") };
    for time in 0..times {
        let left = (renewed + LEASE).saturating_duration_since(Instant::now());
        let changed = tokio::time::timeout(left, watched.changed()).await;
        let lease = *watched.borrow_and_update();
        let (Ok(Ok(())), Lease::Held { renewed: at }) = (changed, lease) else {
            panic!("renewal {time}: {lease:?}, last renewed {:?} ago", renewed.elapsed());
        };
        renewed = at;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_leader_stops_no_renewal_for_longer_than_the_lease() {
    let mut etcd = Etcd::start(3);
    let store = EtcdStore { lease: LEASE, ..store(&etcd) };
    // Each has a member of its own choice that it asks first.
    let services = [(); 4].map(|()| Service::with(&store));
    let mut registrations = Vec::new();
    for (i, service) in services.iter().enumerate() {
        let registration = service.directory.register(node(&format!("n-{i}"), 1));
        is_held(&registration).await;
        registrations.push(registration);
    }
    let leader = etcd.leader();
    etcd.stop(leader);
    for registration in &registrations {
        is_renewed(registration, 3).await;
    }
    for service in &services {
        service.sees("a fresh list", |view| view.age(Instant::now()) < Duration::from_secs(3)).await;
        service.sees_nodes(&[("n-0", 1), ("n-1", 1), ("n-2", 1), ("n-3", 1)]).await;
    }
    etcd.cont(leader);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_leader_stops_no_renewal_for_longer_than_the_lease() {
    let mut etcd = Etcd::start(3);
    let service = Service::with(&EtcdStore { lease: LEASE, ..store(&etcd) });
    let registration = service.directory.register(node("a", 1));
    is_held(&registration).await;
    let leader = etcd.leader();
    etcd.kill(leader);
    is_renewed(&registration, 3).await;
    service.sees_nodes(&[("a", 1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_not_there_at_the_start_are_passed_over() {
    let mut etcd = Etcd::start(3);
    let dead = (etcd.leader() + 1) % 3;
    etcd.kill(dead);
    for _ in 0..4 {
        let service = Service::of(&etcd);
        service.sees("a list", |view| view.as_of.is_some()).await;
    }
}
