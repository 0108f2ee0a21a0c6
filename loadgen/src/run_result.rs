//! From what a run measured to the form in which it is kept.
//!
//! Owns: the arithmetic of the result. Must not: measure. Talks to: `correctness`, `validity`, `result`.

use std::collections::BTreeMap;

use crate::correctness::correctness;
use crate::judgement::Judgement;
use crate::machine::machine;
use crate::report::{Latency, Totals};
use crate::result::{
    Connections, Correctness, Fairness, GeneratorFigures, Invalid, LatencyScope, Moment, RunResult,
    SCHEMA_VERSION, ScenarioEcho, Share, Throughput, Verdict,
};
use crate::run::{Pressed, Run};
use crate::scrape::{ThreadTime, proc_usage};
use crate::spans::LoadSpans;
use crate::streams::Audience;
use crate::validity::{LoadFacts, ThreadShare, reasons};

/// What was found at the end.
pub(crate) struct Found {
    pub(crate) started_unix_ms: u64,
    pub(crate) judgement: Judgement,
    pub(crate) shards: Vec<Share>,
}

/// The distributions of all threads together.
struct Distributions {
    by_scope: Vec<Latency>,
    by_node: Vec<Latency>,
    received_by_node: Vec<u64>,
    join: Latency,
    spans: Vec<LoadSpans>,
}

/// Makes the result, without objectives and verdict.
pub(crate) fn assemble<F: FnMut(&Moment)>(run: &Run<'_, F>, found: Found) -> anyhow::Result<RunResult> {
    let seen = distributions(run)?;
    let totals = run.clients.totals();
    let name = |stream| run.loads.name(run.scenario, stream);
    let reports: Vec<_> = run.pressed.iter().filter_map(|pressed| pressed.report.as_ref().ok()).collect();
    let correctness = correctness(&run.loads.streams, &found.judgement, &totals, &reports, &name);
    let deliveries: u64 = seen.by_scope.iter().map(Latency::count).sum();
    let (before, after) = run.steal.unwrap_or_default();
    Ok(RunResult {
        schema_version: SCHEMA_VERSION,
        loadgen_version: env!("CARGO_PKG_VERSION").into(),
        command: std::env::args().collect(),
        started_unix_ms: found.started_unix_ms,
        took_s: run.timeline.at_s(),
        scenario: ScenarioEcho {
            name: run.scenario.name.clone(),
            about: run.scenario.about.trim().to_owned(),
            parameters: run.scenario.parameters(),
        },
        machine: machine(before, after),
        // Whoever lays objectives beside it decides; without any, only this can be said.
        verdict: Verdict::Pass,
        invalid: invalid(run, &seen, &totals),
        objectives: Vec::new(),
        connections: connections(run, &found.judgement, &totals),
        throughput: throughput(run, deliveries),
        latency: scopes(run, &seen),
        fairness: fairness(run, &seen, found.shards),
        processes: run.probe.figures(run.measured_s, deliveries, &seen.received_by_node),
        generator: generator(run),
        errors: errors(run, &found.judgement, &totals),
        timeline: run.timeline.moments.clone(),
        remarks: remarks(run, &seen.spans, &correctness),
        correctness,
    })
}

fn distributions<F: FnMut(&Moment)>(run: &Run<'_, F>) -> anyhow::Result<Distributions> {
    let nodes = run.system.nodes.len();
    let mut seen = Distributions {
        by_scope: vec![Latency::new(); run.loads.scopes.len()],
        by_node: vec![Latency::new(); nodes],
        received_by_node: vec![0; nodes],
        join: Latency::new(),
        spans: Vec::new(),
    };
    for fleet in run.clients.fleets() {
        for part in fleet.figures()? {
            seen.by_scope.iter_mut().zip(&part.latency).for_each(|(all, part)| all.merge(part));
            seen.by_node.iter_mut().zip(&part.by_node).for_each(|(all, part)| all.merge(part));
            seen.received_by_node.iter_mut().zip(&part.received_by_node).for_each(|(all, part)| *all += part);
            seen.join.merge(&part.join);
        }
    }
    seen.spans = run.spans.finish(crate::clock::monotonic_ns());
    Ok(seen)
}

fn scopes<F: FnMut(&Moment)>(run: &Run<'_, F>, seen: &Distributions) -> Vec<LatencyScope> {
    let mut out = vec![scope("join", "joined", &seen.join)];
    for (at, known) in run.loads.scopes.iter().enumerate() {
        let spans = &seen.spans[at];
        out.push(scope(&known.name, "each-receiver", &seen.by_scope[at]));
        out.push(scope(&known.name, "first-receiver", &spans.first));
        out.push(scope(&known.name, "last-receiver", &spans.last));
        let mut answered = Latency::new();
        for pressed in run.pressed.iter().filter(|pressed| pressed.place.scope == at) {
            if let Ok(report) = &pressed.report {
                answered.merge(&report.answered);
            }
        }
        out.push(scope(&known.name, "report", &answered));
    }
    out.retain(|scope| scope.samples > 0);
    out
}

fn scope(name: &str, until: &str, latency: &Latency) -> LatencyScope {
    LatencyScope {
        scope: name.into(),
        until: until.into(),
        samples: latency.count(),
        p50_ms: latency.percentile_ms(50.0),
        p90_ms: latency.percentile_ms(90.0),
        p99_ms: latency.percentile_ms(99.0),
        p999_ms: latency.percentile_ms(99.9),
        p9999_ms: latency.percentile_ms(99.99),
        max_ms: latency.max_ms(),
        curve: latency.curve(),
    }
}

fn connections<F: FnMut(&Moment)>(run: &Run<'_, F>, judgement: &Judgement, totals: &Totals) -> Connections {
    let closed = judgement.endings.iter().filter_map(|(name, count)| {
        let code = name.strip_prefix("closed ")?;
        Some((code.to_owned(), *count))
    });
    Connections {
        asked: run.clients.asked(),
        begun: totals.begun as u64,
        joined: totals.joined as u64,
        live_at_start: run.live.0,
        live_at_end: run.live.1,
        refused: totals.refused as u64,
        closed_by_server: closed.collect(),
        broken: totals.broken as u64,
        left: totals.left as u64,
        ramp_s: run.ramp_s,
        joins_per_s: totals.ever_joined as f64 / run.ramp_s.max(1e-9),
    }
}

fn throughput<F: FnMut(&Moment)>(run: &Run<'_, F>, deliveries: u64) -> Throughput {
    let seconds = run.measured_s.max(1e-9);
    let (mut offered, mut offered_deliveries, mut sent) = (0.0, 0.0, 0);
    for pressed in &run.pressed {
        let stage = &run.scenario.stages[pressed.place.stage];
        let pushes = stage.loads[pressed.place.load].rate * stage.seconds;
        offered += pushes;
        offered_deliveries += pushes * run.loads.scopes[pressed.place.scope].members as f64;
        sent += pressed.report.as_ref().map_or(0, |report| report.sent_measured);
    }
    Throughput {
        measured_s: run.measured_s,
        pushes_offered_per_s: offered / seconds,
        pushes_achieved_per_s: sent as f64 / seconds,
        deliveries_offered_per_s: offered_deliveries / seconds,
        deliveries_achieved_per_s: deliveries as f64 / seconds,
        received_bytes_per_s: run.bytes as f64 / seconds,
    }
}

fn fairness<F: FnMut(&Moment)>(run: &Run<'_, F>, seen: &Distributions, shards: Vec<Share>) -> Fairness {
    let live = run.clients.live_by_node(run.system.nodes.len());
    let nodes = run.system.nodes.iter().enumerate().map(|(at, node)| Share {
        name: node.name.clone(),
        connections: live[at],
        received: Some(seen.received_by_node[at]),
        p99_ms: (seen.by_node[at].count() > 0).then(|| seen.by_node[at].percentile_ms(99.0)),
    });
    Fairness { nodes: nodes.collect(), shards }
}

/// Each thread of the generator and the parts of a core that it ran and waited for over the measured part.
fn threads<F: FnMut(&Moment)>(run: &Run<'_, F>) -> Vec<ThreadShare> {
    let share = |name: String, time: ThreadTime, seconds: f64| {
        let seconds = seconds.max(1e-9);
        ThreadShare { name, ran: time.ran_s / seconds, waited: time.waited_s / seconds }
    };
    let fleets = run.threads.values().filter(|(name, _)| name.starts_with("fleet-"));
    let mut threads: Vec<ThreadShare> =
        fleets.map(|(name, time)| share(name.clone(), *time, run.measured_s)).collect();
    for Pressed { place, report } in &run.pressed {
        if let Ok(report) = report {
            let name = format!("publisher {}", run.loads.scopes[place.scope].name);
            threads.push(share(name, report.time, report.measured_ns as f64 / 1e9));
        }
    }
    threads.sort_by(|one, other| one.name.cmp(&other.name));
    threads
}

fn lag<F: FnMut(&Moment)>(run: &Run<'_, F>) -> Latency {
    let mut lag = Latency::new();
    run.pressed
        .iter()
        .filter_map(|pressed| pressed.report.as_ref().ok())
        .for_each(|report| lag.merge(&report.lag));
    lag
}

fn generator<F: FnMut(&Moment)>(run: &Run<'_, F>) -> GeneratorFigures {
    let lag = lag(run);
    let reports = run.pressed.iter().filter_map(|pressed| pressed.report.as_ref().ok());
    GeneratorFigures {
        cores: run.own_cpu_s / run.measured_s.max(1e-9),
        threads: threads(run).into_iter().map(|thread| (thread.name, thread.ran)).collect(),
        rss_bytes: proc_usage(std::process::id()).unwrap_or_default().rss_bytes,
        lag_p99_ms: lag.percentile_ms(99.0),
        lag_max_ms: lag.max_ms(),
        dropped_sends: reports.map(|report| report.dropped).sum(),
    }
}

fn invalid<F: FnMut(&Moment)>(run: &Run<'_, F>, seen: &Distributions, totals: &Totals) -> Vec<Invalid> {
    let facts: Vec<LoadFacts> = run
        .pressed
        .iter()
        .map(|pressed| {
            let at = pressed.place.scope;
            let report = pressed.report.as_ref();
            LoadFacts {
                scope: run.loads.scopes[at].name.clone(),
                lag_p99_ms: report.map_or(0.0, |report| report.lag.percentile_ms(99.0)),
                p99_ms: seen.by_scope[at].percentile_ms(99.0),
                dropped: report.map_or(0, |report| report.dropped),
                sent: report.map_or(0, |report| report.sent_measured),
                received: seen.by_scope[at].count(),
                failed: report.err().cloned(),
            }
        })
        .collect();
    let (asked, joined) = (run.clients.asked(), totals.ever_joined as u64);
    reasons(&run.scenario.validity, &facts, &threads(run), asked, joined)
}

fn errors<F: FnMut(&Moment)>(
    run: &Run<'_, F>,
    judgement: &Judgement,
    totals: &Totals,
) -> BTreeMap<String, u64> {
    let mut errors: BTreeMap<String, u64> = judgement
        .endings
        .iter()
        .filter(|(name, _)| *name != "left")
        .map(|(name, count)| (name.clone(), *count))
        .collect();
    for report in run.pressed.iter().filter_map(|pressed| pressed.report.as_ref().ok()) {
        for (kind, count) in &report.refused {
            *errors.entry(format!("push {kind}")).or_default() += count;
        }
        if report.unanswered > 0 {
            *errors.entry("push unanswered".into()).or_default() += report.unanswered;
        }
    }
    if totals.unstamped > 0 {
        errors.insert("frame without a stamp".into(), totals.unstamped);
    }
    errors
}

fn remarks<F: FnMut(&Moment)>(
    run: &Run<'_, F>,
    spans: &[LoadSpans],
    correctness: &Correctness,
) -> Vec<String> {
    let nodes = run.system.nodes.len();
    let mut remarks = Vec::new();
    let plural = if nodes == 1 { "node was" } else { "nodes were" };
    remarks.push(format!("{nodes} {plural} judged"));
    let early: u64 = spans.iter().map(|spans| spans.too_early).sum();
    if early > 0 {
        remarks.push(format!(
            "{early} pushes were counted as received by all before four quiet seconds had passed"
        ));
    }
    if run.loads.scopes.iter().any(|scope| scope.audience == Audience::All)
        && correctness.reported.members > 0
    {
        remarks.push("a broadcast also reaches clients that are not the generator's".into());
    }
    remarks
}
