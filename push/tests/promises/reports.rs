//! What goes to a node, and what the report says of it.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use ringcast_proto::pubsub::delivery::Target;
use ringcast_proto::pubsub::{MessageContent, MessageType, Outcomes, PushToRoomRequest, ReportMode};

use crate::node::{Behaviour, FakeNode};
use crate::{PATIENCE, System, soon, to_room, total, written};

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

#[tokio::test]
async fn the_node_gets_all_that_the_caller_gave() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    let content = MessageContent {
        r#type: MessageType::Audio.into(),
        data: vec![0xff, 0x00, 0xfe].into(),
        timestamp: 1_234,
        metadata: HashMap::from([("lang".into(), "zh".into())]),
    };
    let request = PushToRoomRequest {
        content: Some(content.clone()),
        exclude_user_ids: vec!["alice".into(), "bob".into()],
        message_id: "mine".into(),
        ..to_room("r", PATIENCE)
    };
    assert_eq!(system.push(request).await.message_id, "mine");
    let before = unix_ms();
    let made = system.push(to_room("r", PATIENCE)).await.message_id;
    let received = node.received();
    assert_eq!(received[0].target, Some(Target::RoomId("r".into())));
    assert_eq!(received[0].content, Some(content));
    assert_eq!(received[0].exclude_user_ids, ["alice", "bob"]);
    assert_eq!(received[0].message_id, "mine");
    assert_eq!((made.len(), &received[1].message_id), (36, &made), "an id is made where none was given");
    let stamped = received[1].content.as_ref().unwrap().timestamp;
    assert!((before..=unix_ms()).contains(&stamped), "a timestamp of 0 becomes now");
}

#[tokio::test]
async fn members_are_the_sum_of_what_the_nodes_say() {
    let mixed = Outcomes {
        members: 77,
        written: 3,
        queued: 1,
        dropped_slow: 2,
        dropped_closed: 4,
        dropped_shed: 5,
        ..Default::default()
    };
    let a = FakeNode::start("a", Behaviour::Answer(mixed));
    let b = FakeNode::start("b", Behaviour::Answer(Outcomes::default()));
    let system = System::with_room(&[(&a, 9), (&b, 9)]).await;
    let response = system.push(to_room("r", PATIENCE)).await;
    assert_eq!(
        total(&response),
        Outcomes { members: 15, ..mixed },
        "what the shards found, not what routes say"
    );
    let report = response.report.unwrap();
    assert_eq!(report.nodes.len(), 1, "nodes without a member are not listed");
    assert_eq!((response.success, response.delivered_count), (true, 3));

    a.behave(Behaviour::Answer(Outcomes { dropped_slow: 2, ..Default::default() }));
    let response = system.push(to_room("r", PATIENCE)).await;
    assert_eq!((response.success, response.message.as_str()), (false, "all dropped"));
}

#[tokio::test]
async fn without_a_report_the_answer_comes_at_the_hand_over() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 3)]).await;
    let mut request = to_room("r", PATIENCE);
    request.set_report_mode(ReportMode::None);
    let response = system.push(request).await;
    assert_eq!(total(&response), Outcomes { members: 3, queued: 3, ..Default::default() });
    assert!(response.success);
    soon("the push", node.has_received(1)).await;
    assert_eq!(node.received()[0].report_mode(), ReportMode::None);
}
