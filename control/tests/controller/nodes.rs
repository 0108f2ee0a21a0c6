//! Nodes that come, go, and come back.

use std::time::Duration;

use ringcast_proto::pubsub::{
    GetUserNodeRequest, JoinDecision, ListNodesRequest, NodeState, SelectConnectNodeRequest,
};
use tonic::Code;

use crate::peers::{Controller, Follower, Node, folder, join, session, settings, timed};

#[tokio::test]
async fn a_reconnect_with_the_same_incarnation_takes_nobody_out() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.lease_ms, 10_000);
    assert_eq!(node.join(1, "u1", "r").await, JoinDecision::Accepted);
    let mut follower = Follower::follow(&controller).await;
    drop(node);
    let mut again = Node::register(&controller, "n1", 1).await.unwrap();
    again.snapshot(vec![session(1, "u1", "r")]).await;
    again.send(vec![join(2, "u2", "r")]).await;
    let step = loop {
        let step = follower.step().await;
        // That the link is lost, and back, where the loss is seen before the new link.
        if step.nodes.is_empty() {
            break step;
        }
        assert!(!step.nodes[0].gone && step.rooms.is_empty() && step.users.is_empty(), "{step:?}");
    };
    assert_eq!((step.rooms.len(), step.users.len()), (1, 1), "{step:?}");
    assert_eq!((step.users[0].user_id.as_str(), follower.room("r", "n1")), ("u2", 2));
    controller.stop().await;
}

#[tokio::test]
async fn a_link_is_replaced_by_the_nodes_next_one() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut old = controller.node("n1").await;
    assert_eq!(old.join(1, "u1", "r").await, JoinDecision::Accepted);
    let mut new = Node::register(&controller, "n1", 1).await.unwrap();
    new.snapshot(vec![session(1, "u1", "r")]).await;
    assert_eq!(old.next().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(new.join(2, "u2", "r").await, JoinDecision::Accepted);
    controller.stop().await;
}

#[tokio::test]
async fn a_node_whose_lease_has_passed_leaves_once() {
    let data = folder();
    let lease = Duration::from_millis(200);
    let controller = Controller::start(timed(data.path(), |timing| timing.lease = lease)).await;
    let (mut a, mut b) = (controller.node("a").await, controller.node("b").await);
    assert_eq!(a.join(1, "u1", "r").await, JoinDecision::Accepted);
    let mut follower = Follower::follow(&controller).await;
    drop(a);
    let lost = follower.step().await;
    assert_eq!((lost.nodes.len(), lost.nodes[0].unlinked, follower.room("r", "a")), (1, true, 1));
    let gone = follower.step().await;
    assert_eq!((gone.nodes.len(), gone.nodes[0].gone, gone.nodes[0].node_id.as_str()), (1, true, "a"));
    assert_eq!((gone.rooms.len(), gone.users.len(), follower.rooms.len()), (0, 0, 0));
    b.send(vec![join(1, "u2", "r")]).await;
    let next = follower.step().await;
    assert!(next.nodes.is_empty() && follower.room("r", "b") == 1, "{next:?}");
    let mut rpc = controller.rpc().await;
    let found = rpc.get_user_node(GetUserNodeRequest { user_id: "u1".into() }).await.unwrap();
    assert!(!found.into_inner().found);
    // It may come back, with those who are still there.
    let mut again = Node::register(&controller, "a", 1).await.unwrap();
    again.snapshot(vec![session(1, "u1", "r")]).await;
    follower.step().await;
    follower.step().await;
    assert_eq!(follower.room("r", "a"), 1);
    controller.stop().await;
}

#[tokio::test]
async fn a_silent_node_loses_its_link() {
    let data = folder();
    let silence = Duration::from_millis(200);
    let controller = Controller::start(timed(data.path(), |timing| timing.link_silence = silence)).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    let nodes = controller.rpc().await.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!((nodes.len(), nodes[0].state()), (1, NodeState::Lost));
    controller.stop().await;
}

#[tokio::test]
async fn deregistering_removes_at_once() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    let mut follower = Follower::follow(&controller).await;
    node.deregister().await;
    assert!(follower.step().await.nodes[0].gone);
    let nodes = controller.rpc().await.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert!(nodes.is_empty());
    controller.stop().await;
}

#[tokio::test]
async fn a_second_live_node_with_the_same_id_is_refused_and_a_successor_is_not() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut first = controller.node("n1").await;
    assert_eq!(first.join(1, "u1", "r").await, JoinDecision::Accepted);
    let refused = Node::register(&controller, "n1", 2).await.err().unwrap();
    assert_eq!(refused.code(), Code::AlreadyExists);

    let mut follower = Follower::follow(&controller).await;
    drop(first);
    // The loss of the link is seen when the stream's end has arrived.
    let mut second = loop {
        match Node::register(&controller, "n1", 2).await {
            Ok(node) => break node,
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists),
        }
    };
    second.snapshot(Vec::new()).await;
    assert!(follower.step().await.nodes[0].unlinked);
    assert!(follower.step().await.nodes[0].gone, "the former incarnation's members leave");
    assert_eq!(follower.step().await.nodes[0].incarnation, 2);
    assert!(follower.rooms.is_empty() && follower.users.is_empty());
    drop(second);
    let late = Node::register(&controller, "n1", 1).await.err().unwrap();
    assert_eq!(late.code(), Code::AlreadyExists);
    controller.stop().await;
}

#[tokio::test]
async fn new_clients_are_sent_to_the_least_loaded_node() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut rpc = controller.rpc().await;
    let none = rpc.select_connect_node(SelectConnectNodeRequest {}).await.unwrap_err();
    assert_eq!(none.code(), Code::Unavailable);
    let (mut busy, mut idle, mut draining) =
        (controller.node("busy").await, controller.node("idle").await, controller.node("draining").await);
    busy.heartbeat(500, false).await;
    idle.heartbeat(3, false).await;
    draining.heartbeat(0, true).await;
    for node in [&mut busy, &mut idle, &mut draining] {
        // A batch that is taken shows that the heartbeat before it was.
        node.batch(Vec::new()).await;
    }
    let selected =
        rpc.select_connect_node(SelectConnectNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert_eq!(
        (selected.node_id.as_str(), selected.public_ws_url.as_str()),
        ("idle", "ws://idle.example/ws")
    );
    let nodes = rpc.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let states: Vec<_> = nodes.iter().map(|node| (node.node_id.as_str(), node.state())).collect();
    assert_eq!(
        states,
        [("busy", NodeState::Ready), ("draining", NodeState::Draining), ("idle", NodeState::Ready)]
    );
    assert_eq!((nodes[0].connections, nodes[0].grpc_address.as_str()), (500, "busy.example:50052"));
    controller.stop().await;
}
