//! PushStream: many pushes in flight on one call.
//!
//! Owns: a stream's reading side and its results, how much is in flight. Must not: let a bad push end the stream,
//! or a caller who reads no results go on pushing.
//! Talks to: `push_service`, `request`, `dispatch`.
//!
//! A push in flight holds a permit from its reading until its result is taken by the connection, so a slow caller
//! stops being read. Results are gathered by the wake-up: whatever has become known goes as one message.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use ringcast_proto::pubsub::{PushStreamRequest, PushStreamResponse, StreamedPush, StreamedResult};
use smallvec::SmallVec;
use telemetry::Traces;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use crate::answer::{Answers, MAX_TOGETHER, StreamResults, Waiter};
use crate::dispatch::Dispatch;
use crate::metrics::Metrics;
use crate::push_trace;
use crate::request::{Checker, Push, Refusal};

/// How many pushes of a stream may be in flight.
pub(crate) const MAX_IN_FLIGHT: usize = 4096;

/// How many pushes one message may carry.
const MAX_PER_MESSAGE: usize = 1024;

/// How many pushes are accepted under one hold of the lock.
const CHUNK: usize = 64;

/// How many results one message carries at most.
const MAX_RESULTS: usize = 1024;

/// How long a stream that is ended from here is read on.
const LINGER: Duration = Duration::from_secs(1);

/// The results of a stream.
pub(crate) type Results = Pin<Box<dyn Stream<Item = Result<PushStreamResponse, Status>> + Send>>;

/// Where pushes come in.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    /// Accepts them.
    pub(crate) dispatch: Arc<Dispatch>,
    /// Checks them.
    pub(crate) checker: Checker,
    /// Counts refusals and streams.
    pub(crate) metrics: Arc<Metrics>,
    /// Begins their traces.
    pub(crate) traces: Traces,
    /// No more pushes are read.
    pub(crate) stop: CancellationToken,
    /// The reading sides.
    pub(crate) tasks: TaskTracker,
}

impl Intake {
    /// Reads a stream's pushes; their results.
    pub(crate) fn open_stream(&self, requests: Streaming<PushStreamRequest>) -> Results {
        let (sender, results) = mpsc::unbounded_channel();
        let (fail, failed) = oneshot::channel();
        let room = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let reader = Reader { intake: self.clone(), requests, results: sender, room: room.clone() };
        let metrics = self.metrics.clone();
        self.tasks.spawn(async move {
            let Err((status, unread)) = reader.run().await else { return };
            drop(fail.send(status));
            linger(unread, &metrics).await;
        });
        self.metrics.streams.inc();
        let writer = Writer { results, failed: Some(failed), room, metrics: self.metrics.clone() };
        Box::pin(stream::unfold(writer, |mut writer| async move { Some((writer.next().await?, writer)) }))
    }
}

struct Reader {
    intake: Intake,
    requests: Streaming<PushStreamRequest>,
    results: StreamResults,
    /// A permit for each push that may yet come in flight; closed when nobody takes results any more.
    room: Arc<Semaphore>,
}

impl Reader {
    /// Reads to the end of the stream. Where it is ended from here: why, and what is still to be read of it.
    async fn run(mut self) -> Result<(), (Status, Streaming<PushStreamRequest>)> {
        loop {
            let message = tokio::select! {
                () = self.intake.stop.cancelled() => {
                    return Err((Refusal::stopping().into_status(), self.requests));
                }
                message = self.requests.message() => message,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(status) => return Err((status, self.requests)),
            };
            let mut pushes = message.pushes.into_iter();
            let mut left = MAX_PER_MESSAGE;
            while pushes.len() > 0 {
                let chunk = pushes.len().min(CHUNK);
                let Ok(permits) = self.room.acquire_many(chunk as u32).await else { return Ok(()) };
                permits.forget();
                self.accept(pushes.by_ref().take(chunk), &mut left);
            }
        }
    }

    fn accept(&self, pushes: impl Iterator<Item = StreamedPush>, left: &mut usize) {
        let mut good: SmallVec<[(Arc<Push>, Waiter); CHUNK]> = SmallVec::new();
        let mut refused = Answers::default();
        for StreamedPush { push_id, push } in pushes {
            let waiter = Waiter::Stream(push_id, self.results.clone());
            let checked = match left.checked_sub(1) {
                Some(less) => {
                    *left = less;
                    self.intake.checker.streamed(push)
                }
                None => Err(Refusal::too_many_in_one_message()),
            };
            match checked {
                Ok(mut push) => {
                    // Each is a trace of its own: the call that carries the stream may last for days.
                    push_trace::begin(&self.intake.traces, &mut push, None);
                    good.push((Arc::new(push), waiter));
                }
                Err(refusal) => {
                    self.intake.metrics.refused(&refusal);
                    refused.give(waiter, Err(refusal));
                }
            }
        }
        drop(refused);
        self.intake.dispatch.accept(good);
    }
}

/// Reads on for a while what is not taken any more. A connection that is closed over unread bytes is reset
/// (RFC 9293, 3.10.7.1), and its caller would lose the results, and the reason, that it has not read yet.
async fn linger(mut unread: Streaming<PushStreamRequest>, metrics: &Metrics) {
    let to_the_end = async {
        // More comes only where the stream is ended for the stop: a message that cannot be read is the last.
        while let Ok(Some(message)) = unread.message().await {
            message.pushes.iter().for_each(|_| metrics.refused(&Refusal::stopping()));
        }
    };
    let _ = tokio::time::timeout(LINGER, to_the_end).await;
}

struct Writer {
    results: mpsc::UnboundedReceiver<Vec<StreamedResult>>,
    failed: Option<oneshot::Receiver<Status>>,
    room: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Writer {
    /// The next results; at the end, once all are answered, what broke the reading side, if anything did.
    async fn next(&mut self) -> Option<Result<PushStreamResponse, Status>> {
        if let Some(mut results) = self.results.recv().await {
            while results.len() <= MAX_RESULTS - MAX_TOGETHER
                && let Ok(more) = self.results.try_recv()
            {
                results.extend(more);
            }
            self.room.add_permits(results.len());
            return Some(Ok(PushStreamResponse { results }));
        }
        self.failed.take()?.await.ok().map(Err)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.room.close();
        self.metrics.streams.dec();
    }
}
