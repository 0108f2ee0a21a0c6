//! What is known of the pushes of one load: in flight, answered, never sent.
//!
//! Owns: the pushes in flight and the sums of their answers. Must not: grow with the length of a run, unless every
//! answer is asked for. Talks to: `press` and the lanes.

use std::collections::{BTreeMap, HashMap};

use ringcast_proto::pubsub::{DeliveryReport, Outcomes};
use tonic::Code;

use crate::clock::monotonic_ns;
use crate::publisher::PushResult;
use crate::report::Latency;
use crate::result::Receipts;
use crate::scrape::ThreadTime;

/// A push that is on its way.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// Its number in the load.
    pub(crate) number: u64,
    /// Its stream.
    pub(crate) stream: u32,
    /// When it was meant to leave.
    pub(crate) due_ns: u64,
    /// Its latency counts.
    pub(crate) measured: bool,
    /// All is to be reported of it.
    pub(crate) full: bool,
    /// Which lane has it.
    pub(crate) lane: u16,
    /// Answers that are still to come, and what those said that came.
    pub(crate) waiting: u16,
    pub(crate) outcomes: Outcomes,
}

/// What the answers said of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamReceipts {
    /// Pushes that left.
    pub(crate) sent: u64,
    /// Of them, those of which nothing is known: not asked for, refused, never answered.
    pub(crate) unreported: u64,
    /// Sessions written.
    pub(crate) written: u64,
    /// Sessions of which the report does not know whether they were written: queued, unknown.
    pub(crate) uncertain: u64,
    /// Its pushes went to another push manager when theirs was lost: what still was on its way may be overtaken.
    pub(crate) moved: bool,
    /// The lane of its last push.
    pub(crate) lane: Option<u16>,
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct PressReport {
    /// Pushes that left.
    pub(crate) sent: u64,
    /// Of them, those whose latency counts.
    pub(crate) sent_measured: u64,
    /// Pushes that were due and never left: too many were in flight.
    pub(crate) dropped: u64,
    /// How late pushes left, against the schedule: the generator's own lag.
    pub(crate) lag: Latency,
    /// From the intended time to the answer.
    pub(crate) answered: Latency,
    /// The sum of all reports.
    pub(crate) receipts: Receipts,
    /// The reports by stream.
    pub(crate) by_stream: HashMap<u32, StreamReceipts, ahash::RandomState>,
    /// Pushes that were refused or are unknown, by kind, such as `UNAVAILABLE` and `unknown (UNAVAILABLE)`.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Pushes that were never answered.
    pub(crate) unanswered: u64,
    /// Every answer, where they are kept.
    pub(crate) results: HashMap<u64, PushResult>,
    /// What the press's thread had of the cores over the measured part, and how long that was in nanoseconds.
    pub(crate) time: ThreadTime,
    pub(crate) measured_ns: u64,
}

impl Default for PressReport {
    fn default() -> Self {
        Self {
            sent: 0,
            sent_measured: 0,
            dropped: 0,
            lag: Latency::new(),
            answered: Latency::new(),
            receipts: Receipts::default(),
            by_stream: HashMap::default(),
            refused: BTreeMap::new(),
            unanswered: 0,
            results: HashMap::new(),
            time: ThreadTime::default(),
            measured_ns: 0,
        }
    }
}

/// The books of one load.
#[derive(Debug, Default)]
pub(crate) struct Books {
    in_flight: HashMap<u64, InFlight, ahash::RandomState>,
    next_id: u64,
    keep_results: bool,
    pub(crate) report: PressReport,
}

impl Books {
    /// Empty ones.
    pub(crate) fn new(keep_results: bool) -> Self {
        Self { keep_results, ..Self::default() }
    }

    /// How many pushes are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A push is about to leave; its id, larger than all before.
    pub(crate) fn open(&mut self, push: InFlight) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let stream = self.report.by_stream.entry(push.stream).or_default();
        stream.sent += 1;
        stream.moved |= stream.lane.replace(push.lane).is_some_and(|before| before != push.lane);
        self.in_flight.insert(id, push);
        id
    }

    /// These pushes have left; the largest lateness in nanoseconds.
    pub(crate) fn left(&mut self, ids: impl Iterator<Item = u64>) -> u64 {
        let (now, mut latest) = (monotonic_ns(), 0);
        for id in ids {
            let Some(push) = self.in_flight.get(&id) else { continue };
            self.report.sent += 1;
            let late = now.saturating_sub(push.due_ns);
            latest = latest.max(late);
            if push.measured {
                self.report.sent_measured += 1;
                self.report.lag.record_ns(late);
            }
        }
        latest
    }

    /// A push has been answered.
    pub(crate) fn answered(&mut self, id: u64, result: PushResult, at_ns: u64) {
        let Some(push) = self.in_flight.remove(&id) else { return };
        let stream = self.report.by_stream.entry(push.stream).or_default();
        match &result {
            PushResult::Reported(report) => {
                if push.measured {
                    self.report.answered.record_ns(at_ns.saturating_sub(push.due_ns));
                }
                let total = report.total.unwrap_or_default();
                self.report.receipts += &Receipts::from(&total);
                if push.full {
                    stream.written += total.written;
                    stream.uncertain += total.queued + total.unknown;
                } else {
                    stream.unreported += 1;
                }
            }
            PushResult::Refused(code, _) | PushResult::Unknown(code, _) => {
                stream.unreported += 1;
                let code = format!("{:?}", Code::from_i32(*code)).to_uppercase();
                let known = matches!(result, PushResult::Refused(..));
                let kind = if known { code } else { format!("unknown ({code})") };
                *self.report.refused.entry(kind).or_default() += 1;
            }
        }
        if self.keep_results {
            self.report.results.insert(push.number, result);
        }
    }

    /// One of several answers to a push.
    pub(crate) fn answered_in_part(&mut self, id: u64, part: &Outcomes, at_ns: u64) {
        let Some(push) = self.in_flight.get_mut(&id) else { return };
        push.outcomes += part;
        push.waiting = push.waiting.saturating_sub(1);
        if push.waiting == 0 {
            let report = DeliveryReport { total: Some(push.outcomes), ..DeliveryReport::default() };
            self.answered(id, PushResult::Reported(report), at_ns);
        }
    }

    /// A push that nobody answers is done when it has left.
    pub(crate) fn unanswerable(&mut self, id: u64) {
        if let Some(push) = self.in_flight.remove(&id) {
            self.report.by_stream.entry(push.stream).or_default().unreported += 1;
        }
    }

    /// A lane has broken: what it had in flight will not be answered, and may have arrived.
    pub(crate) fn lane_broke(&mut self, lane: u16, code: Code, why: &str) {
        let lost: Vec<u64> =
            self.in_flight.iter().filter(|(_, push)| push.lane == lane).map(|(id, _)| *id).collect();
        for id in lost {
            self.answered(id, PushResult::Unknown(code as i32, why.to_owned()), monotonic_ns());
        }
    }

    /// These pushes could not leave: nobody is at the other end of their lane.
    pub(crate) fn nobody_there(&mut self, ids: impl Iterator<Item = u64>, why: &str) {
        for id in ids {
            let refused = PushResult::Refused(Code::Unavailable as i32, why.to_owned());
            self.answered(id, refused, monotonic_ns());
        }
    }

    /// Nothing more is waited for.
    pub(crate) fn finish(mut self) -> PressReport {
        for push in self.in_flight.into_values() {
            self.report.unanswered += 1;
            self.report.by_stream.entry(push.stream).or_default().unreported += 1;
        }
        self.report
    }
}
