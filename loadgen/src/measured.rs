//! What the clients of one thread measured together.
//!
//! Owns: the distributions and counts of a thread. Must not: know sockets. Talks to: `connection`, which hands each
//! text frame in; `worker`, which publishes the sums.

use crate::clock::burn;
use crate::journal::Journal;
use crate::payload::{Found, Stamp, StampReader};
use crate::plan::{FleetPlan, InRun};
use crate::report::{Latency, PushSpan, Totals};
use crate::spans::{PushKey, Spans};
use crate::streams::Audience;
use crate::tally::{StreamTally, note};

/// The measurements of one thread.
pub(crate) struct Measured {
    reader: StampReader,
    /// From the intended time to each receipt, by load; outside a run all is one load.
    pub(crate) latency: Vec<Latency>,
    /// The same, by node.
    pub(crate) by_node: Vec<Latency>,
    /// Deliveries, by node.
    pub(crate) received_by_node: Vec<u64>,
    /// The same since it was last taken.
    pub(crate) recent: Latency,
    /// From the intended connect to the 101.
    pub(crate) join: Latency,
    /// The pushes that are not handed on yet; outside a run, all.
    pub(crate) spans: Spans,
    /// The push that was received last and its span, which is not in `spans`: a fan-out comes in a row.
    last: Option<(PushKey, PushSpan)>,
    /// The counts of receipts; the phases are the worker's.
    pub(crate) totals: Totals,
    /// What each client saw, where that is kept.
    pub(crate) journal: Journal,
}

/// Who received, and when.
pub(crate) struct Receiver<'a> {
    /// The fleet's plan.
    pub(crate) plan: &'a FleetPlan,
    /// The client's number.
    pub(crate) number: usize,
    /// Which of its connections it is.
    pub(crate) connection: u32,
    /// Its node's place in the plan.
    pub(crate) node: usize,
    /// Since when it is in its room no more, in nanoseconds of CLOCK_MONOTONIC.
    pub(crate) roomless_since: Option<u64>,
    /// When its bytes were read.
    pub(crate) now_ns: u64,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn new(plan: &FleetPlan) -> Self {
        let loads = plan.run.as_ref().map_or(1, |run| run.loads.max(1));
        Self {
            reader: StampReader::default(),
            latency: vec![Latency::new(); loads],
            by_node: vec![Latency::new(); plan.addrs.len()],
            received_by_node: vec![0; plan.addrs.len()],
            recent: Latency::coarse(),
            join: Latency::new(),
            spans: Spans::default(),
            last: None,
            totals: Totals::default(),
            journal: Journal::new(plan.journal),
        }
    }

    /// Takes in a frame that may hold a push.
    pub(crate) fn frame(&mut self, receiver: &Receiver<'_>, tallies: &mut Vec<StreamTally>, payload: &[u8]) {
        if !receiver.plan.handicap.is_zero() {
            burn(receiver.plan.handicap);
        }
        match self.reader.read(payload) {
            Found::Nothing => self.totals.unstamped += 1,
            Found::Corrupt => self.totals.corrupt += 1,
            Found::Whole(stamp) => self.push(receiver, tallies, stamp),
        }
    }

    /// Takes in a frame that came after the server's close frame.
    pub(crate) fn frame_after_the_end(&mut self, payload: &[u8]) {
        if self.reader.read(payload) != Found::Nothing {
            self.totals.after_leave += 1;
        }
    }

    fn push(&mut self, receiver: &Receiver<'_>, tallies: &mut Vec<StreamTally>, stamp: Stamp) {
        let load = match &receiver.plan.run {
            None => Some(0),
            Some(run) => match self.load_of(run, receiver, stamp) {
                Ok(load) => load,
                Err(Stranger) => return,
            },
        };
        self.journal.got(receiver.now_ns, receiver.number, receiver.connection, stamp);
        let receipt = note(tallies, stamp);
        self.totals.reordered += u64::from(receipt.late);
        if !receipt.first {
            self.totals.duplicates += 1;
            return;
        }
        self.totals.received += 1;
        let Some(load) = load else { return };
        let latency_ns = receiver.now_ns.saturating_sub(stamp.intended_ns);
        self.latency[load].record_ns(latency_ns);
        self.recent.record_ns(latency_ns);
        self.by_node[receiver.node].record_ns(latency_ns);
        self.received_by_node[receiver.node] += 1;
        self.span(receiver, stamp);
    }

    /// The load that a push is measured with, `None`: it is only counted.
    fn load_of(
        &mut self,
        run: &InRun,
        receiver: &Receiver<'_>,
        stamp: Stamp,
    ) -> Result<Option<usize>, Stranger> {
        let Some(range) = run.streams.range_of(stamp.stream) else {
            // Another generator's, or what a former one left behind.
            self.totals.unstamped += 1;
            return Err(Stranger);
        };
        let gone = range.audience == Audience::Room
            && receiver.roomless_since.is_some_and(|since| stamp.intended_ns > since);
        if gone || range.stream_of(run.who(receiver.number)) != Some(stamp.stream) {
            self.totals.after_leave += 1;
            return Err(Stranger);
        }
        Ok(range.measured.then_some(range.load))
    }

    fn span(&mut self, receiver: &Receiver<'_>, stamp: Stamp) {
        let key = (stamp.stream, stamp.seq);
        let now = receiver.now_ns;
        if let Some((last, span)) = &mut self.last
            && *last == key
        {
            span.first_ns = span.first_ns.min(now);
            span.last_ns = span.last_ns.max(now);
            span.receivers += 1;
            return;
        }
        self.settle_last();
        let span = PushSpan { intended_ns: stamp.intended_ns, first_ns: now, last_ns: now, receivers: 1 };
        self.last = Some((key, span));
    }

    fn settle_last(&mut self) {
        if let Some((key, span)) = self.last.take() {
            self.spans.entry(key).and_modify(|known| known.merge(&span)).or_insert(span);
        }
    }

    /// Hands the spans on, in a run; outside of one they stay, and this makes them whole.
    pub(crate) fn hand_on(&mut self, plan: &FleetPlan, now_ns: u64) {
        self.settle_last();
        let Some(run) = &plan.run else { return };
        if self.spans.is_empty() {
            return;
        }
        let spans = self.spans.drain().filter_map(|(key, span)| {
            let range = run.streams.range_of(key.0)?;
            Some((key, range.load, span))
        });
        run.spans.add(now_ns, spans);
    }

    /// Forgets latencies and pushes measured so far.
    pub(crate) fn forget(&mut self) {
        self.latency.iter_mut().for_each(|latency| *latency = Latency::new());
        self.by_node.iter_mut().for_each(|latency| *latency = Latency::new());
        self.received_by_node.fill(0);
        self.spans.clear();
        self.last = None;
    }
}

/// The push is none of the run's, or not for this client.
struct Stranger;
