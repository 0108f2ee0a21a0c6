//! A simulated client: what it sends, how well it reads, and what should be true of its session.

use std::collections::{BTreeSet, VecDeque};

use connect_core::client::{client_fragment, client_frame};
use connect_core::frame::OpCode;
use fastrand::Rng;
use ringcast_proto::SessionId;

use crate::decoder::{CLOSE, PING, PONG, Seen, Stream, TEXT};

/// The largest client message that the simulated shards take, in bytes.
pub(crate) const MAX_MESSAGE: usize = 4096;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Join,
    Probe,
    Echo,
    Plain,
    Garbage,
    /// Sends a join, but never its last byte.
    Stalled,
}

/// Where its session should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Head,
    Asked,
    /// The driver makes an answer.
    Asking,
    Live,
    /// Refused, answered or closing.
    Over,
}

/// How its socket takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reads {
    Well,
    Partly,
    Never,
}

/// What becomes true when an item of the script has arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    Request,
    JsonPing,
    Ping(Vec<u8>),
    Message(u8, Vec<u8>),
    Close,
    /// It breaks the protocol; this may be seen before it is whole.
    Bad,
}

/// What a frame of a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Push,
    Other,
}

/// A write that the kernel holds.
pub(crate) struct Flight {
    pub(crate) bytes: Vec<u8>,
    /// Each frame's end in these bytes.
    pub(crate) frames: Vec<(usize, What)>,
}

pub(crate) struct Peer {
    pub(crate) id: SessionId,
    pub(crate) user: usize,
    pub(crate) rooms: BTreeSet<usize>,
    pub(crate) kind: Kind,
    pub(crate) stage: Stage,
    pub(crate) reads: Reads,
    pub(crate) stream: Stream,
    pub(crate) flight: Option<Flight>,
    /// The frame that was written in part.
    pub(crate) begun: Option<What>,
    /// Pushes of which it is not known yet what became of them, in order.
    pub(crate) open: VecDeque<usize>,
    /// Their frames in all, in bytes.
    pub(crate) open_bytes: usize,
    /// When the present stage began.
    pub(crate) since_ms: u64,
    pub(crate) heard_ms: u64,
    pub(crate) expected_status: Option<u16>,
    pub(crate) json_pings: u64,
    pub(crate) json_pongs: u64,
    pings: VecDeque<Vec<u8>>,
    echoes: VecDeque<(u8, Vec<u8>)>,
    pub(crate) echoed: u64,
    pub(crate) status: Option<u16>,
    pub(crate) close_code: Option<Option<u16>>,
    /// The request has arrived and the controller must be asked.
    pub(crate) must_ask: bool,
    /// It must leave in this call.
    pub(crate) must_leave: bool,
    pub(crate) peer_ended: bool,
    pub(crate) finished: bool,
    pub(crate) ended: bool,
    script: VecDeque<u8>,
    marks: VecDeque<(u64, Effect)>,
    scripted: u64,
    pub(crate) sent: u64,
    pub(crate) request_end: u64,
    closed_script: bool,
}

impl Peer {
    pub(crate) fn new(
        id: SessionId,
        kind: Kind,
        reads: Reads,
        user: usize,
        room: usize,
        now_ms: u64,
        rng: &mut Rng,
    ) -> Self {
        let mut peer = Self {
            id,
            user,
            rooms: BTreeSet::from([room]),
            kind,
            stage: Stage::Head,
            reads,
            stream: Stream::new(),
            flight: None,
            begun: None,
            open: VecDeque::new(),
            open_bytes: 0,
            since_ms: now_ms,
            heard_ms: now_ms,
            expected_status: None,
            json_pings: 0,
            json_pongs: 0,
            pings: VecDeque::new(),
            echoes: VecDeque::new(),
            echoed: 0,
            status: None,
            close_code: None,
            must_ask: false,
            must_leave: false,
            peer_ended: false,
            finished: false,
            ended: false,
            script: VecDeque::new(),
            marks: VecDeque::new(),
            scripted: 0,
            sent: 0,
            request_end: 0,
            closed_script: false,
        };
        peer.write_request(room, rng);
        peer
    }

    fn write_request(&mut self, room: usize, rng: &mut Rng) {
        const UPGRADE: &str = "Host: ringcast\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let user = self.user;
        let path = format!("/ws?user_id=user{user}&user_name=name&room_id=room{room}&device=d{user}");
        let request = match self.kind {
            Kind::Join | Kind::Stalled => format!("GET {path} HTTP/1.1\r\n{UPGRADE}").into_bytes(),
            Kind::Probe => format!("GET {path} HTTP/1.1\r\nHost: ringcast\r\n\r\n").into_bytes(),
            Kind::Echo => format!("GET /echo HTTP/1.1\r\n{UPGRADE}").into_bytes(),
            Kind::Plain => {
                let path = ["/health", "/stats", "/nodes", "/", "/client.html"][rng.usize(..5)];
                format!("GET {path} HTTP/1.1\r\nHost: ringcast\r\n\r\n").into_bytes()
            }
            Kind::Garbage => match rng.u8(..5) {
                0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
                1 => b"POST /ws HTTP/1.1\r\nHost: ringcast\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
                2 => b"GET /nothing HTTP/1.1\r\nHost: ringcast\r\n\r\n".to_vec(),
                3 => format!("GET /ws?user_id=&room_id=r HTTP/1.1\r\n{UPGRADE}").into_bytes(),
                _ => format!("GET /{} HTTP/1.1\r\n", "x".repeat(9_000)).into_bytes(),
            },
        };
        self.write(&request, Effect::Request);
        self.request_end = self.scripted;
    }

    /// Its session enters a stage.
    pub(crate) fn start(&mut self, stage: Stage, now_ms: u64) {
        self.stage = stage;
        self.since_ms = now_ms;
    }

    /// Adds an item to what it will send.
    pub(crate) fn write(&mut self, bytes: &[u8], effect: Effect) {
        self.script.extend(bytes);
        self.scripted += bytes.len() as u64;
        self.marks.push_back((self.scripted, effect));
    }

    /// It has something to send.
    pub(crate) fn has_script(&self) -> bool {
        let kept = usize::from(self.kind == Kind::Stalled && self.stage == Stage::Head);
        self.script.len() > kept
    }

    /// Sends some of its script.
    pub(crate) fn send(&mut self, rng: &mut Rng) -> Vec<u8> {
        let kept = usize::from(self.kind == Kind::Stalled && self.stage == Stage::Head);
        let most = self.script.len() - kept;
        let len = if rng.bool() { most } else { rng.usize(1..=most) };
        self.sent += len as u64;
        self.script.drain(..len).collect()
    }

    /// The next thing that has arrived whole.
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        let (end, _) = self.marks.front()?;
        if *end > self.sent { None } else { self.marks.pop_front().map(|(_, effect)| effect) }
    }

    /// A part of something that breaks the protocol has arrived.
    pub(crate) fn has_begun_bad(&self) -> bool {
        let whole = self.scripted - self.script.len() as u64;
        self.marks.front().is_some_and(|(_, effect)| *effect == Effect::Bad) && whole > self.request_end
    }

    /// Ends what it will ever send.
    pub(crate) fn close_script(&mut self) {
        self.closed_script = true;
    }

    /// Writes some item of a live client. Returns whether it was fragmented.
    pub(crate) fn write_some(&mut self, rng: &mut Rng) -> bool {
        if self.closed_script {
            return false;
        }
        let mask = [rng.u8(..), rng.u8(..), rng.u8(..), rng.u8(..)];
        match rng.u8(..24) {
            0..=7 => self.write(&client_frame(OpCode::Text, br#"{"type":"ping"}"#, mask), self.json_ping()),
            8..=11 => {
                let payload = self.ping_payload(rng);
                self.write(&client_frame(OpCode::Ping, &payload, mask), Effect::Ping(payload));
            }
            12..=13 => self.write(&client_frame(OpCode::Pong, b"anybody", mask), Effect::Nothing),
            14..=17 => {
                let payload = vec![b'm'; rng.usize(..MAX_MESSAGE)];
                self.write(&client_frame(OpCode::Binary, &payload, mask), Effect::Message(2, payload));
            }
            18..=21 => {
                self.write_fragments(mask, rng);
                return true;
            }
            22 if rng.bool() => {
                let (payload, effect) = match rng.u8(..3) {
                    0 => (&b"\x03\xe8bye"[..], Effect::Close),
                    1 => (&b""[..], Effect::Close),
                    _ => (&b"\x03\xee"[..], Effect::Bad),
                };
                self.write(&client_frame(OpCode::Close, payload, mask), effect);
                self.closed_script = true;
                // What comes behind a close must not matter.
                self.write(&client_frame(OpCode::Ping, b"late", mask), Effect::Nothing);
            }
            23 if rng.u8(..4) == 0 => {
                self.write(&bad_frame(mask, rng), Effect::Bad);
                self.closed_script = true;
            }
            _ => {}
        }
        false
    }

    /// No two pings are alike, so that each pong tells which it answers.
    fn ping_payload(&self, rng: &mut Rng) -> Vec<u8> {
        let mut payload = self.scripted.to_be_bytes().to_vec();
        payload.resize(rng.usize(8..126), b'p');
        payload
    }

    fn json_ping(&self) -> Effect {
        match self.kind {
            Kind::Echo => Effect::Message(1, br#"{"type":"ping"}"#.to_vec()),
            _ => Effect::JsonPing,
        }
    }

    fn write_fragments(&mut self, mask: [u8; 4], rng: &mut Rng) {
        let text = "分片的消息, in pieces. ".repeat(rng.usize(1..20));
        let parts = rng.usize(2..6);
        let len = text.len().div_ceil(parts);
        for (number, part) in text.as_bytes().chunks(len).enumerate() {
            let opcode = if number == 0 { OpCode::Text } else { OpCode::Continuation };
            let fin = (number + 1) * len >= text.len();
            let effect = if fin { Effect::Message(1, text.clone().into_bytes()) } else { Effect::Nothing };
            self.write(&client_fragment(fin, opcode, part, mask), effect);
            if !fin && rng.bool() {
                let payload = self.ping_payload(rng);
                self.write(&client_frame(OpCode::Ping, &payload, mask), Effect::Ping(payload));
            }
        }
    }

    /// A ping of the client has reached its session.
    pub(crate) fn expect_pong(&mut self, payload: Vec<u8>) {
        self.pings.push_back(payload);
    }

    /// A message has reached `/echo`.
    pub(crate) fn expect_echo(&mut self, opcode: u8, payload: Vec<u8>) {
        self.echoes.push_back((opcode, payload));
    }

    /// Something other than a push arrived.
    pub(crate) fn see(&mut self, seen: Seen, rng: &mut Rng) {
        match seen {
            Seen::Head(status) => {
                if let Some(expected) = self.expected_status {
                    assert_eq!(status, expected, "the answer to {:?}", self.kind);
                } else {
                    assert!(status >= 400, "{:?} was answered {status}", self.kind);
                }
                self.status = Some(status);
            }
            Seen::Frame { opcode: PING, payload } => {
                if self.closed_script {
                    return;
                }
                self.write(&client_frame(OpCode::Pong, &payload, [1, 2, 3, rng.u8(..)]), Effect::Nothing);
            }
            Seen::Frame { opcode: PONG, payload } => {
                let known = self.pings.iter().position(|ping| *ping == payload);
                let known = known.expect("a pong answers a ping, in order, once");
                self.pings.drain(..=known);
            }
            Seen::Frame { opcode: CLOSE, payload } => {
                let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                self.close_code = Some(code);
                if !self.closed_script && rng.u8(..4) > 0 {
                    self.write(
                        &client_frame(OpCode::Close, payload.get(..2).unwrap_or(b""), [9; 4]),
                        Effect::Close,
                    );
                }
                self.closed_script = true;
            }
            Seen::Frame { opcode, payload } if self.kind == Kind::Echo => {
                assert_eq!(
                    self.echoes.pop_front(),
                    Some((opcode, payload)),
                    "messages come back once, in order"
                );
                self.echoed += 1;
            }
            Seen::Frame { opcode, payload } => {
                assert_eq!(opcode, TEXT);
                assert!(payload.starts_with(br#"{"type":"pong","timestamp":"#), "an answer to a command");
                self.json_pongs += 1;
                assert!(self.json_pongs <= self.json_pings, "a pong that nobody asked for");
            }
        }
    }

    /// Every command, ping and echo of a client that reads well was answered.
    pub(crate) fn assert_answered(&self) {
        assert_eq!(self.json_pongs, self.json_pings, "each ping command has its pong");
        assert!(self.pings.is_empty(), "the last ping has its pong");
        assert!(self.echoes.is_empty(), "each message came back");
        assert!(!self.stream.is_torn(), "no frame is left in the middle");
    }
}

fn bad_frame(mask: [u8; 4], rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..8) {
        0 => b"\x81\x05hello".to_vec(),
        1 => client_frame(OpCode::Text, b"\xff\xfe not UTF-8", mask),
        2 => client_frame(OpCode::Continuation, b"of nothing", mask),
        3 => client_frame(OpCode::Binary, &vec![0; MAX_MESSAGE + 1], mask),
        4 => vec![0x83, 0x80, 1, 2, 3, 4],
        5 => vec![0xc1, 0x80, 1, 2, 3, 4],
        6 => vec![0x89, 0xfe, 0, 126, 1, 2, 3, 4],
        _ => vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
    }
}
