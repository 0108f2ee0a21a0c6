//! Promise: the system does its work on io_uring, on epoll by choice, with io_uring refused by a seccomp filter, and
//! as an unprivileged user with 64 KiB of lockable memory; and it says which driver it took.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use loadgen::{Fleet, FleetPlan, Leave, PublishPlan, Target};
use ringcast_proto::pubsub::Outcomes;
use ringcast_tests::grpc::{assert_accounted, total};
use ringcast_tests::{System, SystemPlan, Variant, alone, eventually, procfs};

const EACH: usize = 200;
const NODES: usize = 2;
const ALL: u64 = (EACH * NODES) as u64;
const PUSHES: u64 = 100;
const ROOM: &str = "any-driver";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_io_uring() {
    works_on(Variant::IoUring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_epoll_by_choice() {
    works_on(Variant::Epoll).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_epoll_where_io_uring_is_refused() {
    works_on(Variant::IoUringRefused).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_rights_and_with_little_lockable_memory() {
    works_on(Variant::LowMemlock).await;
}

async fn works_on(variant: Variant) {
    let _alone = alone();
    let plan = SystemPlan::nodes(NODES).variant(variant).limit("drain: 1s").shards(2);
    let mut system = System::start(plan).await;
    assert_says_its_driver(&system, variant);

    let fleets: Vec<Fleet> = system
        .nodes
        .iter()
        .map(|node| {
            let plan = FleetPlan::new(node.http, EACH, &format!("{}-", node.id), |_| ROOM.into());
            Fleet::connect(plan).unwrap()
        })
        .collect();
    for fleet in &fleets {
        fleet.run_until(Duration::from_secs(10), |totals| totals.live == EACH).unwrap();
    }
    pushes_arrive(&system, &fleets).await;
    leaving_is_seen(&system, &fleets).await;

    for node in &mut system.nodes {
        assert_eq!(node.terminate(Duration::from_secs(10)).code(), Some(0), "{}", node.id);
    }
    for fleet in &fleets {
        let endings: Vec<(String, usize)> = fleet.report().unwrap().endings().into_iter().collect();
        assert_eq!(endings, [("closed 1012".into(), EACH - 30), ("left".into(), 30)]);
    }
}

fn assert_says_its_driver(system: &System, variant: Variant) {
    for node in &system.nodes {
        let stats = node.stats().unwrap();
        let driver = stats["driver"].as_str().unwrap();
        assert!(variant.expected_drivers().contains(&driver), "{variant:?}: {stats}");
        for shard in stats["shards"].as_array().unwrap() {
            assert!(variant.expected_drivers().contains(&shard["driver"].as_str().unwrap()), "{stats}");
        }
        if variant == Variant::IoUringRefused {
            let said = node.process.stderr();
            let lines: Vec<&str> = said.lines().filter(|line| line.contains("io_uring")).collect();
            assert!(lines.iter().any(|line| line.contains("epoll")), "one line says why it is epoll: {said}");
        }
        if variant.drops_root() {
            assert_ne!(procfs::user(node.process.pid()).unwrap(), 0);
        }
    }
}

async fn pushes_arrive(system: &System, fleets: &[Fleet]) {
    let pusher = system.pusher().await;
    let written = |members| Outcomes { members, written: members, ..Outcomes::default() };
    let publisher = system.publisher().await;
    let room = Target::Room { room: ROOM.into(), exclude: vec!["connect-node-1-0".into()] };
    let pushed = publisher.publish(PublishPlan::to(room, 1, PUSHES, 100.0)).await.unwrap();
    assert_eq!(pushed.outcomes(), written(PUSHES * (ALL - 1)));
    let big = Target::Room { room: ROOM.into(), exclude: Vec::new() };
    // More than a socket takes at once, less than what may wait for a session.
    let big = PublishPlan::to(big, 2, 4, 10.0).payload_bytes(200 * 1024).deadline_ms(10_000);
    assert_eq!(publisher.publish(big).await.unwrap().outcomes(), written(4 * ALL));
    let answer = pusher.user("connect-node-2-5", b"you").await.unwrap();
    assert_eq!(total(&answer.report), written(1));
    let broadcast = PublishPlan::to(Target::All, 3, 5, 10.0).deadline_ms(5_000);
    assert_eq!(publisher.publish(broadcast).await.unwrap().outcomes(), written(5 * ALL));

    for (place, fleet) in fleets.iter().enumerate() {
        let excluded = usize::from(place == 0);
        let expected = PUSHES * (EACH - excluded) as u64 + 9 * EACH as u64;
        fleet.run_until(Duration::from_secs(10), |totals| totals.received >= expected).unwrap();
        let report = fleet.report().unwrap();
        assert_eq!((report.totals.received, report.disorder()), (expected, (0, 0)));
        assert_eq!(report.connections[0].stream(1).received, if excluded == 1 { 0 } else { PUSHES });
    }
}

async fn leaving_is_seen(system: &System, fleets: &[Fleet]) {
    for fleet in fleets {
        fleet.leave(0..10, Leave::Close);
        fleet.leave(10..20, Leave::HalfClose);
        fleet.leave(20..30, Leave::Reset);
    }
    let controller = system.controller().await;
    let left = ALL - 60;
    eventually("those who went have left", Duration::from_secs(5), async || {
        let users = u64::from(controller.room_users(ROOM).await.unwrap());
        if users == left { Ok(()) } else { Err(users) }
    })
    .await;
    let answer = system.pusher().await.room(ROOM, b"the rest").await.unwrap();
    assert_accounted(&answer.report);
    assert_eq!(total(&answer.report).written, left);
}
