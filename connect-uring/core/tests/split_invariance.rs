//! However the bytes of a connection are cut, they mean the same: the same events in the same order, the same
//! error, the same answer to a request.

use std::collections::BTreeSet;

use connect_core::client::{ServerFrames, client_fragment};
use connect_core::close::CloseReason;
use connect_core::frame::{OpCode, write_header};
use connect_core::handshake::{Head, read_head};
use connect_core::message::{Event, MessageLimits, MessageReader};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

const LIMITS: MessageLimits = MessageLimits { max_bytes: 400, max_fragments: 4 };

const MAX_HEAD_BYTES: usize = 600;

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";

/// An event that outlives its buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Error(CloseReason),
}

/// What a reader made of the pieces, and whether it is idle at their end.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Seen>, bool) {
    let (mut reader, mut seen) = (MessageReader::new(), Vec::new());
    for piece in pieces {
        let result = reader.read(piece, LIMITS, &mut |event| {
            seen.push(match event {
                Event::Text(text) => Seen::Text(text.to_owned()),
                Event::Binary(data) => Seen::Binary(data.to_vec()),
                Event::Ping(data) => Seen::Ping(data.to_vec()),
                Event::Pong(data) => Seen::Pong(data.to_vec()),
                Event::Close(code) => Seen::Close(code),
            });
        });
        seen.extend(result.err().map(Seen::Error));
    }
    (seen, reader.is_idle())
}

/// Frames of a server, read by a client.
fn read_server<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<(OpCode, Vec<u8>)>, Option<CloseReason>) {
    let (mut reader, mut seen) = (ServerFrames::new(), Vec::new());
    for piece in pieces {
        let sink = &mut |opcode, payload: &[u8]| seen.push((opcode, payload.to_vec()));
        if let Err(reason) = reader.read(piece, LIMITS.max_bytes, sink) {
            return (seen, Some(reason));
        }
    }
    (seen, None)
}

/// Cuts bytes at these places.
fn cut<'a>(bytes: &'a [u8], places: &[Index]) -> Vec<&'a [u8]> {
    let places: BTreeSet<_> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    let (mut pieces, mut rest, mut done) = (Vec::new(), bytes, 0);
    for place in places {
        let (piece, behind) = rest.split_at(place - done);
        pieces.push(piece);
        (rest, done) = (behind, place);
    }
    pieces.push(rest);
    pieces
}

fn opcode() -> impl Strategy<Value = OpCode> {
    select(vec![
        OpCode::Text,
        OpCode::Text,
        OpCode::Binary,
        OpCode::Continuation,
        OpCode::Continuation,
        OpCode::Ping,
        OpCode::Pong,
        OpCode::Close,
    ])
}

/// Payloads near every bound, with text that is whole, torn and broken.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let characters = select(vec!["a", "é", "€", "𝄞", "\u{10ffff}", "\u{d7ff}"]);
    let text = vec(characters, 0..12).prop_map(|words| words.concat().into_bytes());
    let torn = (text.clone(), any::<Index>()).prop_map(|(mut text, at)| {
        text.truncate(at.index(text.len() + 1));
        text
    });
    let length = select(vec![0, 1, 123, 125, 126, 127, 200, 399, 400, 401]);
    prop_oneof![
        4 => text,
        1 => torn,
        2 => length.prop_map(|length| vec![b'x'; length]),
        1 => vec(any::<u8>(), 0..20),
    ]
}

/// A client's frames, as often in order as not, and then a few bytes of them changed, or the end torn off.
fn client_bytes() -> impl Strategy<Value = Vec<u8>> {
    let between = proptest::option::of((select(vec![OpCode::Ping, OpCode::Pong]), any::<[u8; 4]>()));
    let message = (any::<bool>(), vec((payload(), any::<[u8; 4]>()), 1..5), between);
    let in_order = message.prop_map(|(text, fragments, between)| {
        let last = fragments.len() - 1;
        let frames = fragments.iter().enumerate().map(|(index, (payload, mask))| {
            let opcode = match (index, text) {
                (0, true) => OpCode::Text,
                (0, false) => OpCode::Binary,
                _ => OpCode::Continuation,
            };
            let control = between.map(|(opcode, mask)| client_fragment(true, opcode, b"between", mask));
            [client_fragment(index == last, opcode, payload, *mask), control.unwrap_or_default()].concat()
        });
        frames.collect::<Vec<_>>().concat()
    });
    let any_frame = (any::<bool>(), opcode(), payload(), any::<[u8; 4]>())
        .prop_map(|(fin, opcode, payload, mask)| client_fragment(fin, opcode, &payload, mask));
    let close = (995..1020u16, ".{0,3}", any::<[u8; 4]>()).prop_map(|(code, text, mask)| {
        client_fragment(true, OpCode::Close, &[&code.to_be_bytes(), text.as_bytes()].concat(), mask)
    });
    let frames = vec(prop_oneof![6 => in_order, 2 => any_frame, 1 => close], 0..5);
    let frames = frames.prop_map(|frames| frames.concat());
    let changes = prop_oneof![2 => vec(any::<(Index, u8)>(), 0..1), 1 => vec(any::<(Index, u8)>(), 1..4)];
    (frames, changes, any::<Option<Index>>()).prop_map(|(bytes, changes, end)| change(bytes, &changes, end))
}

/// Changes some bytes and takes the end away.
fn change(mut bytes: Vec<u8>, changes: &[(Index, u8)], end: Option<Index>) -> Vec<u8> {
    for (place, value) in changes {
        if !bytes.is_empty() {
            let place = place.index(bytes.len());
            bytes[place] = *value;
        }
    }
    if let Some(end) = end {
        bytes.truncate(end.index(bytes.len() + 1));
    }
    bytes
}

fn server_bytes() -> impl Strategy<Value = Vec<u8>> {
    let frame = (opcode(), payload()).prop_map(|(opcode, payload)| {
        let mut frame = Vec::new();
        write_header(&mut frame, opcode, payload.len());
        [frame, payload].concat()
    });
    (vec(frame, 0..5), vec(any::<(Index, u8)>(), 0..2), any::<Option<Index>>())
        .prop_map(|(frames, changes, end)| change(frames.concat(), &changes, end))
}

/// Request heads, right, wrong and broken, with frames behind them.
fn request_bytes() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "GET /ws?user_id=u&room_id=r%20&x=1 HTTP/1.1",
        "GET /ws?user_id=%ff HTTP/1.1",
        "GET /health HTTP/1.1",
        "GET / HTTP/1.0",
        "POST / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "PRI * HTTP/2.0",
    ]);
    let header = select(vec![
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        KEY,
        "Sec-WebSocket-Version: 13",
        "Content-Length: 0",
        "X: \u{6211}\u{7684}",
        "Broken header",
    ]);
    let long = "[a-z]{0,500}".prop_map(|value| format!("Cookie: {value}"));
    let headers = vec(prop_oneof![6 => header.prop_map(str::to_owned), 1 => long], 0..8);
    let upgrade =
        ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", KEY].map(str::to_owned);
    let headers = prop_oneof![3 => headers, 1 => Just(upgrade.to_vec())];
    let end = select(vec!["\r\n", "\n"]);
    (line, headers, end, vec(any::<(Index, u8)>(), 0..2)).prop_map(|(line, headers, end, changes)| {
        let lines = [vec![line.to_owned(), "Host: h".to_owned()], headers, vec![String::new(); 2]].concat();
        change([lines.join(end).as_bytes(), b"\x81\x80frames"].concat(), &changes, None)
    })
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_clients_bytes_mean_the_same_wherever_they_are_cut(
        bytes in client_bytes(),
        places in vec(any::<Index>(), 0..8),
    ) {
        let whole = read([&bytes[..]]);
        prop_assert_eq!(&read(bytes.chunks(1)), &whole, "byte by byte");
        prop_assert_eq!(&read(cut(&bytes, &places)), &whole, "in a few pieces");
        for at in 0..=bytes.len() {
            let (before, behind) = bytes.split_at(at);
            prop_assert_eq!(&read([before, behind]), &whole, "cut at {}", at);
        }
    }

    #[test]
    fn a_servers_bytes_mean_the_same_wherever_they_are_cut(
        bytes in server_bytes(),
        places in vec(any::<Index>(), 0..8),
    ) {
        let whole = read_server([&bytes[..]]);
        prop_assert_eq!(&read_server(bytes.chunks(1)), &whole, "byte by byte");
        prop_assert_eq!(&read_server(cut(&bytes, &places)), &whole, "in a few pieces");
    }

    #[test]
    fn a_request_is_judged_alike_however_much_of_it_has_come(bytes in request_bytes()) {
        let mut verdict = Head::Incomplete;
        for end in 0..=bytes.len() {
            let now = read_head(&bytes[..end], MAX_HEAD_BYTES);
            if verdict == Head::Incomplete {
                verdict = now;
            } else {
                prop_assert_eq!(&now, &verdict, "a verdict stands, at {}", end);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn any_bytes_at_all_are_survived(
        bytes in vec(any::<u8>(), 0..300),
        text in any::<String>(),
        places in vec(any::<Index>(), 0..8),
    ) {
        prop_assert_eq!(read(cut(&bytes, &places)), read([&bytes[..]]));
        prop_assert_eq!(read_server(cut(&bytes, &places)), read_server([&bytes[..]]));
        read_head(&bytes, MAX_HEAD_BYTES);
        read_head(format!("GET /ws?{text} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes(), MAX_HEAD_BYTES);
        connect_core::command::parse_command(&text);
    }
}

/// The properties are worth what the generators reach: every event and every error, each often.
#[test]
fn the_generators_reach_every_outcome() {
    let mut runner = TestRunner::deterministic();
    let mut sample = |count: &mut dyn FnMut(&mut TestRunner)| (0..1500).for_each(|_| count(&mut runner));
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    sample(&mut |runner| {
        for event in read([&client_bytes().new_tree(runner).unwrap().current()[..]]).0 {
            let name = match event {
                Seen::Error(reason) => reason.label().to_owned(),
                other => format!("{other:?}").split('(').next().unwrap_or_default().to_owned(),
            };
            *seen.entry(name).or_default() += 1;
        }
    });
    for name in ["Text", "Binary", "Ping", "Pong", "Close", "protocol_error", "invalid_utf8", "too_big"] {
        assert!(seen.get(name).is_some_and(|count| *count >= 20), "{name}: {seen:?}");
    }
    let mut heads = std::collections::BTreeMap::<u16, u32>::new();
    sample(&mut |runner| {
        let status = match read_head(&request_bytes().new_tree(runner).unwrap().current(), MAX_HEAD_BYTES) {
            Head::Incomplete => 100,
            Head::Request { request, .. } => 200 + u16::from(request.upgrade.is_some()),
            Head::Refused(refusal) => refusal.status,
        };
        *heads.entry(status).or_default() += 1;
    });
    for status in [200, 201, 204, 400, 405, 426, 431, 505] {
        assert!(heads.get(&status).is_some_and(|count| *count >= 3), "{status}: {heads:?}");
    }
}
