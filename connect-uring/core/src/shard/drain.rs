//! The planned stop: no new clients, every WebSocket closed with 1012, spread over the time that is left.
//!
//! Owns: the pace. Must not: end a session without a close frame. Talks to: `departure`.
//!
//! Clients that are told to go all at once come back all at once, to the nodes that are left.

use crate::close::CloseReason;
use crate::event::Outputs;
use crate::limits::DRAIN_STEP_MS;
use crate::session::Phase;
use crate::shard::Shard;

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    /// When the last session is to be closed, in monotonic milliseconds.
    until_ms: u64,
    /// When some more are to be closed; `None`: none is left.
    next_ms: Option<u64>,
    /// All slots before this one have been seen to.
    next_slot: u32,
}

impl Drain {
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }
}

impl Shard {
    /// Begins a drain, or moves the end of one that has begun.
    pub(super) fn begin_drain(&mut self, until_ms: u64, out: &mut Outputs) {
        let begun = self.drain.is_some();
        let now_ms = self.now.monotonic_ms;
        let drain = self.drain.get_or_insert(Drain { until_ms, next_ms: Some(now_ms), next_slot: 0 });
        drain.until_ms = until_ms;
        drain.next_ms = drain.next_ms.map(|next| next.min(until_ms.max(now_ms)));
        if !begun {
            for slot in 0..self.table.slots() {
                if matches!(self.table[slot].phase, Phase::Asked(_)) {
                    self.turn_away(slot, out);
                }
            }
        }
        self.step_drain(out);
    }

    /// Closes as many as are due by now.
    pub(super) fn step_drain(&mut self, out: &mut Outputs) {
        let now_ms = self.now.monotonic_ms;
        let Some(drain) =
            self.drain.as_ref().filter(|drain| drain.next_ms.is_some_and(|next| next <= now_ms))
        else {
            return;
        };
        let slots = self.table.slots();
        let next_slot = drain.next_slot;
        let left_ms = drain.until_ms.saturating_sub(now_ms);
        let is_open =
            |shard: &Self, slot: u32| matches!(shard.table[slot].phase, Phase::Live(_) | Phase::Echo(_));
        // Whoever is open stands behind those that were seen to: nobody new has come since.
        let open = self.counters.joined + self.counters.echoing;
        let mut quota = match left_ms {
            0 => open,
            _ => (open * DRAIN_STEP_MS / left_ms).clamp(1, open.max(1)),
        };
        let mut slot = next_slot;
        while quota > 0 && slot < slots {
            if is_open(self, slot) {
                self.close(slot, CloseReason::Restart, out);
                quota -= 1;
            }
            slot += 1;
        }
        if let Some(drain) = &mut self.drain {
            drain.next_slot = slot;
            let left = open.saturating_sub(1);
            // Few sessions over a long time: less than one a step.
            let pause_ms = left_ms.checked_div(left).map_or(left_ms, |pause_ms| pause_ms.max(DRAIN_STEP_MS));
            let done = left_ms == 0 || open == 0;
            drain.next_ms = (!done).then(|| (now_ms + pause_ms).min(drain.until_ms));
        }
    }
}
