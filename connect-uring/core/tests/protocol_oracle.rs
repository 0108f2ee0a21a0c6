//! Our codec against tungstenite's, which others have tested: the same messages from the same bytes, and refusals
//! of the same streams, but for the differences listed in [`justified`].

use std::io::{self, Cursor, Read, Write};

use bytes::Bytes;
use connect_core::client::{ServerFrames, client_fragment};
use connect_core::close::CloseReason;
use connect_core::command::{MessageKind, PushFrame, encode_push, pong_text};
use connect_core::frame::{
    OpCode, binary_frame, close_frame, close_reply, ping_frame, pong_frame, text_frame,
};
use connect_core::handshake::{Head, read_head, switching_protocols};
use connect_core::message::{Event, MessageLimits, MessageReader};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode as TheirOpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

const MAX_BYTES: usize = 500;

const LIMITS: MessageLimits = MessageLimits { max_bytes: MAX_BYTES, max_fragments: usize::MAX };

/// What a reader gave before its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The bytes did, first.
    Open,
    Closed(Option<u16>),
    Refused(CloseReason),
}

fn ours(bytes: &[u8]) -> (Vec<Seen>, Verdict) {
    let (mut seen, mut verdict) = (Vec::new(), Verdict::Open);
    let result = MessageReader::new().read(bytes, LIMITS, &mut |event| match event {
        Event::Text(text) => seen.push(Seen::Text(text.to_owned())),
        Event::Binary(data) => seen.push(Seen::Binary(data.to_vec())),
        Event::Ping(data) => seen.push(Seen::Ping(data.to_vec())),
        Event::Pong(data) => seen.push(Seen::Pong(data.to_vec())),
        Event::Close(code) => verdict = Verdict::Closed(code),
    });
    (seen, result.map_or_else(Verdict::Refused, |()| verdict))
}

/// A connection whose other end said these bytes, and does not listen.
struct Said(Cursor<Vec<u8>>);

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(role: Role, max_bytes: usize, bytes: &[u8]) -> (Vec<Seen>, Verdict) {
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(max_bytes))
        .max_frame_size(Some(max_bytes));
    let mut socket = WebSocket::from_raw_socket(Said(Cursor::new(bytes.to_vec())), role, Some(config));
    let mut seen = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => seen.push(Seen::Text(text.to_string())),
            Ok(Message::Binary(data)) => seen.push(Seen::Binary(data.to_vec())),
            Ok(Message::Ping(data)) => seen.push(Seen::Ping(data.to_vec())),
            Ok(Message::Pong(data)) => seen.push(Seen::Pong(data.to_vec())),
            Ok(Message::Close(frame)) => return (seen, close_verdict(frame)),
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (seen, Verdict::Open);
            }
            Err(Error::Protocol(_)) => return (seen, Verdict::Refused(CloseReason::ProtocolError)),
            Err(Error::Utf8(_)) => return (seen, Verdict::Refused(CloseReason::InvalidUtf8)),
            Err(Error::Capacity(_)) => return (seen, Verdict::Refused(CloseReason::TooBig)),
            Err(other) => panic!("{other:?} from {bytes:02x?}"),
        }
    }
}

/// Tungstenite reports a close with a code that must not be sent as one that says so.
fn close_verdict(frame: Option<CloseFrame>) -> Verdict {
    match frame {
        Some(frame) if frame.code == CloseCode::Protocol && frame.reason.as_str() == "Protocol violation" => {
            Verdict::Refused(CloseReason::ProtocolError)
        }
        frame => Verdict::Closed(frame.map(|frame| frame.code.into())),
    }
}

/// The differences that there are to be.
fn justified(bytes: &[u8], ours: Verdict, theirs: Verdict) -> bool {
    use CloseReason::{InvalidUtf8, ProtocolError, TooBig};
    match (ours, theirs) {
        // We judge a header by its order; they look at its length first.
        (Verdict::Refused(ProtocolError), Verdict::Refused(TooBig)) => true,
        // A close with a bad code and a bad reason is refused for its code here, for its reason there.
        (Verdict::Refused(ProtocolError), Verdict::Refused(InvalidUtf8)) => true,
        // 1014 was registered after the standard; they do not know it.
        (Verdict::Closed(Some(1014)), Verdict::Refused(ProtocolError)) => true,
        // They take a length in more bytes than it needs, which the standard forbids.
        (Verdict::Refused(ProtocolError), _) => has_overlong_length(bytes),
        _ => false,
    }
}

/// Whether a frame gives its length in more bytes than it needs.
fn has_overlong_length(mut bytes: &[u8]) -> bool {
    while let [_, second, rest @ ..] = bytes {
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < extended {
            return false;
        }
        let length = rest[..extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
        let length = if extended == 0 { u64::from(second & 0x7f) } else { length };
        if (extended == 2 && length < 126) || (extended == 8 && length < 65_536) {
            return true;
        }
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        let end = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(extended + mask);
        bytes = rest.get(end..).unwrap_or_default();
    }
    false
}

/// A frame in tungstenite's own encoding.
fn their_frame(fin: bool, opcode: OpCode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let opcode = match opcode {
        OpCode::Continuation => TheirOpCode::Data(Data::Continue),
        OpCode::Text => TheirOpCode::Data(Data::Text),
        OpCode::Binary => TheirOpCode::Data(Data::Binary),
        OpCode::Close => TheirOpCode::Control(Control::Close),
        OpCode::Ping => TheirOpCode::Control(Control::Ping),
        OpCode::Pong => TheirOpCode::Control(Control::Pong),
    };
    let header = FrameHeader { is_final: fin, opcode, mask, ..FrameHeader::default() };
    let mut bytes = Vec::new();
    Frame::from_payload(header, Bytes::copy_from_slice(payload)).format(&mut bytes).expect("a Vec takes all");
    bytes
}

/// A message or control frame that a client means to send, cut into fragments at these places.
#[derive(Debug, Clone)]
struct Meant {
    seen: Seen,
    fragments: Vec<Index>,
    between: Option<Vec<u8>>,
    mask: [u8; 4],
}

impl Meant {
    fn payload(&self) -> (OpCode, &[u8]) {
        match &self.seen {
            Seen::Text(text) => (OpCode::Text, text.as_bytes()),
            Seen::Binary(data) => (OpCode::Binary, data),
            Seen::Ping(data) => (OpCode::Ping, data),
            Seen::Pong(data) => (OpCode::Pong, data),
        }
    }

    /// Its frames, and what is to be seen of them, appended.
    fn write(&self, bytes: &mut Vec<u8>, seen: &mut Vec<Seen>) {
        let (mut opcode, payload) = self.payload();
        let mut places: Vec<_> = self.fragments.iter().map(|place| place.index(payload.len() + 1)).collect();
        places.sort_unstable();
        if opcode.is_control() {
            places.clear();
        }
        let mut done = 0;
        for place in places {
            bytes.extend(their_frame(false, opcode, &payload[done..place], Some(self.mask)));
            (opcode, done) = (OpCode::Continuation, place);
            if let Some(ping) = &self.between {
                bytes.extend(their_frame(true, OpCode::Ping, ping, Some(self.mask)));
                seen.push(Seen::Ping(ping.clone()));
            }
        }
        bytes.extend(their_frame(true, opcode, &payload[done..], Some(self.mask)));
        seen.push(self.seen.clone());
    }
}

fn meant() -> impl Strategy<Value = Meant> {
    let seen = prop_oneof![
        "[\u{0}-\u{10ffff}]{0,60}".prop_map(Seen::Text),
        vec(select(vec!["a", "é", "€", "𝄞"]), 0..120).prop_map(|words| Seen::Text(words.concat())),
        vec(any::<u8>(), 0..MAX_BYTES).prop_map(Seen::Binary),
        vec(any::<u8>(), 0..=125).prop_map(Seen::Ping),
        vec(any::<u8>(), 0..=125).prop_map(Seen::Pong),
    ];
    let between = proptest::option::of(vec(any::<u8>(), 0..=125));
    (seen, vec(any::<Index>(), 0..4), between, any::<[u8; 4]>())
        .prop_map(|(seen, fragments, between, mask)| Meant { seen, fragments, between, mask })
}

fn written(meant: &[Meant]) -> (Vec<u8>, Vec<Seen>) {
    let (mut bytes, mut seen) = (Vec::new(), Vec::new());
    meant.iter().for_each(|meant| meant.write(&mut bytes, &mut seen));
    (bytes, seen)
}

/// How to spoil a stream. Headers are where it matters, and they are short.
#[derive(Debug, Clone)]
enum Spoiled {
    Changed(Index, u8),
    Flipped(Index, u32),
    Taken(Index),
    Inserted(Index, Vec<u8>),
}

fn spoiled() -> impl Strategy<Value = Spoiled> {
    let frame = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..12))
        .prop_map(|(first, second, rest)| [&[first, second | 0x80], &rest[..]].concat());
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(place, value)| Spoiled::Changed(place, value)),
        (any::<Index>(), 0..8u32).prop_map(|(place, bit)| Spoiled::Flipped(place, bit)),
        any::<Index>().prop_map(Spoiled::Taken),
        (any::<Index>(), frame).prop_map(|(place, frame)| Spoiled::Inserted(place, frame)),
    ]
}

fn spoil(frames: &mut Vec<Vec<u8>>, how: &Spoiled) {
    let (Spoiled::Changed(place, _)
    | Spoiled::Flipped(place, _)
    | Spoiled::Taken(place)
    | Spoiled::Inserted(place, _)) = how;
    let at = place.index(frames.len());
    let frame = &mut frames[at];
    // One of the first bytes: a header, a close code, the first character.
    let byte = place.index(frame.len().min(12));
    match how {
        Spoiled::Changed(_, value) => frame[byte] = *value,
        Spoiled::Flipped(_, bit) => frame[byte] ^= 1 << bit,
        Spoiled::Taken(_) => {
            frame.remove(byte);
        }
        Spoiled::Inserted(_, new) => frames.insert(at, new.clone()),
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn valid_streams_give_the_messages_that_were_meant(
        meant in vec(meant(), 0..6),
        close in proptest::option::of((select(vec![1000u16, 1001, 1011, 1013, 3000, 4999]), "[a-z]{0,9}")),
    ) {
        let (mut bytes, seen) = written(&meant);
        let mut verdict = Verdict::Open;
        if let Some((code, reason)) = close {
            let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
            bytes.extend(their_frame(true, OpCode::Close, &payload, Some([1, 2, 3, 4])));
            verdict = Verdict::Closed(Some(code));
        }
        prop_assert_eq!(ours(&bytes), (seen.clone(), verdict));
        prop_assert_eq!(theirs(Role::Server, MAX_BYTES, &bytes), (seen, verdict));
    }

    #[test]
    fn our_frames_are_the_same_bytes_as_theirs(
        payload in prop_oneof![vec(any::<u8>(), 0..200), vec(any::<u8>(), 65_530..65_540)],
        mask in any::<[u8; 4]>(),
        fin in any::<bool>(),
    ) {
        for opcode in [OpCode::Text, OpCode::Binary, OpCode::Continuation] {
            prop_assert_eq!(
                client_fragment(fin, opcode, &payload, mask),
                their_frame(fin, opcode, &payload, Some(mask))
            );
        }
        prop_assert_eq!(binary_frame(&payload), their_frame(true, OpCode::Binary, &payload, None));
    }
}

proptest! {
    #![proptest_config(cases(12_000))]

    #[test]
    fn spoiled_streams_are_taken_and_refused_alike(
        meant in vec(meant(), 1..4),
        close in proptest::option::of((995..1020u16, vec(any::<u8>(), 0..4))),
        spoiled in vec(spoiled(), 1..4),
    ) {
        let mut frames: Vec<_> = meant.iter().map(|meant| written(std::slice::from_ref(meant)).0).collect();
        if let Some((code, reason)) = close {
            let payload = [&code.to_be_bytes()[..], &reason].concat();
            frames.push(client_fragment(true, OpCode::Close, &payload, [5, 6, 7, 8]));
        }
        frames.retain(|frame| !frame.is_empty());
        spoiled.iter().for_each(|how| spoil(&mut frames, how));
        // Behind it enough of nothing that an unfinished frame is finished: they judge whole frames only.
        let bytes = [frames.concat(), vec![0; MAX_BYTES + 14]].concat();
        let (our_seen, our_verdict) = ours(&bytes);
        let (their_seen, their_verdict) = theirs(Role::Server, MAX_BYTES, &bytes);
        if (&our_seen, our_verdict) != (&their_seen, their_verdict) {
            prop_assert!(
                justified(&bytes, our_verdict, their_verdict),
                "{:?} {:?} against {:?} {:?}", our_seen, our_verdict, their_seen, their_verdict
            );
            let common = our_seen.len().min(their_seen.len());
            prop_assert_eq!(&our_seen[..common], &their_seen[..common]);
        }
    }
}

/// Each difference in [`justified`] is there: should tungstenite change its mind, its line can go.
#[test]
fn the_known_differences_are_as_they_are_listed() {
    let both = |bytes: &[u8]| (ours(bytes).1, theirs(Role::Server, MAX_BYTES, bytes).1);
    let protocol_error = Verdict::Refused(CloseReason::ProtocolError);

    let reserved_bit_and_too_long = [0xc2, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4];
    let too_big = Verdict::Refused(CloseReason::TooBig);
    assert_eq!(both(&reserved_bit_and_too_long), (protocol_error, too_big));

    let bad_code_and_reason = client_fragment(true, OpCode::Close, b"\x03\xed\xff", [0; 4]);
    let invalid_utf8 = Verdict::Refused(CloseReason::InvalidUtf8);
    assert_eq!(both(&bad_code_and_reason), (protocol_error, invalid_utf8));

    let registered_late = client_fragment(true, OpCode::Close, &1014u16.to_be_bytes(), [0; 4]);
    assert_eq!(both(&registered_late), (Verdict::Closed(Some(1014)), protocol_error));

    let overlong = [0x82, 0xfe, 0, 1, 0, 0, 0, 0, b'x'];
    assert!(has_overlong_length(&overlong));
    assert_eq!(both(&overlong), (protocol_error, Verdict::Open));
}

/// A refusal that they can only give with the whole frame comes as soon as it is certain.
#[test]
fn we_refuse_text_that_is_broken_before_its_frame_is_whole() {
    let frame =
        client_fragment(true, OpCode::Text, &[b"\xff".as_slice(), &[b'x'; 300]].concat(), [9, 8, 7, 6]);
    let began = &frame[..20];
    assert_eq!(ours(began).1, Verdict::Refused(CloseReason::InvalidUtf8));
    assert_eq!(theirs(Role::Server, MAX_BYTES, began).1, Verdict::Open);
}

#[test]
fn a_tungstenite_client_understands_every_frame_that_we_send() {
    let push = |data: &'static [u8]| {
        encode_push(&PushFrame {
            kind: MessageKind::Audio,
            room_id: "r",
            user_id: "",
            timestamp_ms: 1,
            data,
            metadata: &[("k", "v")],
        })
    };
    for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let text = "x".repeat(len);
        let bytes = [text_frame(text.as_bytes()), binary_frame(text.as_bytes())].concat();
        let expected = vec![Seen::Text(text.clone()), Seen::Binary(text.into_bytes())];
        assert_eq!(theirs(Role::Client, 2 << 20, &bytes), (expected, Verdict::Open));
    }
    let frames = [ping_frame().to_vec(), pong_frame(b"echo"), pong_text(5), push(b"hi").to_vec()].concat();
    let (seen, verdict) = theirs(Role::Client, MAX_BYTES, &frames);
    assert_eq!(verdict, Verdict::Open);
    assert_eq!(seen[..2], [Seen::Ping(Vec::new()), Seen::Pong(b"echo".to_vec())]);
    for text in &seen[2..] {
        let Seen::Text(text) = text else { panic!("{text:?}") };
        serde_json::from_str::<serde_json::Value>(text).unwrap();
    }
    assert_eq!(seen.len(), 4);
    for reason in CloseReason::ALL {
        let (_, verdict) = theirs(Role::Client, MAX_BYTES, &close_frame(reason));
        assert_eq!(verdict, Verdict::Closed(reason.code()), "{reason:?}");
    }
    let (_, verdict) = theirs(Role::Client, MAX_BYTES, &close_reply(Some(4999)));
    assert_eq!(verdict, Verdict::Closed(Some(4999)));
}

#[test]
fn our_client_understands_a_tungstenite_server() {
    let mut sent = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Server, None);
    let messages = [
        (OpCode::Text, Message::text("你好")),
        (OpCode::Binary, Message::binary(vec![7; 70_000])),
        (OpCode::Ping, Message::Ping(Bytes::from_static(b"?"))),
    ];
    for (_, message) in &messages {
        sent.send(message.clone()).unwrap();
    }
    let mut seen = Vec::new();
    let sink = &mut |opcode, payload: &[u8]| seen.push((opcode, payload.to_vec()));
    ServerFrames::new().read(sent.get_ref().get_ref(), 1 << 20, sink).unwrap();
    let expected = messages.map(|(opcode, message)| (opcode, message.into_data().to_vec()));
    assert_eq!(seen, expected);
}

/// A server in memory: it answers the head that it is sent.
#[derive(Debug, Default)]
struct Answering {
    request: Vec<u8>,
    response: Cursor<Vec<u8>>,
}

impl Read for Answering {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.response.read(buffer)
    }
}

impl Write for Answering {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.request.extend_from_slice(bytes);
        let response = match read_head(&self.request, 8192) {
            Head::Incomplete => Vec::new(),
            Head::Request { request, .. } => switching_protocols(&request.upgrade.expect("an upgrade")),
            Head::Refused(refusal) => refusal.response(),
        };
        self.response = Cursor::new(response);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_tungstenite_client_is_let_in_and_told_why_not() {
    let connect = |url: &str| tungstenite::client(url, Answering::default()).map_err(Box::new);
    let (_, response) = connect("ws://localhost:8080/ws?user_id=u&room_id=r").unwrap();
    assert_eq!(response.status().as_u16(), 101);
    assert!(response.headers().get("sec-websocket-protocol").is_none());

    let error = connect("ws://localhost:8080/ws?user_id=u").unwrap_err();
    let tungstenite::HandshakeError::Failure(Error::Http(response)) = *error else { panic!("no answer") };
    assert_eq!(response.status().as_u16(), 400);
    let body = String::from_utf8(response.into_body().unwrap()).unwrap();
    assert!(body.contains(r#""error":"missing_room_id""#), "{body}");
}
