//! The node's two clocks: one monotonic start for the bridge and all its shards, so that a deadline that one
//! thread sets is understood by another.
//!
//! Owns: the start. Must not: be used by the core, which is told the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use connect_core::Now;

/// Tells the time since one start; copies tell the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at 1 ms, so that 0 is before everything.
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() - std::time::Duration::from_millis(1) }
    }

    /// Monotonic milliseconds.
    pub(crate) fn monotonic_ms(self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Both clocks, as the core wants them.
    pub(crate) fn now(self) -> Now {
        Now { monotonic_ms: self.monotonic_ms(), unix_ms: unix_micros() / 1000 }
    }
}

/// Microseconds since the Unix epoch; 0 where the machine's clock is set before it.
pub(crate) fn unix_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}
