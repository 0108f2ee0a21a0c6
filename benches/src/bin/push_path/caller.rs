//! The callers of the push API: an open loop at a fixed rate, or as many pushes as are answered.
//!
//! Owns: the schedule, the pushes and what was answered. Must not: let an answer delay a push that is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use loadgen::{Stamp, monotonic_ns};
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::streamed_push::Push;
use ringcast_proto::pubsub::{
    MessageContent, PushStreamRequest, PushToUserRequest, ReportMode, StreamedPush, streamed_result,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// The first stream of the stamps of a warm-up.
pub(crate) const WARM_UP: u32 = 0;

/// The first stream of the stamps of a measurement.
pub(crate) const MEASURED: u32 = 1 << 24;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 128;

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How pushes are handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Via {
    /// One PushStream.
    Stream,
    /// A call each.
    Unary,
}

/// What to push.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// How they are handed in.
    pub(crate) via: Via,
    /// Pushes a second; 0: as many as are answered.
    pub(crate) rate: u64,
    /// Pushes in all, at most.
    pub(crate) pushes: u64,
    /// For how long.
    pub(crate) time: Duration,
    /// Pushes in one message of a stream.
    pub(crate) batch: usize,
    /// Pushes in flight where the rate is 0.
    pub(crate) in_flight: usize,
    /// HTTP/2 connections of unary calls.
    pub(crate) connections: usize,
    /// Users, pushed to in turn.
    pub(crate) users: usize,
    /// Reports are asked for.
    pub(crate) reported: bool,
}

/// A distribution of times, in nanoseconds.
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1_000, 60_000_000_000, 3)?))
    }

    fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }
}

impl std::fmt::Display for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at_ms = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e6;
        write!(f, "p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms", at_ms(0.5), at_ms(0.99), at_ms(1.0))
    }
}

/// What was told of it.
pub(crate) struct Told {
    /// Pushes made, each of which was answered.
    pub(crate) pushes: u64,
    /// From the first push to the last answer.
    pub(crate) time: Duration,
    /// From the intended time to the answer.
    pub(crate) answered: Latency,
    /// How late pushes left.
    pub(crate) lag: Latency,
}

impl Load {
    /// A push by its number, and when it was meant to leave.
    fn push(&self, first_stream: u32, number: u64, due_ns: u64) -> PushToUserRequest {
        let users = self.users as u64;
        let user = number % users;
        let stamp = Stamp { stream: first_stream + user as u32, seq: number / users, intended_ns: due_ns };
        let mode = if self.reported { ReportMode::Full } else { ReportMode::None };
        PushToUserRequest {
            user_id: format!("u{user}"),
            content: Some(MessageContent {
                data: stamp.payload(PAYLOAD_BYTES).into(),
                ..MessageContent::default()
            }),
            report_mode: mode.into(),
            ..PushToUserRequest::default()
        }
    }
}

/// Pushes, until all is answered.
pub(crate) async fn push(address: &str, load: Load, first_stream: u32) -> anyhow::Result<Told> {
    match load.via {
        Via::Stream => push_stream(address, load, first_stream).await,
        Via::Unary => push_unary(address, load, first_stream).await,
    }
}

async fn connect(address: &str) -> anyhow::Result<PushManagerServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024);
    Ok(PushManagerServiceClient::new(endpoint.connect().await?))
}

/// What is due, in batches. A thread keeps the time: the runtime's timers are only good to a millisecond.
fn schedule(load: &Load, flight: Arc<Semaphore>) -> mpsc::UnboundedReceiver<(u64, Vec<u64>)> {
    let (due_now, schedule) = mpsc::unbounded_channel();
    let Load { rate, pushes, time, batch, .. } = *load;
    std::thread::spawn(move || {
        let start = monotonic_ns();
        let end = start + time.as_nanos() as u64;
        let mut number = 0;
        while number < pushes {
            let batch = batch.min((pushes - number) as usize);
            let due: Vec<u64> = if rate > 0 {
                let due = |number: u64| start + (number as f64 * 1e9 / rate as f64) as u64;
                let last = due(number + batch as u64 - 1);
                std::thread::sleep(Duration::from_nanos(last.saturating_sub(monotonic_ns())));
                (number..number + batch as u64).map(due).collect()
            } else {
                while flight.try_acquire_many(batch as u32).map(tokio::sync::SemaphorePermit::forget).is_err()
                {
                    std::thread::sleep(Duration::from_micros(20));
                }
                vec![monotonic_ns(); batch]
            };
            if monotonic_ns() >= end && rate == 0 {
                return;
            }
            if due_now.send((number, due)).is_err() {
                return;
            }
            number += batch as u64;
        }
    });
    schedule
}

async fn push_stream(address: &str, load: Load, first_stream: u32) -> anyhow::Result<Told> {
    let mut client = connect(address).await?;
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut results = client.push_stream(UnboundedReceiverStream::new(outgoing)).await?.into_inner();
    let flight = Arc::new(Semaphore::new(load.in_flight.max(load.batch)));
    let mut schedule = schedule(&load, flight.clone());
    let sent = Arc::new(AtomicU64::new(0));
    let (mut lag, mut answered) = (Latency::new()?, Latency::new()?);
    let (counted, of) = (sent.clone(), load.clone());
    let begun = Instant::now();
    let sender = tokio::spawn(async move {
        while let Some((first, due)) = schedule.recv().await {
            let numbered = due.iter().zip(first..);
            let pushes = numbered.map(|(&due_ns, number)| {
                let push = of.push(first_stream, number, due_ns);
                // The due time travels as the caller's number: no table is needed to find it again.
                StreamedPush { push_id: due_ns, push: Some(Push::User(push)) }
            });
            let request = PushStreamRequest { pushes: pushes.collect() };
            counted.fetch_add(due.len() as u64, Relaxed);
            if let Some(&last) = due.last() {
                lag.record_ns(monotonic_ns().saturating_sub(last));
            }
            if requests.send(request).is_err() {
                break;
            }
        }
        lag
    });
    let mut done = 0;
    while !(sender.is_finished() && done == sent.load(Relaxed)) {
        let next = tokio::time::timeout(Duration::from_millis(100), results.message()).await;
        let Ok(response) = next else {
            ensure!(begun.elapsed() < load.time + PATIENCE, "{done} of {} answered", sent.load(Relaxed));
            continue;
        };
        // It ends with the caller's side, behind the last result.
        let Some(response) = response? else {
            ensure!(
                done == sent.load(Relaxed),
                "the stream ended, {done} of {} answered",
                sent.load(Relaxed)
            );
            break;
        };
        let now_ns = monotonic_ns();
        flight.add_permits(response.results.len());
        for result in response.results {
            match result.result {
                Some(streamed_result::Result::User(answer)) if answer.success => {}
                other => anyhow::bail!("a push was answered {other:?}"),
            }
            answered.record_ns(now_ns.saturating_sub(result.push_id));
            done += 1;
        }
    }
    Ok(Told { pushes: done, time: begun.elapsed(), answered, lag: sender.await? })
}

async fn push_unary(address: &str, load: Load, first_stream: u32) -> anyhow::Result<Told> {
    let mut clients = Vec::new();
    for _ in 0..load.connections {
        clients.push(connect(address).await?);
    }
    let flight = Arc::new(Semaphore::new(load.in_flight.min(1024 * load.connections)));
    let load = Load { batch: 1, ..load };
    let mut schedule = schedule(&load, flight.clone());
    let (mut lag, mut answered) = (Latency::new()?, Latency::new()?);
    let (answers, mut results) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let mut pushes = 0;
    while let Some((number, due)) = schedule.recv().await {
        for due_ns in due {
            // Pushes to one user go over one connection, which takes them in their order.
            let user = (number % load.users as u64) as usize;
            let mut client = clients[user % load.connections].clone();
            let push = load.push(first_stream, number, due_ns);
            let (answers, flight) = (answers.clone(), flight.clone());
            lag.record_ns(monotonic_ns().saturating_sub(due_ns));
            pushes += 1;
            tokio::spawn(async move {
                let answer = client.push_to_user(push).await;
                flight.add_permits(1);
                // The receiver lives until all has been answered.
                let _ =
                    answers.send((due_ns, monotonic_ns(), answer.map(|answer| answer.into_inner().success)));
            });
        }
    }
    drop(answers);
    while let Some((due_ns, at_ns, success)) = tokio::time::timeout(PATIENCE, results.recv()).await? {
        ensure!(success?, "a push was not delivered");
        answered.record_ns(at_ns.saturating_sub(due_ns));
    }
    Ok(Told { pushes, time: begun.elapsed(), answered, lag })
}
