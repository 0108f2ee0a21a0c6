//! Promise: a planned stop loses nothing silently. Under load every client is closed with 1012, every push is
//! accounted for, and the node ends with code 0 in time; a second signal ends it at once.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::{Duration, Instant};

use loadgen::{Aim, Fleet, FleetPlan, PublishPlan, Target};
use ringcast_tests::grpc::sum;
use ringcast_tests::{System, SystemPlan, eventually, http};

const CLIENTS: usize = 500;
const ROOMS: usize = 10;
const PUSHES: u64 = 1_200;
const RATE: f64 = 200.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_is_accounted_for() {
    let mut system = System::start(SystemPlan::nodes(2).limit("drain: 2s")).await;
    let addr = system.nodes[0].http;
    let plan = FleetPlan::new(addr, CLIENTS, "stop", |number| format!("room-{}", number % ROOMS));
    let fleet = Fleet::connect(plan).unwrap();
    fleet.run_until(Duration::from_secs(10), |totals| totals.live == CLIENTS).unwrap();

    let publisher = system.publisher().await;
    let aim = |number: u64| Aim {
        target: Target::Room { room: format!("room-{}", number % ROOMS as u64), exclude: Vec::new() },
        stream: (number % ROOMS as u64) as u32,
        seq: number / ROOMS as u64,
    };
    let nobody = Target::User("nobody".into());
    let mut plan = PublishPlan::to(nobody, 0, PUSHES, RATE);
    plan.aim = std::sync::Arc::new(aim);
    let pushing = tokio::spawn(async move { publisher.publish(plan).await.unwrap() });

    fleet.run_until(Duration::from_secs(5), |totals| totals.received > 5_000).unwrap();
    let began = Instant::now();
    system.nodes[0].process.signal(libc::SIGTERM);
    fleet.run_until(Duration::from_secs(10), |totals| totals.closed_by_server > 0).unwrap();
    // No new client is taken: 503, or nobody listens any more.
    if let Ok(answer) = http::get(addr, "/ws?user_id=late&room_id=room-0") {
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    let status = system.nodes[0].process.wait(Duration::from_secs(10));
    println!("figure: the node ended {:.2} s after SIGTERM, drain 2 s", began.elapsed().as_secs_f64());
    assert_eq!(status.code(), Some(0), "{status}");

    let pushed = pushing.await.unwrap();
    let report = fleet.report().unwrap();
    let endings: Vec<(String, usize)> = report.endings().into_iter().collect();
    assert_eq!(endings, [("closed 1012".into(), CLIENTS)]);
    assert_eq!(report.disorder(), (0, 0));
    assert!(
        report
            .connections
            .iter()
            .all(|member| member.streams.iter().all(|tally| tally.missing_between() == 0))
    );

    let outcomes = pushed.outcomes();
    assert_eq!(pushed.refused(), 0, "a push without members is no error");
    assert_eq!(outcomes.members, sum(&outcomes), "{outcomes:?}");
    let received = report.totals.received;
    println!("figure: {received} received of {outcomes:?}");
    assert!(received >= outcomes.written, "{received} received, {outcomes:?}");
    assert!(
        received <= outcomes.written + outcomes.queued + outcomes.unknown,
        "{received} received, {outcomes:?}"
    );

    let controller = system.controller().await;
    assert_eq!(controller.sessions().await.unwrap(), 0, "the node took its sessions with it");
    assert!(!system.pusher().await.room("room-0", b"?").await.unwrap().success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let mut system = System::start(SystemPlan::nodes(1).limit("drain: 20s")).await;
    let plan = FleetPlan::new(system.nodes[0].http, 200, "twice", |_| "room".into());
    let fleet = Fleet::connect(plan).unwrap();
    fleet.run_until(Duration::from_secs(10), |totals| totals.live == 200).unwrap();
    system.nodes[0].process.signal(libc::SIGTERM);
    fleet.run_until(Duration::from_secs(10), |totals| totals.closed_by_server > 0).unwrap();
    assert!(system.nodes[0].process.exited().is_none(), "it closes its sessions over 20 s");
    system.nodes[0].process.signal(libc::SIGTERM);
    system.nodes[0].process.wait(Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_and_push_manager_end_with_code_0_too() {
    let mut system = System::start(SystemPlan::nodes(1)).await;
    assert_eq!(system.push.terminate(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(system.control.terminate(Duration::from_secs(10)).code(), Some(0));
    // The node goes on without them.
    eventually("the node is there", Duration::from_secs(2), async || {
        http::get(system.nodes[0].http, "/health").map_err(|error| error.to_string())
    })
    .await;
    assert_eq!(system.nodes[0].terminate(Duration::from_secs(10)).code(), Some(0));
}
