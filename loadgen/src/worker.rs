//! The thread of a fleet: connects on schedule, turns readiness into receipts, obeys commands.
//!
//! Owns: the connections and the measurements. Must not: be waited for by its own clients' schedule. Talks to:
//! `fleet` through commands and published totals.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::connection::{Connection, Phase, Witness};
use crate::payload::Stamp;
use crate::plan::{FleetPlan, Leave};
use crate::poller::Poller;
use crate::report::{ConnectionReport, FleetReport, Latency, PushSpan, Totals};
use crate::tally::Ended;

/// Bytes that one read takes at most; all connections share them.
const SCRATCH_BYTES: usize = 256 * 1024;

/// The longest sleep, so that time limits are kept.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Connects between two looks at the sockets, so that a late schedule does not blind the clients.
const CONNECTS_AT_A_TIME: usize = 128;

/// What a fleet tells its thread.
pub(crate) enum Command {
    /// These clients go.
    Leave(Range<usize>, Leave),
    /// These clients read again.
    Hear(Range<usize>),
    /// Forgets latencies and pushes measured so far; sequences stay.
    Forget,
    /// Asks for the report.
    Report(Sender<FleetReport>),
    /// Ends the thread.
    Stop,
}

/// What fleet and thread share.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) commands: Mutex<VecDeque<Command>>,
    pub(crate) totals: Mutex<Totals>,
    pub(crate) changed: Condvar,
}

/// What is measured over all connections.
struct Measured {
    latency: Latency,
    join: Latency,
    pushes: HashMap<(u32, u64), PushSpan>,
    received: u64,
    duplicates: u64,
}

impl Witness for Measured {
    fn pushed(&mut self, stamp: Stamp, first: bool, now_ns: u64) {
        if !first {
            self.duplicates += 1;
            return;
        }
        self.received += 1;
        self.latency.record_ns(now_ns.saturating_sub(stamp.intended_ns));
        let fresh = PushSpan { intended_ns: stamp.intended_ns, last_ns: 0, receivers: 0 };
        let span = self.pushes.entry((stamp.stream, stamp.seq)).or_insert(fresh);
        span.last_ns = span.last_ns.max(now_ns);
        span.receivers += 1;
    }
}

pub(crate) struct Worker {
    plan: FleetPlan,
    poller: Poller,
    shared: Arc<Shared>,
    connections: Vec<Connection>,
    /// When each connect's wait for the 101 ends, in the order of the connects.
    expiries: VecDeque<(u64, usize)>,
    /// Clients that are joining, or, where all leave at once, are there at all.
    open: usize,
    start_ns: u64,
    totals: Totals,
    measured: Measured,
}

impl Worker {
    pub(crate) fn new(plan: FleetPlan, poller: Poller, shared: Arc<Shared>) -> Self {
        let measured = Measured {
            latency: Latency::new(),
            join: Latency::new(),
            pushes: HashMap::new(),
            received: 0,
            duplicates: 0,
        };
        Self {
            plan,
            poller,
            shared,
            connections: Vec::new(),
            expiries: VecDeque::new(),
            open: 0,
            start_ns: monotonic_ns(),
            totals: Totals::default(),
            measured,
        }
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut ready = Vec::new();
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            self.poller.wait(self.next_wait(), &mut ready);
            for token in &ready {
                self.step(*token as usize, |connection, plan, number, measured| {
                    connection.ready(plan, number, &mut scratch, measured);
                });
            }
            self.connect_due();
            self.expire_due();
            if !self.obey(&mut scratch) {
                return;
            }
            self.publish();
        }
    }

    /// When the next connect is due.
    fn due_ns(&self) -> Option<u64> {
        let number = self.connections.len();
        let room = self.open < self.plan.max_open;
        (number < self.plan.count && room)
            .then(|| self.start_ns + (number as f64 * 1e9 / self.plan.rate.max(0.001)) as u64)
    }

    fn next_wait(&self) -> Duration {
        let due = self.due_ns().map(|due| Duration::from_nanos(due.saturating_sub(monotonic_ns())));
        due.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    fn connect_due(&mut self) {
        for _ in 0..CONNECTS_AT_A_TIME {
            let now = monotonic_ns();
            let Some(due) = self.due_ns().filter(|due| *due <= now) else { return };
            let number = self.connections.len();
            let connection = Connection::begin(&self.plan, number, due);
            self.totals.begun += 1;
            let descriptor = connection.descriptor();
            self.connections.push(connection);
            match descriptor {
                Some(descriptor) => {
                    self.open += 1;
                    self.expiries.push_back((now + self.plan.connect_timeout.as_nanos() as u64, number));
                    // A descriptor that is open and new can be added, unless the kernel is out of memory; then
                    // the wait for the 101 expires and tells.
                    let _ = self.poller.add(descriptor, number as u64);
                }
                None => self.totals.broken += 1,
            }
        }
    }

    fn expire_due(&mut self) {
        let now = monotonic_ns();
        while let Some((_, number)) = self.expiries.pop_front_if(|(at, _)| *at <= now) {
            self.step(number, |connection, _, _, _| connection.expire());
        }
    }

    /// Lets a connection do something, and keeps the books on how its phase changes.
    fn step(&mut self, number: usize, act: impl FnOnce(&mut Connection, &FleetPlan, usize, &mut Measured)) {
        let connection = &mut self.connections[number];
        let before = connection.phase();
        act(connection, &self.plan, number, &mut self.measured);
        let joined_now = before == Phase::Joining && connection.phase() == Phase::Joined;
        self.book(number, before);
        if let Some(leave) = self.plan.leave_when_joined.filter(|_| joined_now) {
            self.connections[number].leave(leave);
            self.book(number, Phase::Joined);
        }
    }

    fn book(&mut self, number: usize, before: Phase) {
        let connection = &self.connections[number];
        let after = connection.phase();
        if before == after {
            return;
        }
        if before == Phase::Joining && connection.tally.joined_after_ns.is_some() {
            self.totals.joined += 1;
            self.measured.join.record_ns(connection.tally.joined_after_ns.unwrap_or(0));
        }
        let totals = &mut self.totals;
        match before {
            Phase::Joined => totals.live -= 1,
            Phase::Mute => totals.mute -= 1,
            _ => {}
        }
        match after {
            Phase::Joined => totals.live += 1,
            Phase::Mute => totals.mute += 1,
            Phase::Over => match &connection.tally.ended {
                Some(Ended::ClosedByServer { .. }) => totals.closed_by_server += 1,
                Some(Ended::Left) => totals.left += 1,
                Some(Ended::Refused { .. }) => totals.refused += 1,
                Some(Ended::Broken { .. }) | None => totals.broken += 1,
            },
            Phase::Joining | Phase::Leaving => {}
        }
        let held = |phase| match self.plan.leave_when_joined {
            Some(_) => phase != Phase::Over,
            None => phase == Phase::Joining,
        };
        if held(before) && !held(after) {
            self.open -= 1;
        }
    }

    /// Obeys what was asked; `false`: stop.
    fn obey(&mut self, scratch: &mut [u8]) -> bool {
        loop {
            let command = self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match command {
                None => return true,
                Some(Command::Stop) => return false,
                Some(Command::Leave(numbers, how)) => {
                    for number in self.begun(numbers) {
                        self.step(number, |connection, _, _, _| connection.leave(how));
                    }
                }
                Some(Command::Hear(numbers)) => {
                    for number in self.begun(numbers) {
                        self.step(number, |connection, plan, number, measured| {
                            connection.hear();
                            connection.ready(plan, number, scratch, measured);
                        });
                    }
                }
                Some(Command::Forget) => {
                    self.measured.latency = Latency::new();
                    self.measured.pushes.clear();
                }
                // Whoever asked may have given up.
                Some(Command::Report(answer)) => drop(answer.send(self.report())),
            }
        }
    }

    fn begun(&self, numbers: Range<usize>) -> Range<usize> {
        numbers.start.min(self.connections.len())..numbers.end.min(self.connections.len())
    }

    fn publish(&mut self) {
        self.totals.received = self.measured.received;
        self.totals.duplicates = self.measured.duplicates;
        let mut published = self.shared.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if *published != self.totals {
            *published = self.totals;
            self.shared.changed.notify_all();
        }
    }

    fn report(&mut self) -> FleetReport {
        self.publish();
        let connections = self.connections.iter().enumerate().map(|(number, connection)| ConnectionReport {
            number,
            user: (self.plan.user)(number),
            room: (self.plan.room)(number),
            frames: connection.tally.frames,
            pings: connection.tally.pings,
            streams: connection.tally.streams.clone(),
            joined_after_ns: connection.tally.joined_after_ns,
            ended: connection.tally.ended.clone(),
        });
        FleetReport {
            totals: self.totals,
            latency: self.measured.latency.clone(),
            join: self.measured.join.clone(),
            pushes: self.measured.pushes.clone(),
            connections: connections.collect(),
        }
    }
}
