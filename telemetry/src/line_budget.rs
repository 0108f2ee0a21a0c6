//! How many log lines a second traffic may cause.
//!
//! Owns: the count. Must not: log by itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A budget of lines for each second.
#[derive(Debug)]
pub struct LineBudget {
    start: Instant,
    lines_per_second: u64,
    /// The running second in the upper half, its lines in the lower.
    lines: AtomicU64,
}

impl LineBudget {
    /// With nothing spent yet.
    pub fn new(lines_per_second: u32) -> Self {
        Self {
            start: Instant::now(),
            lines_per_second: u64::from(lines_per_second),
            lines: AtomicU64::new(0),
        }
    }

    /// Whether another line fits into this second; it is taken to be written.
    pub fn spend(&self) -> bool {
        self.spend_in(self.start.elapsed().as_secs())
    }

    /// Two threads at a second's turn may both begin it anew: a few lines more, which is cheaper than a compare-and-swap
    /// for every line.
    fn spend_in(&self, second: u64) -> bool {
        let lines = self.lines.load(Relaxed);
        if lines >> 32 != second {
            self.lines.store(second << 32 | 1, Relaxed);
            return true;
        }
        if lines & u64::from(u32::MAX) >= self.lines_per_second {
            return false;
        }
        self.lines.fetch_add(1, Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_affords_so_many_lines() {
        let budget = LineBudget::new(100);
        // Second 0 is the state that a new budget starts in.
        for second in [0, 1, 7] {
            assert_eq!((0..1000).filter(|_| budget.spend_in(second)).count(), 100);
        }
    }
}
