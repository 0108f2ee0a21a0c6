//! One shard: a value that turns what happened into what to do. See [`event`](crate::event) for the vocabulary.
//!
//! Owns: its sessions, rooms, users, open deliveries. Must not: hold a socket, read a clock, wait, or reach another
//! shard. Talks to: the driver, which calls it; `session`, `room`, `outbox`, `delivery`, `deadlines`.
//!
//! The parts of a life stand in files of their own: `admission` (request and join), `conversation` (a live
//! WebSocket), `presence` (rooms, users, snapshots), `fan_out` (pushes), `departure` (close and end), `drain`,
//! `fence`.

mod admission;
#[cfg(any(debug_assertions, feature = "checks"))]
mod checks;
mod conversation;
mod departure;
mod drain;
mod fan_out;
mod fence;
mod presence;

use std::rc::Rc;

use ahash::RandomState;
use ringcast_proto::{RoomId, SessionId, ShardId, UserId};

use crate::counters::Counters;
use crate::deadlines::{Deadlines, Due};
use crate::delivery::{Ledger, Parcel};
use crate::event::{Input, Now, Outputs, Write};
use crate::frame;
use crate::limits::Limits;
use crate::message::MessageReader;
use crate::outbox::Pool;
use crate::room::Index;
use crate::session::Phase;
use crate::session_table::SessionTable;
use drain::Drain;

/// How much longer a session is waited for that is late where the shard is behind itself, in milliseconds.
const DEFERRED_MS: u64 = 1_000;

/// One shard. Everything in it belongs to one thread: it is not `Send`.
///
/// ```compile_fail
/// fn needs_send<T: Send>() {}
/// needs_send::<connect_core::Shard>();
/// ```
pub struct Shard {
    limits: Limits,
    now: Now,
    table: SessionTable,
    rooms: Index<RoomId>,
    users: Index<UserId>,
    deadlines: Deadlines,
    ledger: Ledger,
    pool: Pool,
    counters: Counters,
    /// Whether all that others said was told before the deadlines that are handled now.
    on_time: bool,
    /// State of the generator behind the jitter of pings and of what refused clients wait.
    jitter: u64,
    /// The one ping that all sessions are sent.
    ping: Rc<Parcel>,
    /// An idle reader, lent to each session that has nothing unfinished.
    spare_reader: Box<MessageReader>,
    drain: Option<Drain>,
    fenced: bool,
    /// Kept between wake-ups for their memory: slots that fell due, users not to be sent a push.
    due: Vec<Due>,
    excluded: Vec<u32>,
}

/// Why a socket is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptRefused {
    /// Every slot is in use.
    #[error("the shard holds as many sessions as it may")]
    Full,
    /// The shard takes no new clients.
    #[error("the shard is draining")]
    Draining,
}

impl Shard {
    /// A shard without sessions. The seed keys its hash tables and its jitter; equal seeds and equal calls give
    /// equal outputs.
    ///
    /// # Panics
    ///
    /// Where the limits contradict one another.
    pub fn new(shard: ShardId, limits: Limits, seed: u64) -> Self {
        limits.assert_sound();
        let hasher = RandomState::with_seeds(seed, !seed, seed.rotate_left(32), u64::from(shard.0));
        Self {
            now: Now { monotonic_ms: 0, unix_ms: 0 },
            table: SessionTable::new(shard, limits.max_sessions),
            rooms: Index::new(hasher.clone()),
            users: Index::new(hasher),
            deadlines: Deadlines::new(),
            ledger: Ledger::default(),
            pool: Pool::default(),
            counters: Counters::default(),
            on_time: true,
            jitter: seed,
            ping: Parcel::own(frame::ping_frame()),
            spare_reader: Box::default(),
            drain: None,
            fenced: false,
            due: Vec::new(),
            excluded: Vec::new(),
            limits,
        }
    }

    /// Takes a new socket; nothing is asked of the driver yet. The session's first deadline is its handshake's.
    pub fn accept(&mut self, now: Now, _out: &mut Outputs) -> Result<SessionId, AcceptRefused> {
        self.set_now(now);
        if self.drain.is_some() {
            self.counters.refused_draining += 1;
            return Err(AcceptRefused::Draining);
        }
        let Some(slot) = self.table.open() else {
            self.counters.refused_full += 1;
            return Err(AcceptRefused::Full);
        };
        self.counters.accepted += 1;
        self.table[slot].connected_unix_ms = now.unix_ms;
        self.arm(slot, self.limits.handshake_ms);
        self.settle(Some(slot));
        Ok(self.table.id(slot))
    }

    /// Takes what happened. Outputs are added to `out`.
    // Small enough to be inlined into the driver: everything but the most frequent input is behind one call.
    #[inline]
    pub fn handle(&mut self, now: Now, input: Input<'_>, out: &mut Outputs) {
        self.set_now(now);
        if let Input::Wrote { session, bytes, failed: false } = input {
            // By far the most frequent, one for each member of each push; nobody leaves by it. It owns nothing, and
            // the drop of an input, which asks what it is, costs more than what is done with it here.
            std::mem::forget(input);
            let touched = self.on_session(session, |shard, slot| shard.wrote(slot, bytes, false, out));
            self.counters.open_deliveries = self.ledger.len() as u64;
            self.check_after(touched);
            return;
        }
        let touched = self.handle_other(input, out);
        self.settle(touched);
    }

    #[inline(never)]
    fn handle_other(&mut self, input: Input<'_>, out: &mut Outputs) -> Option<u32> {
        match input {
            Input::Received { session, bytes } => self.on_session(session, |shard, slot| {
                shard.received(slot, bytes, out);
            }),
            Input::ReceiveEnded { session } => self.on_session(session, |shard, slot| {
                shard.receive_ended(slot, out);
            }),
            Input::Broken { session } => self.on_session(session, |shard, slot| shard.lost(slot, out)),
            Input::Wrote { session, bytes, failed } => self.on_session(session, |shard, slot| {
                shard.wrote(slot, bytes, failed, out);
            }),
            Input::Gone { session } => {
                self.on_session(session, |shard, slot| shard.gone(slot, out));
                None
            }
            Input::JoinAnswered { session, decision } => self.on_session(session, |shard, slot| {
                shard.join_answered(slot, decision, out);
            }),
            Input::HttpAnswered { session, answer } => self.on_session(session, |shard, slot| {
                shard.http_answered(slot, &answer, out);
            }),
            Input::Reply { session, frame } => self.on_session(session, |shard, slot| {
                shard.answer_members(slot, frame, out);
            }),
            Input::Deliver(delivery) => {
                self.deliver(delivery, out);
                None
            }
            Input::ChangeRooms { command, sessions, room, add } => {
                self.change_rooms(command, sessions, room, add, out);
                None
            }
            Input::Snapshot => {
                self.snapshot(out);
                None
            }
            Input::Drain { until_ms } => {
                self.begin_drain(until_ms, out);
                None
            }
            Input::Fence { on } => {
                self.fence(on, out);
                None
            }
        }
    }

    /// When [`handle_deadline`](Self::handle_deadline) is to be called, in monotonic milliseconds; being late costs
    /// only lateness. `None`: nothing is waited for.
    pub fn next_deadline(&self) -> Option<u64> {
        let drain = self.drain.as_ref().and_then(Drain::next_ms);
        [self.deadlines.next_ms(), self.ledger.next_ms(), drain].into_iter().flatten().min()
    }

    /// Does what is due: reports, pings, sessions that took too long, the next step of a drain.
    ///
    /// `on_time`: everything that others have said until now was told before this call. Where the shard itself is
    /// behind, what a session is waited for may lie in its socket: it gets a little longer then, and nobody is closed
    /// for a silence that is the shard's own.
    pub fn handle_deadline(&mut self, now: Now, on_time: bool, out: &mut Outputs) {
        self.set_now(now);
        self.on_time = on_time;
        self.ledger.report_due(self.now.monotonic_ms, &mut out.reports);
        let mut due = std::mem::take(&mut self.due);
        self.deadlines.take_due(self.now.monotonic_ms, &mut due);
        for (slot, tick) in due.drain(..) {
            self.fell_due(slot, tick, out);
        }
        self.due = due;
        self.step_drain(out);
        self.settle(None);
    }

    /// Hands out the next write of a session that stood in [`Outputs::writable`]. Afterwards the session is writing
    /// until [`Input::Wrote`]. The write stays empty, and nothing is to be done, where the session has nothing to
    /// write any more.
    #[inline]
    pub fn fill(&mut self, session: SessionId, write: &mut Write) {
        debug_assert!(write.pieces.is_empty() && write.skip == 0, "a write is filled once");
        let Some(slot) = self.table.find(session) else {
            self.counters.stale += 1;
            return;
        };
        let session = &mut self.table[slot];
        session.announced = false;
        if !session.outbox.wants_write() {
            return;
        }
        let filled = session.outbox.fill(write);
        self.counters.writes += 1;
        self.counters.coalesced_frames += filled.frames - 1;
        self.check_after(Some(slot));
    }

    /// What it counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A drain was begun and no session is left.
    pub fn is_drained(&self) -> bool {
        self.drain.is_some() && self.table.used() == 0
    }

    /// Checks every invariant of the shard.
    ///
    /// # Panics
    ///
    /// Where one does not hold: that is a fault of this crate.
    #[cfg(any(debug_assertions, feature = "checks"))]
    pub fn check_invariants(&self) {
        self.check_all();
    }

    /// Our clock never goes back, whatever the driver's does.
    fn set_now(&mut self, now: Now) {
        self.now = Now { monotonic_ms: now.monotonic_ms.max(self.now.monotonic_ms), unix_ms: now.unix_ms };
    }

    /// Runs `act` on the session's slot; one that is gone is counted. Returns the slot, for the check.
    #[inline]
    fn on_session(&mut self, session: SessionId, act: impl FnOnce(&mut Self, u32)) -> Option<u32> {
        let slot = self.table.find(session);
        match slot {
            Some(slot) => act(self, slot),
            None => self.counters.stale += 1,
        }
        slot
    }

    /// The end of every mutator.
    #[inline]
    fn settle(&mut self, touched: Option<u32>) {
        self.counters.connections = self.table.used() as u64;
        self.counters.users = self.users.len() as u64;
        self.counters.rooms = self.rooms.len() as u64;
        self.counters.open_deliveries = self.ledger.len() as u64;
        self.check_after(touched);
    }

    #[cfg(not(any(debug_assertions, feature = "checks")))]
    #[inline]
    fn check_after(&self, _touched: Option<u32>) {}

    /// The session is to be looked at after this many milliseconds.
    fn arm(&mut self, slot: u32, after_ms: u64) {
        let session = &mut self.table[slot];
        session.deadline_ms = self.now.monotonic_ms.saturating_add(after_ms);
        session.tick = self.deadlines.enter(slot, session.deadline_ms, session.tick);
    }

    /// A slot's entry in the wheel has come.
    fn fell_due(&mut self, slot: u32, tick: u32, out: &mut Outputs) {
        let session = &mut self.table[slot];
        if session.tick != tick {
            return;
        }
        session.tick = crate::deadlines::NO_TICK;
        if matches!(session.phase, Phase::Vacant | Phase::Ended) {
            return;
        }
        if session.deadline_ms > self.now.monotonic_ms {
            session.tick = self.deadlines.enter(slot, session.deadline_ms, session.tick);
            return;
        }
        let others = match session.phase {
            Phase::Live(_) | Phase::Echo(_) => session.awaits_pong,
            _ => true,
        };
        if others && !self.on_time {
            self.counters.deferred += 1;
            self.arm(slot, DEFERRED_MS);
            return;
        }
        match session.phase {
            Phase::Head(_) => self.head_timed_out(slot, out),
            Phase::Asked(_) | Phase::Asking => self.answer_timed_out(slot, out),
            Phase::Live(_) | Phase::Echo(_) => self.silent(slot, out),
            Phase::Answering | Phase::Closing(_) | Phase::Parting | Phase::Finishing => self.end(slot, out),
            Phase::Vacant | Phase::Ended => {}
        }
    }

    /// Queues bytes for a session.
    fn send(&mut self, slot: u32, parcel: Rc<Parcel>, out: &mut Outputs) {
        self.table[slot].outbox.push(parcel, &mut self.pool);
        self.announce(slot, out);
    }

    /// Tells the driver, once, that the session has bytes to write.
    #[inline]
    fn announce(&mut self, slot: u32, out: &mut Outputs) {
        let session = &mut self.table[slot];
        if !session.announced && session.outbox.wants_write() {
            session.announced = true;
            out.writable.push(self.table.id(slot));
        }
    }

    /// The next number of the jitter's generator (splitmix64).
    fn next_jitter(&mut self, below: u64) -> u64 {
        self.jitter = self.jitter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.jitter;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below.max(1)
    }
}
