//! What clients got of what had to come.
//!
//! Owns: the sums by stream of pushes, and how connections ended. Must not: ask the system. Talks to: `worker`, which
//! adds its clients up, and `correctness`, which lays the sums beside the reports.

use std::collections::{BTreeMap, HashMap};

use crate::plan::InRun;
use crate::tally::{Ended, StreamTally};

/// What the clients of one stream of pushes got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StreamSum {
    /// Receipts, each counted once.
    pub(crate) received: u64,
    /// What never came although it had to.
    pub(crate) lost: u64,
    /// Receipts beyond the first.
    pub(crate) duplicates: u64,
    /// Receipts after a later one.
    pub(crate) reordered: u64,
    /// Clients that were there from their join to the end, so that everything had to come.
    pub(crate) stayed: u64,
    /// Clients that went, broke, or do not read as others do: only what lies between two receipts had to come.
    pub(crate) departed: u64,
}

/// The sums of many clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Judgement {
    /// By stream.
    pub(crate) streams: HashMap<u32, StreamSum, ahash::RandomState>,
    /// How many connections ended in which way.
    pub(crate) endings: BTreeMap<String, u64>,
}

impl Judgement {
    /// A client that is there and reads.
    pub(crate) fn stayed(&mut self, run: &InRun, number: usize, tallies: &[StreamTally]) {
        let who = run.who(number);
        for range in run.streams.ranges() {
            let Some(stream) = range.stream_of(who) else { continue };
            let published = range.published(stream);
            if published == 0 {
                continue;
            }
            let tally = tallies.iter().find(|tally| tally.stream == stream);
            let lost = tally.map_or(published, |tally| tally.lost(published));
            let sum = self.add(stream, tally);
            sum.lost += lost;
            sum.stayed += 1;
        }
    }

    /// A client that is gone, or never was there.
    pub(crate) fn departed(&mut self, run: &InRun, number: usize, tallies: &[StreamTally], generation: u32) {
        let who = run.who(number);
        for range in run.streams.ranges() {
            let Some(stream) = range.stream_of(who) else { continue };
            let tally = tallies.iter().find(|tally| tally.stream == stream);
            if tally.is_none() && range.published(stream) == 0 && generation == 0 {
                continue;
            }
            let sum = self.add(stream, tally);
            sum.lost += tally.map_or(0, StreamTally::missing_between);
            sum.departed += 1;
        }
    }

    fn add(&mut self, stream: u32, tally: Option<&StreamTally>) -> &mut StreamSum {
        let sum = self.streams.entry(stream).or_default();
        if let Some(tally) = tally {
            sum.received += tally.received;
            sum.duplicates += tally.duplicates;
            sum.reordered += tally.reordered;
        }
        sum
    }

    /// A connection that ended so.
    pub(crate) fn end(&mut self, ended: &Ended) {
        *self.endings.entry(ended.name()).or_default() += 1;
    }

    /// Adds another thread's sums.
    pub(crate) fn merge(&mut self, other: Self) {
        for (stream, theirs) in other.streams {
            let ours = self.streams.entry(stream).or_default();
            ours.received += theirs.received;
            ours.lost += theirs.lost;
            ours.duplicates += theirs.duplicates;
            ours.reordered += theirs.reordered;
            ours.stayed += theirs.stayed;
            ours.departed += theirs.departed;
        }
        for (name, count) in other.endings {
            *self.endings.entry(name).or_default() += count;
        }
    }
}
