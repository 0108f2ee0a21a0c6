//! A controller that comes back on the data of its predecessor.

use std::time::Duration;

use control::Settings;
use ringcast_proto::NodeId;
use ringcast_proto::pubsub::{
    GetRoomInfoRequest, GetRoomStatsRequest, JoinDecision, RouteUpdateKind, SetRoomRequest,
};
use tonic::Code;

use crate::peers::{Controller, Follower, Node, end, folder, join, session, settings, soon, timed};

#[tokio::test]
async fn rooms_and_their_settings_live_on() {
    let data = folder();
    let first = Controller::start(settings(data.path())).await;
    let mut rpc = first.rpc().await;
    let set = SetRoomRequest {
        room_id: "hall".into(),
        name: Some("The hall".into()),
        max_users: Some(7),
        ..Default::default()
    };
    rpc.set_room(set).await.unwrap();
    let mut node = first.node("n1").await;
    assert_eq!(node.join(1, "u1", "joined").await, JoinDecision::Accepted);
    node.deregister().await;
    assert!(node.next().await.is_err(), "the stream ends");
    first.stop().await;

    let second = Controller::start(settings(data.path())).await;
    let mut rpc = second.rpc().await;
    let stats = rpc.get_room_stats(GetRoomStatsRequest::default()).await.unwrap().into_inner();
    let rooms: Vec<_> = stats.rooms.iter().map(|room| (room.room_id.as_str(), room.user_count)).collect();
    assert_eq!((stats.total_rooms, rooms), (2, vec![("hall", 0), ("joined", 0)]));
    let info = rpc.get_room_info(GetRoomInfoRequest { room_id: "hall".into(), ..Default::default() }).await;
    let metadata = info.unwrap().into_inner().room_info.unwrap().metadata.unwrap();
    assert_eq!((metadata.name.as_str(), metadata.max_users), ("The hall", 7));
    second.stop().await;
}

#[tokio::test]
async fn no_snapshot_and_no_join_before_the_known_nodes_are_back() {
    let data = folder();
    let first = Controller::start(settings(data.path())).await;
    let mut node = first.node("n1").await;
    assert_eq!(node.join(1, "u1", "r").await, JoinDecision::Accepted);
    first.stop().await;
    assert_eq!(node.next().await.unwrap_err().code(), Code::Unavailable);

    let second = Controller::start(settings(data.path())).await;
    let mut follower = Follower::open(&second).await;
    let mut new = second.node("n2").await;
    new.batch(vec![join(5, "u2", "r"), join(6, "u3", "r"), end(6)]).await;
    let early = tokio::time::timeout(Duration::from_millis(100), follower.raw()).await;
    assert!(early.is_err(), "the feed spoke too early: {early:?}");

    let mut old = Node::register(&second, "n1", 1).await.unwrap();
    old.snapshot_part(vec![session(1, "u1", "r")], false).await;
    old.snapshot(Vec::new()).await;
    follower.snapshot().await;
    assert_eq!((follower.room("r", "n1"), follower.nodes.len()), (1, 2));
    follower.step().await;
    assert_eq!((follower.room("r", "n2"), follower.users.len()), (1, 2), "the withdrawn join stays away");
    follower.acknowledge().await;
    let answers = new.answers(1).await;
    assert_eq!((answers[0].session_id, answers[0].decision()), (5, JoinDecision::Accepted));
    second.stop().await;
}

#[tokio::test]
async fn a_node_that_stays_away_is_waited_for_one_lease() {
    let data = folder();
    let first = Controller::start(settings(data.path())).await;
    let node = first.node("gone").await;
    first.stop().await;
    drop(node);

    let brief = timed(data.path(), |timing| {
        timing.lease = Duration::from_millis(1500);
        timing.join_wait = Duration::from_millis(200);
    });
    let second = Controller::start(brief.clone()).await;
    let mut follower = Follower::open(&second).await;
    let mut node = second.node("n2").await;
    assert_eq!(node.join(1, "u1", "r").await, JoinDecision::Unavailable, "it waited as long as it may");
    let request = GetRoomInfoRequest { room_id: "r".into(), ..Default::default() };
    let incomplete = second.rpc().await.get_room_info(request).await.unwrap_err();
    assert_eq!(incomplete.code(), Code::Unavailable);
    follower.snapshot().await;
    assert_eq!(follower.nodes.keys().collect::<Vec<_>>(), ["n2"]);
    node.send(vec![join(2, "u1", "r")]).await;
    follower.step().await;
    follower.acknowledge().await;
    assert_eq!(node.answers(1).await[0].decision(), JoinDecision::Accepted);
    node.deregister().await;
    assert!(node.next().await.is_err());
    second.stop().await;

    // Nobody is known any more, so nobody is waited for.
    let third = Controller::start(Settings { timing: settings(data.path()).timing, ..brief }).await;
    let mut follower = Follower::open(&third).await;
    assert_eq!(follower.raw().await.unwrap().kind(), RouteUpdateKind::SnapshotEnd);
    third.stop().await;
}

#[tokio::test]
async fn expected_nodes_take_the_place_of_the_known_ones() {
    let data = folder();
    let first = Controller::start(settings(data.path())).await;
    let foreign = first.node("foreign").await;
    first.stop().await;
    drop(foreign);

    let own = vec![NodeId::new("own").unwrap()];
    let second = Controller::start(Settings { expected_nodes: Some(own), ..settings(data.path()) }).await;
    let mut follower = Follower::open(&second).await;
    let early = tokio::time::timeout(Duration::from_millis(100), follower.raw()).await;
    assert!(early.is_err(), "the feed spoke before its own node was there: {early:?}");
    let _own = second.node("own").await;
    soon("the snapshot", follower.snapshot()).await;
    assert_eq!(follower.nodes.keys().collect::<Vec<_>>(), ["own"]);
    second.stop().await;
}
