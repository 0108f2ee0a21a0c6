//! A thread of a fleet: connects on schedule, turns readiness into receipts, obeys commands.
//!
//! Owns: its clients and its measurements. Must not: be waited for by its own clients' schedule. Talks to: `fleet`
//! through commands and published totals, `returns` (who comes back, who churns).

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::monotonic_ns;
use crate::connection::{Connection, Phase, Scene};
use crate::descriptors::own_descriptors;
use crate::journal::Entry;
use crate::judgement::Judgement;
use crate::measured::Measured;
use crate::plan::{FleetPlan, Leave, Manner};
use crate::poller::{Poller, Ready};
use crate::pulse::Pulse;
use crate::report::{ConnectionReport, FleetReport, Latency, Totals};
use crate::returns::Returns;
use crate::sources::Source;
use crate::tally::Ended;

/// Bytes that one read takes at most; all connections of the thread share them.
const SCRATCH_BYTES: usize = 128 * 1024;

/// The longest sleep, so that time limits are kept.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Connects between two looks at the sockets, so that a late schedule does not blind the clients.
const CONNECTS_AT_A_TIME: usize = 128;

/// How often spans are handed on.
const HAND_ON_NS: u64 = 250_000_000;

/// How often slow clients read.
const SIPS_PER_SECOND: u64 = 10;

/// Clients on one thread from which on it takes a source address of its own.
const SOURCE_FROM: usize = 12_000;

/// What a fleet tells its threads.
pub(crate) enum Command {
    /// These clients go.
    Leave(Range<usize>, Leave),
    /// These clients are reset, and come back.
    Lose(Range<usize>),
    /// These clients read again.
    Hear(Range<usize>),
    /// These clients are in their rooms no more since this time, although connected.
    LeftRoom(Range<usize>, u64),
    /// So many clients a second leave and come back; 0: no more.
    Churn(f64),
    /// Forgets latencies and pushes measured so far; sequences stay.
    Forget,
    /// Asks for the report.
    Report(Sender<FleetReport>),
    /// Asks what the clients got of what had to come.
    Judge(Sender<Judgement>),
    /// Asks for the distributions.
    Figures(Sender<Figures>),
    /// Asks for the distribution since the last time.
    Recent(Sender<Latency>),
    /// Asks for what the clients saw since the last time.
    Journal(Sender<Vec<Entry>>),
    /// Ends the thread.
    Stop,
}

/// The distributions of a thread.
pub(crate) struct Figures {
    /// From the intended time to each receipt, by load.
    pub(crate) latency: Vec<Latency>,
    /// The same, by node.
    pub(crate) by_node: Vec<Latency>,
    /// Deliveries, by node.
    pub(crate) received_by_node: Vec<u64>,
    /// From the intended connect to the 101.
    pub(crate) join: Latency,
}

/// What a fleet and one of its threads share.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) commands: Mutex<VecDeque<Command>>,
}

/// What a fleet and all its threads share.
#[derive(Default)]
pub(crate) struct Board {
    pub(crate) lines: Mutex<Vec<Line>>,
    pub(crate) changed: Condvar,
}

/// What a thread says of its clients.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Line {
    pub(crate) totals: Totals,
    pub(crate) live_by_node: Vec<u64>,
}

pub(crate) struct Worker {
    plan: Arc<FleetPlan>,
    /// Which thread this is, of `of`: it has the clients `place`, `place + of`...
    place: usize,
    of: usize,
    board: Arc<Board>,
    desk: Arc<Desk>,
    connections: Vec<Connection>,
    /// When each connect's wait for the 101 ends, in the order of the connects.
    expiries: VecDeque<(u64, u32, u32)>,
    /// Clients that are joining, or, where all leave at once, are there at all.
    open: usize,
    start_ns: u64,
    line: Line,
    pub(crate) measured: Measured,
    source: Option<Source>,
    slow: Vec<(usize, u32)>,
    sip_at_ns: u64,
    hand_on_at_ns: u64,
    returns: Returns,
    roomless: HashMap<usize, u64>,
    pulse: Pulse,
    judged: Judgement,
}

impl Worker {
    pub(crate) fn new(
        plan: Arc<FleetPlan>,
        (place, of): (usize, usize),
        start_ns: u64,
        board: Arc<Board>,
        desk: Arc<Desk>,
    ) -> Self {
        let own = plan.count.saturating_sub(place).div_ceil(of);
        Self {
            place,
            of,
            board,
            desk,
            connections: Vec::with_capacity(own),
            expiries: VecDeque::new(),
            open: 0,
            start_ns,
            line: Line { totals: Totals::default(), live_by_node: vec![0; plan.addrs.len()] },
            measured: Measured::new(&plan),
            source: (own > SOURCE_FROM || of > 1).then(Source::take),
            slow: Vec::new(),
            sip_at_ns: 0,
            hand_on_at_ns: 0,
            returns: Returns::default(),
            roomless: HashMap::new(),
            pulse: Pulse::default(),
            judged: Judgement::default(),
            plan,
        }
    }

    /// Runs until it is told to stop, in a table of descriptors of its own. `wake` is the eventfd of the fleet.
    pub(crate) fn run(mut self, wake: RawFd, started: &Sender<std::io::Result<()>>) {
        let mut poller = match own_descriptors(wake).and_then(Poller::new) {
            Ok(poller) => poller,
            // Whoever waits for this is told; without him there is nobody to serve.
            Err(error) => return drop(started.send(Err(error))),
        };
        if started.send(Ok(())).is_err() {
            return;
        }
        let mut ready = Vec::new();
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            poller.wait(self.next_wait(), &mut ready);
            for Ready { token, ends } in &ready {
                let local = *token as usize;
                if !self.reads_slowly(local) {
                    self.step(local, &mut scratch, |connection, scene| connection.ready(scene, *ends));
                }
            }
            let now = monotonic_ns();
            self.connect_due(&poller);
            self.expire_due(&mut scratch);
            self.come_back_due(&poller, &mut scratch, now);
            self.sip_due(&mut scratch, now);
            self.pulse_due(&mut scratch, now);
            if !self.obey(&mut scratch) {
                return;
            }
            if now >= self.hand_on_at_ns {
                self.hand_on_at_ns = now + HAND_ON_NS;
                if self.plan.run.is_some() {
                    self.measured.hand_on(&self.plan, now);
                }
            }
            self.publish();
        }
    }

    fn number(&self, local: usize) -> usize {
        self.place + local * self.of
    }

    /// When the next connect is due.
    fn due_ns(&self) -> Option<u64> {
        let number = self.number(self.connections.len());
        let room = self.open < self.plan.max_open.div_ceil(self.of);
        (number < self.plan.count && room)
            .then(|| self.start_ns + (number as f64 * 1e9 / self.plan.rate.max(0.001)) as u64)
    }

    fn next_wait(&self) -> Duration {
        let slow = (!self.slow.is_empty()).then_some(self.sip_at_ns);
        let due = [self.due_ns(), self.returns.next_ns(), slow].into_iter().flatten().min();
        let due = due.map(|due| Duration::from_nanos(due.saturating_sub(monotonic_ns())));
        due.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT)
    }

    fn connect_due(&mut self, poller: &Poller) {
        for _ in 0..CONNECTS_AT_A_TIME {
            let now = monotonic_ns();
            let Some(due) = self.due_ns().filter(|due| *due <= now) else { return };
            let due = if self.plan.rate.is_finite() { due } else { now };
            let local = self.connections.len();
            let number = self.number(local);
            let connection = Connection::begin(&self.plan, number, due, self.source.as_mut());
            self.connections.push(connection);
            self.begun(local, poller, now);
        }
    }

    /// Keeps the books on a connect that was just begun.
    fn begun(&mut self, local: usize, poller: &Poller, now: u64) {
        self.line.totals.begun += 1;
        let connection = &self.connections[local];
        match connection.descriptor() {
            Some(descriptor) => {
                self.open += 1;
                self.line.totals.joining += 1;
                let expiry = now + self.plan.connect_timeout.as_nanos() as u64;
                self.expiries.push_back((expiry, local as u32, connection.generation));
                // A descriptor that is open and new can be added, unless the kernel is out of memory; then
                // the wait for the 101 expires and tells.
                let _ = poller.add(descriptor, local as u64);
            }
            None => {
                self.line.totals.broken += 1;
                self.note_end(local);
                self.plan_return(local);
            }
        }
    }

    fn expire_due(&mut self, scratch: &mut [u8]) {
        let now = monotonic_ns();
        while let Some((_, local, generation)) = self.expiries.pop_front_if(|(at, ..)| *at <= now) {
            if self.connections[local as usize].generation == generation {
                self.step(local as usize, scratch, |connection, _| connection.expire());
            }
        }
    }

    /// Those whose time to come back, or to leave for a while, has come.
    fn come_back_due(&mut self, poller: &Poller, scratch: &mut [u8], now: u64) {
        while let Some((due, local)) = self.returns.pop_due(now) {
            let connection = &mut self.connections[local];
            if connection.phase() != Phase::Over {
                continue;
            }
            let number = self.place + local * self.of;
            let streams = std::mem::take(&mut connection.streams);
            if let Some(run) = &self.plan.run {
                self.judged.departed(run, number, &streams, connection.generation);
            }
            if let Some(ended) = &connection.ended {
                self.judged.end(ended);
            }
            connection.begin_again(&self.plan, number, due, self.source.as_mut());
            self.line.totals.reconnects += 1;
            self.begun(local, poller, now);
        }
        for _ in 0..self.returns.churn_due(now) {
            let local = fastrand::usize(..self.connections.len().max(1));
            if self.connections.get(local).is_some_and(|connection| connection.phase() == Phase::Joined) {
                self.step(local, scratch, |connection, _| {
                    connection.comes_back = true;
                    connection.leave(Leave::Close);
                });
            }
        }
    }

    fn reads_slowly(&self, local: usize) -> bool {
        !self.slow.is_empty()
            && self.connections[local].phase() == Phase::Joined
            && self.slow.binary_search_by_key(&local, |(slow, _)| *slow).is_ok()
    }

    fn sip_due(&mut self, scratch: &mut [u8], now: u64) {
        if self.slow.is_empty() || now < self.sip_at_ns {
            return;
        }
        self.sip_at_ns = now + 1_000_000_000 / SIPS_PER_SECOND;
        for at in 0..self.slow.len() {
            let (local, bytes) = self.slow[at];
            let bytes = (u64::from(bytes) / SIPS_PER_SECOND).max(1) as usize;
            self.step(local, scratch, |connection, scene| connection.sip(scene, bytes));
        }
    }

    /// Pings every client's node, and gives up those that were silent for too long.
    fn pulse_due(&mut self, scratch: &mut [u8], now: u64) {
        let Some(heartbeat) = self.plan.heartbeat else { return };
        if !self.pulse.take_due(now, heartbeat.every.as_nanos() as u64) {
            return;
        }
        for local in 0..self.connections.len() {
            let connection = &self.connections[local];
            if connection.phase() != Phase::Joined {
                continue;
            }
            let silent_ns = self.pulse.silent_ns(local, connection.generation, connection.frames, now);
            let give_up = silent_ns >= heartbeat.timeout.as_nanos() as u64;
            self.step(
                local,
                scratch,
                |connection, _| {
                    if give_up { connection.give_up() } else { connection.ask_for_life() }
                },
            );
        }
    }

    /// Lets a connection do something, and keeps the books on how its phase changes.
    fn step(&mut self, local: usize, scratch: &mut [u8], act: impl FnOnce(&mut Connection, &mut Scene<'_>)) {
        let number = self.number(local);
        let roomless_since =
            if self.roomless.is_empty() { None } else { self.roomless.get(&number).copied() };
        let connection = &mut self.connections[local];
        let before = connection.phase();
        let measured = &mut self.measured;
        act(connection, &mut Scene { plan: &self.plan, number, roomless_since, scratch, measured });
        if before == self.connections[local].phase() {
            return;
        }
        let joined_now = before == Phase::Joining && self.connections[local].phase() == Phase::Joined;
        self.book(local, before);
        if joined_now {
            self.joined(local, number);
        }
    }

    /// What some do as soon as they have joined.
    fn joined(&mut self, local: usize, number: usize) {
        let leave = match self.plan.manner_of(number) {
            Manner::Deaf => Some(Leave::Deaf),
            Manner::Prompt => self.plan.leave_when_joined,
            Manner::Slow(bytes) => {
                if let Err(at) = self.slow.binary_search_by_key(&local, |(slow, _)| *slow) {
                    self.slow.insert(at, (local, bytes));
                }
                None
            }
        };
        if let Some(leave) = leave {
            self.connections[local].leave(leave);
            self.book(local, Phase::Joined);
        }
    }

    fn book(&mut self, local: usize, before: Phase) {
        let number = self.number(local);
        let connection = &mut self.connections[local];
        let after = connection.phase();
        let node = connection.node(&self.plan, number);
        let totals = &mut self.line.totals;
        if before == Phase::Joining
            && let Some(after_ns) = connection.joined_after_ns
        {
            totals.joined += 1;
            totals.ever_joined += usize::from(!connection.joined_once);
            connection.joined_once = true;
            self.measured.join.record_ns(after_ns.get());
        }
        match before {
            Phase::Joined => {
                totals.live -= 1;
                self.line.live_by_node[node] -= 1;
            }
            Phase::Mute => totals.mute -= 1,
            Phase::Joining => totals.joining -= 1,
            Phase::Leaving | Phase::Over => {}
        }
        match after {
            Phase::Joined => {
                totals.live += 1;
                self.line.live_by_node[node] += 1;
            }
            Phase::Mute => totals.mute += 1,
            Phase::Over => match connection.ended.as_deref() {
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
        if after == Phase::Over {
            self.note_end(local);
            self.plan_return(local);
        }
    }

    fn note_end(&mut self, local: usize) {
        let number = self.number(local);
        let connection = &self.connections[local];
        if let Some(how) = connection.ended.as_deref() {
            let node = connection.node(&self.plan, number);
            self.measured.journal.ended(monotonic_ns(), number, connection.generation, node, how);
        }
    }

    /// Whoever did not go for good comes back.
    fn plan_return(&mut self, local: usize) {
        let connection = &self.connections[local];
        let left = connection.ended.as_deref() == Some(&Ended::Left);
        match self.plan.reconnect {
            Some(reconnect) if connection.comes_back || !left => self.returns.after(local, reconnect),
            None if connection.comes_back => self.returns.soon(local),
            _ => {}
        }
    }

    /// Obeys what was asked; `false`: stop.
    fn obey(&mut self, scratch: &mut [u8]) -> bool {
        loop {
            let command = self.desk.commands.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            // Whoever asked may have given up.
            match command {
                None => return true,
                Some(Command::Stop) => return false,
                Some(Command::Leave(numbers, how)) => {
                    for local in self.locals(numbers) {
                        self.step(local, scratch, |connection, _| connection.leave(how));
                    }
                }
                Some(Command::Lose(numbers)) => {
                    for local in self.locals(numbers) {
                        self.step(local, scratch, |connection, _| {
                            connection.comes_back = true;
                            connection.leave(Leave::Reset);
                        });
                    }
                }
                Some(Command::Hear(numbers)) => {
                    for local in self.locals(numbers) {
                        self.step(local, scratch, |connection, scene| {
                            connection.hear();
                            connection.ready(scene, true);
                        });
                    }
                }
                Some(Command::LeftRoom(numbers, since_ns)) => {
                    let left = self.locals(numbers).map(|local| (self.number(local), since_ns));
                    let left: Vec<_> = left.collect();
                    self.roomless.extend(left);
                }
                Some(Command::Churn(rate)) => self.returns.churn(rate / self.of as f64),
                Some(Command::Forget) => self.measured.forget(),
                Some(Command::Report(answer)) => drop(answer.send(self.report())),
                Some(Command::Judge(answer)) => drop(answer.send(self.judge())),
                Some(Command::Figures(answer)) => drop(answer.send(self.figures())),
                Some(Command::Journal(answer)) => drop(answer.send(self.measured.journal.take())),
                Some(Command::Recent(answer)) => {
                    let recent = std::mem::replace(&mut self.measured.recent, Latency::coarse());
                    drop(answer.send(recent));
                }
            }
        }
    }

    /// The places of the begun clients of these numbers.
    fn locals(&self, numbers: Range<usize>) -> Range<usize> {
        let local = |number: usize| number.saturating_sub(self.place).div_ceil(self.of);
        local(numbers.start).min(self.connections.len())..local(numbers.end).min(self.connections.len())
    }

    fn publish(&mut self) {
        let seen = &self.measured.totals;
        let totals = &mut self.line.totals;
        (totals.received, totals.duplicates, totals.reordered) =
            (seen.received, seen.duplicates, seen.reordered);
        (totals.after_leave, totals.corrupt, totals.unstamped, totals.bytes) =
            (seen.after_leave, seen.corrupt, seen.unstamped, seen.bytes);
        let mut lines = self.board.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines[self.place] != self.line {
            lines[self.place].clone_from(&self.line);
            self.board.changed.notify_all();
        }
    }

    fn figures(&mut self) -> Figures {
        self.measured.hand_on(&self.plan, monotonic_ns());
        Figures {
            latency: self.measured.latency.clone(),
            by_node: self.measured.by_node.clone(),
            received_by_node: self.measured.received_by_node.clone(),
            join: self.measured.join.clone(),
        }
    }

    fn judge(&mut self) -> Judgement {
        let mut judgement = self.judged.clone();
        let Some(run) = &self.plan.run else { return judgement };
        for (local, connection) in self.connections.iter().enumerate() {
            let (number, there) = (self.number(local), connection.phase() == Phase::Joined);
            let faithful = there && self.plan.manner_of(number) == Manner::Prompt;
            let gone = !faithful || self.roomless.contains_key(&number);
            if gone {
                judgement.departed(run, number, &connection.streams, connection.generation);
            } else {
                judgement.stayed(run, number, &connection.streams);
            }
            if let Some(ended) = &connection.ended {
                judgement.end(ended);
            }
        }
        judgement
    }

    fn report(&mut self) -> FleetReport {
        self.measured.hand_on(&self.plan, monotonic_ns());
        self.publish();
        let connections = self.connections.iter().enumerate().map(|(local, connection)| {
            let number = self.number(local);
            ConnectionReport {
                number,
                user: (self.plan.user)(number),
                room: (self.plan.room)(number),
                frames: u64::from(connection.frames),
                pings: u64::from(connection.pings),
                streams: connection.streams.clone(),
                joined_after_ns: connection.joined_after_ns.map(|ns| ns.get()),
                ended: connection.ended.as_deref().cloned(),
            }
        });
        let mut latency = Latency::new();
        self.measured.latency.iter().for_each(|load| latency.merge(load));
        FleetReport {
            totals: self.line.totals,
            latency,
            join: self.measured.join.clone(),
            pushes: self.measured.spans.iter().map(|(key, span)| (*key, *span)).collect(),
            connections: connections.collect(),
        }
    }
}
