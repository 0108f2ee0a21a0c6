//! A fleet of clients on a thread of its own.
//!
//! Owns: the thread. Must not: touch a connection. Talks to: `worker` through commands and published totals.

use std::ops::Range;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::clock::raise_open_files;
use crate::plan::{FleetPlan, Leave};
use crate::poller::{Poller, Waker};
use crate::report::{FleetReport, Totals};
use crate::worker::{Command, Shared, Worker};

/// How long a report may take to be made.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Clients that connect, join, receive and answer pings by themselves until the fleet is dropped.
pub struct Fleet {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Begins to connect on the plan's schedule; returns at once.
    pub fn connect(plan: FleetPlan) -> anyhow::Result<Self> {
        raise_open_files();
        let (poller, waker) = Poller::new().context("epoll for the clients")?;
        let shared = Arc::new(Shared::default());
        let worker = Worker::new(plan, poller, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(|| worker.run())?;
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    /// Where the clients are now.
    pub fn totals(&self) -> Totals {
        *self.shared.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the totals fulfil a condition; an error tells what they were when the time was over.
    pub fn run_until(
        &self,
        timeout: Duration,
        condition: impl Fn(&Totals) -> bool,
    ) -> anyhow::Result<Totals> {
        let deadline = Instant::now() + timeout;
        let mut totals = self.shared.totals.lock().unwrap_or_else(PoisonError::into_inner);
        while !condition(&totals) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The lock is let go: the fleet's thread needs it to make the report.
                let last = *totals;
                drop(totals);
                let endings = self.report().map(|report| report.endings());
                anyhow::bail!("not within {timeout:?}: {last:?}, {endings:?}");
            }
            (totals, _) =
                self.shared.changed.wait_timeout(totals, left).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(*totals)
    }

    /// These clients go.
    pub fn leave(&self, numbers: Range<usize>, how: Leave) {
        self.tell(Command::Leave(numbers, how));
    }

    /// These clients read again after they were deaf or silent.
    pub fn hear(&self, numbers: Range<usize>) {
        self.tell(Command::Hear(numbers));
    }

    /// Forgets the latencies and pushes measured so far; sequences stay.
    pub fn forget(&self) {
        self.tell(Command::Forget);
    }

    /// What the clients saw up to now.
    pub fn report(&self) -> anyhow::Result<FleetReport> {
        let (answer, report) = channel();
        self.tell(Command::Report(answer));
        report.recv_timeout(REPORT_TIMEOUT).context("the fleet's report")
    }

    fn tell(&self, command: Command) {
        self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).push_back(command);
        self.waker.wake();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let panicked = thread.join().is_err();
            assert!(!panicked || std::thread::panicking(), "the fleet's thread panicked");
        }
    }
}
