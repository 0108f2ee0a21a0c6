//! A fleet of clients on threads of their own.
//!
//! Owns: the threads. Must not: touch a connection. Talks to: `worker` through commands and published totals.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::clock::monotonic_ns;
use crate::descriptors::raise_open_files;
use crate::journal::Entry;
use crate::judgement::Judgement;
use crate::plan::{FleetPlan, Leave};
use crate::poller::Waker;
use crate::report::{FleetReport, Latency, Totals};
use crate::worker::{Board, Command, Desk, Figures, Line, Worker};

/// How long a report may take to be made.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Clients that connect, join, receive and answer pings by themselves until the fleet is dropped.
pub struct Fleet {
    board: Arc<Board>,
    threads: Vec<FleetThread>,
}

/// One thread of a fleet.
struct FleetThread {
    desk: Arc<Desk>,
    /// Also keeps its descriptor's number taken until the thread has its own table.
    waker: Waker,
    handle: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Begins to connect on the plan's schedule; returns at once.
    pub fn connect(plan: FleetPlan) -> anyhow::Result<Self> {
        anyhow::ensure!(!plan.addrs.is_empty(), "a fleet without a node to connect to");
        raise_open_files();
        let of = plan.thread_count();
        let (plan, board) = (Arc::new(plan), Arc::new(Board::default()));
        board.lines.lock().unwrap_or_else(PoisonError::into_inner).resize(of, Line::default());
        let mut fleet = Self { board, threads: Vec::new() };
        let start_ns = monotonic_ns();
        for place in 0..of {
            let (desk, waker) = (Arc::new(Desk::default()), Waker::new().context("eventfd for the clients")?);
            let (board, wake) = (Arc::clone(&fleet.board), waker.descriptor());
            let worker = Worker::new(Arc::clone(&plan), (place, of), start_ns, board, Arc::clone(&desk));
            let (tell, started) = channel();
            let name = format!("fleet-{place}");
            let handle = std::thread::Builder::new().name(name).spawn(move || worker.run(wake, &tell))?;
            fleet.threads.push(FleetThread { desk, waker, handle: Some(handle) });
            started.recv().context("a thread of the fleet ended")?.context("epoll for the clients")?;
        }
        Ok(fleet)
    }

    /// Where the clients are now.
    pub fn totals(&self) -> Totals {
        sum(&self.lines())
    }

    /// Joined clients by node, in the order of the plan's addresses.
    pub fn live_by_node(&self) -> Vec<u64> {
        let lines = self.lines();
        let nodes = lines.iter().map(|line| line.live_by_node.len()).max().unwrap_or(0);
        (0..nodes)
            .map(|node| lines.iter().map(|line| line.live_by_node.get(node).copied().unwrap_or(0)).sum())
            .collect()
    }

    /// Waits until the totals fulfil a condition; an error tells what they were when the time was over.
    pub fn run_until(
        &self,
        timeout: Duration,
        condition: impl Fn(&Totals) -> bool,
    ) -> anyhow::Result<Totals> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.lines();
        loop {
            let totals = sum(&lines);
            if condition(&totals) {
                return Ok(totals);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The lock is let go: the fleet's threads need it to make the report.
                drop(lines);
                let endings = self.report().map(|report| report.endings());
                anyhow::bail!("not within {timeout:?}: {totals:?}, {endings:?}");
            }
            (lines, _) = self.board.changed.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// These clients go.
    pub fn leave(&self, numbers: Range<usize>, how: Leave) {
        self.tell(|| Command::Leave(numbers.clone(), how));
    }

    /// These clients are reset and come back, as the plan says, or half a second later.
    pub fn lose(&self, numbers: Range<usize>) {
        self.tell(|| Command::Lose(numbers.clone()));
    }

    /// These clients read again after they were deaf or silent.
    pub fn hear(&self, numbers: Range<usize>) {
        self.tell(|| Command::Hear(numbers.clone()));
    }

    /// These clients were taken out of their rooms, and that was confirmed now: a push to the room that is meant to
    /// leave later must not reach them.
    pub fn left_room(&self, numbers: Range<usize>) {
        let now = monotonic_ns();
        self.tell(|| Command::LeftRoom(numbers.clone(), now));
    }

    /// From now on so many clients a second leave and come back half a second later; 0: no more.
    pub fn churn(&self, per_second: f64) {
        self.tell(|| Command::Churn(per_second));
    }

    /// Forgets the latencies and pushes measured so far; sequences stay.
    pub fn forget(&self) {
        self.tell(|| Command::Forget);
    }

    /// What the clients saw up to now.
    pub fn report(&self) -> anyhow::Result<FleetReport> {
        let mut reports = self.ask(Command::Report)?.into_iter();
        let mut whole = reports.next().context("a fleet without a thread")?;
        for report in reports {
            whole.totals.add(&report.totals);
            whole.latency.merge(&report.latency);
            whole.join.merge(&report.join);
            for (push, span) in report.pushes {
                whole.pushes.entry(push).and_modify(|known| known.merge(&span)).or_insert(span);
            }
            whole.connections.extend(report.connections);
        }
        whole.connections.sort_unstable_by_key(|connection| connection.number);
        Ok(whole)
    }

    /// What the clients saw since the last time, where the plan keeps it: in the order of time for each client.
    pub fn journal(&self) -> anyhow::Result<Vec<Entry>> {
        Ok(self.ask(Command::Journal)?.into_iter().flatten().collect())
    }

    /// What the clients got of what had to come.
    pub(crate) fn judge(&self) -> anyhow::Result<Judgement> {
        let mut whole = Judgement::default();
        self.ask(Command::Judge)?.into_iter().for_each(|part| whole.merge(part));
        Ok(whole)
    }

    /// The distributions of each thread; the spans are handed on before.
    pub(crate) fn figures(&self) -> anyhow::Result<Vec<Figures>> {
        self.ask(Command::Figures)
    }

    /// The distribution of the receipts since the last time.
    pub(crate) fn recent(&self) -> anyhow::Result<Latency> {
        let mut whole = Latency::coarse();
        self.ask(Command::Recent)?.iter().for_each(|part| whole.merge(part));
        Ok(whole)
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.board.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, command: impl Fn(Sender<T>) -> Command) -> anyhow::Result<Vec<T>> {
        let ask = |thread: &FleetThread| -> Receiver<T> {
            let (answer, answered) = channel();
            thread.tell(command(answer));
            answered
        };
        let waiting: Vec<Receiver<T>> = self.threads.iter().map(ask).collect();
        waiting
            .into_iter()
            .map(|answer| answer.recv_timeout(REPORT_TIMEOUT).context("the fleet's answer"))
            .collect()
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.threads.iter().for_each(|thread| thread.tell(command()));
    }
}

impl FleetThread {
    fn tell(&self, command: Command) {
        self.desk.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.waker.wake();
    }
}

fn sum(lines: &[Line]) -> Totals {
    let mut totals = Totals::default();
    lines.iter().for_each(|line| totals.add(&line.totals));
    totals
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tell(|| Command::Stop);
        for thread in &mut self.threads {
            if let Some(handle) = thread.handle.take() {
                let panicked = handle.join().is_err();
                assert!(!panicked || std::thread::panicking(), "a thread of the fleet panicked");
            }
        }
    }
}
