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
use crate::load::{Crowd, Publishes, wait_for_received};
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
    match scenario.load {
        Load::Idle => {}
        Load::Paced(rate) | Load::PacedToUser(rate) => {
            pace(rate, &mut publishes, &running, scenario, options, &crowd, row)?;
        }
        Load::Burst(count) => burst(count, &mut publishes, &running, scenario, options, &crowd, row)?,
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

/// Publishes on a schedule; the window lies between a warm-up and the last publishes.
fn pace(
    rate: f64,
    publishes: &mut Publishes,
    running: &Running,
    scenario: &Scenario,
    options: &RunOptions,
    crowd: &Crowd,
    row: &mut Row,
) -> Result<()> {
    let times = &options.times;
    let count = ((times.warm_up + times.window + TAIL).as_secs_f64() * rate).ceil() as u64;
    let pid = running.server.pid();
    let (report, ()) = publishes.publish(count, rate, || {
        stop::wait_for("the first delivery", times.patience, || crowd.received() > 0)?;
        stop::pass(times.warm_up)?;
        crowd.forget();
        let window = Window::open(pid, crowd)?;
        stop::pass(times.window)?;
        window.close(pid, crowd, row)
    })?;
    wait_for_received(crowd, publishes.count * u64::from(scenario.members), times.patience)?;
    judge_reports(&report, scenario, running.intake)?;
    row.lag_p99_ms = report.lag.percentile_ms(99.0);
    Ok(())
}

/// Publishes back to back, waits until all have arrived, and again; a tenth of a burst comes first.
fn burst(
    count: u32,
    publishes: &mut Publishes,
    running: &Running,
    scenario: &Scenario,
    options: &RunOptions,
    crowd: &Crowd,
    row: &mut Row,
) -> Result<()> {
    let patience = options.times.patience;
    let mut once = |count: u32| -> Result<()> {
        let (report, ()) = publishes.publish(u64::from(count), f64::INFINITY, || Ok(()))?;
        wait_for_received(crowd, publishes.count * u64::from(scenario.members), patience)?;
        judge_reports(&report, scenario, running.intake)
    };
    once(count.div_ceil(10))?;
    crowd.forget();
    let window = Window::open(running.server.pid(), crowd)?;
    for _ in 0..options.times.bursts {
        once(count)?;
    }
    window.close(running.server.pid(), crowd, row)
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

/// Where the contestant reports and was asked to, every delivery must have been reported as written.
fn judge_reports(report: &PublishReport, scenario: &Scenario, intake: Intake) -> Result<()> {
    let Intake::Deliver { reports: true, .. } = intake else { return Ok(()) };
    let due = report.count * u64::from(scenario.members);
    let told = report.outcomes();
    if (told.written, told.members) != (due, due) {
        bail!("{due} deliveries, but the reports say {told:?}");
    }
    Ok(())
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
