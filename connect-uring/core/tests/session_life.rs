//! A session's life, step by step: what a client is told when, and what the driver and the controller are asked for.

use std::sync::Arc;

use bytes::Bytes;
use connect_core::client::client_frame;
use connect_core::frame::{OpCode, text_frame};
use connect_core::{
    AcceptRefused, CloseReason, ControlEvent, Delivery, DropReason, HttpAnswer, HttpRequest, Input,
    JoinDecision, Limits, Now, Outputs, Shard, Target, Write,
};
use ringcast_proto::{RoomId, SessionId, ShardId, UserId};

const UPGRADE: &str = "Host: ringcast\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A shard with its clock and the outputs of the last call.
struct Bench {
    shard: Shard,
    now_ms: u64,
    /// What the driver says when deadlines are due.
    on_time: bool,
    out: Outputs,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let shard = Shard::new(ShardId(0), limits, 7);
        Self { shard, now_ms: 1_000_000, on_time: true, out: Outputs::default() }
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000 }
    }

    fn accept(&mut self) -> Result<SessionId, AcceptRefused> {
        self.shard.accept(self.now(), &mut self.out)
    }

    fn handle(&mut self, input: Input<'_>) {
        self.out = Outputs::default();
        let now = self.now();
        self.shard.handle(now, input, &mut self.out);
    }

    fn receive(&mut self, session: SessionId, bytes: impl AsRef<[u8]>) {
        self.handle(Input::Received { session, bytes: bytes.as_ref() });
    }

    fn answer(&mut self, session: SessionId, decision: JoinDecision) {
        self.handle(Input::JoinAnswered { session, decision });
    }

    fn request(&mut self, head: &str) -> SessionId {
        let session = self.accept().expect("a free slot");
        self.receive(session, head);
        session
    }

    /// A session that has joined, its 101 written.
    fn join(&mut self, user: &str, room: &str) -> SessionId {
        let session = self.request(&format!("GET /ws?user_id={user}&room_id={room} HTTP/1.1\r\n{UPGRADE}"));
        assert!(matches!(&self.out.control[..], [ControlEvent::Join { probe: false, .. }]));
        self.answer(session, JoinDecision::Accepted);
        assert!(self.write(session).starts_with(b"HTTP/1.1 101 "));
        session
    }

    /// Fetches a write and lets the kernel take all of it.
    fn write(&mut self, session: SessionId) -> Vec<u8> {
        let mut write = Write::default();
        self.shard.fill(session, &mut write);
        let bytes: Vec<u8> = write.slices().flatten().copied().collect();
        assert!(!bytes.is_empty(), "nothing is to be written");
        self.handle(Input::Wrote { session, bytes: bytes.len(), failed: false });
        bytes
    }

    /// Lets the clock go to the next deadline, and no further than this. Returns whether there was one.
    fn next_deadline(&mut self, until_ms: u64) -> bool {
        self.out = Outputs::default();
        match self.shard.next_deadline().filter(|&next| next <= until_ms) {
            Some(next) => {
                self.now_ms = next;
                let now = self.now();
                self.shard.handle_deadline(now, self.on_time, &mut self.out);
                true
            }
            None => {
                self.now_ms = until_ms;
                false
            }
        }
    }

    fn push(&mut self, room: &str, frame: Bytes) {
        let target = Target::Room(RoomId::new(room).expect("a valid id"));
        let exclude: Arc<[UserId]> = Arc::new([]);
        let report_by_ms = Some(self.now_ms + 1_000);
        self.handle(Input::Deliver(Delivery { id: 1, target, exclude, frame, report_by_ms, shed: false }));
    }
}

fn close_code(frame: &[u8]) -> Option<u16> {
    assert_eq!(frame[0], 0x88, "a close frame");
    frame.get(2..4).map(|code| u16::from_be_bytes([code[0], code[1]]))
}

/// What a refused client is told to wait, in seconds.
fn retry_after(answer: &[u8]) -> u32 {
    let text = String::from_utf8_lossy(answer);
    let value = text.lines().find_map(|line| line.strip_prefix("Retry-After: ")).expect("a time to wait");
    value.parse().expect("seconds")
}

fn ends(out: &Outputs) -> usize {
    out.control.iter().filter(|event| matches!(event, ControlEvent::End { .. })).count()
}

#[test]
fn the_101_is_held_until_the_join_is_accepted() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.request(&format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
    assert!(bench.out.writable.is_empty());
    bench.receive(session, client_frame(OpCode::Text, br#"{"type":"ping"}"#, [1; 4]));
    bench.push("r", text_frame(b"too early"));
    assert!(bench.out.writable.is_empty());
    assert_eq!(bench.out.reports[0].counts.members, 0, "who has not joined is no member");
    bench.answer(session, JoinDecision::Accepted);
    assert_eq!(bench.out.writable, [session]);
    bench.push("r", text_frame(b"first push"));
    assert!(bench.out.writable.is_empty(), "it was announced already");
    let bytes = bench.write(session);
    let text = String::from_utf8_lossy(&bytes);
    let [head, pong, push] = ["101 Switching", "\"pong\"", "first push"].map(|part| text.find(part));
    assert!(head.is_some() && head < pong && pong < push, "one write, in order: {text}");
    assert_eq!(bench.out.reports[0].counts.written, 1);
    bench.answer(session, JoinDecision::RoomFull);
    assert_eq!(
        (bench.shard.counters().stale, bench.out.writable.len()),
        (1, 0),
        "a second answer changes nothing"
    );
}

#[test]
fn refused_joins_are_told_why_and_are_over() {
    for (decision, status) in
        [(JoinDecision::RoomFull, "409"), (JoinDecision::Unavailable, "503"), (JoinDecision::Invalid, "400")]
    {
        let mut bench = Bench::new(Limits::default());
        let session = bench.request(&format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
        bench.answer(session, decision);
        assert_eq!(ends(&bench.out), 1);
        let answer = String::from_utf8(bench.write(session)).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(answer.contains("\r\nRetry-After: "), status == "503");
        assert_eq!((&bench.out.finish[..], &bench.out.end[..]), (&[session][..], &[][..]));
        bench.handle(Input::ReceiveEnded { session });
        assert_eq!((&bench.out.end[..], ends(&bench.out)), (&[session][..], 0));
        bench.handle(Input::Gone { session });
        assert_eq!(bench.shard.counters().connections, 0);
    }
}

#[test]
fn clients_that_are_refused_together_are_not_told_to_come_back_together() {
    let mut bench = Bench::new(Limits::default());
    let mut clients = [0; 5];
    for _ in 0..400 {
        let session = bench.request(&format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
        bench.answer(session, JoinDecision::Unavailable);
        clients[retry_after(&bench.write(session)) as usize] += 1;
    }
    assert_eq!(clients[0], 0, "nobody comes back at once: {clients:?}");
    assert!(clients[1..].iter().all(|&clients| clients > 50), "{clients:?}");
}

#[test]
fn a_join_that_nobody_answers_ends_after_its_time() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.request(&format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
    let asked_ms = bench.now_ms;
    while bench.out.writable.is_empty() {
        assert!(bench.next_deadline(asked_ms + 10_000), "an answer is given");
    }
    assert!((5_000..5_300).contains(&(bench.now_ms - asked_ms)));
    assert_eq!(ends(&bench.out), 1);
    assert!(bench.write(session).starts_with(b"HTTP/1.1 503 "));
    bench.answer(session, JoinDecision::Accepted);
    assert_eq!((bench.shard.counters().stale, bench.shard.counters().joined), (1, 0));
}

#[test]
fn a_probe_gets_the_decision_and_no_seat() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.request("GET /ws?user_id=u&room_id=r HTTP/1.1\r\nHost: ringcast\r\n\r\n");
    assert!(matches!(&bench.out.control[..], [ControlEvent::Join { probe: true, .. }]));
    bench.answer(session, JoinDecision::Accepted);
    assert_eq!((ends(&bench.out), bench.shard.counters().joined), (0, 0));
    let answer = String::from_utf8(bench.write(session)).expect("text");
    assert!(
        answer.starts_with("HTTP/1.1 426 ") && answer.contains("Access-Control-Allow-Origin: *"),
        "{answer}"
    );
}

#[test]
fn a_plain_request_is_answered_by_the_driver_and_the_connection_ends() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.request("GET /health HTTP/1.1\r\nHost: ringcast\r\n\r\n");
    assert_eq!(bench.out.http, [(session, HttpRequest::Health)]);
    let answer = HttpAnswer { status: 200, content_type: "text/plain", body: Bytes::from_static(b"ok") };
    bench.handle(Input::HttpAnswered { session, answer });
    assert!(bench.write(session).ends_with(b"\r\n\r\nok"));
    assert_eq!(bench.out.finish, [session]);
    let finished_ms = bench.now_ms;
    while bench.out.end.is_empty() {
        assert!(bench.next_deadline(finished_ms + 5_000), "a peer that does not end is not waited for");
    }
    assert!((1_000..1_300).contains(&(bench.now_ms - finished_ms)));

    let session = bench.request(&format!("GET /echo HTTP/1.1\r\n{UPGRADE}"));
    assert!(bench.write(session).starts_with(b"HTTP/1.1 404 "), "there is no /echo unless asked for");

    let session = bench.request("GET /nodes HTTP/1.1\r\nHost: ringcast\r\n\r\n");
    assert_eq!(bench.out.http, [(session, HttpRequest::Nodes { choosing: false })]);
    let answer =
        HttpAnswer { status: 503, content_type: "application/json", body: Bytes::from_static(b"{}") };
    bench.handle(Input::HttpAnswered { session, answer });
    assert!((1..=4).contains(&retry_after(&bench.write(session))));
}

#[test]
fn a_client_that_asks_who_is_in_its_room_is_answered_while_it_is_there() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.join("u", "r");
    bench.receive(session, client_frame(OpCode::Text, br#"{"type":"members"}"#, [1; 4]));
    assert_eq!(bench.out.members, [(session, RoomId::new("r").expect("a valid id"))]);
    assert!(bench.out.writable.is_empty(), "nothing is answered here");
    bench.handle(Input::Reply { session, frame: text_frame(b"alice") });
    assert_eq!(bench.write(session)[2..], *b"alice");
    bench.receive(session, client_frame(OpCode::Close, &1000u16.to_be_bytes(), [1; 4]));
    bench.write(session);
    bench.handle(Input::Reply { session, frame: text_frame(b"late") });
    assert!(bench.out.writable.is_empty(), "who has closed is sent nothing more");
}

#[test]
fn silence_is_pinged_then_closed_and_any_byte_is_a_sign_of_life() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.join("u", "r");
    let mut heard_ms = bench.now_ms;
    for _ in 0..3 {
        while bench.out.writable.is_empty() {
            assert!(bench.next_deadline(heard_ms + 60_000));
        }
        let silent_ms = bench.now_ms - heard_ms;
        assert!((22_500..25_200).contains(&silent_ms), "pinged after {silent_ms} ms");
        assert_eq!(bench.write(session), [0x89, 0]);
        bench.next_deadline(bench.now_ms + 5_000);
        bench.receive(session, [0x81]);
        bench.receive(session, [0x80, 1, 2, 3, 4]);
        heard_ms = bench.now_ms;
    }
    while ends(&bench.out) == 0 {
        assert!(bench.next_deadline(heard_ms + 60_000));
        if bench.out.writable == [session] && ends(&bench.out) == 0 {
            bench.write(session);
        }
    }
    let silent_ms = bench.now_ms - heard_ms;
    assert!((32_500..35_400).contains(&silent_ms), "closed after {silent_ms} ms");
    assert_eq!(close_code(&bench.write(session)), CloseReason::PongTimeout.code());
    assert_eq!(bench.shard.counters().closes[CloseReason::PongTimeout as usize], 1);
    while bench.out.end.is_empty() {
        assert!(bench.next_deadline(heard_ms + 60_000), "who does not answer a close is ended");
    }
}

#[test]
fn nobody_is_closed_for_a_silence_that_is_the_shards_own() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.join("u", "r");
    let until = bench.now_ms + 600_000;
    while bench.out.writable.is_empty() {
        assert!(bench.next_deadline(until));
    }
    bench.write(session);
    bench.on_time = false;
    for _ in 0..20 {
        assert!(bench.next_deadline(until));
        assert!(ends(&bench.out) == 0 && bench.out.writable.is_empty(), "its pong may lie in its socket");
    }
    assert!(bench.shard.counters().deferred > 10);
    bench.receive(session, [0x8a, 0x80, 0, 0, 0, 0]);
    bench.on_time = true;
    while bench.out.writable.is_empty() {
        assert!(bench.next_deadline(until));
    }
    assert_eq!(bench.write(session), [0x89, 0], "it was heard, and is pinged again");
    while ends(&bench.out) == 0 {
        assert!(bench.next_deadline(until), "on time again, the shard closes who is silent");
    }
}

#[test]
fn a_close_is_answered_once_and_the_peer_ends_first() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.join("u", "r");
    bench.receive(session, client_frame(OpCode::Close, b"\x0f\xa0later", [3; 4]));
    assert_eq!((ends(&bench.out), &bench.out.writable[..]), (1, &[session][..]));
    assert_eq!(close_code(&bench.write(session)), Some(4000), "the client's own code comes back");
    assert_eq!(bench.out.finish, [session]);
    bench.receive(session, client_frame(OpCode::Ping, b"", [3; 4]));
    assert!(bench.out.writable.is_empty(), "nothing follows a close");
    bench.handle(Input::ReceiveEnded { session });
    assert_eq!(bench.out.end, [session]);
}

#[test]
fn a_half_close_is_a_leave_within_the_same_wake_up() {
    let mut bench = Bench::new(Limits::default());
    let session = bench.join("u", "r");
    bench.push("r", text_frame(b"never sent"));
    bench.handle(Input::ReceiveEnded { session });
    assert_eq!(ends(&bench.out), 1);
    assert_eq!(bench.out.reports[0].counts.dropped[DropReason::Closed as usize], 1);
    assert_eq!(close_code(&bench.write(session)), None);
    assert_eq!(bench.out.end, [session]);
}

#[test]
fn a_session_that_does_not_read_is_closed_at_its_bound_and_costs_the_others_nothing() {
    let mut bench = Bench::new(Limits::default());
    let (slow, good) = (bench.join("slow", "r"), bench.join("good", "r"));
    let frame = text_frame(&vec![b'x'; 64 * 1024 - 4]);
    let mut held = Write::default();
    bench.push("r", frame.clone());
    bench.shard.fill(slow, &mut held);
    bench.write(good);
    // One in flight, then fifteen of 64 KiB: 1 MiB less the kernel's 64 KiB.
    for _ in 0..15 {
        bench.push("r", frame.clone());
        assert_eq!(ends(&bench.out), 0);
        bench.write(good);
    }
    bench.push("r", frame.clone());
    assert_eq!(bench.out.control, [ControlEvent::End { session: slow }]);
    assert_eq!(bench.shard.counters().dropped[DropReason::Slow as usize], 16);
    assert_eq!(bench.out.reports.len(), 15, "what only the slow one had open is known now");
    bench.write(good);
    assert_eq!(bench.out.reports[0].counts.dropped, [1, 0, 0]);
    bench.handle(Input::Wrote { session: slow, bytes: held.len(), failed: false });
    assert_eq!(bench.out.reports[0].counts.written, 2, "what was in flight counts as it ended");
    assert_eq!(close_code(&bench.write(slow)), CloseReason::Slow.code());
    assert_eq!(bench.shard.counters().queued(), 0);
}

#[test]
fn a_drain_is_spread_over_its_time_and_takes_nobody_new() {
    let mut bench = Bench::new(Limits::default());
    let sessions: Vec<_> = (0..200).map(|n| bench.join(&format!("u{n}"), "r")).collect();
    let waiting = bench.request(&format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
    let head = bench.accept().expect("a free slot");
    let started_ms = bench.now_ms;
    let until_ms = started_ms + 20_000;
    bench.handle(Input::Drain { until_ms });
    assert!(bench.out.writable.contains(&waiting) && bench.accept() == Err(AcceptRefused::Draining));
    assert!(bench.write(waiting).starts_with(b"HTTP/1.1 503 "));
    bench.receive(head, format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
    assert!(bench.write(head).starts_with(b"HTTP/1.1 503 "));
    bench.push("r", text_frame(b"still routable"));
    let mut closed_ms = Vec::new();
    while bench.next_deadline(until_ms + 10_000) {
        closed_ms.extend((0..ends(&bench.out)).map(|_| bench.now_ms - started_ms));
        for session in std::mem::take(&mut bench.out.writable) {
            let bytes = bench.write(session);
            let at = bytes.len() - (2 + 2 + CloseReason::Restart.text().len());
            if sessions.contains(&session) && bytes.contains(&0x88) {
                assert_eq!(close_code(&bytes[at..]), CloseReason::Restart.code());
            }
        }
    }
    // The first was closed when the drain began.
    assert_eq!(closed_ms.len(), 199);
    assert!(closed_ms.iter().all(|&ms| ms <= 20_000));
    let early = closed_ms.iter().filter(|&&ms| ms <= 10_000).count();
    assert!((90..=110).contains(&early), "{early} of 200 closed in the first half");
    assert_eq!(bench.shard.counters().closes[CloseReason::Restart as usize], 200);
    for session in [&sessions[..], &[waiting, head]].concat() {
        assert!(!bench.shard.is_drained());
        bench.handle(Input::Gone { session });
    }
    assert!(bench.shard.is_drained());
}

#[test]
fn a_fence_closes_all_at_once_and_takes_nobody_until_it_is_down() {
    let mut bench = Bench::new(Limits { echo: Some(Limits::ECHO), ..Limits::default() });
    let sessions: Vec<_> = (0..20).map(|n| bench.join(&format!("u{n}"), "r")).collect();
    let echo = bench.request(&format!("GET /echo HTTP/1.1\r\n{UPGRADE}"));
    bench.write(echo);
    let waiting = bench.request(&format!("GET /ws?user_id=u&room_id=r HTTP/1.1\r\n{UPGRADE}"));
    bench.handle(Input::Fence { on: true });
    assert_eq!((ends(&bench.out), bench.out.writable.len()), (21, 22), "the open join is withdrawn, too");
    for &session in sessions.iter().chain([&echo]) {
        assert_eq!(close_code(&bench.write(session)), CloseReason::Fenced.code());
    }
    assert!(retry_after(&bench.write(waiting)) > 0);
    assert_eq!(bench.shard.counters().closes[CloseReason::Fenced as usize], 21);
    bench.answer(waiting, JoinDecision::Accepted);
    assert_eq!(bench.shard.counters().joined, 0, "an answer that comes too late lets nobody in");
    for path in ["/ws?user_id=u&room_id=r", "/echo"] {
        let refused = bench.request(&format!("GET {path} HTTP/1.1\r\n{UPGRADE}"));
        assert!(bench.out.control.is_empty(), "the controller is not asked");
        assert!(bench.write(refused).starts_with(b"HTTP/1.1 503 "));
    }
    let health = bench.request("GET /health HTTP/1.1\r\nHost: ringcast\r\n\r\n");
    assert_eq!(bench.out.http, [(health, HttpRequest::Health)]);
    bench.handle(Input::Fence { on: true });
    assert!(bench.out.writable.is_empty(), "the same word again changes nothing");

    bench.handle(Input::Fence { on: false });
    bench.join("u", "r");
}

#[test]
fn a_snapshot_comes_in_parts_with_the_open_joins_behind_it() {
    let mut bench = Bench::new(Limits::default());
    for n in 0..1_500 {
        bench.join(&format!("u{n}"), &format!("r{}", n % 7));
    }
    let open = bench.request(&format!("GET /ws?user_id=late&room_id=r HTTP/1.1\r\n{UPGRADE}"));
    bench.handle(Input::Snapshot);
    let [
        ControlEvent::Snapshot { sessions: first, last: false },
        ControlEvent::Snapshot { sessions: second, last: true },
        ControlEvent::Join { session, probe: false, .. },
    ] = &bench.out.control[..]
    else {
        panic!("two parts and a join")
    };
    assert_eq!((first.len(), second.len(), session.session), (1_024, 476, open));
}
