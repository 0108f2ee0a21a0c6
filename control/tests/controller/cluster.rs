//! Two controllers that share presence in one Redis.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use control::Settings;
use ringcast_proto::pubsub::session_command::Command;
use ringcast_proto::pubsub::{
    GetRoomInfoRequest, GetRoomStatsRequest, GetUserNodeRequest, JoinDecision, JoinRoomRequest,
    LeaveRoomRequest, ListNodesRequest, NodeState, SelectConnectNodeRequest,
};
use settings::RedisStore;
use test_servers::Redis;
use tonic::Code;

use crate::peers::{Controller, Follower, Node, end, folder, join, probe, session, settings, soon};

/// A controller of this name, with its own rooms.
pub(crate) fn sharing(data: &Path, id: &str, redis: &Redis) -> Settings {
    let store = RedisStore { addresses: vec![redis.address()], ..RedisStore::default() };
    Settings { id: id.into(), redis: Some(store), ..settings(data) }
}

/// The users of a room, as a controller tells them.
pub(crate) async fn users_in(controller: &Controller, room: &str) -> Result<BTreeSet<String>, tonic::Status> {
    let request = GetRoomInfoRequest { room_id: room.into(), ..Default::default() };
    let info = controller.rpc().await.get_room_info(request).await;
    match info {
        Ok(info) => {
            let room = info.into_inner().room_info.unwrap();
            assert_eq!(room.user_count as usize, room.users.len());
            Ok(room.users.into_iter().map(|user| user.user_id).collect())
        }
        Err(status) if status.code() == Code::NotFound => Ok(BTreeSet::new()),
        Err(status) => Err(status),
    }
}

/// Asks again until the answer is as is wanted.
pub(crate) async fn until_so<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(what, asking).await
}

#[tokio::test]
async fn seats_are_counted_over_all_controllers_and_all_tell_the_same() {
    let redis = Redis::plain();
    let (data, other) = (folder(), folder());
    let limited = |settings| Settings { default_max_users: 10, ..settings };
    let a = Controller::start(limited(sharing(data.path(), "a", &redis))).await;
    let b = Controller::start(limited(sharing(other.path(), "b", &redis))).await;
    let (mut at_a, mut at_b) = (a.node("n1").await, b.node("n2").await);
    until_joinable(&mut at_a, 900).await;
    until_joinable(&mut at_b, 950).await;

    for (node, name) in [(&mut at_a, "a"), (&mut at_b, "b")] {
        node.send((0..30).map(|id| join(id, &format!("{name}{id}"), "r")).collect()).await;
    }
    let (from_a, from_b) = (at_a.answers(30).await, at_b.answers(30).await);
    let accepted = |answers: &[ringcast_proto::pubsub::JoinAnswer]| {
        answers.iter().filter(|answer| answer.decision() == JoinDecision::Accepted).count()
    };
    assert_eq!(accepted(&from_a) + accepted(&from_b), 10);
    let users = users_in(&a, "r").await.unwrap();
    assert_eq!(users.len(), 10);
    assert_eq!(users_in(&b, "r").await.unwrap(), users);

    // Another device of a user takes no seat, wherever it connects; somebody else finds none.
    let inside = users.iter().next().unwrap().clone();
    at_b.send(vec![join(100, &inside, "r"), probe(101, "late", "r"), probe(102, &inside, "r")]).await;
    let mut answers = at_b.answers(3).await;
    answers.sort_by_key(|answer| answer.session_id);
    let decisions: Vec<_> = answers.iter().map(|answer| answer.decision()).collect();
    assert_eq!(decisions, [JoinDecision::Accepted, JoinDecision::RoomFull, JoinDecision::Accepted]);
    let request = GetUserNodeRequest { user_id: inside };
    let found = a.rpc().await.get_user_node(request).await.unwrap().into_inner();
    assert!(found.sessions.iter().any(|session| session.node_id == "n2" && session.session_id == 100));

    let stats = b.rpc().await.get_room_stats(GetRoomStatsRequest::default()).await.unwrap().into_inner();
    assert_eq!((stats.total_users, stats.total_sessions), (12, 13), "two more users wait elsewhere");
    a.stop().await;
    b.stop().await;
}

/// Waits until a node's joins can be decided, by a user who stays in a room of his own.
async fn until_joinable(node: &mut Node, id: u64) {
    let mut tries = id;
    loop {
        tries += 1;
        match node.join(tries, &format!("waits{id}"), &format!("own{id}")).await {
            JoinDecision::Accepted => return,
            JoinDecision::Unavailable => tokio::time::sleep(Duration::from_millis(20)).await,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_call_at_one_controller_reaches_the_sessions_of_another() {
    let redis = Redis::plain();
    let (data, other) = (folder(), folder());
    let b = Controller::start(sharing(other.path(), "b", &redis)).await;
    let peers = vec![b.grpc.to_string()];
    let a = Controller::start(Settings { peers, ..sharing(data.path(), "a", &redis) }).await;
    let mut node = b.node("n2").await;
    until_joinable(&mut node, 1).await;
    let mut follower = Follower::follow(&b).await;
    assert_eq!(follower.room("own1", "n2"), 1);

    let mut rpc = a.rpc().await;
    let request = JoinRoomRequest {
        user_id: "waits1".into(),
        room_id: "second".into(),
        user_name: "By RPC".into(),
        ..Default::default()
    };
    let call = tokio::spawn(async move { rpc.join_room(request).await });
    let command = node.command().await;
    let Some(Command::AddRoom(rooms)) = &command.command else { panic!("{command:?}") };
    node.did(&command, rooms.session_ids.clone()).await;
    while follower.room("second", "n2") == 0 {
        follower.step().await;
    }
    follower.acknowledge().await;
    let joined = soon("the call", call).await.unwrap().unwrap().into_inner();
    assert_eq!((joined.success, joined.sessions), (true, 1));
    assert_eq!(joined.room_info.unwrap().user_count, 1);
    let told = until_so("the name", async || {
        let request = GetRoomInfoRequest { room_id: "second".into(), ..Default::default() };
        let room = a.rpc().await.get_room_info(request).await.unwrap().into_inner().room_info.unwrap();
        (room.users[0].user_name == "By RPC").then_some(room.users[0].node_id.clone())
    })
    .await;
    assert_eq!(told, "n2");

    let mut rpc = a.rpc().await;
    let request =
        LeaveRoomRequest { user_id: "waits1".into(), room_id: "second".into(), ..Default::default() };
    let call = tokio::spawn(async move { rpc.leave_room(request).await });
    let command = node.command().await;
    let Some(Command::RemoveRoom(rooms)) = &command.command else { panic!("{command:?}") };
    node.did(&command, rooms.session_ids.clone()).await;
    while follower.room("second", "n2") > 0 {
        follower.step().await;
    }
    follower.acknowledge().await;
    assert_eq!(soon("the call", call).await.unwrap().unwrap().into_inner().sessions, 1);
    let empty = async || users_in(&a, "second").await.unwrap().is_empty().then_some(());
    until_so("the leave", empty).await;

    let offline =
        |room: &str| JoinRoomRequest { user_id: "nobody".into(), room_id: room.into(), ..Default::default() };
    let nobody = a.rpc().await.join_room(offline("r")).await.unwrap_err();
    assert_eq!(nobody.code(), Code::FailedPrecondition, "{nobody:?}");
    b.stop().await;
    let unknown = a.rpc().await.join_room(offline("r")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "his sessions may be at the other one: {unknown:?}");
    a.stop().await;
}

#[tokio::test]
async fn a_node_that_moves_is_told_moved_there_and_whole_here_and_its_members_never_leave() {
    let redis = Redis::plain();
    let (data, other) = (folder(), folder());
    let a = Controller::start(sharing(data.path(), "a", &redis)).await;
    let b = Controller::start(sharing(other.path(), "b", &redis)).await;
    let mut node = Node::link(&a, "n", 1, 1).await.unwrap();
    node.snapshot(vec![session(1, "u", "r")]).await;
    let there = async || users_in(&b, "r").await.unwrap().contains("u").then_some(());
    until_so("the session in the store", there).await;
    let (mut at_a, mut at_b) = (Follower::follow(&a).await, Follower::follow(&b).await);

    let mut moved = Node::link(&b, "n", 1, 2).await.unwrap();
    let told = at_b.step().await;
    assert_eq!((told.nodes[0].link, told.nodes[0].partial), (2, true));
    assert_eq!(node.next().await.unwrap_err().code(), Code::Aborted, "the former link is cut");
    assert!(users_in(&a, "r").await.unwrap().contains("u"));
    assert!(users_in(&b, "r").await.unwrap().contains("u"));
    moved.snapshot(vec![session(1, "u", "r")]).await;
    let told = at_b.step().await;
    assert_eq!((told.nodes.len(), at_b.room("r", "n")), (1, 1), "whole with its routes: {told:?}");
    assert!(!told.nodes[0].partial);
    assert!(at_a.step().await.nodes[0].unlinked, "its link is another controller's");
    let told = at_a.step().await;
    assert!(told.nodes[0].gone && told.nodes[0].moved && told.nodes[0].link == 1, "{told:?}");
    for _ in 0..3 {
        assert!(users_in(&a, "r").await.unwrap().contains("u"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let late = Node::link(&a, "n", 1, 1).await.err().unwrap();
    assert_eq!(late.code(), Code::Aborted, "a late word of the former link: {late:?}");
    let former = Node::link(&a, "n", 0, 9).await.err().unwrap();
    assert_eq!(former.code(), Code::AlreadyExists, "a former incarnation: {former:?}");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn without_redis_nobody_joins_and_what_ended_meanwhile_has_ended_when_it_is_back_empty() {
    let mut redis = Redis::plain();
    let data = folder();
    let controller = Controller::start(sharing(data.path(), "a", &redis)).await;
    let mut node = controller.node("n").await;
    until_joinable(&mut node, 900).await;
    assert_eq!(node.join(2, "leaves", "r").await, JoinDecision::Accepted);
    assert_eq!(node.join(3, "stays", "r").await, JoinDecision::Accepted);
    let mut follower = Follower::follow(&controller).await;

    redis.kill();
    node.send(vec![join(4, "late", "r")]).await;
    assert_eq!(node.answers(1).await[0].decision(), JoinDecision::Unavailable);
    node.send(vec![probe(5, "late", "r")]).await;
    assert_eq!(node.answers(1).await[0].decision(), JoinDecision::Unavailable);
    let away = users_in(&controller, "r").await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "{away:?}");
    node.batch(vec![end(2)]).await;
    follower.step().await;
    assert_eq!(follower.room("r", "n"), 1, "routes go on without it");
    drop(follower);

    redis.start_again_empty();
    let mut late = 10;
    loop {
        late += 1;
        match node.join(late, "late", "r").await {
            JoinDecision::Accepted => break,
            JoinDecision::Unavailable => tokio::time::sleep(Duration::from_millis(50)).await,
            other => panic!("{other:?}"),
        }
    }
    let users = users_in(&controller, "r").await.unwrap();
    assert_eq!(users.into_iter().collect::<Vec<_>>(), ["late", "stays"]);
    controller.stop().await;
}

#[tokio::test]
async fn a_node_registers_without_redis_and_its_sessions_are_there_when_it_is_back() {
    let mut redis = Redis::plain();
    let data = folder();
    let controller = Controller::start(sharing(data.path(), "a", &redis)).await;
    redis.kill();
    let mut follower = Follower::follow(&controller).await;
    let mut node = Node::link(&controller, "n", 1, 1).await.unwrap();
    node.snapshot(vec![session(1, "u", "r")]).await;
    while follower.room("r", "n") == 0 {
        follower.step().await;
    }
    redis.start_again();
    let there = async || users_in(&controller, "r").await.ok()?.contains("u").then_some(());
    until_so("the session in the store", there).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_session_that_is_gone_when_its_seat_comes_leaves_nobody_behind() {
    let redis = Redis::plain();
    let (data, other) = (folder(), folder());
    let a = Controller::start(sharing(data.path(), "a", &redis)).await;
    let b = Controller::start(sharing(other.path(), "b", &redis)).await;
    let mut node = Node::link(&a, "n", 1, 1).await.unwrap();
    node.snapshot(Vec::new()).await;
    until_joinable(&mut node, 900).await;

    // The store takes its time, and the session does not wait.
    redis.pause(200);
    node.batch(vec![join(1, "gone", "r"), end(1)]).await;
    assert_eq!(node.join(2, "stays", "r").await, JoinDecision::Accepted);
    let users = async || {
        let users: Vec<String> = users_in(&b, "r").await.unwrap().into_iter().collect();
        (users == ["stays"]).then_some(())
    };
    until_so("the leave", users).await;

    // The same for the node's link.
    redis.pause(200);
    node.batch(vec![join(3, "lost", "r")]).await;
    drop(node);
    let lost = async || {
        let nodes = a.rpc().await.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
        (nodes[0].state() == NodeState::Lost).then_some(())
    };
    until_so("the loss", lost).await;
    until_so("the leave", users).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn new_clients_are_spread_over_the_nodes_of_all_controllers() {
    let redis = Redis::plain();
    let (data, other) = (folder(), folder());
    let a = Controller::start(sharing(data.path(), "a", &redis)).await;
    let b = Controller::start(sharing(other.path(), "b", &redis)).await;
    let (mut busy, mut idle) = (a.node("busy").await, b.node("idle").await);
    busy.heartbeat(500, false).await;
    idle.heartbeat(3, false).await;
    let both = async || {
        let nodes = a.rpc().await.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
        let seen: Vec<_> = nodes.iter().map(|node| (node.node_id.as_str(), node.connections)).collect();
        (seen == [("busy", 500), ("idle", 3)])
            .then(|| nodes.iter().all(|node| node.state() == NodeState::Ready))
    };
    assert!(until_so("both nodes at the first controller", both).await);
    let selected = a.rpc().await.select_connect_node(SelectConnectNodeRequest {}).await.unwrap().into_inner();
    assert_eq!(selected.node.unwrap().node_id, "idle");
    a.stop().await;
    b.stop().await;
}

/// A controller with a node `n` that holds `u` in `r`, all in the store; the controller has been stopped then.
async fn stopped_with_a_node(settings: Settings) -> Node {
    let controller = Controller::start(settings).await;
    let mut node = Node::link(&controller, "n", 1, 1).await.unwrap();
    node.snapshot(vec![session(1, "u", "r")]).await;
    let there = async || users_in(&controller, "r").await.ok()?.contains("u").then_some(());
    until_so("the session in the store", there).await;
    controller.stop().await;
    node
}

#[tokio::test]
async fn known_nodes_are_waited_for_though_redis_was_emptied_meanwhile() {
    let redis = Redis::plain();
    let data = folder();
    drop(stopped_with_a_node(sharing(data.path(), "a", &redis)).await);
    redis.command(&["flushall"]);
    let controller = Controller::start(sharing(data.path(), "a", &redis)).await;
    let mut follower = Follower::open(&controller).await;
    let early = tokio::time::timeout(Duration::from_millis(1_500), follower.raw()).await;
    assert!(early.is_err(), "the feed spoke too early: {early:?}");
    let mut node = Node::link(&controller, "n", 1, 2).await.unwrap();
    node.snapshot(vec![session(1, "u", "r")]).await;
    follower.snapshot().await;
    assert_eq!(follower.room("r", "n"), 1);
    controller.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_node_that_stays_away_leave_when_redis_is_back_and_callers_are_answered() {
    let mut redis = Redis::plain();
    let data = folder();
    drop(stopped_with_a_node(sharing(data.path(), "a", &redis)).await);
    redis.stop();
    let mut brief = sharing(data.path(), "a", &redis);
    brief.timing.lease = Duration::from_millis(1_500);
    let controller = Controller::start(brief).await;
    // Callers who look at what the other controllers told, all the while.
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut rpc = controller.rpc().await;
        callers.spawn(async move {
            loop {
                rpc.list_nodes(ListNodesRequest {}).await.unwrap();
            }
        });
    }
    let mut follower = Follower::open(&controller).await;
    follower.snapshot().await;
    assert!(follower.nodes.is_empty());
    redis.cont();
    let left = async || users_in(&controller, "r").await.ok()?.is_empty().then_some(());
    until_so("the leave", left).await;
    callers.shutdown().await;
    controller.stop().await;
}
