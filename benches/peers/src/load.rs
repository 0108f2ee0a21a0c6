//! The load on a contestant: the load generator's own clients and publishers, so that every row is judged as its runs
//! are.
//!
//! Owns: who subscribes and what is published to whom, and whether all of it arrived. Must not: receive or send by
//! itself. Talks to: `loadgen`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use loadgen::{
    Aim, Doors, Fleet, FleetPlan, FleetReport, Leave, PublishPlan, PublishReport, Publisher, Target, Via,
};

use crate::contestant::Intake;
use crate::scenario::Scenario;

/// How long all subscribers may take to connect.
const CONNECT: Duration = Duration::from_secs(60);

/// How long they may take to go.
const LEAVE: Duration = Duration::from_secs(10);

/// Connects that may wait for their 101 at a time.
const AT_ONCE: usize = 64;

/// Bytes of a payload.
const PAYLOAD_BYTES: usize = 128;

/// The deadline of a push, where the contestant knows one, in milliseconds.
const DEADLINE_MS: u32 = 10_000;

/// The path of a publisher, as every small server here has it.
const PUBLISH_PATH: &str = "/pub?room_id={room}";

/// The subscribers, on one thread.
pub struct Crowd {
    fleet: Fleet,
    clients: usize,
    /// From the first connect to the last 101.
    pub connecting: Duration,
}

impl Crowd {
    /// Connects all subscribers of a scenario, at full speed.
    pub fn connect(addr: SocketAddr, scenario: &Scenario) -> Result<Self> {
        let (clients, members) = (scenario.clients(), scenario.members);
        let mut plan =
            FleetPlan::new(addr, clients, "", move |number| Scenario::room(number as u32 / members))
                .rate(f64::INFINITY)
                .threads(1);
        plan.user = Arc::new(Scenario::user);
        plan.max_open = AT_ONCE;
        let begun = Instant::now();
        let fleet = Fleet::connect(plan)?;
        fleet.run_until(CONNECT, |totals| totals.live + totals.over() >= clients)?;
        let connecting = begun.elapsed();
        let totals = fleet.totals();
        if totals.live != clients {
            bail!("{} of {clients} subscribers joined: {:?}", totals.live, fleet.report()?.endings());
        }
        Ok(Self { fleet, clients, connecting })
    }

    /// Publishes received so far, over all subscribers.
    pub fn received(&self) -> u64 {
        self.fleet.totals().received
    }

    /// Latencies count from now on.
    pub fn forget(&self) {
        self.fleet.forget();
    }

    /// Tells what was seen, and ends all connections by a reset, so that no port stays in TIME_WAIT.
    pub fn finish(self) -> Result<FleetReport> {
        let report = self.fleet.report()?;
        self.fleet.leave(0..self.clients, Leave::Reset);
        self.fleet.run_until(LEAVE, |totals| totals.live == 0).context("subscribers that do not go")?;
        Ok(report)
    }
}

/// What is published to a contestant in one row: to the rooms in turn, numbered on from plan to plan.
pub struct Publishes {
    publisher: Publisher,
    via: Via,
    reported: bool,
    to_user: bool,
    rooms: u64,
    /// How many were published.
    pub count: u64,
}

impl Publishes {
    /// `to_user`: where the contestant knows users, each publish is for the single user of a room.
    pub fn new(intake: Intake, scenario: &Scenario, to_user: bool) -> Self {
        let (doors, via, reported) = match intake {
            Intake::Sockets(addr) => {
                let socket = Some((addr, PUBLISH_PATH.to_owned()));
                (Doors { socket, ..Doors::default() }, Via::WebSocket, false)
            }
            Intake::Deliver { addr, reports } => {
                (Doors { nodes: vec![addr.to_string()], ..Doors::default() }, Via::Deliver, reports)
            }
        };
        Self {
            publisher: Publisher::through(doors),
            via,
            reported,
            to_user: to_user && via == Via::Deliver,
            rooms: u64::from(scenario.rooms),
            count: 0,
        }
    }

    /// Publishes so many at this rate, on threads of their own, while `meanwhile` goes on here; returns when all have
    /// left and, where there are reports, been reported.
    pub fn publish<T>(
        &mut self,
        count: u64,
        rate: f64,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(PublishReport, T)> {
        let (first, rooms, to_user) = (self.count, self.rooms, self.to_user);
        self.count += count;
        let plan = PublishPlan {
            count,
            rate,
            payload_bytes: PAYLOAD_BYTES,
            deadline_ms: DEADLINE_MS,
            reported: self.reported,
            via: self.via,
            aim: Arc::new(move |number| {
                let (room, seq) = ((first + number) % rooms, (first + number) / rooms);
                // A room that is published to as a user has one member, who has the room's number.
                let target = if to_user {
                    Target::User(Scenario::user(room as usize))
                } else {
                    Target::Room { room: Scenario::room(room as u32), exclude: Vec::new() }
                };
                Aim { target, stream: room as u32, seq }
            }),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::scope(|scope| {
            let publishing = scope.spawn(|| runtime.block_on(self.publisher.publish(plan)));
            let done = meanwhile();
            let report = publishing.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?;
            Ok((report.context("publishing")?, done?))
        })
    }

    /// Publishes to a room.
    fn of_room(&self, room: u64) -> u64 {
        (self.count + self.rooms - 1 - room) / self.rooms
    }

    /// What is wrong with what arrived, where every subscriber had to get each publish to its room once and in order;
    /// `None`: nothing.
    pub fn fault(&self, scenario: &Scenario, seen: &FleetReport) -> Option<String> {
        let (doubled, disorder) = seen.disorder();
        let (mut lost, mut strange, mut corrupt) = (0, 0, seen.totals.corrupt);
        for connection in &seen.connections {
            let room = connection.number as u32 / scenario.members;
            lost += connection.stream(room).lost(self.of_room(u64::from(room)));
            strange += connection
                .streams
                .iter()
                .filter(|tally| tally.stream != room)
                .map(|tally| tally.received)
                .sum::<u64>();
        }
        corrupt += seen.totals.after_leave;
        let fine = [lost, doubled, disorder, strange, corrupt] == [0; 5] && seen.totals.over() == 0;
        (!fine).then(|| {
            format!(
                "{lost} lost, {doubled} doubled, {disorder} out of order, {strange} of other rooms, {corrupt} damaged \
                 or after the end; clients {:?}",
                seen.endings()
            )
        })
    }
}
