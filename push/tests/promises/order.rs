//! Pushes through one push manager reach a node in the order in which they were accepted.

use std::time::Duration;

use ringcast_proto::pubsub::{PushStreamRequest, StreamedPush, streamed_push};

use crate::node::{Behaviour, FakeNode};
use crate::{PATIENCE, System, soon, text, to_room, written};

const PUSHES: u64 = 10_000;

fn number(delivery: &ringcast_proto::pubsub::Delivery) -> u64 {
    std::str::from_utf8(&delivery.content.as_ref().unwrap().data).unwrap().parse().unwrap()
}

#[tokio::test]
async fn ten_thousand_pushes_keep_their_order_on_every_node() {
    let a = FakeNode::start("a", Behaviour::Answer(written(1)));
    let b = FakeNode::start("b", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&a, 1), (&b, 1)]).await;
    let messages: Vec<_> = (0..PUSHES)
        .collect::<Vec<_>>()
        .chunks(77)
        .map(|ids| {
            let pushes = ids.iter().map(|&push_id| {
                let mut request = to_room("r", Duration::from_secs(30));
                request.content = text(&push_id.to_string());
                StreamedPush { push_id, push: Some(streamed_push::Push::Room(request)) }
            });
            PushStreamRequest { pushes: pushes.collect() }
        })
        .collect();
    let mut results =
        system.client.clone().push_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let mut answered = vec![false; PUSHES as usize];
    while let Some(message) = soon("results", results.message()).await.unwrap() {
        for result in message.results {
            let Some(ringcast_proto::pubsub::streamed_result::Result::Room(room)) = result.result else {
                panic!("{result:?}");
            };
            assert_eq!(room.delivered_count, 2);
            assert!(!std::mem::replace(&mut answered[result.push_id as usize], true), "answered twice");
        }
    }
    assert!(answered.iter().all(|answered| *answered));
    for node in [&a, &b] {
        let received = node.received();
        assert!(received.iter().map(number).eq(0..PUSHES), "node {} got another order", node.id);
        assert!(received.is_sorted_by(|one, next| one.delivery_id < next.delivery_id));
    }
}

#[tokio::test]
async fn calls_in_parallel_come_in_one_order_to_all_nodes() {
    let a = FakeNode::start("a", Behaviour::Answer(written(1)));
    let b = FakeNode::start("b", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&a, 1), (&b, 1)]).await;
    let calls: Vec<_> = (0..500)
        .map(|n: u64| {
            let mut client = system.client.clone();
            let request = ringcast_proto::pubsub::PushToRoomRequest {
                content: text(&n.to_string()),
                ..to_room("r", PATIENCE)
            };
            tokio::spawn(async move { client.push_to_room(request).await.unwrap().into_inner() })
        })
        .collect();
    for call in calls {
        assert_eq!(soon("the answer", call).await.unwrap().delivered_count, 2);
    }
    let orders = [&a, &b].map(|node| node.received().iter().map(number).collect::<Vec<_>>());
    assert_eq!(orders[0].len(), 500);
    assert_eq!(orders[0], orders[1]);
}
