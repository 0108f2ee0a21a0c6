//! What is refused, with details that a program can read.

use std::collections::HashMap;
use std::time::Duration;

use ringcast_proto::pubsub::{MessageContent, PushToRoomRequest, PushToUserRequest};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::node::{Behaviour, FakeNode};
use crate::{System, text, to_room, written};

fn long_metadata() -> Option<MessageContent> {
    let metadata = HashMap::from([("key".to_owned(), "v".repeat(8 * 1024))]);
    Some(MessageContent { metadata, ..Default::default() })
}

fn many_entries() -> Option<MessageContent> {
    let metadata = (0..65).map(|n| (n.to_string(), String::new())).collect();
    Some(MessageContent { metadata, ..Default::default() })
}

#[tokio::test]
async fn a_bad_request_names_its_field_and_sends_nothing() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    let good = || to_room("r", Duration::from_secs(1));
    let over = MessageContent { data: vec![b'x'; 1024 * 1024 + 1].into(), ..Default::default() };
    let cases: Vec<(PushToRoomRequest, &str, &str)> = vec![
        (PushToRoomRequest { room_id: String::new(), ..good() }, "room_id", "ROOM_ID_INVALID"),
        (PushToRoomRequest { room_id: "x".repeat(65), ..good() }, "room_id", "ROOM_ID_INVALID"),
        (PushToRoomRequest { room_id: "a\nb".into(), ..good() }, "room_id", "ROOM_ID_INVALID"),
        (PushToRoomRequest { content: None, ..good() }, "content", "CONTENT_MISSING"),
        (PushToRoomRequest { content: Some(over), ..good() }, "content.data", "PAYLOAD_TOO_LARGE"),
        (PushToRoomRequest { content: long_metadata(), ..good() }, "content.metadata", "METADATA_TOO_LARGE"),
        (PushToRoomRequest { content: many_entries(), ..good() }, "content.metadata", "METADATA_TOO_LARGE"),
        (
            PushToRoomRequest { content: Some(MessageContent { r#type: 9, ..Default::default() }), ..good() },
            "content.type",
            "MESSAGE_TYPE_INVALID",
        ),
        (
            PushToRoomRequest {
                content: Some(MessageContent { timestamp: -1, ..Default::default() }),
                ..good()
            },
            "content.timestamp",
            "TIMESTAMP_INVALID",
        ),
        (
            PushToRoomRequest { exclude_user_ids: vec!["u".into(); 1025], ..good() },
            "exclude_user_ids",
            "TOO_MANY_EXCLUSIONS",
        ),
        (
            PushToRoomRequest { exclude_user_ids: vec![String::new()], ..good() },
            "exclude_user_ids",
            "USER_ID_INVALID",
        ),
        (PushToRoomRequest { message_id: "m".repeat(65), ..good() }, "message_id", "MESSAGE_ID_INVALID"),
        (PushToRoomRequest { deadline_ms: 60_001, ..good() }, "deadline_ms", "DEADLINE_INVALID"),
        (PushToRoomRequest { report_mode: 7, ..good() }, "report_mode", "REPORT_MODE_INVALID"),
    ];
    for (request, field, reason) in cases {
        let status = system.client.clone().push_to_room(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{reason}");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason, "ringcast"));
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations.iter().map(|it| it.field.as_str()).collect::<Vec<_>>(), [field]);
        assert!(status.message().len() < 200, "{}", status.message());
    }
    let request = PushToUserRequest { user_id: "\u{7f}".into(), content: text("x"), ..Default::default() };
    let status = system.client.clone().push_to_user(request).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "USER_ID_INVALID");
    assert_eq!(node.received().len(), 0);
}

#[tokio::test]
async fn what_is_just_within_the_bounds_is_taken() {
    let node = FakeNode::start("a", Behaviour::Answer(written(1)));
    let system = System::with_room(&[(&node, 1)]).await;
    let content = MessageContent { data: vec![b'x'; 1024 * 1024].into(), ..Default::default() };
    let request = PushToRoomRequest {
        content: Some(content),
        exclude_user_ids: vec!["u".repeat(64); 1024],
        message_id: "m".repeat(64),
        deadline_ms: 60_000,
        ..to_room("r", Duration::from_secs(1))
    };
    assert_eq!(system.push(request).await.delivered_count, 1);
    assert_eq!(node.received()[0].content.as_ref().unwrap().data.len(), 1024 * 1024);
}
