//! How much a second traffic may cause: log lines, traces.
//!
//! Owns: the count. Must not: log or trace by itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A budget for each second.
#[derive(Debug)]
pub struct PerSecond {
    start: Instant,
    budget: u64,
    /// The running second in the upper half, what it has spent in the lower.
    spent: AtomicU64,
}

impl PerSecond {
    /// With nothing spent yet.
    pub fn new(budget: u32) -> Self {
        Self { start: Instant::now(), budget: u64::from(budget), spent: AtomicU64::new(0) }
    }

    /// Whether one more fits into this second; it is taken to be spent.
    pub fn spend(&self) -> bool {
        self.spend_in(self.start.elapsed().as_secs())
    }

    /// Two threads at a second's turn may both begin it anew: a few more than are meant, which is cheaper than a
    /// compare-and-swap for each.
    fn spend_in(&self, second: u64) -> bool {
        let spent = self.spent.load(Relaxed);
        if spent >> 32 != second {
            self.spent.store(second << 32 | 1, Relaxed);
            return true;
        }
        if spent & u64::from(u32::MAX) >= self.budget {
            return false;
        }
        self.spent.fetch_add(1, Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_affords_so_many() {
        let budget = PerSecond::new(100);
        // Second 0 is the state that a new budget starts in.
        for second in [0, 1, 7] {
            assert_eq!((0..1000).filter(|_| budget.spend_in(second)).count(), 100);
        }
    }
}
