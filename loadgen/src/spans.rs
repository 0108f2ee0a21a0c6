//! From the first to the last receiver of each push, over all threads.
//!
//! Owns: the spans that are not folded yet. Must not: grow with the length of a run. Talks to: `worker`, which hands
//! in what its clients saw, and `run`, which takes the distributions.
//!
//! No thread knows how many receivers a push has, so a span is folded into the distributions when nothing was added
//! to it for a while: memory is bounded by the pushes of that time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::report::{Latency, PushSpan};

/// A push is taken for received by all when nobody received it for so long.
const QUIET_NS: u64 = 4_000_000_000;

/// How often the book is looked through.
const FOLD_EVERY_NS: u64 = 500_000_000;

/// Spans at a time; past it even young ones are folded, and counted.
const MAX_OPEN: usize = 2_000_000;

/// A push, by its stream and number.
pub(crate) type PushKey = (u32, u64);

/// Spans by push.
pub(crate) type Spans = HashMap<PushKey, PushSpan, ahash::RandomState>;

/// The spans of a run.
#[derive(Debug)]
pub(crate) struct SpanBook(Mutex<Book>);

#[derive(Debug)]
struct Book {
    open: HashMap<PushKey, (usize, PushSpan), ahash::RandomState>,
    folded_at_ns: u64,
    loads: Vec<LoadSpans>,
}

/// What the spans of a load come to.
#[derive(Debug, Clone)]
pub(crate) struct LoadSpans {
    /// From the intended time of each push to its first receiver.
    pub(crate) first: Latency,
    /// To its last receiver.
    pub(crate) last: Latency,
    /// Receivers of all pushes.
    pub(crate) receivers: u64,
    /// Pushes that were folded before they were quiet.
    pub(crate) too_early: u64,
}

impl SpanBook {
    /// For so many loads.
    pub(crate) fn new(loads: usize) -> Self {
        let empty = LoadSpans { first: Latency::new(), last: Latency::new(), receivers: 0, too_early: 0 };
        Self(Mutex::new(Book { open: HashMap::default(), folded_at_ns: 0, loads: vec![empty; loads] }))
    }

    /// Takes a thread's spans in, each with its load.
    pub(crate) fn add(&self, now_ns: u64, spans: impl Iterator<Item = (PushKey, usize, PushSpan)>) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, load, span) in spans {
            book.open.entry(key).and_modify(|(_, known)| known.merge(&span)).or_insert((load, span));
        }
        if now_ns >= book.folded_at_ns + FOLD_EVERY_NS {
            let quiet = if book.open.len() > MAX_OPEN { 0 } else { QUIET_NS };
            book.fold(now_ns, quiet);
        }
    }

    /// Folds all that is there and tells what each load came to.
    pub(crate) fn finish(&self, now_ns: u64) -> Vec<LoadSpans> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.fold(now_ns, 0);
        book.loads.clone()
    }
}

impl Book {
    fn fold(&mut self, now_ns: u64, quiet_ns: u64) {
        self.folded_at_ns = now_ns;
        let crowded = self.open.len() > MAX_OPEN;
        let loads = &mut self.loads;
        self.open.retain(|_, (load, span)| {
            if span.last_ns + quiet_ns > now_ns {
                return true;
            }
            let sums = &mut loads[*load];
            sums.first.record_ns(span.first_ns.saturating_sub(span.intended_ns));
            sums.last.record_ns(span.last_ns.saturating_sub(span.intended_ns));
            sums.receivers += span.receivers;
            sums.too_early += u64::from(crowded);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first_ns: u64, last_ns: u64) -> PushSpan {
        PushSpan { intended_ns: 1_000_000, first_ns, last_ns, receivers: 1 }
    }

    #[test]
    fn spans_of_several_threads_are_one() {
        let book = SpanBook::new(1);
        book.add(0, [((1, 0), 0, span(5_000_000, 6_000_000))].into_iter());
        book.add(0, [((1, 0), 0, span(3_000_000, 9_000_000))].into_iter());
        let sums = &book.finish(10_000_000)[0];
        assert_eq!((sums.first.count(), sums.last.count(), sums.receivers), (1, 1, 2));
        assert!((sums.first.max_ms() - 2.0).abs() < 0.01 && (sums.last.max_ms() - 8.0).abs() < 0.01);
    }

    #[test]
    fn quiet_pushes_do_not_stay() {
        let book = SpanBook::new(1);
        book.add(0, [((1, 0), 0, span(1, 1))].into_iter());
        book.add(QUIET_NS + 2, [((1, 1), 0, span(QUIET_NS, QUIET_NS))].into_iter());
        let open = book.0.lock().unwrap().open.len();
        assert_eq!(open, 1);
    }
}
