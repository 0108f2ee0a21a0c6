//! What should become of every push, kept apart from the shard's own books.

use connect_core::{Counts, DropReason, Report};

use crate::faults::{Fault, Hits};

/// One push and what became of it.
pub(crate) struct Push {
    pub(crate) payload: Vec<u8>,
    pub(crate) frame_len: usize,
    pub(crate) counts: Counts,
    pub(crate) report_by_ms: Option<u64>,
    pub(crate) reported: bool,
}

/// All pushes of a run; their numbers are their places.
#[derive(Default)]
pub(crate) struct Pushes {
    all: Vec<Push>,
    /// Those whose report is to come.
    waiting: Vec<usize>,
    /// Those of which all became known in this call.
    known: Vec<usize>,
}

impl Pushes {
    pub(crate) fn add(&mut self, push: Push) -> usize {
        let number = self.all.len();
        if push.report_by_ms.is_some() {
            self.waiting.push(number);
            if push.counts.queued == 0 {
                self.known.push(number);
            }
        }
        self.all.push(push);
        number
    }

    pub(crate) fn next_number(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn get(&self, number: usize) -> &Push {
        &self.all[number]
    }

    /// Its frame was decoded from the bytes that left.
    pub(crate) fn written(&mut self, number: usize, hits: &mut Hits) {
        self.all[number].counts.written += 1;
        self.settle(number, hits);
    }

    /// Its frame will never be written whole.
    pub(crate) fn dropped(&mut self, number: usize, reason: DropReason, hits: &mut Hits) {
        if reason == DropReason::Closed {
            hits.hit(Fault::DroppedClosed);
        }
        self.all[number].counts.dropped[reason as usize] += 1;
        self.settle(number, hits);
    }

    fn settle(&mut self, number: usize, hits: &mut Hits) {
        let push = &mut self.all[number];
        push.counts.queued -= 1;
        if push.reported {
            hits.hit(Fault::LateOutcome);
        } else if push.counts.queued == 0 && push.report_by_ms.is_some() {
            self.known.push(number);
        }
    }

    /// Checks a report against the model as it is now.
    pub(crate) fn check_report(&mut self, report: &Report, now_ms: u64, hits: &mut Hits) {
        let number = report.delivery as usize;
        let push = self.all.get_mut(number).expect("a report of a push that was made");
        assert!(!push.reported, "push {number} is reported twice");
        let by_ms = push.report_by_ms.expect("a report was asked for");
        assert_eq!(report.counts, push.counts, "the report of push {number}");
        assert!(
            push.counts.queued == 0 || by_ms <= now_ms,
            "push {number} was reported before all was known"
        );
        push.reported = true;
        self.waiting.retain(|&other| other != number);
        hits.hit(match (push.counts.members, push.counts.queued) {
            (0, _) => Fault::ReportOfNobody,
            (_, 0) => Fault::ReportInTime,
            _ => Fault::ReportAtDeadline,
        });
    }

    /// Its report is due by its time.
    pub(crate) fn is_due(&self, report: &Report, now_ms: u64) -> bool {
        self.all[report.delivery as usize].report_by_ms.is_some_and(|by_ms| by_ms <= now_ms)
    }

    /// The call is over: what became known in it has been reported.
    pub(crate) fn check_known(&mut self) {
        for number in self.known.drain(..) {
            assert!(self.all[number].reported, "all is known of push {number}, and it was not reported");
        }
    }

    /// The deadlines have been handled: nothing that is due is still waited for.
    pub(crate) fn check_due(&self, now_ms: u64) {
        for &number in &self.waiting {
            let by_ms = self.all[number].report_by_ms;
            assert!(by_ms.is_some_and(|by_ms| by_ms > now_ms), "push {number} is overdue");
        }
    }

    /// The sum over all pushes; nothing may be open.
    pub(crate) fn total(&self) -> Counts {
        let mut total = Counts::default();
        for (number, push) in self.all.iter().enumerate() {
            let counts = &push.counts;
            let known = counts.written + counts.dropped.iter().sum::<u64>();
            assert_eq!((counts.queued, counts.members), (0, known), "push {number} is counted whole");
            assert_eq!(
                push.reported,
                push.report_by_ms.is_some(),
                "push {number} is reported where it was asked"
            );
            total.members += counts.members;
            total.written += counts.written;
            (0..3).for_each(|reason| total.dropped[reason] += counts.dropped[reason]);
        }
        total
    }
}
