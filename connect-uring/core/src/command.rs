//! The JSON objects inside text frames: a client's commands, and the pushes that it is sent.
//!
//! Owns: the shape of both. Must not: act on a command, or trust its sender. Talks to: `frame`; the session, which
//! reads commands; the bridge, which encodes each push once a node.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::frame::{MAX_SERVER_HEADER_BYTES, OpCode, server_header_bytes, text_frame, write_header};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `{"type":"ping"}`: wants a pong.
    Ping,
    /// `{"type":"members"}`: wants to know who is in its room.
    Members,
    /// A JSON object, of no type that is known here.
    Unknown,
    /// No JSON object, or its `type` is not a string.
    Malformed,
}

/// Reads a command. Fields that are not known are skipped without recursion or storage; of several `type` fields
/// the last counts.
pub fn parse_command(text: &str) -> Command {
    serde_json::from_str(text).unwrap_or(Command::Malformed)
}

/// The names of fields that mean something.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Type,
    #[serde(other)]
    Other,
}

/// The values of `type` that mean something.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Type {
    Ping,
    Members,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Command;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command, A::Error> {
                let mut command = Command::Unknown;
                while let Some(field) = map.next_key()? {
                    match field {
                        Field::Type => {
                            command = match map.next_value()? {
                                Type::Ping => Command::Ping,
                                Type::Members => Command::Members,
                                Type::Other => Command::Unknown,
                            }
                        }
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(command)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The answer to a ping command: the whole text frame.
pub fn pong_text(unix_ms: i64) -> Vec<u8> {
    let json = format!(r#"{{"type":"pong","timestamp":{unix_ms},"data":{{"status":"ok"}}}}"#);
    let mut frame = Vec::with_capacity(server_header_bytes(json.len()) + json.len());
    write_header(&mut frame, OpCode::Text, json.len());
    frame.extend_from_slice(json.as_bytes());
    frame
}

/// One user in a room.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Member<'a> {
    /// The user.
    pub user_id: &'a str,
    /// The user's name; may be empty.
    pub user_name: &'a str,
}

/// The answer to a members command: the whole text frame. `None`: nobody can tell now. Else the members, and whether there
/// are more than these.
pub fn members_text(room_id: &str, unix_ms: i64, members: Option<(&[Member<'_>], bool)>) -> Bytes {
    let data = match members {
        Some((members, more)) => {
            serde_json::json!({"total": members.len(), "more": more, "members": members})
        }
        None => serde_json::json!({"error": "unavailable"}),
    };
    let answer =
        serde_json::json!({"type": "members", "room_id": room_id, "timestamp": unix_ms, "data": data});
    text_frame(answer.to_string().as_bytes())
}

/// What a push carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageKind {
    /// Text.
    Text,
    /// A piece of sound.
    Audio,
    /// A piece of video.
    Video,
    /// A translation.
    Translation,
    /// A word of the system itself.
    System,
}

/// One push, before it is encoded.
#[derive(Debug, Clone, Copy)]
pub struct PushFrame<'a> {
    /// What it carries.
    pub kind: MessageKind,
    /// The room that it goes to; empty for a push to a user or to all.
    pub room_id: &'a str,
    /// The user that it goes to; empty for a push to a room or to all.
    pub user_id: &'a str,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// The content; base64 in the frame where it is not UTF-8.
    pub data: &'a [u8],
    /// What goes with it, in any order; of equal keys the last counts.
    pub metadata: &'a [(&'a str, &'a str)],
}

/// The metadata that tells a client to decode the content.
const BASE64_MARK: (&str, &str) = ("encoding", "base64");

/// The fixed text around a push's variable parts, in bytes, rounded up.
const SKELETON_BYTES: usize = 160;

/// The whole text frame of a push. It is written once: the header goes into the space left before the JSON.
pub fn encode_push(push: &PushFrame<'_>) -> Bytes {
    let content = match simdutf8::basic::from_utf8(push.data) {
        Ok(text) => Content::Text(text),
        Err(_) => Content::Bytes(push.data),
    };
    let mut metadata: BTreeMap<&str, &str> = push.metadata.iter().copied().collect();
    let data_bytes = match content {
        Content::Text(text) => text.len(),
        Content::Bytes(bytes) => {
            metadata.insert(BASE64_MARK.0, BASE64_MARK.1);
            BASE64.encode_len(bytes.len())
        }
    };
    let metadata_bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len() + 6).sum();
    let capacity = SKELETON_BYTES + push.room_id.len() + push.user_id.len() + data_bytes + metadata_bytes;

    let mut frame = Vec::with_capacity(MAX_SERVER_HEADER_BYTES + capacity);
    frame.resize(MAX_SERVER_HEADER_BYTES, 0);
    let json = PushJson {
        kind: push.kind,
        room_id: push.room_id,
        user_id: push.user_id,
        timestamp: push.timestamp_ms,
        data: DataJson { content },
        metadata,
    };
    serde_json::to_writer(&mut frame, &json).expect("strings and numbers always fit a growing buffer");

    let len = frame.len() - MAX_SERVER_HEADER_BYTES;
    let start = MAX_SERVER_HEADER_BYTES - server_header_bytes(len);
    let mut header = Vec::with_capacity(MAX_SERVER_HEADER_BYTES);
    write_header(&mut header, OpCode::Text, len);
    frame[start..MAX_SERVER_HEADER_BYTES].copy_from_slice(&header);
    Bytes::from(frame).slice(start..)
}

/// A push as clients read it; the order of the fields is part of it.
#[derive(Serialize)]
struct PushJson<'a> {
    #[serde(rename = "type")]
    kind: MessageKind,
    room_id: &'a str,
    user_id: &'a str,
    timestamp: i64,
    data: DataJson<'a>,
    metadata: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct DataJson<'a> {
    content: Content<'a>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            // Written piece by piece, without a string of its own.
            Self::Bytes(bytes) => serializer.collect_str(&BASE64.encode_display(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ServerFrames;

    #[test]
    fn members_are_listed_or_told_to_be_out_of_reach() {
        let json = |frame: Bytes| -> serde_json::Value { serde_json::from_str(&json(&frame)).unwrap() };
        let alice = Member { user_id: "user-001", user_name: "Alice \" 爱" };
        let told = json(members_text("r", 7, Some((&[alice], true))));
        assert_eq!((&told["type"], &told["room_id"]), (&"members".into(), &"r".into()));
        assert_eq!((&told["data"]["total"], &told["data"]["more"]), (&1.into(), &true.into()));
        assert_eq!(told["data"]["members"][0]["user_name"], "Alice \" 爱");
        assert_eq!(json(members_text("r", 7, None))["data"]["error"], "unavailable");
    }

    #[test]
    fn commands_are_told_apart() {
        for (text, command) in [
            (r#"{"type":"ping"}"#, Command::Ping),
            (r#" { "room_id":"r", "data":{"a":[1,null]}, "type" : "ping" } "#, Command::Ping),
            (r#"{"type":"\u0070ing"}"#, Command::Ping),
            (r#"{"type":"members"}"#, Command::Members),
            (r#"{"type":"text","type":"ping"}"#, Command::Ping),
            (r#"{"x":1,"x":2,"type":"ping"}"#, Command::Ping),
            (r#"{"type":"ping","type":"text"}"#, Command::Unknown),
            (r#"{"type":"Ping"}"#, Command::Unknown),
            (r#"{}"#, Command::Unknown),
            (r#"{"type":1}"#, Command::Malformed),
            (r#"{"type":["ping"]}"#, Command::Malformed),
            (r#"[{"type":"ping"}]"#, Command::Malformed),
            (r#"{"type":"ping"}{"type":"ping"}"#, Command::Malformed),
            (r#"{"type":"ping""#, Command::Malformed),
            ("ping", Command::Malformed),
            ("", Command::Malformed),
        ] {
            assert_eq!(parse_command(text), command, "{text}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = "[".repeat(1 << 20);
        assert_eq!(parse_command(&format!(r#"{{"type":"ping","x":{deep}"#)), Command::Malformed);
        assert_eq!(parse_command(&deep), Command::Malformed);
        let closed = format!(r#"{{"x":{deep}{},"type":"ping"}}"#, "]".repeat(1 << 20));
        assert_eq!(parse_command(&closed), Command::Ping);
    }

    /// The JSON of a frame, after the frame itself was read back.
    fn json(frame: &[u8]) -> String {
        let mut payloads = Vec::new();
        let mut reader = ServerFrames::new();
        let sink = &mut |opcode, payload: &[u8]| payloads.push((opcode, payload.to_vec()));
        reader.read(frame, 16 << 20, sink).unwrap();
        assert!(reader.is_idle(), "one frame and nothing else");
        let [(OpCode::Text, payload)] = &payloads[..] else { panic!("one text frame: {payloads:?}") };
        String::from_utf8(payload.clone()).unwrap()
    }

    const PUSH: PushFrame<'static> = PushFrame {
        kind: MessageKind::Text,
        room_id: "room-1",
        user_id: "",
        timestamp_ms: 1_700_000_000_000,
        data: b"hello",
        metadata: &[],
    };

    #[test]
    fn a_pong_is_one_text_frame() {
        let expected = r#"{"type":"pong","timestamp":1700000000000,"data":{"status":"ok"}}"#;
        assert_eq!(json(&pong_text(1_700_000_000_000)), expected);
    }

    #[test]
    fn a_push_has_the_fields_that_clients_know() {
        assert_eq!(
            json(&encode_push(&PUSH)),
            r#"{"type":"text","room_id":"room-1","user_id":"","timestamp":1700000000000,"data":{"content":"hello"},"metadata":{}}"#
        );
        let push = PushFrame {
            kind: MessageKind::Translation,
            room_id: "",
            user_id: "我",
            data: "\"引\"\n\u{1}".as_bytes(),
            metadata: &[("source", "zh"), ("language", "en")],
            ..PUSH
        };
        assert_eq!(
            json(&encode_push(&push)),
            r#"{"type":"translation","room_id":"","user_id":"我","timestamp":1700000000000,"data":{"content":"\"引\"\n\u0001"},"metadata":{"language":"en","source":"zh"}}"#
        );
        for (kind, name) in
            [(MessageKind::Audio, "audio"), (MessageKind::Video, "video"), (MessageKind::System, "system")]
        {
            let expected = format!(r#"{{"type":"{name}","#);
            assert!(json(&encode_push(&PushFrame { kind, ..PUSH })).starts_with(&expected));
        }
    }

    #[test]
    fn bytes_that_are_no_text_come_as_base64_and_say_so() {
        let push =
            PushFrame { data: b"\xff\x00", metadata: &[("format", "opus"), ("encoding", "x")], ..PUSH };
        let json = json(&encode_push(&push));
        assert!(json.contains(r#""content":"/wA=""#), "{json}");
        assert!(json.contains(r#""metadata":{"encoding":"base64","format":"opus"}"#), "{json}");
    }

    #[test]
    fn a_push_of_any_size_is_one_frame() {
        let around = json(&encode_push(&PushFrame { data: b"", ..PUSH })).len();
        for payload in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let data = vec![b'x'; usize::saturating_sub(payload, around)];
            let text = json(&encode_push(&PushFrame { data: &data, ..PUSH }));
            assert_eq!(text.len(), payload.max(around));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["data"]["content"].as_str().unwrap().as_bytes(), data);
            let bytes: Vec<u8> = (0..payload).map(|byte| byte as u8 | 0x80).collect();
            let text = json(&encode_push(&PushFrame { data: &bytes, ..PUSH }));
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let content = value["data"]["content"].as_str().unwrap().as_bytes();
            assert_eq!(if payload == 0 { Vec::new() } else { BASE64.decode(content).unwrap() }, bytes);
        }
    }
}
