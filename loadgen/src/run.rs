//! A run: connects, warms up, measures, settles, judges.
//!
//! Owns: the order of things. Must not: decide whether objectives hold. Talks to: `run_clients`, `run_loads`,
//! `run_actions`, `probe`, `timeline`, `run_result`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::books::PressReport;
use crate::clock::monotonic_ns;
use crate::machine::{CpuTimes, cpu_times};
use crate::press::{Press, PressLive};
use crate::probe::Probe;
use crate::result::{Moment, RunResult, Share};
use crate::run_actions::act;
use crate::run_clients::Clients;
use crate::run_loads::{LoadPlace, RunLoads, joins_before};
use crate::run_result::{Found, assemble};
use crate::scenario::{Action, Scenario, Stage};
use crate::scrape::{ThreadTime, node_stats, own_threads, proc_usage};
use crate::spans::SpanBook;
use crate::system::SystemUnderTest;
use crate::timeline::Timeline;

/// How often a run looks whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long publishers may take to connect.
const PUBLISHERS_TIMEOUT: Duration = Duration::from_secs(30);

/// For how long nothing arrives before a stage is taken for settled, if nothing is missing.
const QUIET: Duration = Duration::from_millis(300);

/// How long a node may take to answer `/stats`.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// What a load's publisher came to.
pub(crate) struct Pressed {
    pub(crate) place: LoadPlace,
    pub(crate) report: Result<PressReport, String>,
}

/// A run under way.
pub(crate) struct Run<'a, F> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) system: &'a SystemUnderTest,
    pub(crate) loads: RunLoads,
    pub(crate) spans: Arc<SpanBook>,
    pub(crate) clients: Clients,
    pub(crate) timeline: Timeline,
    pub(crate) probe: Probe,
    on_moment: F,
    /// What was found so far.
    pub(crate) pressed: Vec<Pressed>,
    /// Seconds of all measured parts.
    pub(crate) measured_s: f64,
    /// The time of each of our threads over them, by thread id.
    pub(crate) threads: HashMap<u32, (String, ThreadTime)>,
    pub(crate) own_cpu_s: f64,
    pub(crate) steal: Option<(CpuTimes, CpuTimes)>,
    pub(crate) live: (u64, u64),
    pub(crate) bytes: u64,
    pub(crate) ramp_s: f64,
}

/// Runs a scenario against a system; `on_moment` is told about each second how it stands.
///
/// The result has everything but objectives and their verdict. An error means that nothing could be measured at
/// all; what went wrong while it was measured is in the result, as errors or as reasons to call it invalid.
pub async fn run(
    scenario: Scenario,
    system: SystemUnderTest,
    on_moment: impl FnMut(&Moment),
) -> anyhow::Result<RunResult> {
    scenario.check()?;
    anyhow::ensure!(!system.nodes.is_empty(), "no node to connect to: give the nodes' HTTP addresses");
    let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let loads = RunLoads::new(&scenario)?;
    let mut run = Run {
        spans: Arc::new(SpanBook::new(loads.scopes.len())),
        clients: Clients::new(&scenario),
        timeline: Timeline::new(),
        probe: Probe::new(&system).await,
        scenario: &scenario,
        system: &system,
        loads,
        on_moment,
        pressed: Vec::new(),
        measured_s: 0.0,
        threads: HashMap::new(),
        own_cpu_s: 0.0,
        steal: None,
        live: (0, 0),
        bytes: 0,
        ramp_s: 0.0,
    };
    for at in 0..scenario.stages.len() {
        run.ramp(at).await?;
        run.stage(at).await?;
    }
    run.timeline.event("end");
    run.tick(true)?;
    let judgement = {
        let mut whole = crate::judgement::Judgement::default();
        for fleet in run.clients.fleets() {
            whole.merge(fleet.judge()?);
        }
        whole
    };
    let shards = shards(&system).await;
    assemble(&run, Found { started_unix_ms, judgement, shards })
}

/// Connections by shard, as the nodes tell them.
async fn shards(system: &SystemUnderTest) -> Vec<Share> {
    let mut shares = Vec::new();
    for node in system.nodes.iter().filter(|node| node.grpc.is_some()) {
        let Some(stats) = node_stats(node.http, STATS_TIMEOUT).await else { continue };
        for (at, shard) in stats.shards.iter().enumerate() {
            let (name, connections) = (format!("{}/{at}", node.name), shard.connections);
            shares.push(Share { name, connections, ..Share::default() });
        }
    }
    shares
}

impl<F: FnMut(&Moment)> Run<'_, F> {
    /// The groups that come before this stage connect.
    async fn ramp(&mut self, stage: usize) -> anyhow::Result<()> {
        let scenario = self.scenario;
        let begun_ns = monotonic_ns();
        let (mut coming, before) = (0, self.clients.totals().joined);
        for (at, group) in scenario.clients.iter().enumerate() {
            if joins_before(group, &scenario.stages, stage) {
                self.clients.begin(scenario, self.system, &self.loads, &self.spans, at)?;
                coming += group.count;
            }
        }
        if coming == 0 {
            return Ok(());
        }
        self.timeline.event("ramp");
        let patience = coming as f64 / scenario.ramp.rate + scenario.ramp.patience;
        let end_ns = begun_ns + (patience * 1e9) as u64;
        while !self.clients.have_arrived() && monotonic_ns() < end_ns {
            self.tick(false)?;
            sleep(LOOK_EVERY).await;
        }
        self.ramp_s += (monotonic_ns() - begun_ns) as f64 / 1e9;
        let joined = self.clients.totals().joined - before;
        self.timeline.event(format!("ramp done: {joined} of {coming} joined"));
        let live = self.clients.live_by_node(self.system.nodes.len());
        self.probe.ramped(&live).await;
        Ok(())
    }

    /// The loads of a stage, side by side.
    async fn stage(&mut self, at: usize) -> anyhow::Result<()> {
        let scenario = self.scenario;
        let stage = &scenario.stages[at];
        let (presses, begin_ns) = self.start_presses(at, stage).await?;
        self.timeline.event(format!("stage {}", stage.name));
        self.wait_until(begin_ns).await?;
        let end_ns = begin_ns + (stage.seconds * 1e9) as u64;
        self.measure(stage, begin_ns, end_ns).await?;
        for (place, press) in presses {
            while !press.is_finished() {
                self.tick(false)?;
                sleep(LOOK_EVERY).await;
            }
            let report = match press.await {
                Ok(Ok(report)) => Ok(report),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(error) => Err(error.to_string()),
            };
            self.pressed.push(Pressed { place, report });
        }
        self.settle().await
    }

    /// Starts the publishers of a stage; when its measured part begins, in nanoseconds of CLOCK_MONOTONIC.
    #[allow(clippy::type_complexity)] // A list of loads, each with what it will come to.
    async fn start_presses(
        &mut self,
        at: usize,
        stage: &Stage,
    ) -> anyhow::Result<(Vec<(LoadPlace, JoinHandle<anyhow::Result<PressReport>>)>, u64)> {
        let (mut presses, mut lives) = (Vec::new(), Vec::<Arc<PressLive>>::new());
        for place in self.loads.of_stage(at) {
            let press = Press::start(self.loads.press(self.scenario, self.system, place))?;
            self.timeline.watch(press.live.clone());
            lives.push(press.live.clone());
            presses.push((place, tokio::spawn(press.report())));
        }
        let give_up_ns = monotonic_ns() + PUBLISHERS_TIMEOUT.as_nanos() as u64;
        let missing = |presses: &[(LoadPlace, JoinHandle<_>)]| {
            let mut both = lives.iter().zip(presses);
            both.any(|(live, (_, press))| live.started_ns.load(Relaxed) == 0 && !press.is_finished())
        };
        while missing(&presses) && monotonic_ns() < give_up_ns {
            self.tick(false)?;
            sleep(Duration::from_millis(1)).await;
        }
        let started = lives.iter().map(|live| live.started_ns.load(Relaxed)).max().unwrap_or(0);
        let started = if started == 0 { monotonic_ns() } else { started };
        Ok((presses, started + (stage.warm_up * 1e9) as u64))
    }

    /// The measured part of a stage.
    async fn measure(&mut self, stage: &Stage, begin_ns: u64, end_ns: u64) -> anyhow::Result<()> {
        let mut actions: Vec<&Action> = stage.actions.iter().collect();
        actions.sort_by(|one, other| one.at.total_cmp(&other.at));
        let mut actions = actions.into_iter().peekable();
        let (threads, own) = (own_threads(), proc_usage(std::process::id()).unwrap_or_default());
        let (ticks, totals, from_ns) = (cpu_times(), self.clients.totals(), monotonic_ns());
        self.probe.begin().await;
        if self.measured_s == 0.0 {
            self.live.0 = totals.live as u64;
        }
        while monotonic_ns() < end_ns {
            let due = |action: &&Action| begin_ns + (action.at * 1e9) as u64 <= monotonic_ns();
            while let Some(action) = actions.next_if(due) {
                let what = act(action, self.scenario, self.system, &self.clients).await;
                self.timeline.event(what);
            }
            self.tick(false)?;
            sleep(LOOK_EVERY.min(Duration::from_nanos(end_ns.saturating_sub(monotonic_ns())))).await;
        }
        self.probe.end().await;
        let end = self.clients.totals();
        self.measured_s += (monotonic_ns() - from_ns) as f64 / 1e9;
        self.live.1 = end.live as u64;
        self.bytes += end.bytes - totals.bytes;
        self.steal = Some((self.steal.map_or(ticks, |(first, _)| first), cpu_times()));
        let used = proc_usage(std::process::id()).unwrap_or_default();
        self.own_cpu_s += used.cpu_s - own.cpu_s;
        for (id, (name, time)) in own_threads() {
            let used = time.since(threads.get(&id).map_or(ThreadTime::default(), |(_, before)| *before));
            let sum = &mut self.threads.entry(id).or_insert((name, ThreadTime::default())).1;
            *sum = ThreadTime { ran_s: sum.ran_s + used.ran_s, waited_s: sum.waited_s + used.waited_s };
        }
        Ok(())
    }

    /// Waits for stragglers: until nothing is missing and nothing arrives, or for as long as the scenario says.
    async fn settle(&mut self) -> anyhow::Result<()> {
        let end_ns = monotonic_ns() + (self.scenario.settle * 1e9) as u64;
        let (mut received, mut since_ns) = (self.clients.totals().received, monotonic_ns());
        while monotonic_ns() < end_ns {
            self.tick(false)?;
            sleep(LOOK_EVERY).await;
            let now = self.clients.totals().received;
            if now != received {
                (received, since_ns) = (now, monotonic_ns());
            } else if monotonic_ns() - since_ns > QUIET.as_nanos() as u64 {
                let mut lost = 0;
                for fleet in self.clients.fleets() {
                    lost += fleet.judge()?.streams.values().map(|sum| sum.lost).sum::<u64>();
                }
                if lost == 0 {
                    return Ok(());
                }
                since_ns = monotonic_ns();
            }
        }
        Ok(())
    }

    async fn wait_until(&mut self, at_ns: u64) -> anyhow::Result<()> {
        while monotonic_ns() < at_ns {
            self.tick(false)?;
            sleep(LOOK_EVERY.min(Duration::from_nanos(at_ns.saturating_sub(monotonic_ns())))).await;
        }
        Ok(())
    }

    fn tick(&mut self, last: bool) -> anyhow::Result<()> {
        self.timeline.tick(&self.clients, self.system, &mut self.on_moment, last)
    }
}
