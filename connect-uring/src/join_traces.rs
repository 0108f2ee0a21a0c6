//! The traces of joins: the node's step, from a shard's word to the controller's answer.
//!
//! Owns: which joins are traced, within a bound, and how far a client's word on that is taken. Must not: be known to a
//! shard. Talks to: `link_state`, which tells the controller of a trace, `control_link`, which begins and ends it.

use ahash::RandomState;
use connect_core::JoinDecision;
use hashbrown::HashMap;
use ringcast_proto::SessionId;
use telemetry::{Kind, PerSecond, Span, Traces};

/// Joins that are traced at a time; further ones are left out and counted, in a storm.
const MAX_OPEN: usize = 1024;

/// Joins a second that are traced because their client says so. Beyond, it is decided here as for clients that say
/// nothing: whoever may connect could fill the collector else.
const BY_CLIENTS_PER_SECOND: u32 = 10;

/// The joins that are traced and not answered.
#[derive(Debug)]
pub(crate) struct JoinTraces {
    traces: Traces,
    by_clients: PerSecond,
    open: HashMap<SessionId, Span, RandomState>,
}

impl JoinTraces {
    /// None yet.
    pub(crate) fn new(traces: Traces) -> Self {
        Self { traces, by_clients: PerSecond::new(BY_CLIENTS_PER_SECOND), open: HashMap::default() }
    }

    /// A session asks to join, of a trace that its client may have begun. One that asks again, over the next link, goes
    /// on with its trace.
    pub(crate) fn asked(&mut self, session: SessionId, by_client: Option<&str>) {
        if !self.open.is_empty() && self.open.contains_key(&session) {
            return;
        }
        let by_client = by_client.filter(|_| self.by_clients.spend());
        let Some(span) = self.traces.begin("join", Kind::Server, by_client) else { return };
        match self.open.len() < MAX_OPEN {
            true => drop(self.open.insert(session, span)),
            false => self.traces.leave_out(),
        }
    }

    /// What the controller is told; empty: it is not traced.
    pub(crate) fn traceparent(&self, session: SessionId) -> String {
        if self.open.is_empty() {
            return String::new();
        }
        self.open.get(&session).map(|span| span.parent_for_others().header()).unwrap_or_default()
    }

    /// The join has been decided.
    pub(crate) fn answered(&mut self, session: SessionId, decision: JoinDecision) {
        let decision = match decision {
            JoinDecision::Accepted => None,
            JoinDecision::RoomFull => Some("room full"),
            JoinDecision::Unavailable => Some("unavailable"),
            JoinDecision::Invalid => Some("invalid"),
        };
        self.end(session, decision);
    }

    /// The session has ended; where it was not answered, it left before.
    pub(crate) fn gone(&mut self, session: SessionId) {
        self.end(session, Some("the client left"));
    }

    fn end(&mut self, session: SessionId, failed: Option<&'static str>) {
        if self.open.is_empty() {
            return;
        }
        let Some(mut span) = self.open.remove(&session) else { return };
        if let Some(why) = failed {
            span.event(why, Vec::new());
            span.fail(why);
        }
        self.traces.end(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_CLIENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn without_traces_nothing_is_kept() {
        let mut joins = JoinTraces::new(Traces::off());
        let session = SessionId::from_u64(7);
        joins.asked(session, Some(BY_CLIENT));
        assert_eq!(joins.traceparent(session), "");
        assert!(joins.open.is_empty());
    }
}
