//! The trace of a push: a step for the push itself, and one for each node that it goes to.
//!
//! Owns: what is told of them. Must not: decide whether a push is traced (`telemetry` does, when it comes in).
//! Talks to: `receipts`, which knows how it ended, `dispatch`, which hands the spans out once the lock is let go.

use std::time::Instant;

use ringcast_proto::pubsub::Outcomes;
use telemetry::{Kind, Span, Traces};

use crate::answer::{Ending, Finished};
use crate::request::{Push, Scope};

/// The step of a push on one node. The node is told of it when it is handed the push, and it is ended when the push is:
/// both make it from the push's own, and need not share it.
fn on_node(push: &Span, number: usize, begun: Instant) -> Span {
    push.part(number as u64, "Deliver", Kind::Client, begun)
}

/// What a node is told of the trace: of its own part of the push.
pub(crate) fn traceparent(push: &Push, part: u32) -> String {
    let part = |span: &Span| on_node(span, part as usize, Instant::now()).parent_for_others().header();
    push.span.as_deref().map(part).unwrap_or_default()
}

/// Begins the step of a push.
pub(crate) fn begin(traces: &Traces, push: &mut Push, traceparent: Option<&str>) {
    let name = match push.scope() {
        Scope::Room => "PushToRoom",
        Scope::User => "PushToUser",
        Scope::Broadcast => "BroadcastMessage",
    };
    push.span = traces.begin(name, Kind::Server, traceparent).map(|mut span| {
        span.set("messaging.system", "ringcast");
        span.set("messaging.message.id", push.message_id.clone());
        Box::new(span)
    });
}

/// What is gathered while a push is open.
#[derive(Debug)]
pub(crate) struct PushTrace {
    span: Span,
    accepted: Instant,
    /// When which node answered.
    answered: Vec<(usize, Instant)>,
    nodes: Vec<(usize, Span)>,
}

impl PushTrace {
    /// Of a push that was accepted then.
    pub(crate) fn new(span: &Span, accepted: Instant) -> Self {
        Self { span: span.clone(), accepted, answered: Vec::new(), nodes: Vec::new() }
    }

    /// A node has answered.
    pub(crate) fn answered(&mut self, number: usize, now: Instant) {
        self.answered.push((number, now));
    }

    /// How the push ended on a node.
    pub(crate) fn node(&mut self, number: usize, node: &str, outcomes: &Outcomes) {
        let mut span = on_node(&self.span, number, self.accepted);
        span.set("ringcast.node.id", node.to_owned());
        tell(&mut span, outcomes);
        self.nodes.push((number, span));
    }

    /// The push has been answered.
    pub(crate) fn end(self, finished: &Finished, traces: &Traces) {
        let Self { mut span, answered, nodes, .. } = self;
        let now = Instant::now();
        for (number, node) in nodes {
            let end = answered.iter().find(|(answered, _)| *answered == number);
            traces.end_at(node, end.map_or(now, |(_, end)| *end));
        }
        tell(&mut span, &finished.total);
        if finished.routes_stale_ms > 0 {
            span.set("ringcast.routes_stale_ms", i64::from(finished.routes_stale_ms));
        }
        match finished.ending() {
            Ending::Delivered | Ending::Nobody => {}
            ending @ (Ending::Unknown | Ending::Dropped) => span.fail(ending.label()),
        }
        traces.end_at(span, now);
    }
}

fn tell(span: &mut Span, outcomes: &Outcomes) {
    span.set("ringcast.members", count(outcomes.members));
    span.set("ringcast.written", count(outcomes.written));
    for (event, reason, sessions) in [
        ("queued", "deadline", outcomes.queued),
        ("dropped", "slow", outcomes.dropped_slow),
        ("dropped", "closed", outcomes.dropped_closed),
        ("dropped", "shed", outcomes.dropped_shed),
        ("dropped", "offline", outcomes.offline),
        ("unknown", "link lost", outcomes.unknown),
    ] {
        if sessions > 0 {
            span.sessions(event, reason, sessions);
        }
    }
}

fn count(sessions: u64) -> i64 {
    i64::try_from(sessions).unwrap_or(i64::MAX)
}
