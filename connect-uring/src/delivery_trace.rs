//! The trace of a delivery: the node's step of a push, and one for each shard that writes it to its sockets.
//!
//! Owns: what is told of them. Must not: be known to a shard: what it reports of a delivery is all that is told of it.
//! Talks to: `push_intake`, which begins it, `open_deliveries`, which brings the shards' reports.

use std::time::Instant;

use connect_core::{Counts, DropReason};
use telemetry::{Kind, Span, Traces};

/// A delivery whose push is traced.
#[derive(Debug)]
pub(crate) struct DeliveryTrace {
    span: Span,
    /// When the shards were handed it.
    handed: Instant,
    /// What has been written, with its end.
    writes: Vec<(Span, Instant)>,
}

impl DeliveryTrace {
    /// Begins where the push manager's trace is sampled.
    pub(crate) fn begin(traces: &Traces, traceparent: &str, message_id: &str) -> Option<Box<Self>> {
        let mut span = traces.join("deliver", Kind::Server, traceparent)?;
        span.set("messaging.system", "ringcast");
        span.set("messaging.message.id", message_id.to_owned());
        Some(Box::new(Self { span, handed: Instant::now(), writes: Vec::new() }))
    }

    /// A shard has reported now: the kernel has taken the last byte for whoever counts as written, or the time was over.
    pub(crate) fn shard(&mut self, shard: usize, counts: &Counts, now: Instant) {
        let mut write = self.span.child_since("socket write", Kind::Internal, self.handed);
        write.set("ringcast.shard", i64::try_from(shard).unwrap_or(i64::MAX));
        tell(&mut write, counts);
        self.writes.push((write, now));
    }

    /// Ends before all have reported, and nobody waits for what is still to be said.
    pub(crate) fn fail(self: Box<Self>, why: &'static str, traces: &Traces) {
        let Self { mut span, writes, .. } = *self;
        for (write, end) in writes {
            traces.end_at(write, end);
        }
        span.fail(why);
        traces.end(span);
    }

    /// No report was asked for: what the shards do with it is not told.
    pub(crate) fn unreported(self: Box<Self>, traces: &Traces) {
        let Self { mut span, .. } = *self;
        span.event("handed to the shards, which do not report", Vec::new());
        traces.end(span);
    }

    /// All have reported now.
    pub(crate) fn end(self, counts: &Counts, now: Instant, traces: &Traces) {
        let Self { mut span, writes, .. } = self;
        for (write, end) in writes {
            traces.end_at(write, end);
        }
        tell(&mut span, counts);
        traces.end_at(span, now);
    }
}

fn tell(span: &mut Span, counts: &Counts) {
    let number = |sessions: u64| i64::try_from(sessions).unwrap_or(i64::MAX);
    span.set("ringcast.members", number(counts.members));
    span.set("ringcast.written", number(counts.written));
    if counts.queued > 0 {
        span.sessions("queued", "deadline", counts.queued);
    }
    for reason in DropReason::ALL {
        let sessions = counts.dropped[reason as usize];
        if sessions > 0 {
            span.sessions("dropped", reason.label(), sessions);
        }
    }
}
