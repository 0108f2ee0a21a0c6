//! What can happen next: each action provokes something, and says what the shard must make of it.

use std::sync::Arc;

use bytes::Bytes;
use connect_core::frame::text_frame;
use connect_core::{Counts, Delivery, DropReason, HttpAnswer, Input, JoinDecision, Target};
use ringcast_proto::{RoomId, SessionId, UserId};

use crate::faults::Fault;
use crate::model::Push;
use crate::peer::{Effect, Kind, Peer, Reads, Stage};
use crate::world::{Context, ROOMS, USERS, World};

/// What is in an outbox beside pushes and answers to commands, at most, in bytes: an HTTP head and control frames.
const OTHER_BYTES: usize = 700;
/// The longest answer to a command, in bytes.
const ANSWER_BYTES: usize = 80;

impl World {
    /// Time passes and something happens.
    pub(crate) fn step(&mut self) {
        self.pass_time();
        if self.shard.next_deadline().is_some_and(|next| next <= self.now_ms) && self.rng.u8(..10) > 0 {
            self.handle_deadline();
        }
        match self.rng.u16(..1000) {
            0..80 => self.connect(),
            80..400 => self.peer_sends(),
            400..480 => self.answer_join(),
            480..500 => self.answer_request(),
            500..700 => self.complete_write(),
            700..830 => self.push(),
            830..850 => self.change_rooms(),
            850..855 => self.take_snapshot(),
            855..861 => self.break_socket(),
            861..869 => self.half_close(),
            869..930 => self.go(),
            930..950 => self.stale(),
            950..953 => self.flood_before_join(),
            953..960 => self.burst(),
            960..970 => self.fence(),
            _ => {}
        }
        if self.rng.u8(..3) > 0 {
            self.flush();
        }
    }

    fn pass_time(&mut self) {
        match self.rng.u16(..20_000) {
            0..12_000 => {}
            12_000..18_000 => self.now_ms += self.rng.u64(1..20),
            18_000..19_990 => self.now_ms += self.rng.u64(20..200),
            19_990..19_998 => {
                self.now_ms += self.rng.u64(5_000..4_000_000);
                self.hits.hit(Fault::ClockLeap);
            }
            _ => {
                // The shard's own clock must not follow.
                let now = self.now_ms;
                self.now_ms -= self.rng.u64(1..5_000).min(now);
                self.hits.hit(Fault::ClockBack);
                self.shard.handle_deadline(self.now(), true, &mut self.out);
                self.now_ms = now;
                self.apply(Context::Deadline);
            }
        }
    }

    fn connect(&mut self) {
        let kind = match self.rng.u8(..20) {
            0..14 => Kind::Join,
            14 => Kind::Probe,
            15 | 16 => Kind::Echo,
            17 => Kind::Plain,
            18 => Kind::Garbage,
            _ => Kind::Stalled,
        };
        self.accept(kind);
    }

    fn peer_sends(&mut self) {
        let Some(id) = self.pick(|peer| !peer.ended && !peer.peer_ended) else { return };
        let place = self.find(id).expect("picked");
        let peer = &mut self.peers[place];
        let live = matches!(peer.stage, Stage::Live | Stage::Asked);
        if live && !peer.has_script() && peer.write_some(&mut self.rng) {
            self.hits.hit(Fault::FragmentedMessage);
        }
        let peer = &mut self.peers[place];
        if !peer.has_script() {
            return;
        }
        let bytes = peer.send(&mut self.rng);
        if peer.has_script() {
            let fault = match (peer.stage, peer.kind) {
                (Stage::Head, _) => Fault::TornHead,
                _ => Fault::TornFrame,
            };
            self.hits.hit(fault);
        }
        self.receive(id, &bytes);
    }

    /// Bytes of a client reach the shard.
    fn receive(&mut self, id: SessionId, bytes: &[u8]) {
        self.arrive(id);
        self.handle(Context::Peer(id), Input::Received { session: id, bytes });
    }

    /// Notes what the bytes that have come by now must lead to.
    fn arrive(&mut self, id: SessionId) {
        let (now_ms, closed) = (self.now_ms, self.drain_until_ms.is_some() || self.fenced);
        let place = self.find(id).expect("a session that is there");
        let peer = &mut self.peers[place];
        if peer.stage == Stage::Head {
            let Some(Effect::Request) = peer.next_effect() else { return };
            peer.expected_status = Some(503);
            match peer.kind {
                Kind::Join | Kind::Probe | Kind::Stalled | Kind::Echo if closed => {
                    peer.start(Stage::Over, now_ms);
                    if self.fenced {
                        self.hits.hit(Fault::RefusedByFence);
                    }
                }
                Kind::Join | Kind::Probe | Kind::Plain => peer.must_ask = true,
                Kind::Echo => {
                    peer.expected_status = Some(101);
                    peer.start(Stage::Live, now_ms);
                }
                Kind::Garbage => {
                    peer.expected_status = None;
                    peer.start(Stage::Over, now_ms);
                    self.hits.hit(Fault::GarbageHead);
                }
                Kind::Stalled => panic!("a stalled head is never whole"),
            }
        }
        let peer = &mut self.peers[place];
        if peer.stage != Stage::Live {
            return;
        }
        peer.heard_ms = now_ms;
        while let Some(effect) = self.peers[place].next_effect() {
            let fault = self.peers[place].take(effect, now_ms);
            fault.into_iter().for_each(|fault| self.hits.hit(fault));
        }
    }

    fn answer_join(&mut self) {
        let Some(id) = self.pick(|peer| peer.stage == Stage::Asked) else { return };
        let now_ms = self.now_ms;
        let decision = match self.rng.u8(..10) {
            0 => JoinDecision::RoomFull,
            1 => JoinDecision::Unavailable,
            2 => JoinDecision::Invalid,
            3 if self.rng.bool() => return,
            _ => JoinDecision::Accepted,
        };
        let place = self.find(id).expect("picked");
        let peer = &mut self.peers[place];
        if now_ms - peer.since_ms > 1_000 {
            self.hits.hit(Fault::JoinAnsweredLate);
        }
        let peer = &mut self.peers[place];
        let status = match decision {
            JoinDecision::Accepted if peer.kind == Kind::Probe => 426,
            JoinDecision::Accepted => 101,
            JoinDecision::RoomFull => 409,
            JoinDecision::Unavailable => 503,
            JoinDecision::Invalid => 400,
        };
        peer.expected_status = Some(status);
        if status == 101 {
            peer.start(Stage::Live, now_ms);
            if peer.sent > peer.request_end {
                self.hits.hit(Fault::FramesBeforeJoin);
            }
            self.arrive(id);
        } else {
            if peer.kind == Kind::Probe {
                peer.start(Stage::Over, now_ms);
            }
            self.hits.hit(Fault::JoinRefused);
        }
        self.handle(Context::Peer(id), Input::JoinAnswered { session: id, decision });
        assert_ne!(self.peer(id).stage, Stage::Asked, "an answered join is over");
    }

    fn answer_request(&mut self) {
        let Some(id) = self.pick(|peer| peer.stage == Stage::Asking) else { return };
        let now_ms = self.now_ms;
        let peer = self.peer(id);
        peer.expected_status = None;
        peer.start(Stage::Over, now_ms);
        let body = Bytes::from(vec![b'x'; self.rng.usize(..3000)]);
        let answer = HttpAnswer { status: 500, content_type: "text/plain", body };
        self.handle(Context::Peer(id), Input::HttpAnswered { session: id, answer });
    }

    fn complete_write(&mut self) {
        let Some(id) = self.pick(|peer| peer.flight.is_some() && (peer.reads != Reads::Never || peer.ended))
        else {
            return;
        };
        let place = self.find(id).expect("picked");
        let peer = &self.peers[place];
        let whole = peer.flight.as_ref().map_or(0, |flight| flight.bytes.len());
        let failed = self.rng.u16(..150) == 0;
        let partly = failed || peer.ended || peer.reads == Reads::Partly;
        let accepted = if partly && self.rng.bool() { self.rng.usize(..=whole) } else { whole };
        if failed {
            self.hits.hit(Fault::FailedWrite);
        } else if accepted < whole {
            self.hits.hit(Fault::PartialWrite);
        }
        self.complete(id, accepted, failed);
    }

    pub(crate) fn complete(&mut self, id: SessionId, bytes: usize, failed: bool) {
        self.deliver_bytes(id, bytes);
        let peer = self.peer(id);
        let was_ended = peer.ended;
        peer.must_leave = failed && peer.stage == Stage::Live && peer.kind != Kind::Echo;
        if was_ended {
            self.hits.hit(Fault::CompletionAfterEnd);
            // Nothing more will be written: the rest is known before the shard is told.
            self.peer(id).begun = None;
            self.drop_waiting(id, DropReason::Closed);
        }
        self.handle(Context::Peer(id), Input::Wrote { session: id, bytes, failed });
        assert!(!failed || self.peer(id).ended, "a broken socket is ended");
    }

    fn push(&mut self) {
        let size = match self.rng.u8(..100) {
            0..20 => self.rng.usize(1..5),
            20..70 => self.rng.usize(5..300),
            70..93 => self.rng.usize(300..5_000),
            93..99 => self.rng.usize(5_000..40_000),
            _ => self.rng.usize(60_000..200_000),
        };
        let shed = self.rng.u8(..20) == 0;
        self.deliver(size, shed);
    }

    /// Many pushes in one wake-up; in some runs a drain begins in the middle of it.
    fn burst(&mut self) {
        for _ in 0..self.rng.usize(2..40) {
            let size = self.rng.usize(1..400);
            self.deliver(size, false);
            if self.drain_until_ms.is_none() && self.rng.u16(..4_000) == 0 {
                let until_ms = self.now_ms + self.rng.u64(..20_000);
                self.drain_until_ms = Some(until_ms);
                self.hits.hit(Fault::DrainInBurst);
                self.handle(Context::Drain, Input::Drain { until_ms });
            }
        }
    }

    /// The node is cut off for a while, seldom.
    fn fence(&mut self) {
        if !self.fenced && self.rng.u8(..32) > 0 {
            return;
        }
        self.fenced = !self.fenced;
        self.handle(Context::Fence, Input::Fence { on: self.fenced });
        let left = self.peers.iter().filter(|peer| match peer.stage {
            Stage::Live => peer.kind != Kind::Echo,
            stage => stage == Stage::Asked,
        });
        assert!(!self.fenced || left.count() == 0, "a fence leaves nobody");
        assert_eq!(self.shard.counters().echoing * u64::from(self.fenced), 0);
    }

    fn deliver(&mut self, size: usize, shed: bool) {
        let number = self.pushes.next_number();
        let payload = payload_of(number, size);
        let frame = text_frame(&payload);
        if frame.len() > 60_000 {
            self.hits.hit(Fault::LargePush);
        }
        let (room, user) = (self.rng.usize(..ROOMS), self.rng.usize(..USERS));
        let target = match self.rng.u8(..10) {
            0..7 => Target::Room(room_id(room)),
            7 | 8 => Target::User(user_id(user)),
            _ => Target::All,
        };
        let excluded = match self.rng.u8(..8) {
            0 => self.rng.usize(1..USERS + 4),
            1 | 2 => 1,
            _ => 0,
        };
        let excluded: Vec<usize> = (0..excluded).map(|_| self.rng.usize(..USERS + 4)).collect();
        let is_member = |peer: &Peer| {
            let meant = match &target {
                Target::Room(_) => peer.rooms.contains(&room),
                Target::User(_) => peer.user == user,
                Target::All => true,
            };
            meant && peer.stage == Stage::Live && peer.kind == Kind::Join
        };
        let found = self.peers.iter().filter(|peer| is_member(peer)).count();
        let members: Vec<SessionId> = self
            .peers
            .iter()
            .filter(|peer| is_member(peer) && !excluded.contains(&peer.user))
            .map(|peer| peer.id)
            .collect();
        if members.len() < found {
            self.hits.hit(Fault::Excluded);
        }
        let report_by_ms = (self.rng.u8(..5) > 0).then(|| self.now_ms + self.rng.u64(..1_500));
        let exclude: Arc<[UserId]> = excluded.iter().map(|&user| user_id(user)).collect();
        let delivery =
            Delivery { id: number as u64, target, exclude, frame: frame.clone(), report_by_ms, shed };
        let mut counts = Counts { members: members.len() as u64, ..Counts::default() };
        if shed {
            self.hits.hit(Fault::Shed);
            counts.dropped[DropReason::Shed as usize] = counts.members;
        } else {
            counts.queued = counts.members;
        }
        self.pushes.add(Push { payload, frame_len: frame.len(), counts, report_by_ms, reported: false });
        if shed {
            self.handle(Context::Other, Input::Deliver(delivery));
            return;
        }
        let room_left: Vec<_> = members.iter().map(|&id| self.room_left(id, frame.len())).collect();
        for &id in &members {
            let peer = self.peer(id);
            peer.open.push_back(number);
            peer.open_bytes += frame.len();
        }
        self.handle(Context::Deliver, Input::Deliver(delivery));
        assert!(self.left.iter().all(|id| members.contains(id)), "a push ends only members");
        for (id, room_left) in members.iter().zip(room_left) {
            let slow = self.left.contains(id);
            assert!(
                room_left.is_none_or(|room_left| room_left != slow),
                "{id:?} slow: {slow}, room: {room_left:?}"
            );
        }
    }

    /// Whether a session's outbox takes one more frame; `None`: it depends on frames that the model does not follow.
    fn room_left(&self, id: SessionId, len: usize) -> Option<bool> {
        let peer = &self.peers[self.find(id).expect("a member")];
        let bound = (self.limits.outbox_bytes - self.limits.send_buffer_bytes) as usize;
        if peer.flight.is_none() && peer.begun.is_none() && !self.writable.contains(&id) {
            return Some(true);
        }
        let front = peer.open.front().map_or(0, |&number| self.pushes.get(number).frame_len);
        let first = peer
            .flight
            .as_ref()
            .and_then(|flight| flight.frames.first().map(|(_, what)| *what))
            .or(peer.begun);
        let is_push = first.map(|what| what == crate::peer::What::Push);
        let least = peer.open_bytes - if is_push == Some(false) { 0 } else { front };
        let answers = (peer.json_pings - peer.json_pongs) as usize * ANSWER_BYTES;
        let most = peer.open_bytes + answers + OTHER_BYTES - if is_push == Some(true) { front } else { 0 };
        match (least + len > bound, most + len <= bound) {
            (true, _) => Some(false),
            (_, true) => Some(true),
            _ => None,
        }
    }

    fn change_rooms(&mut self) {
        let (room, add) = (self.rng.usize(..ROOMS), self.rng.bool());
        let mut sessions: Vec<SessionId> = Vec::new();
        for _ in 0..self.rng.usize(..6) {
            sessions.extend(self.pick(|_| true));
            sessions.extend(self.stale.last());
        }
        let limit = self.limits.rooms_per_session;
        let mut expected = Vec::new();
        for &id in &sessions {
            let Some(place) = self.find(id) else { continue };
            let peer = &mut self.peers[place];
            if peer.stage != Stage::Live || peer.kind != Kind::Join {
                continue;
            }
            if !add {
                peer.rooms.remove(&room);
            } else if !peer.rooms.contains(&room) && peer.rooms.len() >= limit {
                self.hits.hit(Fault::RoomLimit);
                continue;
            } else {
                peer.rooms.insert(room);
            }
            self.hits.hit(Fault::RoomsChanged);
            expected.push(id);
        }
        self.command += 1;
        let input =
            Input::ChangeRooms { command: self.command, sessions: &sessions, room: &room_id(room), add };
        self.handle(Context::Other, input);
        assert_eq!(self.rooms_changed.take(), Some((self.command, expected)));
    }

    pub(crate) fn take_snapshot(&mut self) {
        self.handle(Context::Snapshot, Input::Snapshot);
        self.hits.hit(Fault::Snapshot);
        let snapshot = std::mem::take(&mut self.snapshot);
        let live: Vec<&Peer> =
            self.peers.iter().filter(|peer| peer.stage == Stage::Live && peer.kind == Kind::Join).collect();
        assert_eq!(snapshot.len(), live.len());
        for session in &snapshot {
            let peer = live.iter().find(|peer| peer.id == session.session).expect("a live session");
            assert_eq!(session.user, user_id(peer.user));
            let mut rooms: Vec<&str> = session.rooms.iter().map(RoomId::as_str).collect();
            rooms.sort_unstable();
            let expected: Vec<String> = peer.rooms.iter().map(|room| format!("room{room}")).collect();
            assert_eq!(rooms, expected);
            assert_eq!((session.user_name.as_str(), session.metadata.len()), ("name", 1));
        }
        let asked = std::mem::take(&mut self.asked_again);
        let open = self.peers.iter().filter(|peer| peer.stage == Stage::Asked);
        assert!(open.clone().all(|peer| asked.iter().any(|session| session.session == peer.id)));
        assert_eq!(asked.len(), open.count());
        self.check_census();
    }

    fn break_socket(&mut self) {
        let Some(id) = self.pick(|peer| !peer.ended) else { return };
        self.hits.hit(Fault::Broken);
        self.end_by_peer(id, Input::Broken { session: id });
        assert!(self.peer(id).ended, "a broken socket is ended");
    }

    pub(crate) fn end_by_peer(&mut self, id: SessionId, input: Input<'_>) {
        let peer = self.peer(id);
        peer.must_leave = peer.stage == Stage::Live && peer.kind != Kind::Echo;
        peer.close_script();
        self.handle(Context::Peer(id), input);
    }

    fn half_close(&mut self) {
        // A finished session waits for just this.
        let finished = self.rng.bool();
        let Some(id) = self.pick(|peer| !peer.peer_ended && !peer.ended && peer.finished == finished) else {
            return;
        };
        let peer = self.peer(id);
        peer.peer_ended = true;
        let ends_now = match peer.stage {
            Stage::Head => peer.kind != Kind::Garbage || peer.sent == 0,
            Stage::Asked => peer.kind == Kind::Join,
            _ => finished,
        };
        let request = matches!(peer.stage, Stage::Asking) || peer.stage == Stage::Asked && !ends_now;
        self.hits.hit(if request { Fault::HalfCloseOfRequest } else { Fault::HalfClose });
        self.end_by_peer(id, Input::ReceiveEnded { session: id });
        assert!(!ends_now || self.peer(id).ended, "nothing is left to be said");
    }

    /// The driver is done with a socket.
    fn go(&mut self) {
        if let Some(id) = self.pick(|peer| peer.ended) {
            self.go_with(id);
        }
    }

    pub(crate) fn go_with(&mut self, id: SessionId) {
        let place = self.find(id).expect("picked");
        if self.peers[place].flight.take().is_some() {
            self.hits.hit(Fault::GoneInFlight);
        }
        self.peers[place].begun = None;
        self.drop_waiting(id, DropReason::Closed);
        let peer = self.peers.swap_remove(place);
        assert!(peer.open.is_empty() && peer.open_bytes == 0);
        if peer.finished && !peer.peer_ended {
            self.hits.hit(Fault::FinishIgnored);
        }
        self.stale.push(id);
        self.handle(Context::Other, Input::Gone { session: id });
    }

    /// Words about a session that is gone change nothing.
    fn stale(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let id = self.stale[self.rng.usize(..self.stale.len())];
        let before = self.shard.counters().clone();
        let input = match self.rng.u8(..7) {
            0 => Input::Received { session: id, bytes: b"\x81\x80abcd" },
            1 => Input::ReceiveEnded { session: id },
            2 => Input::Broken { session: id },
            3 => Input::Wrote { session: id, bytes: 10, failed: false },
            4 => Input::Gone { session: id },
            5 => Input::JoinAnswered { session: id, decision: JoinDecision::Accepted },
            _ => {
                let answer = HttpAnswer { status: 200, content_type: "text/plain", body: Bytes::new() };
                Input::HttpAnswered { session: id, answer }
            }
        };
        self.handle(Context::Other, input);
        let mut after = self.shard.counters().clone();
        assert_eq!(after.stale, before.stale + 1);
        after.stale = before.stale;
        assert_eq!(after, before, "a stale word is counted and nothing else");
        self.hits.hit(Fault::StaleInput);
    }

    fn flood_before_join(&mut self) {
        let wanted = |peer: &Peer| peer.stage == Stage::Asked && peer.kind == Kind::Join && !peer.peer_ended;
        let Some(id) = self.pick(wanted) else { return };
        self.hits.hit(Fault::FloodBeforeJoin);
        self.peer(id).expected_status = Some(400);
        self.handle(Context::Peer(id), Input::Received { session: id, bytes: &[0x82; 64 * 1024 + 1] });
        assert_eq!(self.peer(id).stage, Stage::Over, "early bytes are bounded");
    }
}

impl Peer {
    /// An item has reached the live session.
    fn take(&mut self, effect: Effect, now_ms: u64) -> Option<Fault> {
        let leaves = matches!(effect, Effect::Close | Effect::Bad);
        if leaves {
            self.must_leave = self.kind != Kind::Echo;
            if self.kind == Kind::Echo {
                self.start(Stage::Over, now_ms);
            }
        }
        if self.must_leave && !leaves {
            return None;
        }
        match effect {
            Effect::Nothing | Effect::Request => None,
            Effect::JsonPing => {
                self.json_pings += 1;
                None
            }
            Effect::Ping(payload) => {
                self.expect_pong(payload);
                Some(Fault::PeerPing)
            }
            Effect::Message(opcode, payload) => (self.kind == Kind::Echo).then(|| {
                self.expect_echo(opcode, payload);
                Fault::EchoedMessage
            }),
            Effect::Close => Some(Fault::PeerClosed),
            Effect::Bad => Some(Fault::BadFrame),
        }
    }
}

/// The payload of a push: it tells its number where it has room to, and begins with a capital letter.
fn payload_of(number: usize, size: usize) -> Vec<u8> {
    let mut payload = format!("{}{number:08x}", char::from(b'A' + (number % 26) as u8)).into_bytes();
    payload.extend((payload.len()..size).map(|place| b'a' + ((place + number) % 26) as u8));
    payload.truncate(size);
    payload
}

fn room_id(room: usize) -> RoomId {
    RoomId::new(&format!("room{room}")).expect("a valid id")
}

fn user_id(user: usize) -> UserId {
    UserId::new(&format!("user{user}")).expect("a valid id")
}
