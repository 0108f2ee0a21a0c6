//! PushStream.

use std::collections::BTreeMap;
use std::time::Duration;

use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::streamed_result::Result as Answer;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, PushStreamRequest, PushToUserRequest, RouteUpdate, StreamedPush, StreamedResult,
    streamed_push::Push,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::node::{Behaviour, FakeNode};
use crate::{PATIENCE, System, soon, text, to_room, user, written};

fn message(pushes: impl IntoIterator<Item = (u64, Option<Push>)>) -> PushStreamRequest {
    let pushes = pushes.into_iter().map(|(push_id, push)| StreamedPush { push_id, push });
    PushStreamRequest { pushes: pushes.collect() }
}

async fn all(mut results: Streaming<ringcast_proto::pubsub::PushStreamResponse>) -> BTreeMap<u64, Answer> {
    let mut all = BTreeMap::new();
    while let Some(message) = soon("results", results.message()).await.unwrap() {
        for StreamedResult { push_id, result } in message.results {
            assert!(all.insert(push_id, result.unwrap()).is_none(), "{push_id} was answered twice");
        }
    }
    all
}

#[tokio::test]
async fn all_kinds_go_on_one_stream_and_a_bad_push_does_not_end_it() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    system.controller.change(RouteUpdate { users: vec![user("u", &node, 1)], ..Default::default() });
    system.in_step().await;
    let to_user = PushToUserRequest { user_id: "u".into(), content: text("x"), ..Default::default() };
    let broadcast = BroadcastMessageRequest { content: text("x"), ..Default::default() };
    let messages = [
        message([
            (1, Some(Push::Room(to_room("r", PATIENCE)))),
            (2, Some(Push::Room(to_room("", PATIENCE)))),
        ]),
        message([(3, None), (4, Some(Push::User(to_user)))]),
        message([(5, Some(Push::Broadcast(broadcast))), (6, Some(Push::Room(to_room("none", PATIENCE))))]),
    ];
    let results = system.client.clone().push_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let results = all(results).await;
    assert!(matches!(&results[&1], Answer::Room(answer) if answer.delivered_count == 1));
    let reason = |id| match &results[&id] {
        Answer::Error(error) => (error.code, error.reason.as_str()),
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(2), (3, "ROOM_ID_INVALID"));
    assert_eq!(reason(3), (3, "PUSH_MISSING"));
    assert!(matches!(&results[&4], Answer::User(answer) if answer.success));
    assert!(matches!(&results[&5], Answer::Broadcast(answer) if answer.total_delivered == 1));
    assert!(matches!(&results[&6], Answer::Room(answer) if answer.message == "room unknown"));
    assert_eq!(results.len(), 6);
}

#[tokio::test]
async fn a_message_that_is_too_long_is_answered_push_by_push() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    let pushes = (0..1030).map(|id| (id, Some(Push::Room(to_room("r", PATIENCE)))));
    let messages = [message(pushes), message([(2000, Some(Push::Room(to_room("r", PATIENCE))))])];
    let results = system.client.clone().push_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let results = all(results).await;
    let refused: Vec<_> =
        results.iter().filter(|(_, answer)| matches!(answer, Answer::Error(_))).map(|(id, _)| *id).collect();
    assert_eq!(refused, (1024..1030).collect::<Vec<_>>());
    assert_eq!(results.len(), 1031);
}

#[tokio::test]
async fn what_is_in_flight_is_bounded_and_goes_on_when_results_come() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 1)]).await;
    let messages: Vec<_> = (0..12u64)
        .map(|n| {
            let pushes =
                (0..512).map(|id| (n * 512 + id, Some(Push::Room(to_room("r", Duration::from_secs(2))))));
            message(pushes)
        })
        .collect();
    let results = system.client.clone().push_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
    let all = tokio::spawn(all(results));
    soon("what fits", node.has_received(4096)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(node.received().len(), 4096, "no more is in flight");
    // At their deadline the first are answered as unknown, and others take their place.
    node.behave(Behaviour::Answer(written(1)));
    let all = soon("all results", all).await.unwrap();
    assert_eq!((all.len(), node.received().len()), (6144, 6144));
    let known =
        all.values().filter(|answer| matches!(answer, Answer::Room(answer) if answer.success)).count();
    assert_eq!(known, 6144 - 4096);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_behind() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 1)]).await;
    let address = format!("http://{}", system.running.grpc_addr);
    let caller = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    caller.spawn(async move {
        let (sender, messages) = mpsc::channel(1);
        let request = to_room("r", Duration::from_millis(500));
        sender.send(message([(1, Some(Push::Room(request)))])).await.unwrap();
        let mut client = PushManagerServiceClient::connect(address).await.unwrap();
        let mut results = client.push_stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
        results.message().await.unwrap();
    });
    soon("the push", node.has_received(1)).await;
    assert!(crate::serving::metrics(&system).await.contains("ringcast_push_streams 1"));
    caller.shutdown_background();
    soon("nothing left", async {
        loop {
            let text = crate::serving::metrics(&system).await;
            if text.contains("ringcast_push_open 0") && text.contains("ringcast_push_streams 0") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let text = crate::serving::metrics(&system).await;
    assert!(
        text.contains("ringcast_push_outcomes_total{outcome=\"unknown\"} 1"),
        "its outcome is counted:\n{text}"
    );
}
