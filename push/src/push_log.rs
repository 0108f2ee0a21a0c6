//! One log line a push: at `info` while pushes are few, at `debug` when they are many.
//!
//! Owns: how many lines a second are affordable. Must not: log a payload, a room, a user or metadata.

use telemetry::PerSecond;

use crate::answer::Finished;

/// How many pushes a second are logged at `info`.
const INFO_LINES_PER_SECOND: u32 = 100;

/// Logs pushes.
#[derive(Debug)]
pub(crate) struct PushLog(PerSecond);

impl PushLog {
    /// With nothing logged yet.
    pub(crate) fn new() -> Self {
        Self(PerSecond::new(INFO_LINES_PER_SECOND))
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
                    nodes = push.nodes.len(),
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
        if self.0.spend() {
            line!(info);
        } else {
            line!(debug);
        }
    }
}
