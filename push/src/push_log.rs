//! One log line a push: at `info` while pushes are few, at `debug` when they are many.
//!
//! Owns: how many lines a second are affordable. Must not: log a payload, a room, a user or metadata.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::answer::Finished;

/// How many pushes a second are logged at `info`.
const INFO_LINES_PER_SECOND: u64 = 100;

/// Logs pushes.
#[derive(Debug)]
pub(crate) struct PushLog {
    start: Instant,
    /// The running second in the upper half, its lines in the lower.
    lines: AtomicU64,
}

impl PushLog {
    /// With nothing logged yet.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), lines: AtomicU64::new(0) }
    }

    /// Logs what became of a push.
    pub(crate) fn finished(&self, push: &Finished) {
        if !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let total = &push.total;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    message_id = push.message_id,
                    scope = push.scope.label(),
                    ending = push.ending().label(),
                    members = total.members,
                    written = total.written,
                    queued = total.queued,
                    dropped = total.dropped_slow + total.dropped_closed + total.dropped_shed,
                    unknown = total.unknown,
                    elapsed_us = push.elapsed.as_micros() as u64,
                    "push"
                )
            };
        }
        if self.is_affordable(self.start.elapsed().as_secs()) {
            line!(info);
        } else {
            line!(debug);
        }
    }

    /// Whether another line fits into this second. Two threads at a second's turn may both begin it anew: a few
    /// lines more, which is cheaper than a compare-and-swap for every push.
    fn is_affordable(&self, second: u64) -> bool {
        let lines = self.lines.load(Relaxed);
        if lines >> 32 != second {
            self.lines.store(second << 32 | 1, Relaxed);
            return true;
        }
        if lines & u64::from(u32::MAX) >= INFO_LINES_PER_SECOND {
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
        let log = PushLog::new();
        for second in [0, 1, 7] {
            let lines = (0..1000).filter(|_| log.is_affordable(second)).count() as u64;
            // Second 0 is the state that a new log starts in.
            assert_eq!(lines, INFO_LINES_PER_SECOND);
        }
    }
}
