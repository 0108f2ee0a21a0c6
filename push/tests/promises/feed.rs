//! Routes come from the feed and from nowhere else.

use std::time::Duration;

use ringcast_proto::pubsub::{
    BroadcastMessageRequest, PushToUserRequest, RoomRoute, RouteUpdate, delivery::Target,
};

use crate::controller::FakeController;
use crate::node::{Behaviour, FakeNode};
use crate::{PATIENCE, System, by_node, gone, room, soon, text, to_room, total, user, written};

#[tokio::test]
async fn routes_come_by_snapshot_and_change_without_a_call_per_push() {
    let a = FakeNode::start("a", Behaviour::Answer(written(2)));
    let b = FakeNode::start("b", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&a, 2)]).await;
    let first = system.push(to_room("r", PATIENCE)).await;
    assert_eq!(by_node(first.report.as_ref().unwrap()), [("a", written(2))]);

    system.controller.change(RouteUpdate {
        nodes: vec![b.route()],
        rooms: vec![room("r", &b, 1)],
        users: vec![user("u", &a, 1), user("u", &b, 1), user("v", &b, 1)],
        ..Default::default()
    });
    system.in_step().await;
    let second = system.push(to_room("r", PATIENCE)).await;
    assert_eq!(by_node(second.report.as_ref().unwrap()), [("a", written(2)), ("b", written(1))]);
    assert_eq!((second.success, second.delivered_count, second.message.as_str()), (true, 3, ""));

    let request = PushToUserRequest { user_id: "v".into(), content: text("x"), ..Default::default() };
    let third = soon("the answer", system.client.clone().push_to_user(request)).await.unwrap().into_inner();
    assert_eq!(by_node(third.report.as_ref().unwrap()), [("b", written(1))], "only the node that holds him");
    assert!(matches!(&b.received()[1].target, Some(Target::UserId(id)) if id == "v"));

    let request = BroadcastMessageRequest { content: text("x"), ..Default::default() };
    let fourth =
        soon("the answer", system.client.clone().broadcast_message(request)).await.unwrap().into_inner();
    assert_eq!((fourth.success, fourth.total_delivered), (true, 3));
    assert_eq!((a.received().len(), b.received().len()), (3, 3));
    assert_eq!(system.controller.follows(), 1, "the controller was asked for nothing else");
}

#[tokio::test]
async fn what_was_acknowledged_is_seen_by_the_next_push() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    for n in 0..200 {
        let id = format!("room-{n}");
        system.controller.set_room(room(&id, &node, 1));
        system.in_step().await;
        assert_eq!(total(&system.push(to_room(&id, PATIENCE)).await), written(1), "{id}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_apart() {
    let node = FakeNode::start("a", Behaviour::Answer(written(0)));
    let system = System::with_room(&[(&node, 1)]).await;
    let message = async |id: &str, exclude: &[&str]| {
        let exclude_user_ids = exclude.iter().map(ToString::to_string).collect();
        let request = ringcast_proto::pubsub::PushToRoomRequest { exclude_user_ids, ..to_room(id, PATIENCE) };
        let response = system.push(request).await;
        assert!(!response.success);
        response.message
    };
    assert_eq!(message("r", &[]).await, "room empty");
    assert_eq!(message("r", &["u"]).await, "all excluded");
    assert_eq!(message("none", &[]).await, "room unknown");
    system.controller.set_room(room("r", &node, 0));
    system.in_step().await;
    assert_eq!(message("r", &["u"]).await, "room empty");

    let request = PushToUserRequest { user_id: "nobody".into(), content: text("x"), ..Default::default() };
    let offline = soon("the answer", system.client.clone().push_to_user(request)).await.unwrap().into_inner();
    assert_eq!((offline.success, offline.message.as_str()), (false, "user offline"));
    let total = offline.report.unwrap().total.unwrap();
    assert_eq!((total.members, total.offline), (1, 1));

    let request = BroadcastMessageRequest { content: text("x"), ..Default::default() };
    let nobody =
        soon("the answer", system.client.clone().broadcast_message(request)).await.unwrap().into_inner();
    assert_eq!((nobody.success, nobody.message.as_str()), (false, "nobody connected"));
}

#[tokio::test]
async fn without_a_feed_the_routes_go_on_and_every_report_says_how_old_they_are() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let mut system = System::with_room(&[(&node, 1)]).await;
    let stale = async |system: &System| {
        let response = system.push(to_room("r", PATIENCE)).await;
        assert_eq!(total(&response), written(1), "the routes go on");
        response.report.unwrap().routes_stale_ms
    };
    assert_eq!(stale(&system).await, 0);
    system.controller.kill();
    let lost = tokio::time::Instant::now();
    let told = soon("a stale report", async {
        loop {
            match stale(&system).await {
                0 => tokio::time::sleep(Duration::from_millis(20)).await,
                told => return told,
            }
        }
    })
    .await;
    assert!(u128::from(told) <= lost.elapsed().as_millis() + 1, "{told} ms of {:?}", lost.elapsed());
    assert!(lost.elapsed() < Duration::from_millis(900), "told after {:?}", lost.elapsed());

    system.controller.restart();
    system.controller.set_room(room("later", &node, 1));
    system.in_step().await;
    assert_eq!(stale(&system).await, 0);
    assert_eq!(total(&system.push(to_room("later", PATIENCE)).await), written(1));
    assert_eq!(node.streams(), 1, "the link to the node was not touched by the loss of the controller");
}

#[tokio::test]
async fn a_gap_in_the_numbers_opens_the_feed_anew() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    system.controller.skip_a_number();
    system.controller.set_room(room("after", &node, 1));
    soon("a second feed", system.controller.followed(2)).await;
    system.in_step().await;
    assert_eq!(total(&system.push(to_room("after", PATIENCE)).await), written(1));
}

#[tokio::test]
async fn a_route_to_a_node_that_nobody_announced_opens_the_feed_anew() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    let rooms = vec![RoomRoute { room_id: "x".into(), node_id: "nowhere".into(), sessions: 1 }];
    system.controller.change(RouteUpdate { rooms, ..Default::default() });
    soon("a second feed", system.controller.followed(2)).await;
    system.in_step().await;
    assert_eq!(total(&system.push(to_room("r", PATIENCE)).await), written(1));
}

#[tokio::test]
async fn a_node_that_is_gone_gets_nothing_and_a_snapshot_replaces_all() {
    let a = FakeNode::start("a", Behaviour::Answer(written(1)));
    let b = FakeNode::start("b", Behaviour::Answer(written(1)));
    let mut system = System::with_room(&[(&a, 1), (&b, 1)]).await;
    system.controller.set_node(gone(&a));
    system.in_step().await;
    let response = system.push(to_room("r", PATIENCE)).await;
    assert_eq!(by_node(response.report.as_ref().unwrap()), [("b", written(1))]);

    system.controller.kill();
    system.controller.set_node(a.route());
    system.controller.set_node(gone(&b));
    system.controller.set_room(room("r", &a, 1));
    system.controller.restart();
    system.in_step().await;
    let response = system.push(to_room("r", PATIENCE)).await;
    assert_eq!(by_node(response.report.as_ref().unwrap()), [("a", written(1))]);
    assert_eq!(b.received().len(), 1);
}

#[tokio::test]
async fn before_the_first_snapshot_pushes_are_refused() {
    let controller = FakeController::start();
    controller.mute(true);
    let system = System::start(controller).await;
    let refused = system.client.clone().push_to_room(to_room("r", PATIENCE)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    use tonic_types::StatusExt as _;
    assert!(refused.get_details_retry_info().unwrap().retry_delay.is_some());
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ROUTES_NOT_READY");
    system.controller.mute(false);
    system.in_step().await;
    assert_eq!(system.push(to_room("r", PATIENCE)).await.message, "room unknown");
}
