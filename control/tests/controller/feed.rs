//! The route feed.

use ringcast_proto::pubsub::RouteUpdateKind;

use crate::peers::{Controller, Follower, Node, folder, join, session, settings};

#[tokio::test]
async fn a_large_snapshot_comes_in_parts_and_later_steps_follow_it() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = Node::register(&controller, "n1", 1).await.unwrap();
    for part in 0..5 {
        let sessions = (0..1000).map(|number| {
            let id = part * 1000 + number;
            session(id, &format!("u{id}"), &format!("r{}", id % 700))
        });
        node.snapshot_part(sessions.collect(), false).await;
    }
    node.snapshot(Vec::new()).await;
    let mut follower = Follower::open(&controller).await;
    assert_eq!(follower.snapshot().await, 2, "1 node, 700 rooms and 5000 users, 4096 a part");
    assert_eq!((follower.rooms.len(), follower.users.len()), (700, 5000));
    assert_eq!(follower.rooms.values().sum::<u32>(), 5000);
    node.send(vec![join(9999, "late", "r1")]).await;
    follower.step().await;
    assert_eq!(follower.users.len(), 5001);
    controller.stop().await;
}

#[tokio::test]
async fn a_quiet_feed_has_heartbeats_that_repeat_the_last_number() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut follower = Follower::follow(&controller).await;
    for _ in 0..2 {
        let heartbeat = follower.raw().await.unwrap();
        assert_eq!((heartbeat.kind(), heartbeat.number), (RouteUpdateKind::Heartbeat, follower.number));
    }
    controller.stop().await;
}

#[tokio::test]
async fn followers_that_come_in_mid_storm_all_end_with_the_same_routes() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    let storm = async {
        for id in 0..400 {
            node.send(vec![join(id, &format!("u{id}"), &format!("r{}", id % 20))]).await;
        }
        node.answers(400).await
    };
    let watch = |controller| async move {
        let mut follower = Follower::follow(controller).await;
        while follower.users.len() < 400 {
            follower.step().await;
            follower.acknowledge().await;
        }
        (follower.rooms.clone(), follower.users.clone())
    };
    let late = async {
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(watch(&controller).await);
        }
        seen
    };
    let (answers, first, others) = tokio::join!(storm, watch(&controller), late);
    assert_eq!(answers.len(), 400);
    assert!(others.iter().all(|routes| *routes == first));
    assert_eq!(first.0.values().sum::<u32>(), 400);
    controller.stop().await;
}
