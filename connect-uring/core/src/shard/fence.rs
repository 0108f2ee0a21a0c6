//! The fence: a node that is cut off from all others keeps no clients, who would wait for pushes that cannot come.
//!
//! Owns: what a fence does to a shard's sessions. Must not: decide when there is one. Talks to: `admission`,
//! `departure`.
//!
//! All are closed at once: each moment here is one in which they miss pushes that others get.

use crate::close::CloseReason;
use crate::event::Outputs;
use crate::session::Phase;
use crate::shard::Shard;

impl Shard {
    /// Puts the fence up, or takes it down. Doing it twice changes nothing.
    pub(super) fn fence(&mut self, on: bool, out: &mut Outputs) {
        let was_on = std::mem::replace(&mut self.fenced, on);
        if was_on || !on {
            return;
        }
        for slot in 0..self.table.slots() {
            match self.table[slot].phase {
                Phase::Asked(_) => {
                    self.turn_away(slot, out);
                }
                Phase::Live(_) | Phase::Echo(_) => self.close(slot, CloseReason::Fenced, out),
                _ => {}
            }
        }
    }
}
