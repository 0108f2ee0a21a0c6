//! The links to the nodes: what their loss means for what is under way.

use std::time::{Duration, Instant};

use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::{
    NodeRoute, PushStreamRequest, PushToRoomRequest, ReportMode, StreamedPush, streamed_push,
};

use crate::node::{Behaviour, FakeNode};
use crate::{
    PATIENCE, System, by_node, closed, gone, room, shed, soon, text, to_room, total, unknown, written,
};

#[tokio::test]
async fn a_node_that_dies_in_mid_push_is_unknown_at_once() {
    let a = FakeNode::start("a", Behaviour::Answer(written(2)));
    let mut b = FakeNode::start("b", Behaviour::Silent);
    let system = System::with_room(&[(&a, 2), (&b, 5)]).await;
    let started = Instant::now();
    let push = system.push(to_room("r", Duration::from_secs(8)));
    let death = async {
        soon("the push", b.has_received(1)).await;
        b.kill();
    };
    let (response, ()) = tokio::join!(push, death);
    assert!(started.elapsed() < Duration::from_secs(4), "the caller was kept for {:?}", started.elapsed());
    assert_eq!(by_node(response.report.as_ref().unwrap()), [("a", written(2)), ("b", unknown(5))]);
    assert_eq!(total(&response).members, 7);
    assert!(response.success);
}

#[tokio::test]
async fn a_node_is_vouched_for_until_a_controller_that_is_followed_has_lost_it() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let mut system = System::with_room(&[(&node, 1)]).await;
    // Twice, for one may be on its way.
    let vouched = async || {
        node.is_vouched_for().await;
        node.is_vouched_for().await;
    };
    soon("two signs", vouched()).await;
    system.controller.set_node(NodeRoute { unlinked: true, ..node.route() });
    system.in_step().await;
    let none = tokio::time::timeout(Duration::from_secs(5), vouched()).await;
    assert!(none.is_err(), "the controller has lost it, and will take its members out");
    assert_eq!(total(&system.push(to_room("r", PATIENCE)).await), written(1), "it is routed to");
    system.controller.set_node(node.route());
    system.in_step().await;
    soon("two signs", vouched()).await;
    // A controller that nobody hears of may have been wrong, and takes nobody out.
    system.controller.set_node(NodeRoute { unlinked: true, ..node.route() });
    system.in_step().await;
    system.controller.kill();
    soon("two signs", vouched()).await;
}

#[tokio::test]
async fn a_node_that_never_answers_is_unknown_at_the_deadline() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 3)]).await;
    let deadline = Duration::from_millis(300);
    let started = Instant::now();
    let response = system.push(to_room("r", deadline)).await;
    let took = started.elapsed();
    assert!(
        took >= deadline - Duration::from_millis(5) && took < deadline + Duration::from_millis(500),
        "{took:?}"
    );
    assert_eq!(total(&response), unknown(3));
    assert_eq!((response.success, response.message.as_str()), (false, "unknown"));
    let at_node = u64::from(node.received()[0].deadline_ms);
    assert!((1..=270).contains(&at_node), "the node is to report before: {at_node} ms");
}

#[tokio::test]
async fn the_callers_own_timeout_counts_where_it_is_shorter() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 1)]).await;
    // The margin is 50 ms, which a busy machine may use up: one of five has to get its report.
    for _ in 0..5 {
        let mut request = tonic::Request::new(to_room("r", Duration::from_secs(30)));
        request.set_timeout(Duration::from_millis(500));
        let answer = soon("the answer", system.client.clone().push_to_room(request)).await;
        if let Ok(response) = answer {
            assert_eq!(total(response.get_ref()), unknown(1));
            return;
        }
    }
    panic!("never a report, always the error of the transport's timeout");
}

#[tokio::test]
async fn a_push_that_could_not_be_handed_over_in_time_is_never_sent() {
    let mut node = FakeNode::away("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 4)]).await;
    let late = system.push(to_room("r", Duration::from_millis(250))).await;
    assert_eq!(total(&late), shed(4));
    assert_eq!((late.success, late.message.as_str()), (false, "all dropped"));
    node.rise();
    let next = system.push(to_room("r", PATIENCE)).await;
    assert_eq!(total(&next), written(1));
    let ids: Vec<_> = node.received().into_iter().map(|delivery| delivery.message_id).collect();
    assert_eq!(ids, [next.message_id], "the late one was withdrawn");
}

#[tokio::test]
async fn a_push_waits_for_the_link_within_its_deadline() {
    let mut node = FakeNode::away("a", Behaviour::Answer(written(4)));
    let system = System::with_room(&[(&node, 4)]).await;
    let (push, ()) = tokio::join!(system.push(to_room("r", PATIENCE)), async { node.rise() });
    assert_eq!(total(&push), written(4));
}

#[tokio::test]
async fn a_node_whose_link_is_down_for_2_s_keeps_nobody_waiting() {
    let mut node = FakeNode::start("a", Behaviour::Answer(written(3)));
    let system = System::with_room(&[(&node, 3)]).await;
    assert_eq!(total(&system.push(to_room("r", PATIENCE)).await), written(3));
    node.kill();
    let down = Instant::now();
    let told = soon("it is out of routing", async {
        loop {
            let told = total(&system.push(to_room("r", Duration::from_millis(100))).await);
            if told != shed(3) && told != unknown(3) {
                return told;
            }
        }
    })
    .await;
    assert_eq!(told, closed(3), "the routes' count of a node that is lost");
    assert!(down.elapsed() >= Duration::from_millis(1900), "after {:?}", down.elapsed());
    let started = Instant::now();
    assert_eq!(total(&system.push(to_room("r", Duration::from_secs(8))).await), closed(3));
    assert!(started.elapsed() < Duration::from_secs(4), "the caller was kept for {:?}", started.elapsed());

    node.rise();
    soon("the link", node.has_welcomed(2)).await;
    let told = soon("routing", async {
        loop {
            match total(&system.push(to_room("r", PATIENCE)).await) {
                told if told == closed(3) => tokio::time::sleep(Duration::from_millis(5)).await,
                told => return told,
            }
        }
    })
    .await;
    assert_eq!(told, written(3));
}

#[tokio::test]
async fn a_broken_link_is_opened_again_and_nothing_is_sent_twice() {
    let mut node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 1)]).await;
    let lost = {
        let death = async {
            soon("the push", node.has_received(1)).await;
            node.kill();
        };
        tokio::join!(system.push(to_room("r", PATIENCE)), death).0
    };
    assert_eq!(total(&lost), unknown(1));
    node.behave(Behaviour::Answer(written(1)));
    node.rise();
    assert_eq!(total(&system.push(to_room("r", PATIENCE)).await), written(1));
    let received = node.received();
    assert_eq!(received.len(), 2, "the lost one may have arrived, so it is not sent again");
    assert!(received[0].delivery_id < received[1].delivery_id);
}

#[tokio::test]
async fn a_full_queue_sheds() {
    const BYTES: usize = 16 * 1024;
    const FIT: u64 = 64 * 1024 * 1024 / (BYTES as u64 + 256);
    let node = FakeNode::start("a", Behaviour::Stuck);
    let system = System::with_room(&[(&node, 6)]).await;
    soon("the link", node.has_welcomed(1)).await;
    let large = |deadline| PushToRoomRequest { content: text(&"x".repeat(BYTES)), ..to_room("r", deadline) };
    // More than fit, for the connection takes some of them.
    let messages: Vec<_> = (0..12)
        .map(|message| {
            let pushes = (0..500).map(|n| {
                let mut request = large(Duration::from_secs(60));
                request.set_report_mode(ReportMode::None);
                StreamedPush { push_id: message * 500 + n, push: Some(streamed_push::Push::Room(request)) }
            });
            PushStreamRequest { pushes: pushes.collect() }
        })
        .collect();
    let mut results =
        system.client.clone().push_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let (mut queued, mut dropped) = (0, 0);
    while let Some(message) = soon("results", results.message()).await.unwrap() {
        for result in message.results {
            let Some(ringcast_proto::pubsub::streamed_result::Result::Room(room)) = result.result else {
                panic!("{result:?}");
            };
            let told = room.report.unwrap().total.unwrap();
            match told {
                told if told == shed(6) => dropped += 1,
                told => {
                    assert_eq!((told.members, told.queued), (6, 6), "without a report all count as queued");
                    queued += 1;
                }
            }
        }
    }
    assert_eq!(queued + dropped, 6000);
    assert!(queued >= FIT && dropped > 0, "{queued} queued, {dropped} dropped");
    let started = Instant::now();
    let response = system.push(large(PATIENCE)).await;
    assert_eq!(total(&response), shed(6));
    assert!(started.elapsed() < Duration::from_secs(1), "what is shed needs no waiting");
}

#[tokio::test]
async fn another_start_of_a_node_gets_a_stream_of_its_own() {
    let mut node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    soon("the link", node.has_welcomed(1)).await;
    node.kill();
    node.rise_as("a", 2);
    // Until the feed tells of the new start, what is for the old one is not given to it.
    let response = system.push(to_room("r", Duration::from_millis(300))).await;
    assert_eq!(total(&response), shed(1));
    system.controller.set_node(node.route());
    system.controller.set_room(room("r", &node, 1));
    system.in_step().await;
    assert_eq!(total(&system.push(to_room("r", PATIENCE)).await), written(1));
    assert_eq!(node.received().len(), 1);
}

#[tokio::test]
async fn another_node_at_the_address_gets_nothing() {
    let mut node = FakeNode::away("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    node.rise_as("b", 1);
    soon("a welcome", node.has_welcomed(1)).await;
    let response = system.push(to_room("r", Duration::from_millis(300))).await;
    assert_eq!(total(&response), shed(1));
    assert_eq!(node.received().len(), 0);
}

#[tokio::test]
async fn what_a_node_was_given_before_it_went_is_still_reported() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 1)]).await;
    let mut client: PushManagerServiceClient<_> = system.client.clone();
    let open = tokio::spawn(async move { client.push_to_room(to_room("r", Duration::from_secs(2))).await });
    soon("the push", node.has_received(1)).await;
    system.controller.set_node(gone(&node));
    system.in_step().await;
    assert_eq!(system.push(to_room("r", PATIENCE)).await.message, "room empty");
    assert!(!open.is_finished(), "the stream is alive: the report may come yet");
    let response = soon("the answer", open).await.unwrap().unwrap().into_inner();
    assert_eq!(total(&response), unknown(1));
}
