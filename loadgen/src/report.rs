//! What a fleet saw.
//!
//! Owns: the report's form and the questions that it answers. Must not: measure.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;

use crate::tally::{Ended, StreamTally};

/// Where a fleet's clients are, and what they have seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connects that were begun.
    pub begun: usize,
    /// Connections that were joined at one time.
    pub joined: usize,
    /// Connections that are joined now.
    pub live: usize,
    /// Upgrades that were answered with something else than 101.
    pub refused: usize,
    /// Connections that the server closed with a close frame.
    pub closed_by_server: usize,
    /// Connections that broke.
    pub broken: usize,
    /// Clients that went by the plan or by a command.
    pub left: usize,
    /// Clients that neither read nor write.
    pub mute: usize,
    /// Pushes received, each once for each connection.
    pub received: u64,
    /// Pushes received beyond the first time.
    pub duplicates: u64,
    /// Pushes received after a later one of their stream.
    pub reordered: u64,
    /// Pushes received by clients for whom they were not, or after the server's close frame.
    pub after_leave: u64,
    /// Frames whose checksum was wrong.
    pub corrupt: u64,
    /// Text and binary frames without a stamp: not pushed by us.
    pub unstamped: u64,
    /// Bytes received, headers and heads included.
    pub bytes: u64,
    /// Connects that were not a client's first.
    pub reconnects: usize,
    /// Connects whose 101 is awaited now.
    pub joining: usize,
    /// Clients that joined at least once.
    pub ever_joined: usize,
}

impl Totals {
    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.joined += other.joined;
        self.live += other.live;
        self.refused += other.refused;
        self.closed_by_server += other.closed_by_server;
        self.broken += other.broken;
        self.left += other.left;
        self.mute += other.mute;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.after_leave += other.after_leave;
        self.corrupt += other.corrupt;
        self.unstamped += other.unstamped;
        self.bytes += other.bytes;
        self.reconnects += other.reconnects;
        self.joining += other.joining;
        self.ever_joined += other.ever_joined;
    }

    /// Clients whose life is over.
    pub fn over(&self) -> usize {
        self.refused + self.closed_by_server + self.broken + self.left
    }
}

/// Where and when one push arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushSpan {
    /// When it was meant to leave, in nanoseconds of CLOCK_MONOTONIC.
    pub intended_ns: u64,
    /// When the first receiver had it.
    pub first_ns: u64,
    /// When the last receiver had it.
    pub last_ns: u64,
    /// How many connections had it.
    pub receivers: u64,
}

impl PushSpan {
    /// Takes other receivers of the same push in.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
        self.receivers += other.receivers;
    }
}

/// A distribution of times.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Latency {
    /// An empty distribution: 1 µs to 5 minutes, three digits.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, 300_000_000_000, 3);
        Self(histogram.expect("the bounds are constants that hdrhistogram takes"))
    }

    /// The same with two digits, in a tenth of the memory.
    pub(crate) fn coarse() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, 300_000_000_000, 2);
        Self(histogram.expect("the bounds are constants that hdrhistogram takes"))
    }

    /// The curve: pairs of quantile (0 to 1) and milliseconds, rising, finer towards the end.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        let mut curve: Vec<(f64, f64)> = Vec::new();
        for step in self.0.iter_quantiles(5) {
            let point = (step.quantile_iterated_to(), step.value_iterated_to() as f64 / 1e6);
            if curve.last().is_none_or(|last| *last != point) {
                curve.push(point);
            }
        }
        curve
    }

    pub(crate) fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Takes another distribution in.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all distributions have the same bounds");
    }

    /// The value below which this share (0 to 100) of all lies, in milliseconds.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_quantile(percentile / 100.0) as f64 / 1e6
    }

    /// The largest value, in milliseconds.
    pub fn max_ms(&self) -> f64 {
        self.0.max() as f64 / 1e6
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |percentile| self.percentile_ms(percentile);
        write!(
            f,
            "p50 {:.3} ms, p90 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {:.3} ms, n {}",
            at(50.0),
            at(90.0),
            at(99.0),
            at(99.9),
            self.max_ms(),
            self.count()
        )
    }
}

/// What one connection saw.
#[derive(Debug, Clone)]
pub struct ConnectionReport {
    /// Its number in the plan.
    pub number: usize,
    /// Its user.
    pub user: String,
    /// Its room.
    pub room: String,
    /// Frames of every kind.
    pub frames: u64,
    /// Pings, all answered.
    pub pings: u64,
    /// Its pushes.
    pub streams: Vec<StreamTally>,
    /// From the intended connect to the 101, in nanoseconds.
    pub joined_after_ns: Option<u64>,
    /// How it ended; `None` while it is there.
    pub ended: Option<Ended>,
}

impl ConnectionReport {
    /// What it saw of one stream; an empty tally where it saw nothing.
    pub fn stream(&self, stream: u32) -> StreamTally {
        let found = self.streams.iter().find(|tally| tally.stream == stream);
        found.cloned().unwrap_or(StreamTally { stream, ..StreamTally::default() })
    }
}

/// What a fleet saw in all.
#[derive(Debug)]
pub struct FleetReport {
    /// The totals.
    pub totals: Totals,
    /// From the intended time of a push to each receipt.
    pub latency: Latency,
    /// From the intended connect to the 101.
    pub join: Latency,
    /// Where and when each push arrived, by stream and number.
    pub pushes: HashMap<(u32, u64), PushSpan>,
    /// The connections that were begun, by their numbers.
    pub connections: Vec<ConnectionReport>,
}

impl FleetReport {
    /// From the intended time of each push of these streams to its last receiver.
    pub fn last_receiver(&self, streams: std::ops::Range<u32>) -> Latency {
        let mut latency = Latency::new();
        for ((stream, _), span) in &self.pushes {
            if streams.contains(stream) {
                latency.record_ns(span.last_ns.saturating_sub(span.intended_ns));
            }
        }
        latency
    }

    /// Receipts beyond the first and receipts out of order, over all connections.
    pub fn disorder(&self) -> (u64, u64) {
        let tallies = self.connections.iter().flat_map(|connection| &connection.streams);
        tallies.fold((0, 0), |(double, late), tally| (double + tally.duplicates, late + tally.reordered))
    }

    /// How many connections ended in which way: a close code, `left`, `refused 409`, `broken: ...`.
    pub fn endings(&self) -> BTreeMap<String, usize> {
        let mut endings = BTreeMap::new();
        for connection in &self.connections {
            let name = connection.ended.as_ref().map_or_else(|| "live".into(), Ended::name);
            *endings.entry(name).or_insert(0) += 1;
        }
        endings
    }
}
