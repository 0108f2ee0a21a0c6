//! The world around one shard: its clients, its kernel, its controller, and the shadow model of them all.

use std::collections::{BTreeMap, BTreeSet};

use connect_core::{
    AcceptRefused, CensusChange, ControlEvent, DropReason, Limits, MessageLimits, Now, Outputs, SessionInfo,
    Shard, Write,
};
use fastrand::Rng;
use ringcast_proto::{SessionId, ShardId};

use crate::decoder::Seen;
use crate::faults::{Fault, Hits};
use crate::model::Pushes;
use crate::peer::{Flight, Kind, MAX_MESSAGE, Peer, Reads, Stage, What};

pub(crate) const USERS: usize = 12;
pub(crate) const ROOMS: usize = 5;
/// How late the coarse wheel may be, in milliseconds.
const SLACK_MS: u64 = 128;
/// How much longer a session gets where the shard is behind.
const DEFERRED_MS: u64 = 1_000;

/// What the shard is being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    Peer(SessionId),
    Deliver,
    Deadline,
    Drain,
    Fence,
    Snapshot,
    Other,
}

pub(crate) struct World {
    pub(crate) shard: Shard,
    pub(crate) rng: Rng,
    pub(crate) limits: Limits,
    pub(crate) now_ms: u64,
    pub(crate) out: Outputs,
    pub(crate) peers: Vec<Peer>,
    pub(crate) pushes: Pushes,
    pub(crate) hits: Hits,
    /// Sessions that the driver was told to write to.
    pub(crate) writable: Vec<SessionId>,
    pub(crate) stale: Vec<SessionId>,
    pub(crate) drain_until_ms: Option<u64>,
    pub(crate) fenced: bool,
    /// Until then sessions may last longer than they should: the shard was behind.
    deferred_until_ms: u64,
    /// Where the answer to a change of rooms, a snapshot and its open joins are gathered.
    pub(crate) rooms_changed: Option<(u64, Vec<SessionId>)>,
    pub(crate) snapshot: Vec<SessionInfo>,
    pub(crate) asked_again: Vec<SessionInfo>,
    /// Sessions that ended as live ones in this call.
    pub(crate) left: Vec<SessionId>,
    census: BTreeSet<String>,
    generations: BTreeMap<u32, u32>,
    pub(crate) command: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let limits = Limits {
            max_sessions: rng.u32(8..48),
            message: MessageLimits { max_bytes: MAX_MESSAGE, max_fragments: 16 },
            outbox_bytes: 64 * 1024 + [3_000, 20_000, 300_000][rng.usize(..3)],
            rooms_per_session: rng.usize(1..=ROOMS),
            echo: Some(MessageLimits { max_bytes: MAX_MESSAGE, max_fragments: 16 }),
            ..Limits::default()
        };
        Self {
            shard: Shard::new(ShardId(rng.u16(..)), limits.clone(), seed),
            limits,
            now_ms: rng.u64(..1 << 40),
            out: Outputs::default(),
            peers: Vec::new(),
            pushes: Pushes::default(),
            hits: Hits::new(),
            writable: Vec::new(),
            stale: Vec::new(),
            drain_until_ms: None,
            fenced: false,
            deferred_until_ms: 0,
            rooms_changed: None,
            snapshot: Vec::new(),
            asked_again: Vec::new(),
            left: Vec::new(),
            census: BTreeSet::new(),
            generations: BTreeMap::new(),
            command: 0,
            rng,
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms as i64 }
    }

    pub(crate) fn find(&self, id: SessionId) -> Option<usize> {
        self.peers.iter().position(|peer| peer.id == id)
    }

    pub(crate) fn peer(&mut self, id: SessionId) -> &mut Peer {
        let place = self.find(id).expect("the shard names only sessions that are there");
        &mut self.peers[place]
    }

    /// A random peer of those that `wanted` picks.
    pub(crate) fn pick(&mut self, wanted: impl Fn(&Peer) -> bool) -> Option<SessionId> {
        let count = self.peers.iter().filter(|peer| wanted(peer)).count();
        let chosen = (count > 0).then(|| self.rng.usize(..count))?;
        self.peers.iter().filter(|peer| wanted(peer)).nth(chosen).map(|peer| peer.id)
    }

    pub(crate) fn accept(&mut self, kind: Kind) {
        let now = self.now();
        let accepted = self.shard.accept(now, &mut self.out);
        let full = self.peers.len() == self.limits.max_sessions as usize;
        let id = match accepted {
            Err(refused) => {
                let draining = self.drain_until_ms.is_some();
                assert_eq!(refused, if draining { AcceptRefused::Draining } else { AcceptRefused::Full });
                assert!(full || draining, "a socket was refused without need");
                self.hits.hit(if draining { Fault::RefusedByDrain } else { Fault::TableFull });
                return;
            }
            Ok(id) => id,
        };
        assert!(!full && self.drain_until_ms.is_none(), "a socket was taken past the bound");
        assert!(self.peers.iter().all(|peer| peer.id.slot() != id.slot()), "a slot in use was given away");
        let expected = self.generations.entry(id.slot()).or_insert(0);
        assert_eq!(id.generation(), *expected, "a slot has another generation each time");
        *expected += 1;
        let reads = [Reads::Well, Reads::Well, Reads::Well, Reads::Partly, Reads::Never][self.rng.usize(..5)];
        let (user, room) = (self.rng.usize(..USERS), self.rng.usize(..ROOMS));
        self.peers.push(Peer::new(id, kind, reads, user, room, self.now_ms, &mut self.rng));
        self.apply(Context::Other);
    }

    pub(crate) fn handle(&mut self, context: Context, input: connect_core::Input<'_>) {
        let now = self.now();
        self.shard.handle(now, input, &mut self.out);
        self.apply(context);
    }

    pub(crate) fn handle_deadline(&mut self) {
        let (now, on_time) = (self.now(), self.rng.u8(..20) > 0);
        let deferred = self.shard.counters().deferred;
        self.shard.handle_deadline(now, on_time, &mut self.out);
        if self.shard.counters().deferred > deferred {
            assert!(!on_time, "a shard that is on time waits no longer");
            self.hits.hit(Fault::ShardBehind);
            self.deferred_until_ms = self.now_ms + DEFERRED_MS + SLACK_MS;
        }
        self.apply(Context::Deadline);
        self.pushes.check_due(self.now_ms);
        let next = self.shard.next_deadline();
        assert!(next.is_none_or(|next| next > self.now_ms), "what is due was done");
        let drained = self.drain_until_ms.is_some_and(|until_ms| until_ms <= self.now_ms);
        for peer in &self.peers {
            assert!(
                !drained || peer.stage != Stage::Live || peer.kind == Kind::Echo,
                "a drain leaves nobody"
            );
            let age = self.now_ms.saturating_sub(peer.since_ms);
            if self.now_ms <= self.deferred_until_ms {
                continue;
            }
            let limit = match peer.stage {
                Stage::Head => self.limits.handshake_ms,
                Stage::Asked | Stage::Asking => self.limits.join_ms,
                Stage::Over if peer.finished => self.limits.finish_ms,
                Stage::Over => self.limits.answer_ms.max(self.limits.close_ms),
                Stage::Live => u64::MAX / 2,
            };
            assert!(
                peer.ended || age <= limit + SLACK_MS,
                "{:?} of {:?} lasts {age} ms",
                peer.stage,
                peer.kind
            );
        }
    }

    /// Takes the outputs of one call and checks each against the model.
    pub(crate) fn apply(&mut self, context: Context) {
        let out = std::mem::take(&mut self.out);
        self.left.clear();
        let now_ms = self.now_ms;
        // What is reported at its deadline is reported before anything else is done about deadlines.
        let (due, known): (Vec<_>, Vec<_>) = out
            .reports
            .iter()
            .partition(|report| context == Context::Deadline && self.pushes.is_due(report, now_ms));
        due.into_iter().for_each(|report| self.pushes.check_report(report, now_ms, &mut self.hits));
        for event in out.control {
            self.apply_control(event, context);
        }
        for id in out.end {
            self.apply_end(id);
        }
        for id in out.finish {
            let peer = self.peer(id);
            assert!(!peer.finished && !peer.ended && peer.flight.is_none());
            assert!(peer.stage == Stage::Over || peer.kind == Kind::Echo, "a live session is finished");
            assert!(!peer.stream.is_torn(), "a session is finished in the middle of a frame");
            peer.finished = true;
            peer.since_ms = now_ms;
        }
        for (id, _) in out.http {
            let peer = self.peer(id);
            assert!(peer.kind == Kind::Plain && std::mem::replace(&mut peer.must_ask, false));
            peer.start(Stage::Asking, now_ms);
        }
        known.into_iter().for_each(|report| self.pushes.check_report(report, now_ms, &mut self.hits));
        for id in out.writable {
            assert!(!self.writable.contains(&id), "a session is announced once");
            let peer = self.peer(id);
            assert!(peer.flight.is_none(), "no second write is asked for");
            match (peer.stage, peer.kind) {
                (Stage::Live | Stage::Over, _) => {}
                (Stage::Head, Kind::Garbage) => peer.start(Stage::Over, now_ms),
                (Stage::Asked | Stage::Asking, _) => {
                    assert!(
                        matches!(context, Context::Deadline | Context::Drain | Context::Fence),
                        "nobody answered that"
                    );
                    peer.start(Stage::Over, now_ms);
                    self.hits.hit(Fault::JoinNeverAnswered);
                }
                (stage, kind) => panic!("{kind:?} was answered in {stage:?}"),
            }
            self.writable.push(id);
        }
        for change in out.census {
            let (name, came) = match change {
                CensusChange::RoomCame(id) => (format!("room {id}"), true),
                CensusChange::RoomWent(id) => (format!("room {id}"), false),
                CensusChange::UserCame(id) => (format!("user {id}"), true),
                CensusChange::UserWent(id) => (format!("user {id}"), false),
            };
            assert!(if came { self.census.insert(name) } else { self.census.remove(&name) });
        }
        self.pushes.check_known();
        for peer in &self.peers {
            assert!(!peer.must_ask, "{:?} was not asked for", peer.kind);
            assert!(!peer.must_leave || peer.stage != Stage::Live, "{:?} had to leave", peer.id);
        }
    }

    fn apply_control(&mut self, event: ControlEvent, context: Context) {
        let now_ms = self.now_ms;
        match event {
            ControlEvent::Join { session, .. } if context == Context::Snapshot => {
                self.asked_again.push(session)
            }
            ControlEvent::Join { session, probe, .. } => {
                let peer = self.peer(session.session);
                assert!(std::mem::replace(&mut peer.must_ask, false), "a join is asked for once");
                assert_eq!(probe, peer.kind == Kind::Probe);
                assert_eq!(session.user.as_str(), format!("user{}", peer.user));
                assert_eq!(session.metadata, [("device".to_owned(), format!("d{}", peer.user))]);
                peer.start(Stage::Asked, now_ms);
            }
            ControlEvent::End { session } => self.apply_leave(session, context),
            ControlEvent::RoomsChanged { command, sessions } => {
                assert!(self.rooms_changed.replace((command, sessions)).is_none());
            }
            ControlEvent::Snapshot { sessions, .. } => self.snapshot.extend(sessions),
        }
    }

    /// A session has left the node's presence.
    fn apply_leave(&mut self, id: SessionId, context: Context) {
        let (now_ms, draining) = (self.now_ms, self.drain_until_ms.is_some());
        let silent_ms = self.limits.ping_interval_ms - self.limits.ping_jitter_ms + self.limits.pong_ms;
        let peer = self.peer(id);
        assert_ne!(peer.kind, Kind::Probe, "a probe has no end");
        let stage = std::mem::replace(&mut peer.stage, Stage::Over);
        peer.since_ms = now_ms;
        if stage == Stage::Asked {
            self.hits.hit(if context == Context::Deadline {
                Fault::JoinNeverAnswered
            } else {
                Fault::JoinWithdrawn
            });
            return;
        }
        assert_eq!(stage, Stage::Live, "a join ends once");
        let must_leave = std::mem::replace(&mut peer.must_leave, false);
        let (reason, fault) = match context {
            Context::Deliver => (DropReason::Slow, Some(Fault::SlowByPush)),
            Context::Peer(of) => {
                assert_eq!(of, id, "one client's doing ends no other");
                match must_leave || peer.has_begun_bad() {
                    true => (DropReason::Closed, None),
                    false => {
                        assert!(peer.json_pings > peer.json_pongs, "a session ended without a reason");
                        (DropReason::Slow, Some(Fault::SlowByReply))
                    }
                }
            }
            Context::Deadline | Context::Drain => {
                let silent = now_ms - peer.heard_ms >= silent_ms;
                assert!(silent || draining, "a session ended without a reason");
                (DropReason::Closed, (!draining).then_some(Fault::PongTimeout))
            }
            Context::Fence => (DropReason::Closed, Some(Fault::Fenced)),
            Context::Snapshot | Context::Other => panic!("a session ended without a reason"),
        };
        self.left.push(id);
        if self.peer(id).reads == Reads::Never && reason == DropReason::Slow {
            self.hits.hit(Fault::PeerNeverReads);
        }
        if let Some(fault) = fault {
            self.hits.hit(fault);
        }
        self.drop_waiting(id, reason);
    }

    /// What is neither in flight nor begun will not be written.
    pub(crate) fn drop_waiting(&mut self, id: SessionId, reason: DropReason) {
        let place = self.find(id).expect("a session that is there");
        let peer = &mut self.peers[place];
        let kept = match &peer.flight {
            Some(flight) => flight.frames.iter().filter(|(_, what)| *what == What::Push).count(),
            None => usize::from(peer.begun == Some(What::Push)),
        };
        for number in peer.open.drain(kept..) {
            peer.open_bytes -= self.pushes.get(number).frame_len;
            self.pushes.dropped(number, reason, &mut self.hits);
        }
    }

    fn apply_end(&mut self, id: SessionId) {
        let now_ms = self.now_ms;
        let peer = self.peer(id);
        assert!(!std::mem::replace(&mut peer.ended, true), "a session is ended once");
        assert!(peer.stage != Stage::Live || peer.kind == Kind::Echo, "a session left before it ended");
        if peer.kind == Kind::Stalled && peer.stage == Stage::Head && !peer.peer_ended {
            self.hits.hit(Fault::HeadTimedOut);
        }
        let peer = self.peer(id);
        peer.stage = Stage::Over;
        peer.since_ms = now_ms;
        if peer.flight.is_none() {
            peer.begun = None;
        }
        self.drop_waiting(id, DropReason::Closed);
    }

    /// The driver fetches a write for each session that has bytes.
    pub(crate) fn flush(&mut self) {
        for id in std::mem::take(&mut self.writable) {
            let mut write = Write::default();
            self.shard.fill(id, &mut write);
            if write.is_empty() {
                assert!(
                    self.find(id).is_none_or(|place| self.peers[place].ended),
                    "a session had nothing to write"
                );
                continue;
            }
            let bytes: Vec<u8> = write.slices().flatten().copied().collect();
            let place = self.find(id).expect("only sessions that are there write");
            let peer = &mut self.peers[place];
            assert!(!peer.ended && peer.flight.is_none(), "one write at a time");
            // What it holds, as a client would see it if all of it left.
            let mut next = 0;
            let seen = peer.stream.clone().feed(&bytes);
            let frames: Vec<(usize, What)> = seen
                .into_iter()
                .map(|(end, seen)| match is_push(peer, &seen) {
                    true => {
                        next += 1;
                        (end, What::Push)
                    }
                    false => (end, What::Other),
                })
                .collect();
            assert!(next <= peer.open.len(), "a push is written to who is no member");
            let whole = frames.last().is_some_and(|(end, _)| *end == bytes.len());
            assert!(whole || peer.expected_status != Some(101), "a write ends with a whole frame");
            if frames.len() > 1 {
                self.hits.hit(Fault::Coalesced);
            }
            peer.flight = Some(Flight { bytes, frames });
        }
    }

    /// The kernel took this many bytes of the write: the client sees them.
    pub(crate) fn deliver_bytes(&mut self, id: SessionId, accepted: usize) {
        let place = self.find(id).expect("a session that is there");
        let peer = &mut self.peers[place];
        let flight = peer.flight.take().expect("a write in flight");
        for (_, seen) in peer.stream.feed(&flight.bytes[..accepted]) {
            if !is_push(peer, &seen) {
                peer.see(seen, &mut self.rng);
                continue;
            }
            let number = peer.open.pop_front().expect("a push is written to who is a member, once");
            let push = self.pushes.get(number);
            peer.open_bytes -= push.frame_len;
            let Seen::Frame { payload, .. } = seen else { continue };
            assert!(payload == push.payload, "push {number} comes whole and in its order");
            self.pushes.written(number, &mut self.hits);
        }
        let reached = flight.frames.iter().rfind(|(end, _)| *end <= accepted).map_or(0, |(end, _)| *end);
        let torn = flight.frames.iter().find(|(end, _)| *end > accepted).map(|(_, what)| *what);
        let was_begun = peer.begun.is_some() && reached == 0;
        peer.begun = torn.filter(|_| accepted > reached || was_begun);
    }

    /// Everything that was said of rooms and users adds up to what is live.
    pub(crate) fn check_census(&self) {
        let mut expected = BTreeSet::new();
        for peer in self.peers.iter().filter(|peer| peer.stage == Stage::Live && peer.kind == Kind::Join) {
            expected.insert(format!("user user{}", peer.user));
            expected.extend(peer.rooms.iter().map(|room| format!("room room{room}")));
        }
        assert_eq!(self.census, expected);
        let counters = self.shard.counters();
        assert_eq!(counters.users + counters.rooms, expected.len() as u64);
        assert_eq!(counters.connections, self.peers.len() as u64);
    }
}

/// Pushes begin with a capital letter, answers to commands with a brace.
fn is_push(peer: &Peer, seen: &Seen) -> bool {
    match seen {
        Seen::Frame { opcode: crate::decoder::TEXT, payload } => {
            peer.kind != Kind::Echo && payload.first().is_some_and(u8::is_ascii_uppercase)
        }
        _ => false,
    }
}
