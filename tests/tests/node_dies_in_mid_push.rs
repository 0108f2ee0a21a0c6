//! Promise: a node that stops answering, or dies, in mid-push: its members are `unknown`, the caller is not kept
//! past the deadline, and once the lease is over they have left.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::{Duration, Instant};

use loadgen::{Fleet, FleetPlan};
use ringcast_proto::pubsub::{Outcomes, PushToRoomRequest};
use ringcast_tests::grpc::{assert_accounted, room_push, total};
use ringcast_tests::{System, SystemPlan, eventually};

const EACH: usize = 20;
const ROOM: &str = "half";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_members_are_unknown_and_the_caller_is_not_kept() {
    let mut system = System::start(SystemPlan::nodes(2)).await;
    let join = |node: usize| {
        let plan = FleetPlan::new(system.nodes[node].http, EACH, &format!("n{node}-"), |_| ROOM.into());
        let fleet = Fleet::connect(plan).unwrap();
        fleet.run_until(Duration::from_secs(10), |totals| totals.live == EACH).unwrap();
        fleet
    };
    let (living, dying) = (join(0), join(1));
    let pusher = system.pusher().await;
    let push = async |deadline_ms| {
        let began = Instant::now();
        let request = PushToRoomRequest { deadline_ms, ..room_push(ROOM, b"half of you") };
        let answer = pusher.room_request(request).await.unwrap();
        assert_accounted(&answer.report);
        (total(&answer.report), began.elapsed())
    };
    let each = EACH as u64;
    assert_eq!(push(0).await.0, Outcomes { members: 2 * each, written: 2 * each, ..Outcomes::default() });

    let half = Outcomes { members: 2 * each, written: each, unknown: each, ..Outcomes::default() };
    system.nodes[1].process.signal(libc::SIGSTOP);
    let (outcomes, took) = push(500).await;
    assert_eq!(outcomes, half, "a node that does not answer");
    assert!((Duration::from_millis(400)..Duration::from_millis(700)).contains(&took), "{took:?} for 500 ms");

    let (pushed, ()) = tokio::join!(push(10_000), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        system.nodes[1].process.kill();
    });
    assert_eq!(pushed.0, half, "a node that dies");
    assert!(pushed.1 < Duration::from_secs(5), "{:?}: the end of the stream is the answer", pushed.1);

    dying.run_until(Duration::from_secs(5), |totals| totals.broken == EACH).unwrap();
    let controller = system.controller().await;
    eventually("its members have left", Duration::from_secs(15), async || {
        let users = controller.room_users(ROOM).await.unwrap();
        if users == EACH as u32 { Ok(()) } else { Err(users) }
    })
    .await;
    assert_eq!(push(0).await.0, Outcomes { members: each, written: each, ..Outcomes::default() });
    assert_eq!(living.totals().live, EACH);
    assert_eq!(living.report().unwrap().totals.broken, 0);

    // The node comes back as another incarnation and takes clients.
    system.restart_node(1);
    system.ready().await;
    let plan = FleetPlan::new(system.nodes[1].http, EACH, "again-", |_| ROOM.into());
    let again = Fleet::connect(plan).unwrap();
    again.run_until(Duration::from_secs(10), |totals| totals.live == EACH).unwrap();
    assert_eq!(push(0).await.0, Outcomes { members: 2 * each, written: 2 * each, ..Outcomes::default() });
}
