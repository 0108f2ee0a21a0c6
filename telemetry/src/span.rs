//! A span: one step of a trace, from its begin to its end.
//!
//! Owns: what is told of it. Must not: decide whether it is kept: a span is there only where it is.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::context::TraceParent;

/// Something told of an event, by OpenTelemetry's name where there is one.
pub fn attribute(key: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(key, value)
}

/// On which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks another process.
    Client,
    /// Answers another process.
    Server,
    /// Neither.
    Internal,
}

/// A span under way. It is told of when it is handed to [`Traces::end`](crate::Traces::end); dropped, it never was.
#[derive(Debug, Clone)]
pub struct Span {
    trace_id: TraceId,
    span_id: SpanId,
    parent: SpanId,
    parent_is_remote: bool,
    kind: Kind,
    name: &'static str,
    /// One look at both clocks for the whole trace in this process: what is measured here is measured by the clock that
    /// nobody sets.
    epoch: (SystemTime, Instant),
    begun: Instant,
    attributes: Vec<KeyValue>,
    events: Vec<Event>,
    error: Option<Cow<'static, str>>,
}

impl Span {
    pub(crate) fn root(trace_id: TraceId, name: &'static str, kind: Kind) -> Self {
        Self::new(trace_id, SpanId::INVALID, false, name, kind)
    }

    pub(crate) fn of(parent: &TraceParent, name: &'static str, kind: Kind) -> Self {
        Self::new(parent.trace_id, parent.span_id, true, name, kind)
    }

    fn new(
        trace_id: TraceId,
        parent: SpanId,
        parent_is_remote: bool,
        name: &'static str,
        kind: Kind,
    ) -> Self {
        let begun = Instant::now();
        Self {
            trace_id,
            span_id: SpanId::from(fastrand::u64(1..)),
            parent,
            parent_is_remote,
            kind,
            name,
            epoch: (SystemTime::now(), begun),
            begun,
            attributes: Vec::new(),
            events: Vec::new(),
            error: None,
        }
    }

    /// A step of this one, which begins now.
    pub fn child(&self, name: &'static str, kind: Kind) -> Self {
        self.child_since(name, kind, Instant::now())
    }

    /// A step of this one, which began then.
    pub fn child_since(&self, name: &'static str, kind: Kind, begun: Instant) -> Self {
        let mut child = Self::new(self.trace_id, self.span_id, false, name, kind);
        (child.epoch, child.begun) = (self.epoch, begun);
        child
    }

    /// A numbered step of this one, which began then. The same number gives the same step, so that who hands it over and
    /// who ends it need not share it.
    pub fn part(&self, number: u64, name: &'static str, kind: Kind, begun: Instant) -> Self {
        let mut part = self.child_since(name, kind, begun);
        // An odd factor gives each number another product, so no two parts are alike.
        let own = u64::from_be_bytes(self.span_id.to_bytes());
        let id = own ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        part.span_id = SpanId::from(id.max(1));
        part
    }

    /// What the next process is told.
    pub fn parent_for_others(&self) -> TraceParent {
        TraceParent { trace_id: self.trace_id, span_id: self.span_id, sampled: true }
    }

    /// The trace's number, as it is searched for.
    pub fn trace_id(&self) -> String {
        self.trace_id.to_string()
    }

    /// Tells something of the span, by OpenTelemetry's name where there is one.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push(KeyValue::new(key, value));
    }

    /// Tells of something that happened now.
    pub fn event(&mut self, name: impl Into<Cow<'static, str>>, attributes: Vec<KeyValue>) {
        let at = self.at(Instant::now());
        self.events.push(Event::new(name, at, attributes, 0));
    }

    /// Tells of something that happened now to so many sessions.
    pub fn sessions(&mut self, name: &'static str, reason: &'static str, sessions: u64) {
        let sessions = i64::try_from(sessions).unwrap_or(i64::MAX);
        self.event(name, vec![KeyValue::new("reason", reason), KeyValue::new("sessions", sessions)]);
    }

    /// It did not come to what it was to.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        self.error = Some(why.into());
    }

    fn at(&self, instant: Instant) -> SystemTime {
        let (time, then) = self.epoch;
        if instant >= then { time + (instant - then) } else { time - (then - instant) }
    }

    /// As the exporter takes it.
    pub(crate) fn ended(self, end: Instant, scope: InstrumentationScope) -> SpanData {
        let start_time = self.at(self.begun);
        // A step that is over when it begins still has a length, or viewers leave it out.
        let end_time = self.at(end).max(start_time + Duration::from_nanos(1));
        let mut events = SpanEvents::default();
        events.events = self.events;
        SpanData {
            span_context: SpanContext::new(
                self.trace_id,
                self.span_id,
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: self.parent,
            parent_span_is_remote: self.parent_is_remote,
            span_kind: match self.kind {
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
                Kind::Internal => SpanKind::Internal,
            },
            name: self.name.into(),
            start_time,
            end_time,
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: self.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope,
        }
    }
}
