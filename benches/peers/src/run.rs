//! One row: one contestant, one scenario, one round.
//!
//! Owns: the order of a run and what makes a row void. Must not: compare rows. Talks to: all others here.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, bail};
use loadgen::{FleetReport, PublishReport, monotonic_ns};
use serde::{Deserialize, Serialize};

use crate::bench::steer;
use crate::contestant::{Contestant, Intake, Options, Place, Running};
use crate::cpu::{Used, rss_bytes, steal, used, used_by_one};
use crate::load::{Crowd, Publishes};
use crate::scenario::{Load, Scenario, Times};
use crate::stop;

/// Publishes go on for so long after the window.
const TAIL: Duration = Duration::from_millis(250);

/// What was measured in one run. Fields that a scenario does not have are 0.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The contestant's name.
    pub contestant: String,
    /// Which round.
    pub round: u32,
    /// Whether the receiver's side of TCP was on the client's core.
    pub steered: bool,
    /// Why it does not count; `None`: it does.
    pub void: Option<String>,
    /// Deliveries in the window, or of all bursts.
    pub deliveries: u64,
    /// Deliveries a second in it.
    pub deliveries_per_s: f64,
    /// CPU of the contestant for each, in microseconds.
    pub cpu_us: f64,
    /// Its part in user mode.
    pub user_us: f64,
    /// Its part in the kernel.
    pub system_us: f64,
    /// From a publish's due time to each receiver, in milliseconds.
    pub p50_ms: f64,
    /// The same, 99 of a hundred.
    pub p99_ms: f64,
    /// To the last receiver of each publish, the median.
    pub last_p50_ms: f64,
    /// The same, 99 of a hundred.
    pub last_p99_ms: f64,
    /// How late publishes left, 99 of a hundred.
    pub lag_p99_ms: f64,
    /// The share of its core that subscribers and publisher used.
    pub client_cores: f64,
    /// Upgrades a second, from the first connect to the last 101.
    pub upgrades_per_s: f64,
    /// CPU of the contestant for each, in microseconds.
    #[serde(default)]
    pub upgrade_cpu_us: f64,
    /// From a connect's begin to its 101, the median.
    pub handshake_p50_ms: f64,
    /// The same, 99 of a hundred.
    pub handshake_p99_ms: f64,
    /// Growth of the contestant's resident memory for each connection, in bytes.
    pub rss_per_connection: f64,
    /// The hypervisor's share of the machine's time, in percent.
    pub steal_percent: f64,
}

/// Runs one contestant through one scenario; what goes wrong voids the row, only a stop is an error.
pub fn run(contestant: Contestant, scenario: &Scenario, options: &RunOptions, round: u32) -> Result<Row> {
    let mut row = Row {
        scenario: scenario.name.into(),
        contestant: contestant.name().into(),
        round,
        steered: scenario.steered,
        ..Row::default()
    };
    let done = measure(contestant, scenario, options, &mut row);
    stop::check()?;
    if let Err(error) = done {
        row.void = Some(format!("{error:#}"));
    } else if row.steal_percent > options.max_steal_percent {
        row.void = Some(format!("{:.1} % of the time was stolen", row.steal_percent));
    }
    Ok(row)
}

/// What a run needs to know beside what is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where things are.
    pub place: Place,
    /// How contestants are varied.
    pub contestants: Options,
    /// How long things take.
    pub times: Times,
    /// Whether the machine is set: steering needs root.
    pub set_machine: bool,
    /// The share of the machine's time that the hypervisor may take during a row, in percent.
    pub max_steal_percent: f64,
}

fn measure(contestant: Contestant, scenario: &Scenario, options: &RunOptions, row: &mut Row) -> Result<()> {
    let _steering = options.set_machine.then(|| steer(scenario.steered)).transpose()?;
    let mut running = contestant.start(&options.place, &options.contestants)?;
    let rss_before = rss_bytes(running.server.pid())?;
    let cpu_before = used(running.server.pid())?;
    let (stolen, all) = steal()?;
    let crowd = Crowd::connect(running.addr, scenario)?;
    let (cpu_us, ..) = used(running.server.pid())?.since(cpu_before);
    row.upgrade_cpu_us = cpu_us / scenario.clients() as f64;
    row.upgrades_per_s = scenario.clients() as f64 / crowd.connecting.as_secs_f64();
    // The memory of a burst of handshakes is not that of idle connections; let both come to rest.
    stop::pass(Duration::from_millis(300))?;
    let rss = rss_bytes(running.server.pid())?.saturating_sub(rss_before);
    row.rss_per_connection = rss as f64 / scenario.clients() as f64;
    let to_user = matches!(scenario.load, Load::PacedToUser(_));
    let mut publishes = Publishes::new(running.intake, scenario, to_user);
    let bout = Bout { running: &running, scenario, times: &options.times, crowd: &crowd };
    match scenario.load {
        Load::Idle => {}
        Load::Paced(rate) | Load::PacedToUser(rate) => bout.pace(rate, &mut publishes, row)?,
        Load::Burst(count) => bout.burst(count, &mut publishes, row)?,
    }
    let (stolen, all) = {
        let now = steal()?;
        (now.0 - stolen, now.1 - all)
    };
    row.steal_percent = stolen as f64 * 100.0 / all.max(1) as f64;
    running.server.check()?;
    let seen = crowd.finish()?;
    row.handshake_p50_ms = seen.join.percentile_ms(50.0);
    row.handshake_p99_ms = seen.join.percentile_ms(99.0);
    row.p50_ms = seen.latency.percentile_ms(50.0);
    row.p99_ms = seen.latency.percentile_ms(99.0);
    let last = seen.last_receiver(0..scenario.rooms);
    (row.last_p50_ms, row.last_p99_ms) = (last.percentile_ms(50.0), last.percentile_ms(99.0));
    if matches!(scenario.load, Load::Burst(_)) {
        row.deliveries_per_s = burst_rate(&seen);
    }
    if let Some(fault) = publishes.fault(scenario, &seen) {
        bail!(fault);
    }
    Ok(())
}

/// A contestant with its subscribers, about to be published to.
struct Bout<'a> {
    running: &'a Running,
    scenario: &'a Scenario,
    times: &'a Times,
    crowd: &'a Crowd,
}

impl Bout<'_> {
    /// Publishes on a schedule; the window lies between a warm-up and the last publishes.
    fn pace(&self, rate: f64, publishes: &mut Publishes, row: &mut Row) -> Result<()> {
        let Times { warm_up, window, patience, .. } = *self.times;
        let count = ((warm_up + window + TAIL).as_secs_f64() * rate).ceil() as u64;
        let (report, ()) = publishes.publish(count, rate, || {
            stop::wait_for("the first delivery", patience, || self.crowd.received() > 0)?;
            stop::pass(warm_up)?;
            self.crowd.forget();
            let measured = Window::open(self.running.server.pid(), self.crowd)?;
            stop::pass(window)?;
            measured.close(self.running.server.pid(), self.crowd, row)
        })?;
        row.lag_p99_ms = report.lag.percentile_ms(99.0);
        self.judge_arrivals(publishes, &report)
    }

    /// Publishes back to back, waits until all have arrived, and again; a tenth of a burst comes first.
    fn burst(&self, count: u32, publishes: &mut Publishes, row: &mut Row) -> Result<()> {
        let mut once = |count: u32| -> Result<()> {
            let (report, ()) = publishes.publish(u64::from(count), f64::INFINITY, || Ok(()))?;
            self.judge_arrivals(publishes, &report)
        };
        once(count.div_ceil(10))?;
        self.crowd.forget();
        let measured = Window::open(self.running.server.pid(), self.crowd)?;
        for _ in 0..self.times.bursts {
            once(count)?;
        }
        measured.close(self.running.server.pid(), self.crowd, row)
    }

    /// Waits until all has arrived. What did not is told by the books; but where the contestant reports and was asked
    /// to, every delivery must have been reported as written.
    fn judge_arrivals(&self, publishes: &Publishes, report: &PublishReport) -> Result<()> {
        let members = u64::from(self.scenario.members);
        let all = publishes.count * members;
        let _ = stop::wait_for("all arrive", self.times.patience, || self.crowd.received() >= all);
        stop::check()?;
        let (due, told) = (report.count * members, report.outcomes());
        let reports = matches!(self.running.intake, Intake::Deliver { reports: true, .. });
        if reports && (told.written, told.members) != (due, due) {
            bail!("{due} deliveries, but the reports say {told:?}");
        }
        Ok(())
    }
}

/// Deliveries a second while bursts were on their way: from when each was due to its last receipt, without the time
/// between them.
fn burst_rate(seen: &FleetReport) -> f64 {
    let mut bursts: HashMap<u64, (u64, u64)> = HashMap::new();
    for span in seen.pushes.values() {
        let (last_ns, received) = bursts.entry(span.intended_ns).or_default();
        *last_ns = (*last_ns).max(span.last_ns);
        *received += span.receivers;
    }
    let (mut time_ns, mut received) = (0, 0);
    for (due_ns, (last_ns, count)) in bursts {
        time_ns += last_ns.saturating_sub(due_ns);
        received += count;
    }
    received as f64 * 1e9 / time_ns.max(1) as f64
}

/// The window that is measured.
struct Window {
    server: Used,
    client: Used,
    received: u64,
    at_ns: u64,
}

impl Window {
    fn open(pid: u32, crowd: &Crowd) -> Result<Self> {
        Ok(Self {
            server: used(pid)?,
            client: used_by_one(std::process::id())?,
            received: crowd.received(),
            at_ns: monotonic_ns(),
        })
    }

    fn close(self, pid: u32, crowd: &Crowd, row: &mut Row) -> Result<()> {
        let seconds = (monotonic_ns() - self.at_ns) as f64 / 1e9;
        let (cpu, user, system) = used(pid)?.since(self.server);
        let (client, _, _) = used_by_one(std::process::id())?.since(self.client);
        row.deliveries = crowd.received() - self.received;
        let each = row.deliveries.max(1) as f64;
        row.deliveries_per_s = row.deliveries as f64 / seconds;
        (row.cpu_us, row.user_us, row.system_us) = (cpu / each, user / each, system / each);
        row.client_cores = client / seconds / 1e6;
        Ok(())
    }
}
