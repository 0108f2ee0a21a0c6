//! One log line a delivery, by the message's id: at `info` while they are few, at `debug` when they are many.
//!
//! Owns: how many lines a second are affordable. Must not: log a payload, a room, a user or metadata.

use std::time::Instant;

use connect_core::DropReason;
use telemetry::PerSecond;

use crate::open_deliveries::Done;

/// How many deliveries a second are logged at `info`.
const INFO_LINES_PER_SECOND: u32 = 100;

/// Logs deliveries.
#[derive(Debug)]
pub(crate) struct DeliveryLog(PerSecond);

impl DeliveryLog {
    /// With nothing logged yet.
    pub(crate) fn new() -> Self {
        Self(PerSecond::new(INFO_LINES_PER_SECOND))
    }

    /// Whether a line would be written at all: what it would say need not be kept otherwise.
    pub(crate) fn is_on(&self) -> bool {
        tracing::enabled!(tracing::Level::INFO)
    }

    /// Logs what became of a delivery.
    pub(crate) fn done(&self, done: &Done, now: Instant) {
        let counts = &done.counts;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    message_id = done.told.message_id.escape_debug().to_string(),
                    members = counts.members,
                    written = counts.written,
                    queued = counts.queued,
                    dropped_slow = counts.dropped[DropReason::Slow as usize],
                    dropped_closed = counts.dropped[DropReason::Closed as usize],
                    dropped_shed = counts.dropped[DropReason::Shed as usize],
                    elapsed_us = (now - done.received).as_micros() as u64,
                    "written to clients"
                )
            };
        }
        if !self.is_on() {
            return;
        }
        if self.0.spend() {
            line!(info);
        } else {
            line!(debug);
        }
    }
}
