//! How sessions end: close frames and their echo, half-closes, broken sockets, the last completion.
//!
//! Owns: the order of an ending. Must not: free a slot before the driver says that the socket is gone. Talks to:
//! `presence`, which a session leaves first; the driver through `finish` and `end`.

use crate::close::CloseReason;
use crate::delivery::{Outcome, Parcel};
use crate::event::{DropReason, Outputs};
use crate::frame::close_frame;
use crate::session::Phase;
use crate::shard::Shard;

impl Shard {
    /// Closes a WebSocket for a reason of ours, and waits for the peer's answer.
    pub(super) fn close(&mut self, slot: u32, reason: CloseReason, out: &mut Outputs) {
        self.part(slot, reason, close_frame(reason), out);
    }

    /// The peer broke the protocol: what it sends from here on cannot be read, so no answer is waited for.
    pub(super) fn broke_protocol(&mut self, slot: u32, reason: CloseReason, out: &mut Outputs) {
        if matches!(self.table[slot].phase, Phase::Live(_) | Phase::Echo(_)) {
            self.part(slot, reason, close_frame(reason), out);
        }
        self.expect_nothing(slot, out);
    }

    /// The peer closes, or answers our close.
    pub(super) fn peer_closed(&mut self, slot: u32, reply: Vec<u8>, out: &mut Outputs) {
        if matches!(self.table[slot].phase, Phase::Live(_) | Phase::Echo(_)) {
            self.part(slot, CloseReason::PeerClosed, reply, out);
        }
        self.expect_nothing(slot, out);
    }

    /// The peer will send nothing more.
    pub(super) fn receive_ended(&mut self, slot: u32, out: &mut Outputs) {
        self.table[slot].peer_ended = true;
        match self.table[slot].phase {
            // Who shuts down its side leaves: it could not answer a ping.
            Phase::Live(_) | Phase::Echo(_) => {
                self.part(slot, CloseReason::PeerClosed, close_frame(CloseReason::PeerClosed), out);
                self.expect_nothing(slot, out);
            }
            Phase::Closing(_) => self.expect_nothing(slot, out),
            Phase::Asked(ref asked) if asked.upgrade.is_none() => {}
            Phase::Head(_) | Phase::Asked(_) | Phase::Finishing => self.end(slot, out),
            // A client may shut its side behind a plain request and still read the answer.
            Phase::Asking | Phase::Answering | Phase::Parting | Phase::Ended | Phase::Vacant => {}
        }
    }

    /// The socket is broken.
    pub(super) fn lost(&mut self, slot: u32, out: &mut Outputs) {
        self.end(slot, out);
    }

    /// The write under way is over.
    #[inline]
    pub(super) fn wrote(&mut self, slot: u32, bytes: usize, failed: bool, out: &mut Outputs) {
        let Self { table, pool, ledger, counters, .. } = self;
        let outbox = &mut table[slot].outbox;
        if !outbox.is_writing() {
            debug_assert!(false, "a completion came without a write");
            counters.stale += 1;
            return;
        }
        counters.bytes_written += bytes as u64;
        outbox.wrote(bytes, pool, |parcel| {
            counters.frames_written += 1;
            ledger.credit(parcel, Outcome::Written, counters, &mut out.reports);
        });
        if matches!(self.table[slot].phase, Phase::Ended) {
            // What was begun will not be finished, whether this write failed or not.
            self.drop_all(slot, out);
        } else if failed {
            self.lost(slot, out);
        } else if self.table[slot].outbox.is_empty() {
            self.written_out(slot, out);
        } else {
            self.announce(slot, out);
        }
    }

    /// The driver is done with the socket: the slot is free.
    pub(super) fn gone(&mut self, slot: u32, out: &mut Outputs) {
        if !matches!(self.table[slot].phase, Phase::Ended) {
            self.end(slot, out);
        }
        self.drop_all(slot, out);
        self.table.close(slot);
    }

    /// Ends the socket now. What is in flight is known when its completion is in; the rest is not sent.
    pub(super) fn end(&mut self, slot: u32, out: &mut Outputs) {
        let session = &mut self.table[slot];
        match session.phase {
            Phase::Ended | Phase::Vacant => return,
            Phase::Live(_) | Phase::Echo(_) => {
                self.counters.closes[CloseReason::ConnectionLost as usize] += 1;
                self.leave(slot, out);
            }
            Phase::Asked(_) => self.withdraw_join(slot, out),
            _ => {}
        }
        self.table[slot].phase = Phase::Ended;
        self.drop_queued(slot, DropReason::Closed, out);
        out.end.push(self.table.id(slot));
    }

    /// Takes a WebSocket out of the node's presence, drops what waits for it, and sends a close frame.
    fn part(&mut self, slot: u32, reason: CloseReason, frame: Vec<u8>, out: &mut Outputs) {
        debug_assert!(matches!(self.table[slot].phase, Phase::Live(_) | Phase::Echo(_)));
        self.counters.closes[reason as usize] += 1;
        self.leave(slot, out);
        let drop_reason = if reason == CloseReason::Slow { DropReason::Slow } else { DropReason::Closed };
        let session = &mut self.table[slot];
        session.phase = match std::mem::replace(&mut session.phase, Phase::Parting) {
            Phase::Live(unfinished) | Phase::Echo(unfinished) => Phase::Closing(unfinished),
            other => other,
        };
        let Self { table, pool, ledger, counters, .. } = self;
        table[slot].outbox.drop_waiting(pool, |parcel| {
            ledger.credit(parcel, Outcome::Dropped(drop_reason), counters, &mut out.reports);
        });
        self.arm(slot, self.limits.close_ms);
        self.send(slot, Parcel::own(frame), out);
    }

    /// The peer's close has come, or none is to be waited for.
    fn expect_nothing(&mut self, slot: u32, out: &mut Outputs) {
        let session = &mut self.table[slot];
        if matches!(session.phase, Phase::Closing(_)) {
            session.phase = Phase::Parting;
            if session.outbox.is_empty() {
                self.written_out(slot, out);
            }
        }
    }

    /// All that was queued has been written.
    #[inline]
    fn written_out(&mut self, slot: u32, out: &mut Outputs) {
        if matches!(self.table[slot].phase, Phase::Answering | Phase::Parting) {
            self.end_writing(slot, out);
        }
    }

    /// Nothing more will be written.
    fn end_writing(&mut self, slot: u32, out: &mut Outputs) {
        let session = &mut self.table[slot];
        if session.peer_ended {
            self.end(slot, out);
            return;
        }
        // Our side is shut and the peer's end waited for: ended at once, what it still sends would be answered by
        // a reset, which may overtake the last bytes.
        session.phase = Phase::Finishing;
        out.finish.push(self.table.id(slot));
        self.arm(slot, self.limits.finish_ms);
    }

    /// Drops what can still be dropped at a session that has ended.
    fn drop_queued(&mut self, slot: u32, reason: DropReason, out: &mut Outputs) {
        if !self.table[slot].outbox.is_writing() {
            self.drop_all(slot, out);
            return;
        }
        let Self { table, pool, ledger, counters, .. } = self;
        table[slot].outbox.drop_waiting(pool, |parcel| {
            ledger.credit(parcel, Outcome::Dropped(reason), counters, &mut out.reports);
        });
    }

    fn drop_all(&mut self, slot: u32, out: &mut Outputs) {
        let Self { table, pool, ledger, counters, .. } = self;
        table[slot].outbox.drop_all(pool, |parcel| {
            ledger.credit(parcel, Outcome::Dropped(DropReason::Closed), counters, &mut out.reports);
        });
    }
}
