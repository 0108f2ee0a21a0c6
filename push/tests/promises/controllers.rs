//! Several controllers: every one of them is followed, and what one of them ceases to tell is not lost with it.

use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{NodeRoute, RouteUpdate};
use tonic_types::StatusExt as _;

use crate::controller::{FakeController, reserve_address};
use crate::node::{Behaviour, FakeNode};
use crate::{PATIENCE, System, by_node, gone, room, soon, to_room, written};

/// A push to room `r`: who wrote it, and for how long the routes have been stale.
async fn written_on(system: &System) -> (Vec<String>, u32) {
    let report = system.push(to_room("r", PATIENCE)).await.report.unwrap();
    let nodes = by_node(&report).into_iter().map(|(id, outcomes)| {
        assert_eq!(outcomes, written(1), "{id}");
        id.to_owned()
    });
    (nodes.collect(), report.routes_stale_ms)
}

fn by_link(node: &FakeNode, link: u64) -> NodeRoute {
    NodeRoute { link, ..node.route() }
}

#[tokio::test]
async fn a_push_goes_to_the_nodes_of_all_controllers_and_waits_for_each_acknowledgement() {
    let (a, b) = (FakeController::start(), FakeController::start());
    let n = FakeNode::start("n", Behaviour::Answer(written(1)));
    let m = FakeNode::start("m", Behaviour::Answer(written(1)));
    a.change(RouteUpdate { nodes: vec![n.route()], rooms: vec![room("r", &n, 1)], ..Default::default() });
    b.set_node(m.route());
    let system = System::start_beside(a, &[b.address]).await;
    system.in_step().await;
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(written_on(&system).await, (vec!["n".into()], 0));
    for joined in 1..50 {
        let id = format!("room-{joined}");
        b.set_room(room(&id, &m, 1));
        soon("the acknowledgement", b.acknowledged()).await;
        let report = system.push(to_room(&id, PATIENCE)).await.report.unwrap();
        assert_eq!(by_node(&report), [("m", written(1))]);
    }
    b.set_room(room("r", &m, 1));
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(written_on(&system).await, (vec!["m".into(), "n".into()], 0));
}

#[tokio::test]
async fn a_node_that_moves_is_routed_to_at_every_instant_and_its_link_is_kept() {
    let (a, b) = (FakeController::start(), FakeController::start());
    let n = FakeNode::start("n", Behaviour::Answer(written(1)));
    a.set_node(by_link(&n, 1));
    a.set_room(room("r", &n, 1));
    let system = System::start_beside(a, &[b.address]).await;
    system.in_step().await;
    soon("the acknowledgement", b.acknowledged()).await;
    let routed = (vec!["n".to_owned()], 0);
    assert_eq!(written_on(&system).await, routed);

    b.set_node(NodeRoute { partial: true, ..by_link(&n, 2) });
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(written_on(&system).await, routed);
    system.controller.set_node(NodeRoute { gone: true, moved: true, ..by_link(&n, 1) });
    system.in_step().await;
    assert_eq!(written_on(&system).await, routed, "b has not told it yet");
    let last =
        RouteUpdate { nodes: vec![by_link(&n, 2)], rooms: vec![room("r", &n, 1)], ..Default::default() };
    b.change(last);
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(written_on(&system).await, routed);
    b.set_room(room("r", &n, 0));
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(system.push(to_room("r", PATIENCE)).await.message, "room empty", "b alone tells of it now");
    assert_eq!(n.streams(), 1);
}

#[tokio::test]
async fn a_lost_controller_is_told_at_once_and_what_it_does_not_tell_any_more_holds() {
    let (a, b) = (FakeController::start(), FakeController::start());
    let n = FakeNode::start("n", Behaviour::Answer(written(1)));
    a.set_node(by_link(&n, 1));
    a.set_room(room("r", &n, 1));
    let mut system = System::start_beside(a, &[b.address]).await;
    system.in_step().await;
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(written_on(&system).await, (vec!["n".into()], 0));

    system.controller.kill();
    let lost = Instant::now();
    soon("a stale report", async { while written_on(&system).await.1 == 0 {} }).await;
    assert!(lost.elapsed() < Duration::from_millis(900), "only after {:?}", lost.elapsed());
    // It comes back and knows nothing of the node, which has its link to b by now.
    system.controller.set_node(gone(&n));
    system.controller.restart();
    system.in_step().await;
    assert_eq!(written_on(&system).await, (vec!["n".into()], 0));
    b.set_node(by_link(&n, 2));
    b.set_room(room("r", &n, 1));
    soon("the acknowledgement", b.acknowledged()).await;
    assert_eq!(written_on(&system).await, (vec!["n".into()], 0));
}

#[tokio::test]
async fn a_controller_that_is_not_there_is_waited_for_for_3_s_and_then_told_in_every_report() {
    let (address, _reserved) = reserve_address();
    let n = FakeNode::start("n", Behaviour::Answer(written(1)));
    let controller = FakeController::start();
    controller.set_node(n.route());
    controller.set_room(room("r", &n, 1));
    let started = Instant::now();
    let system = System::start_beside(controller, &[address]).await;
    system.in_step().await;
    let refused = system.client.clone().push_to_room(to_room("r", PATIENCE)).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "ROUTES_NOT_READY");
    soon("it serves", async {
        while system.client.clone().push_to_room(to_room("r", PATIENCE)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(started.elapsed() >= Duration::from_secs(3), "after {:?}", started.elapsed());
    let (nodes, stale) = written_on(&system).await;
    assert_eq!(nodes, ["n"]);
    assert!(stale >= 3000, "{stale} ms");
}
