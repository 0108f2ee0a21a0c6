//! Promise: however a client goes, by close, half-close, reset or silence, it leaves its room and its user goes
//! offline within the bound of the pings.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use loadgen::{Fleet, FleetPlan, Leave};
use ringcast_proto::pubsub::Outcomes;
use ringcast_tests::grpc::{Controller, total};
use ringcast_tests::{System, SystemPlan, eventually};

const EACH: usize = 10;
const ROOM: &str = "presence";

/// A ping after 1 s with its jitter, 1 s for the pong, and the time that the word takes to the controller.
const PING_BOUND: Duration = Duration::from_secs(4);
/// A close, a half-close and a reset are seen at once.
const AT_ONCE: Duration = Duration::from_millis(1500);
/// A silent client's socket is kept for a moment, for its answer to the close.
const CLOSE_BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_leaving_is_seen() {
    let system =
        System::start(SystemPlan::nodes(1).limit("ping_interval: 1s").limit("pong_timeout: 1s")).await;
    let controller = system.controller().await;
    let plan = FleetPlan::new(system.nodes[0].http, 5 * EACH, "p", |_| ROOM.into());
    let fleet = Fleet::connect(plan).unwrap();
    fleet.run_until(Duration::from_secs(10), |totals| totals.live == 5 * EACH).unwrap();
    assert_eq!(controller.room_users(ROOM).await.unwrap(), 5 * EACH as u32);

    let ways = [Leave::Close, Leave::HalfClose, Leave::Reset, Leave::Silence];
    for (place, way) in ways.into_iter().enumerate() {
        fleet.leave(place * EACH..(place + 1) * EACH, way);
        let left = (4 - place) * EACH;
        let bound = if way == Leave::Silence { PING_BOUND } else { AT_ONCE };
        let what = format!("{left} are left after {way:?}");
        eventually(&what, bound, async || {
            let users = controller.room_users(ROOM).await.unwrap() as usize;
            if users == left { Ok(()) } else { Err(users) }
        })
        .await;
        assert_gone(&controller, place * EACH..(place + 1) * EACH).await;
        eventually(&format!("the node counts so, too: {what}"), CLOSE_BOUND, async || {
            let stats = system.nodes[0].stats().unwrap();
            if (&stats["connections"], &stats["users"]) == (&left.into(), &left.into()) {
                Ok(())
            } else {
                Err(stats)
            }
        })
        .await;
    }

    // The silent ones were told why, if they ever look.
    fleet.hear(3 * EACH..4 * EACH);
    fleet.run_until(Duration::from_secs(5), |totals| totals.over() == 4 * EACH).unwrap();
    let answer = system.pusher().await.room(ROOM, b"who is there?").await.unwrap();
    let left = EACH as u64;
    assert_eq!(total(&answer.report), Outcomes { members: left, written: left, ..Outcomes::default() });
    let report = fleet.report().unwrap();
    let endings: Vec<(String, usize)> = report.endings().into_iter().collect();
    assert_eq!(endings, [("closed 4000".into(), EACH), ("left".into(), 3 * EACH), ("live".into(), EACH)]);
    assert!(report.connections[4 * EACH..].iter().all(|member| member.pings > 0), "the others were pinged");
}

async fn assert_gone(controller: &Controller, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let node = controller.user(&format!("p{number}")).await.unwrap();
        assert!(!node.found && node.sessions.is_empty(), "p{number}: {node:?}");
    }
}
