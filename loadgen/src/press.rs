//! The thread that publishes one load: it keeps the schedule, whatever the system does.
//!
//! Owns: the thread, its runtime, the times. Must not: wait for an answer; what cannot leave because too much is in
//! flight is dropped and counted. Talks to: `lane`, `books`, `streams`.
//!
//! Everything of a load happens on its one thread, connection and answers included: nothing is handed over between
//! cores for a push, and its CPU can be told. At high rates pushes leave in batches, half a millisecond apart at
//! most.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::books::{Books, InFlight, PressReport};
use crate::clock::{DueTimer, burn, monotonic_ns};
use crate::lane::{Doors, Lane, Leaving, SharedBooks};
use crate::lane_grpc::lock;
use crate::payload::Stamp;
use crate::publisher::{Aim, Target, Via};
use crate::schedule::Schedule;
use crate::scrape::ThreadTime;
use crate::streams::Streams;

/// From this many pushes a second on they leave in batches.
const BATCH_FROM: f64 = 4_000.0;

/// How far apart batches are.
const BATCH_GAP_NS: u64 = 500_000;

/// Between the last connection being there and the first push.
const LEAD_NS: u64 = 20_000_000;

/// Tasks that run before the runtime looks at its sockets and timers again: few, so that the schedule is kept.
const EVENT_INTERVAL: u32 = 4;

/// How a press looks for what it cannot be woken for.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// What a press is to do.
pub(crate) struct PressPlan {
    /// The thread's name.
    pub(crate) name: String,
    /// When pushes are due, from the start.
    pub(crate) schedule: Schedule,
    /// Pushes a second, by which batches are decided.
    pub(crate) rate: f64,
    /// How they leave, and where.
    pub(crate) via: Via,
    pub(crate) doors: Doors,
    /// Payload bytes.
    pub(crate) payload_bytes: usize,
    /// The deadline of a push, in milliseconds; 0: the system's default.
    pub(crate) deadline_ms: u32,
    /// The share of pushes of which all is to be reported, 0 to 1.
    pub(crate) reported: f64,
    /// How many may be in flight.
    pub(crate) outstanding: usize,
    /// Whom they are for.
    pub(crate) aims: Aims,
    /// So long from the start pushes only warm up, in nanoseconds.
    pub(crate) warm_up_ns: u64,
    /// How long after the last push answers are waited for.
    pub(crate) grace: Duration,
    /// Burnt for each push: makes the generator slow on purpose.
    pub(crate) handicap: Duration,
    /// Keeps every answer.
    pub(crate) keep_results: bool,
}

/// Whom the pushes of a load are for.
pub(crate) enum Aims {
    /// By the push's number, its place in its stream with it.
    Given(Arc<dyn Fn(u64) -> Aim + Send + Sync>),
    /// To each of some targets in turn; numbers are taken when a push leaves.
    InTurn {
        /// All streams of the run.
        streams: Arc<Streams>,
        /// The range of pushes that warm up, and of those that are measured.
        ranges: (usize, usize),
        /// The targets.
        targets: Vec<Target>,
    },
}

/// What a press tells while it runs.
#[derive(Debug, Default)]
pub(crate) struct PressLive {
    /// Pushes that left.
    pub(crate) sent: AtomicU64,
    /// The largest lateness since it was last looked at, in nanoseconds.
    pub(crate) latest_ns: AtomicU64,
    /// When the first push was due, in nanoseconds of CLOCK_MONOTONIC; 0 before.
    pub(crate) started_ns: AtomicU64,
    /// Ends the schedule now.
    pub(crate) stop: AtomicBool,
}

/// Puts this thread before others, where that is allowed (CAP_SYS_NICE): on cores that it shares with the system under
/// test, pushes that leave late would be told as the system's latency. Its own lag is measured either way.
fn come_first() {
    const NICE: libc::c_int = -10;
    // SAFETY: no pointers are passed; on Linux 0 names the calling thread (setpriority(2), C library differences).
    let _refused_without_harm = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// A press at work.
pub(crate) struct Press {
    pub(crate) live: Arc<PressLive>,
    report: oneshot::Receiver<anyhow::Result<PressReport>>,
}

impl Press {
    /// Starts the thread.
    pub(crate) fn start(plan: PressPlan) -> anyhow::Result<Self> {
        let live = Arc::new(PressLive::default());
        let (answer, report) = oneshot::channel();
        let shared = live.clone();
        std::thread::Builder::new().name(plan.name.clone()).spawn(move || {
            come_first();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(EVENT_INTERVAL)
                .build();
            let report = match runtime {
                Ok(runtime) => runtime.block_on(run(plan, &shared)),
                Err(error) => Err(error.into()),
            };
            // Whoever started it may have given up.
            drop(answer.send(report));
        })?;
        Ok(Self { live, report })
    }

    /// What it came to, when all is answered or its time is over.
    pub(crate) async fn report(self) -> anyhow::Result<PressReport> {
        self.report.await.map_err(|_| anyhow::anyhow!("the publisher's thread ended"))?
    }
}

impl PressPlan {
    /// The targets, where a lane has to know them before the first push.
    fn targets(&self) -> Vec<Target> {
        match &self.aims {
            _ if self.via != Via::WebSocket => Vec::new(),
            Aims::InTurn { targets, .. } => targets.clone(),
            Aims::Given(aim) => {
                let mut schedule = self.schedule.clone();
                let numbers = std::iter::from_fn(|| schedule.pop_due(u64::MAX));
                let mut targets: Vec<Target> = Vec::new();
                for (number, _) in numbers {
                    let target = aim(number).target;
                    if !targets.contains(&target) {
                        targets.push(target);
                    }
                }
                targets
            }
        }
    }
}

async fn run(mut plan: PressPlan, live: &PressLive) -> anyhow::Result<PressReport> {
    let books: SharedBooks = Arc::new(Mutex::new(Books::new(plan.keep_results)));
    let targets = plan.targets();
    let mut lane = Lane::open(plan.via, &plan.doors, &targets, &books).await?;
    let mut timer = DueTimer::new()?;
    let start = monotonic_ns() + LEAD_NS;
    live.started_ns.store(start, Relaxed);
    let gap_ns = if plan.rate >= BATCH_FROM { BATCH_GAP_NS } else { 0 };
    let (mut from, mut flushed_ns) = (None, 0);
    while let Some(due) = plan.schedule.peek() {
        timer.until((start + due).max(flushed_ns + gap_ns)).await?;
        if live.stop.load(Relaxed) {
            break;
        }
        let now = monotonic_ns();
        while let Some((number, due)) = plan.schedule.pop_due(now.saturating_sub(start)) {
            if due >= plan.warm_up_ns && from.is_none() {
                from = Some((ThreadTime::own(), now));
            }
            publish(&plan, &books, &mut lane, number, start + due, due >= plan.warm_up_ns);
        }
        flushed_ns = now;
        live.latest_ns.fetch_max(lane.flush(), Relaxed);
        live.sent.store(lock(&books).report.sent, Relaxed);
    }
    let measured = from.map(|(time, at_ns)| (ThreadTime::own().since(time), monotonic_ns() - at_ns));
    settle(&plan, &books, lane, live).await;
    let books = std::mem::take(&mut *lock(&books));
    let mut report = books.finish();
    (report.time, report.measured_ns) = measured.unwrap_or_default();
    Ok(report)
}

fn publish(plan: &PressPlan, books: &SharedBooks, lane: &mut Lane, number: u64, due_ns: u64, measured: bool) {
    if !plan.handicap.is_zero() {
        burn(plan.handicap);
    }
    let mut open = lock(books);
    if open.in_flight() >= plan.outstanding {
        open.report.dropped += 1;
        return;
    }
    let (target, stream, seq, place) = match &plan.aims {
        Aims::Given(aim) => {
            let aim = aim(number);
            (aim.target, aim.stream, aim.seq, aim.stream as usize)
        }
        Aims::InTurn { streams, ranges, targets } => {
            let range = &streams.ranges()[if measured { ranges.1 } else { ranges.0 }];
            let place = (number % targets.len() as u64) as usize;
            let stream = range.first + place as u32;
            (targets[place].clone(), stream, range.take_number(stream), place)
        }
    };
    let (waiting, lane_number) = lane.route(place);
    let full = plan.reported >= 1.0 || fastrand::f64() < plan.reported;
    let id = open.open(InFlight {
        number,
        stream,
        due_ns,
        measured,
        full,
        lane: lane_number,
        waiting,
        outcomes: Default::default(),
    });
    drop(open);
    let data = Stamp { stream, seq, intended_ns: due_ns }.payload(plan.payload_bytes);
    lane.queue(Leaving { id, target, lane: lane_number, data, deadline_ms: plan.deadline_ms, full });
}

/// Sends what is stuck and waits for the answers, as long as that may take.
async fn settle(plan: &PressPlan, books: &SharedBooks, mut lane: Lane, live: &PressLive) {
    let end = monotonic_ns() + plan.grace.as_nanos() as u64;
    while monotonic_ns() < end && (lane.is_stuck() || lock(books).in_flight() > 0) {
        live.latest_ns.fetch_max(lane.flush(), Relaxed);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    live.sent.store(lock(books).report.sent, Relaxed);
    let left = Duration::from_nanos(end.saturating_sub(monotonic_ns()));
    // What a node has not read by then is found to be missing at the clients.
    let _ = tokio::time::timeout(left, lane.end()).await;
}
