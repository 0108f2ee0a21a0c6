//! What was lost, doubled, out of order, and whether the reports told the truth.
//!
//! Owns: laying what clients got beside what was reported. Must not: count itself. Talks to: `judgement` (the
//! clients' side), `books` (the reports' side).

use std::collections::HashMap;

use crate::books::{PressReport, StreamReceipts};
use crate::judgement::{Judgement, StreamSum};
use crate::report::Totals;
use crate::result::Correctness;
use crate::streams::{Audience, Streams};

/// How many contradictions are told one by one.
const TOLD: usize = 20;

/// What stream a number stands for, for people.
pub(crate) type NameStream<'a> = &'a dyn Fn(u32) -> String;

/// Lays both sides beside each other.
pub(crate) fn correctness(
    streams: &Streams,
    judgement: &Judgement,
    totals: &Totals,
    reports: &[&PressReport],
    name: NameStream<'_>,
) -> Correctness {
    let mut out = Correctness {
        duplicate: totals.duplicates,
        after_leave: totals.after_leave,
        corrupt: totals.corrupt,
        ..Correctness::default()
    };
    let mut told: HashMap<u32, StreamReceipts> = HashMap::new();
    for report in reports {
        out.published += report.sent;
        out.unanswered += report.unanswered + report.refused.values().sum::<u64>();
        out.reported += &report.receipts;
        for (stream, receipts) in &report.by_stream {
            let known = told.entry(*stream).or_default();
            known.sent += receipts.sent;
            known.unreported += receipts.unreported;
            known.written += receipts.written;
            known.uncertain += receipts.uncertain;
            known.moved |= receipts.moved;
        }
    }
    for (stream, sum) in &judgement.streams {
        out.received += sum.received;
        out.lost += sum.lost;
        // Order is kept through one push manager.
        let moved = told.get(stream).is_some_and(|told| told.moved);
        if !moved && streams.range_of(*stream).is_some_and(|range| range.ordered) {
            out.reordered += sum.reordered;
        }
    }
    out.expected = out.received + out.lost;
    let mut streams_told: Vec<_> = told.iter().collect();
    streams_told.sort_unstable_by_key(|(stream, _)| **stream);
    let mut found: Vec<String> = streams_told
        .into_iter()
        .filter_map(|(stream, told)| {
            let got = judgement.streams.get(stream).copied().unwrap_or_default();
            let all = streams.range_of(*stream).is_some_and(|range| range.audience == Audience::All);
            contradiction(*told, got, all).map(|what| format!("{}: {what}", name(*stream)))
        })
        .collect();
    let more = found.len().saturating_sub(TOLD);
    found.truncate(TOLD);
    if more > 0 {
        found.push(format!("and {more} more streams"));
    }
    out.contradictions = found;
    out
}

/// Where the reports of a stream and what its clients got contradict each other.
///
/// Written by report must have arrived, unless clients went, who may have gone with it unread. What arrived must
/// have been reported as written, or as not known, unless nothing was reported of some pushes.
fn contradiction(told: StreamReceipts, got: StreamSum, all: bool) -> Option<String> {
    let known = told.unreported == 0;
    if told.written > got.received && got.departed == 0 && !all {
        return Some(format!("reported written {}, received {}", told.written, got.received));
    }
    if told.written > got.received && got.departed == 0 {
        // A push to everyone may have reached clients that are none of ours.
        return (got.lost > 0)
            .then(|| format!("reported written {}, received {}", told.written, got.received));
    }
    if known && got.received > told.written + told.uncertain {
        let uncertain = told.uncertain;
        return Some(format!(
            "received {}, reported written {} and not known {uncertain}",
            got.received, told.written
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(written: u64, uncertain: u64, unreported: u64) -> StreamReceipts {
        StreamReceipts { sent: 10, unreported, written, uncertain, ..StreamReceipts::default() }
    }

    fn got(received: u64, departed: u64) -> StreamSum {
        StreamSum { received, departed, ..StreamSum::default() }
    }

    #[test]
    fn reports_that_lie_are_found() {
        assert_eq!(contradiction(told(10, 0, 0), got(10, 0), false), None);
        assert!(contradiction(told(10, 0, 0), got(9, 0), false).is_some(), "written, and never arrived");
        assert!(contradiction(told(9, 0, 0), got(10, 0), false).is_some(), "arrived, and not written");
        assert_eq!(contradiction(told(10, 0, 0), got(9, 1), false), None, "a client went");
        assert_eq!(contradiction(told(9, 1, 0), got(10, 0), false), None, "it was not known");
        assert_eq!(contradiction(told(9, 0, 1), got(10, 0), false), None, "of one nothing was asked");
    }
}
