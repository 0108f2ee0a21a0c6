//! Which deliveries still wait for a shard's report, and which outcomes wait to be told to their push manager.
//!
//! Owns: the deliveries and streams that are open, both bounded. Must not: know gRPC's wire or a lane.
//! Talks to: `push_intake`, which opens and reads it, `hub`, which brings the reports.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use ahash::RandomState;
use connect_core::{Counts, DropReason, Report};
use hashbrown::HashMap;
use ringcast_proto::pubsub::{DeliverResponse, DeliverWelcome, DeliveryOutcome, Outcomes};
use tonic::Status;

use crate::delivery_trace::DeliveryTrace;

/// Deliveries of one stream that may be open. Beyond, nothing more is read of it until reports come.
pub(crate) const MAX_OPEN: usize = 65_536;

/// Outcomes that may wait for a stream that is not read. Beyond, it is cut.
const MAX_UNREAD: usize = 2 * MAX_OPEN;

/// Push managers that may be connected.
const MAX_STREAMS: usize = 256;

/// Outcomes in one message, so that it stays far below the limits of gRPC messages.
const MAX_OUTCOMES_A_MESSAGE: usize = 8192;

/// A stream's number in this node.
pub(crate) type StreamId = u64;

/// A delivery that not all shards have reported of.
#[derive(Debug)]
struct Open {
    stream: StreamId,
    delivery_id: u64,
    shards_left: u32,
    counts: Counts,
    received: Instant,
    told: Told,
}

/// What is told of a delivery beside its outcome.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// The message, for the log.
    pub(crate) message_id: String,
    /// Its trace, where that is sampled.
    pub(crate) trace: Option<Box<DeliveryTrace>>,
}

/// A delivery that all shards have reported of.
#[derive(Debug)]
pub(crate) struct Done {
    /// When it came.
    pub(crate) received: Instant,
    /// What became of it.
    pub(crate) counts: Counts,
    /// What is told of it.
    pub(crate) told: Told,
}

/// A push manager's stream.
#[derive(Debug, Default)]
struct StreamState {
    welcome: Option<DeliverWelcome>,
    outcomes: Vec<DeliveryOutcome>,
    open: usize,
    input_ended: bool,
    cut: Option<Status>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl StreamState {
    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// All streams with what is open on them.
#[derive(Debug, Default)]
pub(crate) struct OpenDeliveries {
    last_number: u64,
    last_stream: StreamId,
    open: HashMap<u64, Open, RandomState>,
    streams: HashMap<StreamId, StreamState, RandomState>,
    ending: bool,
}

impl OpenDeliveries {
    /// Deliveries that are open, on all streams.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Streams that are open.
    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// A new stream; `None` where there are too many, or the node is ending.
    pub(crate) fn open_stream(&mut self) -> Option<StreamId> {
        if self.streams.len() >= MAX_STREAMS || self.ending {
            return None;
        }
        self.last_stream += 1;
        self.streams.insert(self.last_stream, StreamState::default());
        Some(self.last_stream)
    }

    /// Answers the stream's hello.
    pub(crate) fn welcome(&mut self, stream: StreamId, welcome: DeliverWelcome) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.welcome = Some(welcome);
            state.wake_writer();
        }
    }

    /// The number of a delivery that nobody waits for.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Opens a delivery that this many shards are going to report of, one at least; gives its number.
    pub(crate) fn begin(
        &mut self,
        stream: StreamId,
        delivery_id: u64,
        shards: usize,
        received: Instant,
        told: Told,
    ) -> u64 {
        debug_assert!(shards > 0, "nobody would ever report");
        let number = self.number();
        if let Some(state) = self.streams.get_mut(&stream) {
            state.open += 1;
            let counts = Counts::default();
            let shards_left = shards as u32;
            self.open.insert(number, Open { stream, delivery_id, shards_left, counts, received, told });
        }
        number
    }

    /// Tells at once that a delivery found nobody.
    pub(crate) fn answer_empty(&mut self, stream: StreamId, delivery_id: u64) {
        self.answer(stream, delivery_id, &Counts::default());
    }

    /// Takes in what a shard reports now. When it was the last, the outcome is on its way, and what is known of the
    /// delivery is given back. A report of a delivery that has been forgotten changes nothing.
    pub(crate) fn report(&mut self, shard: usize, report: &Report, now: Instant) -> Option<Done> {
        let open = self.open.get_mut(&report.delivery)?;
        add(&mut open.counts, &report.counts);
        if let Some(trace) = &mut open.told.trace {
            trace.shard(shard, &report.counts, now);
        }
        open.shards_left -= 1;
        if open.shards_left > 0 {
            return None;
        }
        let open = self.open.remove(&report.delivery)?;
        if let Some(state) = self.streams.get_mut(&open.stream) {
            state.open -= 1;
            if state.open < MAX_OPEN {
                state.wake_reader();
            }
        }
        self.answer(open.stream, open.delivery_id, &open.counts);
        let Open { received, counts, told, .. } = open;
        Some(Done { received, counts, told })
    }

    fn answer(&mut self, stream: StreamId, delivery_id: u64, counts: &Counts) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        state.outcomes.push(DeliveryOutcome { delivery_id, outcomes: Some(outcomes(counts)) });
        if state.outcomes.len() > MAX_UNREAD && state.cut.is_none() {
            state.cut = Some(Status::resource_exhausted("the stream's reports are not read"));
            state.wake_reader();
        }
        state.wake_writer();
    }

    /// Ends the stream with this status; what waits on it is not told.
    pub(crate) fn cut(&mut self, stream: StreamId, status: Status) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.cut.get_or_insert(status);
            state.wake_writer();
            state.wake_reader();
        }
    }

    /// The push manager will send nothing more; the stream ends after its last report.
    pub(crate) fn end_input(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get_mut(&stream) {
            state.input_ended = true;
            state.wake_writer();
            state.wake_reader();
        }
    }

    /// The node ends: nothing more is read of any stream, each ends after its last report, none is opened.
    pub(crate) fn end_all(&mut self) {
        self.ending = true;
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        for stream in streams {
            self.end_input(stream);
        }
    }

    /// The stream is gone: gives back what was open on it.
    pub(crate) fn forget(&mut self, stream: StreamId) -> Vec<Told> {
        let Some(mut state) = self.streams.remove(&stream) else { return Vec::new() };
        state.wake_reader();
        if state.open == 0 {
            return Vec::new();
        }
        self.open.extract_if(|_, open| open.stream == stream).map(|(_, open)| open.told).collect()
    }

    /// Whether more may be read of the stream: waits while too much is open; `false` when it is over.
    pub(crate) fn poll_may_read(&mut self, stream: StreamId, context: &Context<'_>) -> Poll<bool> {
        let Some(state) = self.streams.get_mut(&stream) else { return Poll::Ready(false) };
        if state.cut.is_some() || state.input_ended {
            return Poll::Ready(false);
        }
        if state.open < MAX_OPEN {
            return Poll::Ready(true);
        }
        state.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// The next message for the stream's push manager: all that is known by now.
    pub(crate) fn poll_response(
        &mut self,
        stream: StreamId,
        context: &Context<'_>,
    ) -> Poll<Option<Result<DeliverResponse, Status>>> {
        let Some(state) = self.streams.get_mut(&stream) else { return Poll::Ready(None) };
        if let Some(status) = state.cut.clone() {
            return Poll::Ready(Some(Err(status)));
        }
        if let Some(welcome) = state.welcome.take() {
            return Poll::Ready(Some(Ok(DeliverResponse { welcome: Some(welcome), outcomes: Vec::new() })));
        }
        if !state.outcomes.is_empty() {
            let rest = state.outcomes.split_off(state.outcomes.len().min(MAX_OUTCOMES_A_MESSAGE));
            let outcomes = std::mem::replace(&mut state.outcomes, rest);
            return Poll::Ready(Some(Ok(DeliverResponse { welcome: None, outcomes })));
        }
        if state.input_ended && state.open == 0 {
            return Poll::Ready(None);
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

fn add(sum: &mut Counts, counts: &Counts) {
    sum.members += counts.members;
    sum.written += counts.written;
    sum.queued += counts.queued;
    for (sum, dropped) in sum.dropped.iter_mut().zip(&counts.dropped) {
        *sum += dropped;
    }
}

fn outcomes(counts: &Counts) -> Outcomes {
    Outcomes {
        members: counts.members,
        written: counts.written,
        queued: counts.queued,
        dropped_slow: counts.dropped[DropReason::Slow as usize],
        dropped_closed: counts.dropped[DropReason::Closed as usize],
        dropped_shed: counts.dropped[DropReason::Shed as usize],
        offline: 0,
        unknown: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker_ref;

    fn context() -> Context<'static> {
        Context::from_waker(noop_waker_ref())
    }

    fn report(delivery: u64, members: u64, written: u64) -> Report {
        let dropped = [0, members - written, 0];
        Report { delivery, counts: Counts { members, written, queued: 0, dropped } }
    }

    fn next(open: &mut OpenDeliveries, stream: StreamId) -> Vec<DeliveryOutcome> {
        match open.poll_response(stream, &context()) {
            Poll::Ready(Some(Ok(response))) => response.outcomes,
            other => panic!("no outcomes but {other:?}"),
        }
    }

    #[test]
    fn an_outcome_is_told_when_the_last_shard_has_reported() {
        let mut open = OpenDeliveries::default();
        let stream = open.open_stream().unwrap();
        let number = open.begin(stream, 77, 2, Instant::now(), Told::default());
        assert!(open.report(0, &report(number, 3, 3), Instant::now()).is_none());
        assert!(open.poll_response(stream, &context()).is_pending());
        assert!(open.report(0, &report(number, 2, 1), Instant::now()).is_some());
        let told = next(&mut open, stream);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].delivery_id, 77);
        let outcomes = told[0].outcomes.unwrap();
        assert_eq!((outcomes.members, outcomes.written, outcomes.dropped_closed), (5, 4, 1));
        assert_eq!(open.len(), 0);
    }

    #[test]
    fn outcomes_of_one_wake_up_share_a_message() {
        let mut open = OpenDeliveries::default();
        let stream = open.open_stream().unwrap();
        for id in 0..100 {
            let number = open.begin(stream, id, 1, Instant::now(), Told::default());
            open.report(0, &report(number, 1, 1), Instant::now());
        }
        assert_eq!(next(&mut open, stream).len(), 100);
    }

    #[test]
    fn a_stream_that_is_gone_takes_its_deliveries_along_and_no_others() {
        let mut open = OpenDeliveries::default();
        let (gone, stays) = (open.open_stream().unwrap(), open.open_stream().unwrap());
        let lost = open.begin(gone, 1, 1, Instant::now(), Told::default());
        let kept = open.begin(stays, 1, 1, Instant::now(), Told::default());
        assert_eq!(open.forget(gone).len(), 1);
        assert!(open.report(0, &report(lost, 1, 1), Instant::now()).is_none());
        assert!(open.report(0, &report(kept, 1, 1), Instant::now()).is_some());
        assert_eq!(next(&mut open, stays).len(), 1);
    }

    #[test]
    fn too_many_open_deliveries_hold_the_reader_back() {
        let mut open = OpenDeliveries::default();
        let stream = open.open_stream().unwrap();
        let numbers: Vec<u64> = (0..MAX_OPEN as u64)
            .map(|id| open.begin(stream, id, 1, Instant::now(), Told::default()))
            .collect();
        assert!(open.poll_may_read(stream, &context()).is_pending());
        open.report(0, &report(numbers[0], 1, 1), Instant::now());
        assert_eq!(open.poll_may_read(stream, &context()), Poll::Ready(true));
    }

    #[test]
    fn a_stream_that_is_not_read_is_cut() {
        let mut open = OpenDeliveries::default();
        let stream = open.open_stream().unwrap();
        for id in 0..=MAX_UNREAD as u64 {
            open.answer_empty(stream, id);
        }
        assert_eq!(open.poll_may_read(stream, &context()), Poll::Ready(false));
        match open.poll_response(stream, &context()) {
            Poll::Ready(Some(Err(status))) => assert_eq!(status.code(), tonic::Code::ResourceExhausted),
            other => panic!("not cut: {other:?}"),
        }
    }

    #[test]
    fn at_the_end_every_open_delivery_is_told_before_its_stream_ends() {
        let mut open = OpenDeliveries::default();
        let stream = open.open_stream().unwrap();
        let number = open.begin(stream, 5, 1, Instant::now(), Told::default());
        open.end_all();
        assert!(open.open_stream().is_none());
        assert_eq!(open.poll_may_read(stream, &context()), Poll::Ready(false));
        assert!(open.poll_response(stream, &context()).is_pending());
        open.report(0, &report(number, 1, 1), Instant::now());
        assert_eq!(next(&mut open, stream).len(), 1);
        assert!(matches!(open.poll_response(stream, &context()), Poll::Ready(None)));
    }
}
