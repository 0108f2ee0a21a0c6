//! Sums of outcomes: by shard into a node's, by node into a push's, by push into a caller's.
//!
//! Owns: how they are added. Must not: say what an outcome means (`pubsub/push_manager.proto` does).

use std::ops::AddAssign;

use crate::pubsub::Outcomes;

impl AddAssign<&Outcomes> for Outcomes {
    /// Adds each outcome; a sum stays at the largest number, for the counts come from others.
    fn add_assign(&mut self, more: &Outcomes) {
        let fields = [
            (&mut self.members, more.members),
            (&mut self.written, more.written),
            (&mut self.queued, more.queued),
            (&mut self.dropped_slow, more.dropped_slow),
            (&mut self.dropped_closed, more.dropped_closed),
            (&mut self.dropped_shed, more.dropped_shed),
            (&mut self.offline, more.offline),
            (&mut self.unknown, more.unknown),
        ];
        for (sum, more) in fields {
            *sum = sum.saturating_add(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_added_and_none_overflows() {
        let part = Outcomes {
            members: u64::MAX,
            written: 1,
            queued: 2,
            dropped_slow: 3,
            dropped_closed: 4,
            dropped_shed: 5,
            offline: 6,
            unknown: 7,
        };
        let mut sum = part;
        sum += &part;
        let twice = Outcomes {
            members: u64::MAX,
            written: 2,
            queued: 4,
            dropped_slow: 6,
            dropped_closed: 8,
            dropped_shed: 10,
            offline: 12,
            unknown: 14,
        };
        assert_eq!(sum, twice);
    }
}
