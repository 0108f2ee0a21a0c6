//! Joins over the node link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::{GetRoomInfoRequest, GetUserNodeRequest, JoinDecision, SetRoomRequest};
use tokio::sync::Barrier;

use crate::peers::{Controller, Follower, Node, end, folder, join, probe, settings, soon, timed};

#[tokio::test]
async fn a_join_is_confirmed_only_after_the_feed_is_acknowledged() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut follower = Follower::follow(&controller).await;
    let mut node = controller.node("n1").await;
    assert!(follower.step().await.nodes[0].partial, "its snapshot is not whole yet");
    assert!(!follower.step().await.nodes[0].partial);
    follower.acknowledge().await;

    node.send(vec![join(1, "u1", "r")]).await;
    let step = follower.step().await;
    assert_eq!((follower.room("r", "n1"), step.users.len()), (1, 1));
    // A question that comes later is answered first: the join is held back.
    node.send(vec![probe(2, "u2", "r")]).await;
    let answers = node.answers(1).await;
    assert_eq!((answers[0].session_id, answers[0].decision()), (2, JoinDecision::Accepted));
    follower.acknowledge().await;
    let answers = node.answers(1).await;
    assert_eq!((answers[0].session_id, answers[0].decision()), (1, JoinDecision::Accepted));

    let mut rpc = controller.rpc().await;
    let info = rpc.get_room_info(GetRoomInfoRequest { room_id: "r".into(), ..Default::default() }).await;
    let room = info.unwrap().into_inner().room_info.unwrap();
    assert_eq!((room.user_count, room.users[0].user_id.as_str()), (1, "u1"));
    assert_eq!(room.users[0].user_name, "name of u1");
    controller.stop().await;
}

#[tokio::test]
async fn a_follower_that_does_not_acknowledge_is_cut_off_and_the_join_then_confirmed() {
    let data = folder();
    let limit = Duration::from_millis(300);
    let controller = Controller::start(timed(data.path(), |timing| timing.follower_ack = limit)).await;
    let mut node = controller.node("n1").await;
    let mut silent = Follower::follow(&controller).await;
    let asked = Instant::now();
    assert_eq!(node.join(1, "u1", "r").await, JoinDecision::Accepted);
    assert!(asked.elapsed() >= limit, "nobody acknowledged it");
    silent.step().await;
    let cut = silent.update().await.unwrap_err();
    assert_eq!(cut.code(), tonic::Code::DeadlineExceeded, "{cut:?}");
    assert_eq!(node.join(2, "u2", "r").await, JoinDecision::Accepted);
    controller.stop().await;
}

#[tokio::test]
async fn a_follower_that_leaves_is_not_waited_for() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    let mut follower = Follower::follow(&controller).await;
    node.send(vec![join(1, "u1", "r")]).await;
    follower.step().await;
    drop(follower);
    assert_eq!(node.answers(1).await[0].decision(), JoinDecision::Accepted);
    controller.stop().await;
}

#[tokio::test]
async fn two_hundred_join_for_the_last_ten_seats_over_four_nodes() {
    let data = folder();
    let controller = Arc::new(Controller::start(settings(data.path())).await);
    let mut first = controller.node("n0").await;
    first.send((0..90).map(|id| join(id, &format!("early{id}"), "r")).collect()).await;
    let early = first.answers(90).await;
    assert!(early.iter().all(|answer| answer.decision() == JoinDecision::Accepted));

    let start = Arc::new(Barrier::new(4));
    let mut racers = tokio::task::JoinSet::new();
    for number in 1..=4_u64 {
        let mut node = controller.node(&format!("n{number}")).await;
        let start = start.clone();
        racers.spawn(async move {
            start.wait().await;
            for id in 0..50 {
                node.send(vec![join(id, &format!("late{number}-{id}"), "r")]).await;
            }
            let answers = node.answers(50).await;
            (node, answers.iter().filter(|answer| answer.decision() == JoinDecision::Accepted).count())
        });
    }
    let done = soon("the race", racers.join_all()).await;
    assert_eq!(done.iter().map(|(_, got_in)| got_in).sum::<usize>(), 10);
    let request = GetRoomInfoRequest { room_id: "r".into(), ..Default::default() };
    let info = controller.rpc().await.get_room_info(request).await.unwrap().into_inner();
    assert_eq!(info.room_info.unwrap().user_count, 100);
}

#[tokio::test]
async fn a_full_room_takes_the_users_other_device_and_a_freed_seat_is_free() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let request = SetRoomRequest { room_id: "r".into(), max_users: Some(1), ..Default::default() };
    controller.rpc().await.set_room(request).await.unwrap();
    let (mut a, mut b) = (controller.node("a").await, controller.node("b").await);
    assert_eq!(a.join(1, "u1", "r").await, JoinDecision::Accepted);
    assert_eq!(b.join(1, "u1", "r").await, JoinDecision::Accepted);
    b.send(vec![join(2, "u2", "r"), probe(3, "u3", "r")]).await;
    for refused in b.answers(2).await {
        assert_eq!((refused.decision(), refused.message.as_str()), (JoinDecision::RoomFull, "room full"));
    }
    a.batch(vec![end(1)]).await;
    assert_eq!(b.join(4, "u2", "r").await, JoinDecision::RoomFull, "one device is left");
    b.batch(vec![end(1)]).await;
    assert_eq!(b.join(5, "u2", "r").await, JoinDecision::Accepted);
    controller.stop().await;
}

#[tokio::test]
async fn what_is_not_valid_is_answered_and_changes_nothing() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    let long = "x".repeat(65);
    let mut two_rooms = crate::peers::session(6, "u", "r");
    two_rooms.room_ids.push("s".into());
    let two_rooms = ringcast_proto::pubsub::SessionJoin { session: Some(two_rooms), ..Default::default() };
    let two_rooms = ringcast_proto::pubsub::SessionEvent {
        event: Some(ringcast_proto::pubsub::session_event::Event::Join(two_rooms)),
    };
    let events =
        vec![join(1, "", "r"), join(2, "u", ""), join(3, &long, "r"), join(4, "u", &long), two_rooms];
    node.send(events).await;
    for answer in node.answers(5).await {
        assert_eq!(answer.decision(), JoinDecision::Invalid, "{answer:?}");
        assert!(!answer.message.is_empty());
    }
    let found = controller.rpc().await.get_user_node(GetUserNodeRequest { user_id: "u".into() }).await;
    assert!(!found.unwrap().into_inner().found);
    assert_eq!(node.join(7, "u", "r").await, JoinDecision::Accepted, "the link goes on");
    controller.stop().await;
}

#[tokio::test]
async fn a_storm_of_joins_is_one_step_and_few_transactions() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(5000, "first", "known").await, JoinDecision::Accepted);
    let mut follower = Follower::follow(&controller).await;
    node.send((0..1000).map(|id| join(id, &format!("u{id}"), "known")).collect()).await;
    let answers = async {
        // The default limit is 100 users, one of whom is in.
        let answers = node.answers(1000 - 99).await;
        assert!(answers.iter().all(|answer| answer.decision() == JoinDecision::RoomFull));
    };
    answers.await;
    let step = follower.step().await;
    assert_eq!((step.rooms.len(), step.users.len(), follower.room("known", "n1")), (1, 99, 100));
    follower.acknowledge().await;
    assert_eq!(node.answers(99).await.len(), 99);

    node.send((2000..3000).map(|id| join(id, &format!("u{id}"), &format!("new{id}"))).collect()).await;
    let mut users = 0;
    let mut steps = 0;
    while users < 1000 {
        users += follower.step().await.users.len();
        follower.acknowledge().await;
        steps += 1;
    }
    assert_eq!(node.answers(1000).await.len(), 1000);
    assert!(steps <= 4, "{steps} steps for a thousand new rooms");
    controller.stop().await;
}

#[tokio::test]
async fn events_before_the_snapshot_end_the_link() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = Node::register(&controller, "n1", 1).await.unwrap();
    node.send(vec![join(1, "u", "r")]).await;
    let ended = node.next().await.unwrap_err();
    assert_eq!(ended.code(), tonic::Code::InvalidArgument);
    let mut unregistered = Node::register(&controller, "", 1).await;
    assert_eq!(unregistered.as_mut().err().unwrap().code(), tonic::Code::InvalidArgument);
    controller.stop().await;
}

#[tokio::test]
async fn the_end_of_a_session_that_joins_frees_its_seat() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    node.send(vec![join(1, "u1", "r"), end(1)]).await;
    loop {
        if let Message::BatchTaken(_) = node.next().await.unwrap() {
            break;
        }
    }
    assert_eq!(node.join(2, "u2", "r").await, JoinDecision::Accepted);
    let mut rpc = controller.rpc().await;
    let found = rpc.get_user_node(GetUserNodeRequest { user_id: "u1".into() }).await.unwrap().into_inner();
    assert!(!found.found, "a session that has ended came back");
    controller.stop().await;
}
