//! What became of each push: tallies that the queued frames point to, and the reports made from them.
//!
//! Owns: open tallies and when each is to be reported. Must not: know sessions. Talks to: `outbox`, whose
//! entries carry the tally with them, so that a completion is credited without a look-up.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;

use crate::counters::Counters;
use crate::event::{Counts, DropReason, Report};

/// One frame on its way, shared by all sessions that it is for.
#[derive(Debug)]
pub(crate) struct Parcel {
    /// The frame, header and payload; of a head, the whole answer.
    pub(crate) frame: Rc<Bytes>,
    /// What it is.
    pub(crate) role: Role,
}

/// What a parcel is.
#[derive(Debug)]
pub(crate) enum Role {
    /// A push, with the tally of what became of it.
    Push(Tally),
    /// The answer to a ping; the newest replaces one that still waits.
    Pong,
    /// An HTTP answer: it is never dropped for what comes behind it, or frames would stand in its place.
    Head,
    /// Anything else of this session alone.
    Own,
}

impl Parcel {
    /// Bytes that are no push.
    pub(crate) fn own(bytes: impl Into<Bytes>) -> Rc<Self> {
        Rc::new(Self { frame: Rc::new(bytes.into()), role: Role::Own })
    }

    /// An HTTP answer, the 101 among them.
    pub(crate) fn head(bytes: impl Into<Bytes>) -> Rc<Self> {
        Rc::new(Self { frame: Rc::new(bytes.into()), role: Role::Head })
    }

    /// A pong.
    pub(crate) fn pong(bytes: impl Into<Bytes>) -> Rc<Self> {
        Rc::new(Self { frame: Rc::new(bytes.into()), role: Role::Pong })
    }

    /// A push whose members are not counted yet. It is not reported before [`Ledger::close`].
    pub(crate) fn push(delivery: u64, frame: Bytes, report_by_ms: Option<u64>) -> Rc<Self> {
        let tally = Tally {
            delivery,
            report_by_ms,
            key: Cell::new(None),
            reported: Cell::new(report_by_ms.is_none()),
            counting: Cell::new(true),
            members: Cell::new(0),
            open: Cell::new(0),
            written: Cell::new(0),
            dropped: Default::default(),
        };
        Rc::new(Self { frame: Rc::new(frame), role: Role::Push(tally) })
    }

    /// The length of the frame in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    /// The tally, of a push.
    #[inline]
    pub(crate) fn tally(&self) -> Option<&Tally> {
        match &self.role {
            Role::Push(tally) => Some(tally),
            Role::Pong | Role::Head | Role::Own => None,
        }
    }
}

/// What became of a push so far, in sessions.
#[derive(Debug)]
pub(crate) struct Tally {
    delivery: u64,
    report_by_ms: Option<u64>,
    key: Cell<Option<Key>>,
    reported: Cell<bool>,
    counting: Cell<bool>,
    members: Cell<u64>,
    open: Cell<u64>,
    written: Cell<u64>,
    dropped: [Cell<u64>; DropReason::ALL.len()],
}

impl Tally {
    /// A member whose outbox took the frame.
    #[inline]
    pub(crate) fn add_queued(&self) {
        self.members.set(self.members.get() + 1);
        self.open.set(self.open.get() + 1);
    }

    /// Members that get nothing.
    pub(crate) fn add_dropped(&self, reason: DropReason, members: u64) {
        self.members.set(self.members.get() + members);
        let dropped = &self.dropped[reason as usize];
        dropped.set(dropped.get() + members);
    }

    /// The members counted so far.
    pub(crate) fn members(&self) -> u64 {
        self.members.get()
    }

    fn report(&self) -> Report {
        let counts = Counts {
            members: self.members.get(),
            written: self.written.get(),
            queued: self.open.get(),
            dropped: std::array::from_fn(|reason| self.dropped[reason].get()),
        };
        Report { delivery: self.delivery, counts }
    }
}

/// How one queued frame ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The kernel took its last byte.
    Written,
    /// It never will.
    Dropped(DropReason),
}

/// When it is due, and which of those due then.
type Key = (u64, u64);

/// The pushes that wait for their report.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    waiting: BTreeMap<Key, Rc<Parcel>>,
    next_number: u64,
}

impl Ledger {
    /// All members of a push are counted: reports it now, or when its time comes.
    pub(crate) fn close(&mut self, push: &Rc<Parcel>, reports: &mut Vec<Report>) {
        let Some(tally) = push.tally() else { return };
        tally.counting.set(false);
        let Some(by_ms) = tally.report_by_ms else { return };
        if tally.open.get() == 0 {
            tally.reported.set(true);
            reports.push(tally.report());
            return;
        }
        let key = (by_ms, self.next_number);
        self.next_number += 1;
        tally.key.set(Some(key));
        self.waiting.insert(key, Rc::clone(push));
    }

    /// Books how one queued push ended at one session.
    #[inline]
    pub(crate) fn credit(
        &mut self,
        parcel: &Parcel,
        outcome: Outcome,
        counters: &mut Counters,
        reports: &mut Vec<Report>,
    ) {
        let Some(tally) = parcel.tally() else { return };
        debug_assert!(tally.open.get() > 0, "a push ends once at each session");
        tally.open.set(tally.open.get() - 1);
        // Where no report was asked for nothing was ever reported as queued either.
        let late = tally.reported.get() && tally.report_by_ms.is_some();
        match outcome {
            Outcome::Written => {
                tally.written.set(tally.written.get() + 1);
                counters.written += 1;
                counters.late_written += u64::from(late);
            }
            Outcome::Dropped(reason) => {
                let dropped = &tally.dropped[reason as usize];
                dropped.set(dropped.get() + 1);
                counters.dropped[reason as usize] += 1;
                counters.late_dropped[reason as usize] += u64::from(late);
            }
        }
        if tally.open.get() == 0 && !tally.reported.get() && !tally.counting.get() {
            tally.reported.set(true);
            // Taken out now: it would hold on to the frame until its time.
            if let Some(key) = tally.key.take() {
                self.waiting.remove(&key);
            }
            reports.push(tally.report());
        }
    }

    /// Reports what is due, with what is not known yet as queued.
    pub(crate) fn report_due(&mut self, now_ms: u64, reports: &mut Vec<Report>) {
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 <= now_ms
        {
            let push = entry.remove();
            let Some(tally) = push.tally() else { continue };
            tally.key.set(None);
            tally.reported.set(true);
            reports.push(tally.report());
        }
    }

    /// When the next report is due, in monotonic milliseconds.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(key, _)| key.0)
    }

    /// How many pushes wait for their report.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(members: u64, report_by_ms: Option<u64>) -> Rc<Parcel> {
        let push = Parcel::push(1, Bytes::from_static(b"frame"), report_by_ms);
        for _ in 0..members {
            push.tally().expect("a push").add_queued();
        }
        push
    }

    #[test]
    fn reports_when_all_is_known_and_only_then() {
        let (mut ledger, mut counters, mut reports) = (Ledger::default(), Counters::default(), Vec::new());
        let push = queued(2, Some(100));
        ledger.close(&push, &mut reports);
        ledger.credit(&push, Outcome::Written, &mut counters, &mut reports);
        assert_eq!((reports.len(), ledger.next_ms()), (0, Some(100)));
        ledger.credit(&push, Outcome::Dropped(DropReason::Closed), &mut counters, &mut reports);
        let counts = Counts { members: 2, written: 1, queued: 0, dropped: [0, 1, 0] };
        assert_eq!(reports, [Report { delivery: 1, counts }]);
        assert_eq!((ledger.len(), ledger.next_ms(), counters.late_written), (0, None, 0));
    }

    #[test]
    fn what_is_open_at_the_deadline_is_queued_and_ends_later_in_the_counters() {
        let (mut ledger, mut counters, mut reports) = (Ledger::default(), Counters::default(), Vec::new());
        let push = queued(2, Some(100));
        ledger.close(&push, &mut reports);
        ledger.report_due(99, &mut reports);
        assert!(reports.is_empty());
        ledger.report_due(100, &mut reports);
        assert_eq!(reports.pop().map(|report| report.counts.queued), Some(2));
        ledger.credit(&push, Outcome::Written, &mut counters, &mut reports);
        ledger.credit(&push, Outcome::Dropped(DropReason::Slow), &mut counters, &mut reports);
        assert_eq!((reports.len(), counters.late_written, counters.late_dropped), (0, 1, [1, 0, 0]));
    }

    #[test]
    fn nothing_is_reported_while_members_are_counted_or_where_none_was_asked_for() {
        let (mut ledger, mut counters, mut reports) = (Ledger::default(), Counters::default(), Vec::new());
        let push = queued(1, Some(100));
        ledger.credit(&push, Outcome::Dropped(DropReason::Slow), &mut counters, &mut reports);
        assert!(reports.is_empty());
        ledger.close(&push, &mut reports);
        assert_eq!(reports.len(), 1);
        let silent = queued(1, None);
        ledger.close(&silent, &mut reports);
        ledger.credit(&silent, Outcome::Written, &mut counters, &mut reports);
        assert_eq!((reports.len(), ledger.len(), counters.late_written), (1, 0, 0));
    }
}
