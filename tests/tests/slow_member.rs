//! Promise: a member that never reads costs only itself. It is closed at its bound with its code, the reports say
//! dropped for it, the counts add up, and the others get everything in their usual time.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use loadgen::{Fleet, FleetPlan, Leave, PublishPlan, PublishReport, PushResult, Target};
use ringcast_tests::grpc::sum;
use ringcast_tests::{System, SystemPlan, alone, eventually};

const OTHERS: usize = 49;
const PUSHES: u64 = 300;
const RATE: f64 = 50.0;
const ROOM: &str = "slow";

/// What may wait for one session: about ten of the pushes below.
const QUEUED_BYTES: &str = "queued_bytes: 163840";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_never_reads_costs_only_itself() {
    let _alone = alone();
    let system = System::start(SystemPlan::nodes(1).limit(QUEUED_BYTES)).await;
    let node = &system.nodes[0];
    let others = Fleet::connect(FleetPlan::new(node.http, OTHERS, "good", |_| ROOM.into())).unwrap();
    others.run_until(Duration::from_secs(10), |totals| totals.live == OTHERS).unwrap();
    let publisher = system.publisher().await;
    let push = |stream| {
        let room = Target::Room { room: ROOM.into(), exclude: Vec::new() };
        publisher.publish(PublishPlan::to(room, stream, PUSHES, RATE).payload_bytes(16 * 1024))
    };
    let alone = push(1).await.unwrap();
    assert_eq!(alone.outcomes().written, PUSHES * OTHERS as u64);

    let plan = FleetPlan::new(node.http, 1, "deaf", |_| ROOM.into()).receive_buffer(4096);
    let deaf = Fleet::connect(plan).unwrap();
    deaf.run_until(Duration::from_secs(5), |totals| totals.live == 1).unwrap();
    deaf.leave(0..1, Leave::Deaf);
    deaf.run_until(Duration::from_secs(5), |totals| totals.mute == 1).unwrap();

    let (with, ()) = tokio::join!(push(2), hear_when_dropped(&system, &deaf));
    assert_accounts(&with.unwrap());

    let received = 2 * PUSHES * OTHERS as u64;
    others.run_until(Duration::from_secs(5), |totals| totals.received == received).unwrap();
    let report = others.report().unwrap();
    assert_eq!((report.totals.live, report.disorder()), (OTHERS, (0, 0)));
    let (before, after) = (report.last_receiver(1..2), report.last_receiver(2..3));
    println!("figure: last of {OTHERS} receivers alone: {before}");
    println!("figure: last of {OTHERS} receivers beside a member that never reads: {after}");
    let (before, after) = (before.percentile_ms(99.0), after.percentile_ms(99.0));
    assert!(
        after < (2.0 * before).max(10.0),
        "p99 {before:.3} ms alone, {after:.3} ms beside the slow member"
    );

    let endings: Vec<(String, usize)> = deaf.report().unwrap().endings().into_iter().collect();
    assert_eq!(endings, [("closed 4001".into(), 1)]);
    let controller = system.controller().await;
    assert!(!controller.user("deaf0").await.unwrap().found);
    assert_eq!(controller.room_users(ROOM).await.unwrap(), OTHERS as u32);
}

/// Lets the deaf member read again as soon as the node has given it up: its close frame is still to come.
async fn hear_when_dropped(system: &System, deaf: &Fleet) {
    let controller = system.controller().await;
    eventually("the slow member is out of the room", Duration::from_secs(10), async || {
        let users = controller.room_users(ROOM).await.unwrap();
        if users == OTHERS as u32 { Ok(()) } else { Err(users) }
    })
    .await;
    deaf.hear(0..1);
    deaf.run_until(Duration::from_secs(5), |totals| totals.over() == 1).unwrap();
}

fn assert_accounts(with: &PublishReport) {
    let outcomes = with.outcomes();
    assert_eq!(with.refused(), 0);
    assert_eq!(outcomes.members, sum(&outcomes), "{outcomes:?}");
    assert!(outcomes.dropped_slow > 0, "{outcomes:?}");
    assert_eq!((outcomes.unknown, outcomes.offline, outcomes.dropped_shed), (0, 0, 0), "{outcomes:?}");
    // Once it is closed, it is no member any more.
    let Some(PushResult::Reported(last)) = with.results.get(&(PUSHES - 1)) else { panic!("{with:?}") };
    assert_eq!(last.total.unwrap_or_default().members, OTHERS as u64);
}
