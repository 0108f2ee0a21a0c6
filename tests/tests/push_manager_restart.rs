//! Promise: after `kill -9` of the push manager and its restart, connections stay, routes come back by themselves,
//! and what was answered is true.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use loadgen::{Fleet, FleetPlan, PublishPlan, PublishReport, PushResult, Target, Via};
use ringcast_tests::grpc::{assert_accounted, total};
use ringcast_tests::{System, SystemPlan};

const MEMBERS: usize = 60;
const ROOM: &str = "lasting";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_come_back_and_answers_are_true() {
    let mut system = System::start(SystemPlan::nodes(2)).await;
    let fleets: Vec<Fleet> = system
        .nodes
        .iter()
        .map(|node| {
            let plan = FleetPlan::new(node.http, MEMBERS / 2, &format!("{}-", node.id), |_| ROOM.into());
            let fleet = Fleet::connect(plan).unwrap();
            fleet.run_until(Duration::from_secs(10), |totals| totals.live == MEMBERS / 2).unwrap();
            fleet
        })
        .collect();

    let publisher = system.publisher().await;
    let room = Target::Room { room: ROOM.into(), exclude: Vec::new() };
    let plan = PublishPlan::to(room, 1, 400, 200.0).via(Via::Unary);
    let pushing = tokio::spawn(async move { publisher.publish(plan).await.unwrap() });
    fleets[0].run_until(Duration::from_secs(5), |totals| totals.received > 1_000).unwrap();
    system.push.process.kill();
    let pushed = pushing.await.unwrap();
    system.restart_push();

    let pusher = system.pusher().await;
    let answer = pusher.room(ROOM, b"back").await.unwrap();
    assert_accounted(&answer.report);
    assert_eq!(total(&answer.report).written, MEMBERS as u64, "{answer:?}");
    assert_eq!(answer.report.unwrap().routes_stale_ms, 0);

    // A join after the restart is confirmed, and reached.
    let plan = FleetPlan::new(system.nodes[1].http, 1, "newcomer", |_| ROOM.into());
    let newcomer = Fleet::connect(plan).unwrap();
    newcomer.run_until(Duration::from_secs(5), |totals| totals.live == 1).unwrap();
    let answer = pusher.user("newcomer0", b"welcome").await.unwrap();
    assert_eq!(total(&answer.report).written, 1);

    for fleet in &fleets {
        assert_eq!(fleet.totals().live, MEMBERS / 2, "connections stay");
        assert_true(&fleet.report().unwrap(), &pushed);
    }
}

/// Each push that was answered as written to all has been received by all; none twice, none out of order.
fn assert_true(report: &loadgen::FleetReport, pushed: &PublishReport) {
    assert_eq!(report.totals.duplicates, 0);
    let mut answered = 0;
    let mut refused = 0;
    for number in 0..pushed.count {
        match pushed.results.get(&number) {
            Some(PushResult::Reported(answer)) => {
                answered += 1;
                assert_eq!(
                    answer.total.unwrap_or_default().written,
                    MEMBERS as u64,
                    "push {number}: {answer:?}"
                );
                let span = report.pushes.get(&(1, number));
                let receivers = span.map_or(0, |span| span.receivers);
                assert_eq!(receivers, MEMBERS as u64 / 2, "push {number} was answered as written");
            }
            Some(PushResult::Refused(..) | PushResult::Unknown(..)) => refused += 1,
            None => panic!("push {number} was never answered"),
        }
    }
    assert!(answered > 10 && refused > 10, "{answered} answered, {refused} refused: the kill was in between");
}
