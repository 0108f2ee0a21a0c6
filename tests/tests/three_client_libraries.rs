//! Promise: members whose libraries nobody here wrote, over three nodes, get each message once and in order, the
//! rest get nothing, and the reports say what was received.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use ringcast_proto::pubsub::{MessageContent, MessageType, Outcomes, PushToRoomRequest};
use ringcast_tests::grpc::{Pusher, assert_accounted, room_push, total};
use ringcast_tests::{Event, Kind, Member, Members, System, SystemPlan, eventually};
use std::time::Duration;

const KINDS: [Kind; 3] = [Kind::Tungstenite, Kind::Python, Kind::Node];
const HALL: &str = "hall";
const YARD: &str = "yard";

/// 1, 125, 126, 65,536 bytes and 1 MiB, text that needs escapes, Chinese, and bytes that are not UTF-8.
fn payloads() -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> =
        [1, 125, 126, 65_536, 1024 * 1024].into_iter().map(|bytes| vec![b'a'; bytes]).collect();
    payloads.push("\"quoted\" \\ \u{1} \r\n\t </script> \u{2028} \u{1f600}".into());
    payloads.push("大家好，这是一条推送消息！".repeat(50).into());
    payloads.push((0..=255).cycle().take(10_000).collect());
    payloads.push(vec![0xff]);
    payloads.push(vec![0xfe; 1024 * 1024]);
    payloads
}

struct World {
    system: System,
    pusher: Pusher,
    /// Each kind on each node.
    hall: Vec<Member>,
    /// One on each node.
    yard: Vec<Member>,
    /// Two devices of one user, on two nodes, in a room of their own.
    dora: Vec<Member>,
}

impl World {
    async fn start() -> Self {
        let system = System::start(SystemPlan::nodes(3)).await;
        let mut members = Members::default();
        let (mut hall, mut yard) = (Vec::new(), Vec::new());
        for (number, node) in system.nodes.iter().enumerate() {
            for kind in KINDS {
                let user = format!("hall-{number}-{kind:?}");
                hall.push(members.join(kind, node.http, &user, HALL).await);
            }
            yard.push(members.join(KINDS[number], node.http, &format!("yard-{number}"), YARD).await);
        }
        let dora = vec![
            members.join(Kind::Python, system.nodes[0].http, "dora", "attic").await,
            members.join(Kind::Node, system.nodes[2].http, "dora", "attic").await,
        ];
        let pusher = system.pusher().await;
        Self { system, pusher, hall, yard, dora }
    }

    fn everyone(&mut self) -> impl Iterator<Item = &mut Member> {
        self.hall.iter_mut().chain(&mut self.yard).chain(&mut self.dora)
    }

    /// Nobody has anything but one broadcast to come: what is sent last comes last.
    async fn assert_nothing_else(&mut self) {
        let report = self.pusher.all(b"fence", 5000).await.unwrap();
        assert_accounted(&report.report);
        assert_eq!(total(&report.report), written(14), "{report:?}");
        for member in self.everyone() {
            let frame = member.push().await.unwrap();
            assert_eq!(frame.content, b"fence", "{}: something that it was not to get", member.user);
            assert_eq!((frame.room_id.as_str(), frame.user_id.as_str()), ("", ""));
            assert_eq!(member.unread(), [], "{}", member.user);
        }
    }
}

fn written(members: u64) -> Outcomes {
    Outcomes { members, written: members, ..Outcomes::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_member_gets_each_message_once_in_order() {
    let mut world = World::start().await;
    room_pushes_with_an_exclusion(&mut world).await;
    user_pushes_to_two_devices(&mut world).await;
    a_frame_carries_all_that_was_pushed(&mut world).await;
    a_ping_in_json_is_answered(&mut world).await;
    world.assert_nothing_else().await;
    leaving_shows_in_the_presence(world).await;
}

async fn room_pushes_with_an_exclusion(world: &mut World) {
    let excluded = "hall-1-Python";
    for data in payloads() {
        let request = PushToRoomRequest {
            exclude_user_ids: vec![excluded.into(), "who-is-not-there".into()],
            deadline_ms: 10_000,
            ..room_push(HALL, &data)
        };
        let answer = world.pusher.room_request(request).await.unwrap();
        assert!(answer.success, "{} bytes: {answer:?}", data.len());
        assert_accounted(&answer.report);
        assert_eq!(total(&answer.report), written(8), "{} bytes", data.len());
        assert_eq!(answer.delivered_count, 8);
        assert_eq!(answer.report.unwrap().nodes.len(), 3);
    }
    for member in world.hall.iter_mut().filter(|member| member.user != excluded) {
        for data in payloads() {
            let frame = member.push().await.unwrap();
            assert!(
                frame.content == data,
                "{}: {} bytes in place of {}",
                member.user,
                frame.content.len(),
                data.len()
            );
            let is_text = std::str::from_utf8(&data).is_ok();
            assert_eq!(!frame.metadata.contains_key("encoding"), is_text, "{} bytes", data.len());
            assert_eq!((frame.room_id.as_str(), frame.user_id.as_str()), (HALL, ""));
        }
    }
}

async fn user_pushes_to_two_devices(world: &mut World) {
    for data in payloads() {
        let answer = world.pusher.user("dora", &data).await.unwrap();
        assert_accounted(&answer.report);
        assert!(answer.success);
        let report = answer.report.unwrap_or_default();
        let nodes: Vec<&str> = report.nodes.iter().map(|node| node.node_id.as_str()).collect();
        assert_eq!(nodes, ["connect-node-1", "connect-node-3"], "only nodes that hold the user");
        assert_eq!(report.total, Some(written(2)));
    }
    for device in &mut world.dora {
        for data in payloads() {
            let frame = device.push().await.unwrap();
            assert!(frame.content == data, "{} bytes in place of {}", frame.content.len(), data.len());
            assert_eq!((frame.room_id.as_str(), frame.user_id.as_str()), ("", "dora"));
        }
    }
}

async fn a_frame_carries_all_that_was_pushed(world: &mut World) {
    let names = ["text", "audio", "video", "translation", "system"];
    for (kind, name) in [
        MessageType::Text,
        MessageType::Audio,
        MessageType::Video,
        MessageType::Translation,
        MessageType::System,
    ]
    .into_iter()
    .zip(names)
    {
        let content = MessageContent {
            r#type: kind.into(),
            data: b"data"[..].into(),
            timestamp: 1_700_000_000_123,
            metadata: [("from".to_owned(), "zh \"x\"".to_owned())].into(),
        };
        let request = PushToRoomRequest { content: Some(content), ..room_push(YARD, b"") };
        let answer = world.pusher.room_request(request).await.unwrap();
        assert_eq!(total(&answer.report), written(3));
        for member in &mut world.yard {
            let frame = member.push().await.unwrap();
            assert_eq!(
                (frame.kind.as_str(), frame.timestamp, frame.content.as_slice()),
                (name, 1_700_000_000_123, &b"data"[..])
            );
            assert_eq!(frame.metadata.get("from").map(String::as_str), Some("zh \"x\""));
        }
    }
}

async fn a_ping_in_json_is_answered(world: &mut World) {
    for member in world.everyone() {
        member.send(r#"{"type":"ping"}"#);
        let Ok(Event::Text(text)) = member.event().await else { panic!("{}: no pong", member.user) };
        let pong: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&pong["type"], &pong["data"]["status"]), (&"pong".into(), &"ok".into()), "{text}");
        assert!(pong["timestamp"].as_i64().is_some_and(|at| at > 1_700_000_000_000), "{text}");
    }
}

async fn leaving_shows_in_the_presence(mut world: World) {
    let controller = world.system.controller().await;
    assert_eq!(controller.room_users(HALL).await.unwrap(), 9);
    assert_eq!(controller.room_users("attic").await.unwrap(), 1, "two devices are one user");
    world.dora[0].close(1000);
    assert_eq!(world.dora[0].closed().await.unwrap().0, 1000);
    eventually("one device is left", Duration::from_secs(5), async || {
        let sessions = controller.user("dora").await.unwrap().sessions;
        if sessions.len() == 1 { Ok(()) } else { Err(sessions) }
    })
    .await;
    assert_eq!(controller.room_users("attic").await.unwrap(), 1, "the user is there while one device is");
    let answer = world.pusher.user("dora", b"still there?").await.unwrap();
    assert_eq!(total(&answer.report), written(1));
    world.dora[1].close(1000);
    eventually("the user is gone", Duration::from_secs(5), async || {
        let node = controller.user("dora").await.unwrap();
        if node.found { Err(node) } else { Ok(()) }
    })
    .await;
    assert_eq!(controller.room_users("attic").await.unwrap(), 0);
    let answer = world.pusher.user("dora", b"nobody").await.unwrap();
    assert!(!answer.success);
    assert_eq!(total(&answer.report), Outcomes { members: 1, offline: 1, ..Outcomes::default() });
}
