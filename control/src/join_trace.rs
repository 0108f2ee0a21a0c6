//! The traces of joins: the controller's step, and one for each thing that a join waits for: nodes after a restart, push
//! managers, the room's settings, its seat, the acknowledgements.
//!
//! Owns: which joins are traced, within a bound. Must not: decide. Talks to: `registry`, under whose lock it lies.

use std::time::Instant;

use ahash::AHashMap;
use ringcast_proto::SessionId;
use ringcast_proto::pubsub::JoinDecision;
use telemetry::{Kind, Span, Traces};

use crate::presence::LinkRef;

/// Joins that are traced at a time; further ones are left out and counted, in a storm.
const MAX_OPEN: usize = 1024;

/// What a join waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The nodes that were known before the restart.
    Recovery,
    /// The push managers that do not follow yet.
    Gate,
    /// The settings of its room, from the store of rooms.
    Settings,
    /// Its seat, from the store of presence.
    Seat,
    /// The push managers' acknowledgements.
    Confirmation,
}

impl Step {
    fn name(self) -> (&'static str, Kind) {
        match self {
            Self::Recovery => ("wait for nodes", Kind::Internal),
            Self::Gate => ("wait for push managers", Kind::Internal),
            Self::Settings => ("read room settings", Kind::Client),
            Self::Seat => ("take seat", Kind::Client),
            Self::Confirmation => ("await acknowledgements", Kind::Internal),
        }
    }
}

#[derive(Debug)]
struct Open {
    span: Span,
    step: Option<(Step, Instant)>,
}

/// The joins that are traced and not answered.
#[derive(Debug, Default)]
pub(crate) struct JoinTraces {
    traces: Traces,
    /// Which stores rooms and presence are in, by OpenTelemetry's names.
    stores: (&'static str, &'static str),
    open: AHashMap<(LinkRef, SessionId), Open>,
}

impl JoinTraces {
    /// None yet; `rooms` and `presence` are the names of the stores.
    pub(crate) fn new(traces: Traces, rooms: &'static str, presence: &'static str) -> Self {
        Self { traces, stores: (rooms, presence), open: AHashMap::new() }
    }

    /// A session asks to join, of a trace that the node told of.
    pub(crate) fn asked(&mut self, at: LinkRef, session: SessionId, traceparent: &str) {
        let Some(span) = self.traces.join("JoinRoom", Kind::Server, traceparent) else { return };
        match self.open.len() < MAX_OPEN {
            true => drop(self.open.insert((at, session), Open { span, step: None })),
            false => self.traces.leave_out(),
        }
    }

    /// The join waits for something from now on.
    pub(crate) fn waits(&mut self, at: LinkRef, session: SessionId, step: Step) {
        if self.open.is_empty() {
            return;
        }
        let Some(open) = self.open.get_mut(&(at, session)) else { return };
        let now = Instant::now();
        let former = open.step.replace((step, now));
        if let Some(former) = former {
            end_step(&self.traces, self.stores, &open.span, former, now);
        }
    }

    /// The join has been decided, and is answered now.
    pub(crate) fn answered(&mut self, at: LinkRef, session: SessionId, decision: JoinDecision, why: &str) {
        let failed = (decision != JoinDecision::Accepted).then_some(why);
        self.end(at, session, failed);
    }

    /// The session has ended, or the link to its node.
    pub(crate) fn withdrawn(&mut self, at: LinkRef, session: SessionId) {
        self.end(at, session, Some("the client left"));
    }

    /// The link to a node is lost; what still waits is asked again over the next one.
    pub(crate) fn lost(&mut self, at: LinkRef) {
        if self.open.is_empty() {
            return;
        }
        let sessions: Vec<SessionId> =
            self.open.keys().filter(|(link, _)| *link == at).map(|(_, session)| *session).collect();
        for session in sessions {
            self.end(at, session, Some("the link to the node was lost"));
        }
    }

    fn end(&mut self, at: LinkRef, session: SessionId, failed: Option<&str>) {
        if self.open.is_empty() {
            return;
        }
        let Some(Open { mut span, step }) = self.open.remove(&(at, session)) else { return };
        let now = Instant::now();
        if let Some(step) = step {
            end_step(&self.traces, self.stores, &span, step, now);
        }
        if let Some(why) = failed {
            span.event("refused", vec![telemetry::attribute("reason", why.to_owned())]);
            span.fail(why.to_owned());
        }
        self.traces.end_at(span, now);
    }
}

fn end_step(
    traces: &Traces,
    (rooms, presence): (&'static str, &'static str),
    join: &Span,
    (step, since): (Step, Instant),
    now: Instant,
) {
    let (name, kind) = step.name();
    let mut span = join.child_since(name, kind, since);
    match step {
        Step::Settings => span.set("db.system.name", rooms),
        Step::Seat => span.set("db.system.name", presence),
        Step::Recovery | Step::Gate | Step::Confirmation => {}
    }
    traces.end_at(span, now);
}
