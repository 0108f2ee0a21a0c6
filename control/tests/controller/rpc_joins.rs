//! JoinRoom and LeaveRoom: round trips over the node link.

use std::time::Duration;

use ringcast_proto::pubsub::session_command::Command;
use ringcast_proto::pubsub::{
    GetRoomInfoRequest, JoinDecision, JoinRoomRequest, JoinRoomResponse, LeaveRoomRequest, LeaveRoomResponse,
    SetRoomRequest,
};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

use crate::peers::{Controller, Follower, folder, join, session, settings};

type Call<T> = JoinHandle<Result<T, Status>>;

async fn join_room(controller: &Controller, user: &str, room: &str, node: &str) -> Call<JoinRoomResponse> {
    let mut rpc = controller.rpc().await;
    let request = JoinRoomRequest {
        user_id: user.into(),
        room_id: room.into(),
        node_id: node.into(),
        ..Default::default()
    };
    tokio::spawn(async move { rpc.join_room(request).await.map(tonic::Response::into_inner) })
}

async fn leave_room(controller: &Controller, user: &str, room: &str) -> Call<LeaveRoomResponse> {
    let mut rpc = controller.rpc().await;
    let request = LeaveRoomRequest { user_id: user.into(), room_id: room.into(), local_only: false };
    tokio::spawn(async move { rpc.leave_room(request).await.map(tonic::Response::into_inner) })
}

async fn users_in(controller: &Controller, room: &str) -> u32 {
    let request = GetRoomInfoRequest { room_id: room.into(), ..Default::default() };
    let info = controller.rpc().await.get_room_info(request).await.unwrap().into_inner();
    info.room_info.unwrap().user_count
}

#[tokio::test]
async fn a_join_and_a_leave_are_confirmed_after_nodes_and_followers() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let (mut a, mut b) = (controller.node("a").await, controller.node("b").await);
    for node in [&mut a, &mut b] {
        assert_eq!(node.join(1, "u", "first").await, JoinDecision::Accepted);
    }
    let mut follower = Follower::follow(&controller).await;

    let call = join_room(&controller, "u", "second", "").await;
    for node in [&mut a, &mut b] {
        let command = node.command().await;
        let Some(Command::AddRoom(rooms)) = &command.command else { panic!("{command:?}") };
        assert_eq!((rooms.session_ids.as_slice(), rooms.room_id.as_str()), ([1].as_slice(), "second"));
        node.did(&command, vec![1]).await;
    }
    while follower.room("second", "a") + follower.room("second", "b") < 2 {
        follower.step().await;
    }
    assert!(!call.is_finished(), "the follower has not acknowledged it");
    follower.acknowledge().await;
    let joined = call.await.unwrap().unwrap();
    assert_eq!((joined.success, joined.sessions, joined.room_info.unwrap().user_count), (true, 2, 1));

    let call = leave_room(&controller, "u", "second").await;
    for node in [&mut a, &mut b] {
        let command = node.command().await;
        let Some(Command::RemoveRoom(_)) = &command.command else { panic!("{command:?}") };
        node.did(&command, vec![1]).await;
    }
    while follower.room("second", "a") + follower.room("second", "b") > 0 {
        follower.step().await;
    }
    follower.acknowledge().await;
    let left = call.await.unwrap().unwrap();
    assert_eq!((left.success, left.sessions), (true, 2));
    let again = leave_room(&controller, "u", "second").await.await.unwrap().unwrap();
    assert_eq!((again.success, again.message.as_str()), (false, "not in room"));
    let offline = leave_room(&controller, "nobody", "second").await.await.unwrap().unwrap_err();
    assert_eq!(offline.code(), Code::FailedPrecondition);
    controller.stop().await;
}

#[tokio::test]
async fn a_seat_that_no_session_took_is_given_back() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let request = SetRoomRequest { room_id: "r".into(), max_users: Some(1), ..Default::default() };
    controller.rpc().await.set_room(request).await.unwrap();
    let mut node = controller.node("n1").await;
    node.send(vec![join(1, "u1", "x"), join(2, "u2", "x")]).await;
    node.answers(2).await;

    let call = join_room(&controller, "u1", "r", "n1").await;
    let command = node.command().await;
    let full = join_room(&controller, "u2", "r", "").await.await.unwrap().unwrap();
    assert_eq!((full.success, full.message.as_str()), (false, "room full"), "the seat is held meanwhile");
    node.did(&command, Vec::new()).await;
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(users_in(&controller, "r").await, 0);

    let call = join_room(&controller, "u2", "r", "").await;
    let command = node.command().await;
    node.did(&command, vec![2]).await;
    assert!(call.await.unwrap().unwrap().success);
    assert_eq!(users_in(&controller, "r").await, 1);
    let elsewhere = join_room(&controller, "u2", "r", "n2").await.await.unwrap().unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition, "he holds no session there");
    controller.stop().await;
}

#[tokio::test]
async fn a_link_that_is_lost_gives_the_seat_back_and_the_snapshot_settles_it() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "x").await, JoinDecision::Accepted);
    let call = join_room(&controller, "u1", "r", "").await;
    node.command().await;
    drop(node);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(users_in(&controller, "r").await, 0);
    // The node had done it.
    let mut again = crate::peers::Node::register(&controller, "n1", 1).await.unwrap();
    let mut both = session(1, "u1", "x");
    both.room_ids.push("r".into());
    again.snapshot(vec![both]).await;
    assert_eq!(users_in(&controller, "r").await, 1);
    controller.stop().await;
}

#[tokio::test]
async fn a_call_that_runs_out_of_time_says_so_and_its_late_answer_still_counts() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "x").await, JoinDecision::Accepted);
    let mut rpc = controller.rpc().await;
    let mut request =
        Request::new(JoinRoomRequest { user_id: "u1".into(), room_id: "r".into(), ..Default::default() });
    // Set by hand, since a client's own timer would end the call with a status of its own.
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let late = rpc.join_room(request).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    let command = node.command().await;
    node.did(&command, vec![1]).await;
    node.batch(Vec::new()).await;
    assert_eq!(users_in(&controller, "r").await, 1);
    tokio::time::timeout(Duration::from_secs(5), controller.stop()).await.unwrap();
}
