//! Promise: after `kill -9` of the controller connections stay and pushes go on, saying how old their routes are;
//! after its restart presence comes back by itself and changes nothing that was true.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use loadgen::{Fleet, FleetPlan};
use ringcast_proto::pubsub::SetRoomRequest;
use ringcast_tests::grpc::{assert_accounted, total};
use ringcast_tests::{System, SystemPlan, eventually, http};

const MEMBERS: usize = 60;
const ROOM: &str = "lasting";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_comes_back_and_pushes_go_on() {
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
    let pusher = system.pusher().await;
    let request = SetRoomRequest { room_id: ROOM.into(), max_users: Some(77), ..SetRoomRequest::default() };
    system.controller().await.0.set_room(request).await.unwrap();

    system.control.process.kill();
    let stale = eventually("a report says that the routes are stale", Duration::from_secs(5), async || {
        let answer = pusher.room(ROOM, b"meanwhile").await.unwrap();
        assert_accounted(&answer.report);
        assert_eq!(total(&answer.report).written, MEMBERS as u64, "{answer:?}");
        let stale = answer.report.unwrap_or_default().routes_stale_ms;
        if stale > 0 { Ok(stale) } else { Err(stale) }
    })
    .await;
    assert!((1..1_000).contains(&stale), "told at once, not after {stale} ms");
    let refused = http::get(system.nodes[0].http, "/ws?user_id=late&room_id=lasting").unwrap();
    assert_eq!(refused.status, 503, "no join without a controller: {refused:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");

    system.restart_control();
    system.ready().await;
    let controller = system.controller().await;
    eventually("all members are known again", Duration::from_secs(12), async || {
        let users = controller.room_users(ROOM).await.unwrap();
        if users == MEMBERS as u32 { Ok(()) } else { Err(users) }
    })
    .await;
    let room = controller.room(ROOM).await.unwrap();
    assert_eq!(room.metadata.unwrap_or_default().max_users, 77, "rooms live through a restart");
    let node = controller.user("connect-node-2-7").await.unwrap();
    assert_eq!((node.found, node.node_id.as_str(), node.room_id.as_str()), (true, "connect-node-2", ROOM));
    eventually("routes are fresh again", Duration::from_secs(12), async || {
        let answer = pusher.room(ROOM, b"again").await.unwrap();
        assert_eq!(total(&answer.report).written, MEMBERS as u64, "{answer:?}");
        let stale = answer.report.unwrap_or_default().routes_stale_ms;
        if stale == 0 { Ok(()) } else { Err(stale) }
    })
    .await;

    let plan = FleetPlan::new(system.nodes[0].http, 1, "newcomer", |_| ROOM.into());
    let newcomer = Fleet::connect(plan).unwrap();
    newcomer.run_until(Duration::from_secs(10), |totals| totals.live == 1).unwrap();
    let answer = pusher.room(ROOM, b"all of you").await.unwrap();
    assert_eq!(total(&answer.report).written, MEMBERS as u64 + 1);
    for fleet in &fleets {
        assert_eq!(fleet.totals().live, MEMBERS / 2, "connections stay");
    }
}
