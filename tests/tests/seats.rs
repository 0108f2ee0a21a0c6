//! Promise: seats hold under a race. 200 users who join for the last 10 places of a room, over three nodes: exactly
//! 10 get in, the others are told 409; a user who is in takes no second seat.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use loadgen::{Fleet, FleetPlan};
use ringcast_proto::pubsub::SetRoomRequest;
use ringcast_tests::{System, SystemPlan, eventually, http};

const SEATS: usize = 100;
const TAKEN: usize = 90;
const RACERS: [usize; 3] = [67, 67, 66];
const ROOM: &str = "full";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_last_ten_places_are_given() {
    let system = System::start(SystemPlan::nodes(3)).await;
    let controller = system.controller().await;
    let request =
        SetRoomRequest { room_id: ROOM.into(), max_users: Some(SEATS as i32), ..SetRoomRequest::default() };
    controller.0.clone().set_room(request).await.unwrap();
    let seated =
        Fleet::connect(FleetPlan::new(system.nodes[0].http, TAKEN, "seated", |_| ROOM.into())).unwrap();
    seated.run_until(Duration::from_secs(10), |totals| totals.live == TAKEN).unwrap();

    let racers: Vec<Fleet> = system
        .nodes
        .iter()
        .zip(RACERS)
        .map(|(node, count)| {
            let plan = FleetPlan::new(node.http, count, &format!("{}-", node.id), |_| ROOM.into());
            Fleet::connect(plan.rate(1e6)).unwrap()
        })
        .collect();
    let mut joined = 0;
    for (fleet, count) in racers.iter().zip(RACERS) {
        let done = |totals: &loadgen::Totals| totals.live + totals.over() == count;
        let totals = fleet.run_until(Duration::from_secs(15), done).unwrap();
        let endings = fleet.report().unwrap().endings();
        assert_eq!(totals.refused, endings.get("refused 409").copied().unwrap_or(0), "{endings:?}");
        assert_eq!(totals.broken, 0, "{endings:?}");
        joined += totals.live;
    }
    assert_eq!(joined, SEATS - TAKEN);
    assert_eq!(controller.room_users(ROOM).await.unwrap(), SEATS as u32);

    // A page is told the same by a plain GET, with a reason.
    let full = http::get(system.nodes[1].http, &format!("/ws?user_id=late&room_id={ROOM}")).unwrap();
    assert_eq!(full.status, 409, "{full:?}");
    assert!(full.json().is_ok() && full.header("access-control-allow-origin").is_some(), "{full:?}");

    // Another device of a user who is in takes no seat, on whatever node.
    let device = Fleet::connect(FleetPlan::new(system.nodes[2].http, 1, "seated", |_| ROOM.into())).unwrap();
    device.run_until(Duration::from_secs(5), |totals| totals.live == 1).unwrap();
    assert_eq!(controller.room_users(ROOM).await.unwrap(), SEATS as u32);

    // A seat that is left is free again.
    seated.leave(TAKEN - 1..TAKEN, loadgen::Leave::Close);
    eventually("a seat is free", Duration::from_secs(5), async || {
        let users = controller.room_users(ROOM).await.unwrap();
        if users == SEATS as u32 - 1 { Ok(()) } else { Err(users) }
    })
    .await;
    let late = Fleet::connect(FleetPlan::new(system.nodes[1].http, 1, "late", |_| ROOM.into())).unwrap();
    late.run_until(Duration::from_secs(5), |totals| totals.live == 1).unwrap();
}
