//! What must hold between two calls.
//!
//! Owns: the shard's invariants. Must not: change anything. Talks to: every part of the shard.

use crate::deadlines::NO_TICK;
use crate::room::Membership;
use crate::session::Phase;
use crate::shard::Shard;

/// Up to this many sessions everything is checked after every call; past it only the session that was touched.
const CHECK_ALL_BELOW: usize = 256;

impl Shard {
    pub(super) fn check_after(&self, touched: Option<u32>) {
        if self.table.used() < CHECK_ALL_BELOW {
            self.check_all();
        } else if let Some(slot) = touched {
            self.check_session(slot);
        }
    }

    pub(super) fn check_all(&self) {
        for &slot in self.table.free_slots() {
            assert!(matches!(self.table[slot].phase, Phase::Vacant), "slot {slot} is in use and free");
        }
        let vacant = self.table.iter().filter(|session| matches!(session.phase, Phase::Vacant)).count();
        assert_eq!(vacant, self.table.free_slots().len(), "each vacant slot is free once");
        let joined = self.table.iter().filter(|session| session.is_joined()).count();
        assert_eq!(joined as u64, self.counters.joined);
        let echoing = self.table.iter().filter(|session| matches!(session.phase, Phase::Echo(_))).count();
        assert_eq!(echoing as u64, self.counters.echoing);
        let gauges = [self.table.used(), self.users.len(), self.rooms.len(), self.ledger.len()];
        let counters = &self.counters;
        let told = [counters.connections, counters.users, counters.rooms, counters.open_deliveries];
        assert_eq!(gauges.map(|gauge| gauge as u64), told, "the gauges are true");
        for slot in 0..self.table.slots() {
            self.check_session(slot);
        }
        self.users.check_invariants(|slot, listed| self.table[slot].user == listed);
        self.rooms.check_invariants(|slot, listed| self.table[slot].rooms.as_slice().contains(&listed));
        assert!(self.spare_reader.is_idle(), "the reader that is lent holds nothing of anyone");
    }

    fn check_session(&self, slot: u32) {
        let session = &self.table[slot];
        session.outbox.check_invariants();
        assert_eq!(session.is_joined(), session.user != Membership::NONE, "who has joined has a user");
        assert!(
            session.is_joined() || session.rooms.as_slice().is_empty(),
            "who has not joined is in no room"
        );
        if session.is_joined() {
            assert_eq!(self.users.members(session.user.group).get(session.user.place as usize), Some(&slot));
            for room in session.rooms.as_slice() {
                assert_eq!(self.rooms.members(room.group).get(room.place as usize), Some(&slot));
            }
            assert!(session.rooms.as_slice().len() <= self.limits.rooms_per_session);
        }
        let bound = self.limits.queue_bytes().max(self.limits.echo_queue_bytes()) as usize;
        // Control frames go beside the bound: one ping, one pong, one close.
        assert!(session.outbox.bounded_bytes() <= bound + 512, "an outbox is past its bound");
        if !matches!(session.phase, Phase::Vacant | Phase::Ended) {
            assert_ne!(session.tick, NO_TICK, "slot {slot} in {:?} is never looked at again", session.phase);
        }
        if matches!(session.phase, Phase::Vacant) {
            assert!(session.outbox.is_empty(), "a free slot holds frames");
        } else if session.outbox.wants_write() && !matches!(session.phase, Phase::Ended) {
            assert!(session.announced, "slot {slot} has bytes to write and nobody was told");
        }
    }
}
