//! What becomes of objectives, given a result.
//!
//! Owns: finding the figure that an objective means, the order INVALID before FAIL before PASS, the exit codes.
//! Must not: print. Talks to: `objective` (what was asked), `result` (what was found).
//!
//! Nothing passes for want of evidence. A figure that the run did not take makes its objective INVALID; one that it
//! would have taken had anything arrived makes it FAIL.

use crate::objective::{Count, Figure, Objective, Statistic, Subject};
use crate::result::{LatencyScope, ObjectiveResult, ProcessFigures, RunResult, Verdict};

/// Judges a result by these objectives, and fills its objectives and its verdict.
pub fn judge(result: &mut RunResult, objectives: &[Objective]) {
    let generator_failed = !result.invalid.is_empty();
    result.objectives = objectives.iter().map(|objective| judge_one(result, objective)).collect();
    if generator_failed {
        result.objectives.iter_mut().for_each(|objective| objective.verdict = Verdict::Invalid);
    }
    // A run that was held to nothing has not passed.
    let none = if generator_failed || objectives.is_empty() { Verdict::Invalid } else { Verdict::Pass };
    result.verdict = result.objectives.iter().map(|objective| objective.verdict).fold(none, worse);
}

/// INVALID before FAIL before PASS.
pub fn worse(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Invalid, _) | (_, Verdict::Invalid) => Verdict::Invalid,
        (Verdict::Fail, _) | (_, Verdict::Fail) => Verdict::Fail,
        (Verdict::Pass, Verdict::Pass) => Verdict::Pass,
    }
}

/// 0 pass, 99 failed, 3 invalid.
pub fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Fail => 99,
        Verdict::Invalid => 3,
    }
}

/// `PASS`, `FAIL` or `INVALID`.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Fail => "FAIL",
        Verdict::Invalid => "INVALID",
    }
}

/// What an objective found.
enum Found {
    Value {
        value: f64,
        samples: u64,
        remark: String,
    },
    /// The system gave nothing where it should have: a failure.
    Nothing(String),
    /// The run did not measure it: no answer.
    NotMeasured(String),
}

impl Found {
    fn plain(value: f64) -> Self {
        Self::Value { value, samples: 1, remark: String::new() }
    }
}

fn judge_one(result: &RunResult, objective: &Objective) -> ObjectiveResult {
    let found = match &objective.subject {
        Subject::Latency { scope, members, until, statistic } => {
            let wanted = |found: &LatencyScope| {
                let (name, size) = split_scope(&found.scope);
                name == scope && members.is_none_or(|members| size == Some(members)) && found.until == *until
            };
            latency(result, objective, wanted, *statistic)
        }
        Subject::Process { role, figure: Figure::Connections } if role == "node" => {
            node_connections(result, objective)
        }
        Subject::Process { role, figure } => process(result, objective, role, *figure),
        Subject::Count(count) => number(result, *count),
    };
    let (measured, samples, verdict, remark) = match found {
        Found::Value { value, .. } if !value.is_finite() => {
            (None, 0, Verdict::Invalid, "what was measured is not a number".into())
        }
        Found::Value { value, samples, remark } => {
            let holds = objective.comparator.holds(value, objective.limit);
            (Some(value), samples, if holds { Verdict::Pass } else { Verdict::Fail }, remark)
        }
        Found::Nothing(remark) => (None, 0, Verdict::Fail, remark),
        Found::NotMeasured(remark) => (None, 0, Verdict::Invalid, remark),
    };
    ObjectiveResult {
        asked: objective.asked.clone(),
        limit: objective.limit,
        measured,
        unit: objective.subject.unit().into(),
        samples,
        verdict,
        remark,
    }
}

/// `room_push(100)` as its name and its members.
pub(crate) fn split_scope(scope: &str) -> (&str, Option<u64>) {
    match scope.split_once('(') {
        Some((name, members)) => (name, members.trim_end_matches(')').parse().ok()),
        None => (scope, None),
    }
}

fn latency(
    result: &RunResult,
    objective: &Objective,
    wanted: impl Fn(&LatencyScope) -> bool,
    statistic: Statistic,
) -> Found {
    let scopes = result.latency.iter().filter(|scope| wanted(scope) && scope.samples > 0);
    let worst = scopes.map(|scope| (statistic.of(scope), scope)).reduce(|one, other| {
        if objective.comparator.worse(one.0, other.0, objective.limit) == one.0 { one } else { other }
    });
    let Some((value, scope)) = worst else { return no_latency(result, objective) };
    let mut remarks = Vec::new();
    if !objective.asked.contains(&scope.scope) {
        remarks.push(scope.scope.clone());
    }
    if scope.samples < statistic.least_samples() {
        remarks.push("so few that it is the largest".into());
    }
    if scope.scope.starts_with("broadcast") && !result.fairness.nodes.is_empty() {
        remarks.push(over_nodes(result.fairness.nodes.len()));
    }
    Found::Value { value, samples: scope.samples, remark: remarks.join(", ") }
}

fn over_nodes(nodes: usize) -> String {
    format!("over {nodes} node{}", if nodes == 1 { "" } else { "s" })
}

/// Whether there is no such figure because the system failed, or because the run was another.
fn no_latency(result: &RunResult, objective: &Objective) -> Found {
    let joins = matches!(&objective.subject, Subject::Latency { scope, .. } if scope == "join");
    let (asked, got) = match joins {
        true => (result.connections.begun, result.connections.joined),
        false => (result.correctness.expected, result.correctness.received),
    };
    if asked > 0 && got == 0 {
        let (what, verb) = if joins { ("clients", "joined") } else { ("deliveries", "arrived") };
        return Found::Nothing(format!("none of {asked} {what} {verb}"));
    }
    let mut there: Vec<String> = Vec::new();
    for scope in result.latency.iter().filter(|scope| scope.samples > 0) {
        there.push(format!("{} {}", scope.scope, scope.until));
    }
    let there = if there.is_empty() { "no latency".into() } else { there.join(", ") };
    Found::NotMeasured(format!("this run measured {there}"))
}

impl Statistic {
    /// This value of a distribution, in milliseconds.
    pub(crate) fn of(self, scope: &LatencyScope) -> f64 {
        match self {
            Self::P50 => scope.p50_ms,
            Self::P90 => scope.p90_ms,
            Self::P99 => scope.p99_ms,
            Self::P999 => scope.p999_ms,
            Self::P9999 => scope.p9999_ms,
            Self::Max => scope.max_ms,
        }
    }
}

fn node_connections(result: &RunResult, objective: &Objective) -> Found {
    let nodes = &result.fairness.nodes;
    let least = nodes.iter().map(|node| node.connections as f64);
    match least.reduce(|one, other| objective.comparator.worse(one, other, objective.limit)) {
        Some(value) => Found::Value { value, samples: nodes.len() as u64, remark: over_nodes(nodes.len()) },
        None => Found::NotMeasured("no node was asked for its connections".into()),
    }
}

/// Whether a process of this role is meant by this word of an objective.
fn plays(process: &ProcessFigures, role: &str) -> bool {
    process.role == role || process.name == role || (role == "node" && process.role == "connect-node")
}

fn process(result: &RunResult, objective: &Objective, role: &str, figure: Figure) -> Found {
    if role == "generator" {
        return match figure {
            Figure::Cores => Found::plain(result.generator.cores),
            Figure::Rss => Found::plain(result.generator.rss_bytes as f64),
            _ => Found::NotMeasured("the generator has cores and rss".into()),
        };
    }
    let value = |process: &ProcessFigures| match figure {
        Figure::Cores => Some(process.cores),
        Figure::Rss => Some(process.rss_bytes as f64),
        Figure::BytesPerConnection => process.rss_per_connection_bytes,
        Figure::CpuPerDelivery => process.cpu_us_per_delivery,
        Figure::Connections => None,
    };
    let chosen: Vec<&ProcessFigures> =
        result.processes.iter().filter(|process| role == "system" || plays(process, role)).collect();
    if chosen.is_empty() {
        let mut roles: Vec<&str> = result.processes.iter().map(|process| process.role.as_str()).collect();
        roles.dedup();
        let there = if roles.is_empty() {
            "no process was measured".into()
        } else {
            format!("there is {}", roles.join(", "))
        };
        return Found::NotMeasured(format!("there is no process {role}; {there}"));
    }
    let values: Option<Vec<(f64, &str)>> =
        chosen.iter().map(|process| Some((value(process)?, process.name.as_str()))).collect();
    let Some(values) = values else {
        return Found::NotMeasured(format!("this run did not measure it for every {role}"));
    };
    let samples = values.len() as u64;
    if role == "system" {
        let (value, remark) =
            (values.iter().map(|(value, _)| value).sum(), "the sum of all processes".into());
        return Found::Value { value, samples, remark };
    }
    let worst = values.into_iter().reduce(|one, other| {
        if objective.comparator.worse(one.0, other.0, objective.limit) == one.0 { one } else { other }
    });
    let (value, name) = worst.unwrap_or((f64::NAN, ""));
    let remark = if samples > 1 { format!("the worst: {name}") } else { String::new() };
    Found::Value { value, samples, remark }
}

fn number(result: &RunResult, count: Count) -> Found {
    let (connections, correctness, throughput) =
        (&result.connections, &result.correctness, &result.throughput);
    // Where nothing had to arrive, "nothing was lost" is no evidence.
    let of_deliveries = |value: u64| match correctness.expected {
        0 => Found::NotMeasured("nothing was pushed".into()),
        expected => Found::Value { value: value as f64, samples: expected, remark: String::new() },
    };
    let of_arrivals = |value: u64| match (correctness.expected, correctness.received) {
        (0, 0) => Found::NotMeasured("nothing was pushed".into()),
        (expected, 0) if value == 0 => Found::Nothing(format!("none of {expected} deliveries arrived")),
        (_, received) => Found::Value { value: value as f64, samples: received, remark: String::new() },
    };
    match count {
        Count::Connections => Found::Value {
            value: connections.live_at_start.min(connections.live_at_end) as f64,
            samples: 1,
            remark: String::new(),
        },
        Count::Lost => of_deliveries(correctness.lost),
        Count::Duplicate => of_arrivals(correctness.duplicate),
        Count::Reordered => of_arrivals(correctness.reordered),
        Count::Corrupt => of_arrivals(correctness.corrupt),
        Count::AfterLeave => of_arrivals(correctness.after_leave),
        Count::Contradictions => match correctness.published {
            0 => Found::NotMeasured("nothing was pushed".into()),
            published => Found::Value {
                value: correctness.contradictions.len() as f64,
                samples: published,
                remark: correctness.contradictions.first().cloned().unwrap_or_default(),
            },
        },
        Count::Unanswered => match correctness.published {
            0 => Found::NotMeasured("nothing was pushed".into()),
            published => Found::Value {
                value: correctness.unanswered as f64,
                samples: published,
                remark: String::new(),
            },
        },
        Count::Refused => Found::plain(connections.refused as f64),
        Count::Broken => Found::plain(connections.broken as f64),
        Count::Errors => Found::plain(result.errors.values().sum::<u64>() as f64),
        Count::DeliveriesPerS => Found::plain(throughput.deliveries_achieved_per_s),
        Count::PushesPerS => Found::plain(throughput.pushes_achieved_per_s),
        Count::JoinsPerS => Found::plain(connections.joins_per_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Invalid;
    use crate::sample;

    /// The result of one objective, judged alone.
    fn one(result: &RunResult, asked: &str) -> ObjectiveResult {
        let mut result = result.clone();
        judge(&mut result, &[asked.parse().unwrap_or_else(|error| panic!("{asked}: {error}"))]);
        assert_eq!(result.verdict, result.objectives[0].verdict);
        result.objectives.remove(0)
    }

    fn verdict(asked: &str) -> Verdict {
        one(&sample::room_push(), asked).verdict
    }

    #[test]
    fn each_comparator_decides_on_its_own_side() {
        // The sample's last receivers have a p99 of exactly 3.1 ms.
        for (comparator, below, equal, above) in [
            ("<", false, false, true),
            ("<=", false, true, true),
            (">", true, false, false),
            (">=", true, true, false),
            ("=", false, true, false),
        ] {
            for (limit, holds) in [("3", below), ("3.1", equal), ("3.2", above)] {
                let asked = format!("room_push(100) last-receiver p99 {comparator} {limit} ms");
                let expected = if holds { Verdict::Pass } else { Verdict::Fail };
                assert_eq!(verdict(&asked), expected, "{asked}");
            }
        }
    }

    #[test]
    fn a_latency_tells_its_value_and_its_samples() {
        let found = one(&sample::room_push(), "room_push(100) last-receiver p99 < 50 ms");
        assert_eq!((found.measured, found.samples, found.unit.as_str()), (Some(3.1), 1500, "ms"));
        assert_eq!(found.remark, "");
        let few = one(&sample::room_push(), "join p99.9 < 50 ms");
        assert_eq!(few.remark, "so few that it is the largest");
    }

    #[test]
    fn every_subject_finds_its_figure() {
        for (asked, measured) in [
            ("room_push first-receiver p50 < 1 s", 0.31),
            ("room_push each-receiver max < 1 s", 5.61),
            ("room_push report p90 < 1 s", 2.2),
            ("join p99 < 1 s", 3.9),
            ("connections >= 1", 100.0),
            ("node connections >= 1", 50.0),
            ("node cores < 1", 0.07),
            ("node rss < 1 GB", 9_820_000.0),
            ("node bytes_per_connection <= 400", 400.0),
            ("controller cores < 1", 0.01),
            ("push-manager rss < 1 GB", 13_000_000.0),
            ("generator rss < 1 GB", 11_000_000.0),
            ("cpu_us_per_delivery(node) < 50", 11.9),
            ("deliveries_per_s > 1", 5_000.0),
            ("pushes_per_s > 1", 50.0),
            ("joins_per_s > 1", 58.8),
            ("lost = 0", 0.0),
            ("errors = 0", 0.0),
        ] {
            let found = one(&sample::room_push(), asked);
            assert_eq!((found.measured, found.verdict), (Some(measured), Verdict::Pass), "{asked}");
        }
        let sum = one(&sample::room_push(), "system cores < 1").measured.unwrap();
        assert!((sum - 0.17).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn the_worst_of_several_counts() {
        let found = one(&sample::room_push(), "node cores < 0.065");
        assert_eq!((found.measured, found.verdict), (Some(0.07), Verdict::Fail));
        assert_eq!(found.remark, "the worst: connect-node-2");
        assert_eq!(one(&sample::room_push(), "node cores > 0.065").measured, Some(0.06));
    }

    #[test]
    fn each_wrong_delivery_fails_its_own_objective() {
        type Spoiling = fn(&mut RunResult);
        let spoil: [(&str, Spoiling); 7] = [
            ("lost", |result| result.correctness.lost = 1),
            ("duplicate", |result| result.correctness.duplicate = 1),
            ("reordered", |result| result.correctness.reordered = 1),
            ("corrupt", |result| result.correctness.corrupt = 1),
            ("after_leave", |result| result.correctness.after_leave = 1),
            ("unanswered", |result| result.correctness.unanswered = 1),
            ("contradictions", |result| result.correctness.contradictions = vec!["1 more".into()]),
        ];
        for (name, spoil) in spoil {
            let mut result = sample::room_push();
            let asked = format!("{name} = 0");
            assert_eq!(one(&result, &asked).verdict, Verdict::Pass, "{name}");
            spoil(&mut result);
            assert_eq!(one(&result, &asked).verdict, Verdict::Fail, "{name}");
        }
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        for asked in [
            "room_push(1000) p99 < 50 ms",
            "broadcast p99 < 50 ms",
            "user_push p99 > 0 ms",
            "peer cores < 1",
            "controller bytes_per_connection < 400",
            "cpu_us_per_delivery(controller) < 5",
        ] {
            let found = one(&sample::room_push(), asked);
            assert_eq!((found.verdict, found.measured), (Verdict::Invalid, None), "{asked}");
            assert!(!found.remark.is_empty(), "{asked}");
        }
        let mut empty = sample::room_push();
        empty.latency[2].samples = 0;
        assert_eq!(one(&empty, "room_push last-receiver p99 < 50 ms").verdict, Verdict::Invalid);
        empty.latency[2] = LatencyScope { samples: 5, p99_ms: f64::NAN, ..empty.latency[2].clone() };
        assert_eq!(one(&empty, "room_push last-receiver p99 < 50 ms").verdict, Verdict::Invalid);
        empty.correctness = Default::default();
        assert_eq!(one(&empty, "lost = 0").verdict, Verdict::Invalid);
    }

    #[test]
    fn a_system_that_delivers_nothing_fails() {
        let mut silent = sample::room_push();
        silent.latency.clear();
        silent.correctness.received = 0;
        silent.correctness.lost = 150_000;
        for asked in ["room_push p99 < 50 ms", "lost = 0", "duplicate = 0", "corrupt = 0"] {
            assert_eq!(one(&silent, asked).verdict, Verdict::Fail, "{asked}");
        }
        silent.connections.joined = 0;
        assert_eq!(one(&silent, "join p99 < 50 ms").verdict, Verdict::Fail);
    }

    #[test]
    fn invalid_comes_before_fail_and_fail_before_pass() {
        let passes = "lost = 0".parse::<Objective>().unwrap();
        let fails = "room_push p99 < 1 us".parse::<Objective>().unwrap();
        let is_not_there = "broadcast p99 < 1 s".parse::<Objective>().unwrap();
        let of = |objectives: &[&Objective]| {
            let mut result = sample::room_push();
            judge(&mut result, &objectives.iter().map(|objective| (*objective).clone()).collect::<Vec<_>>());
            result.verdict
        };
        assert_eq!(of(&[&passes, &passes]), Verdict::Pass);
        assert_eq!(of(&[&fails, &passes]), Verdict::Fail);
        assert_eq!(of(&[&passes, &is_not_there, &fails]), Verdict::Invalid);
        assert_eq!(of(&[]), Verdict::Invalid, "what was held to nothing has not passed");
    }

    #[test]
    fn where_the_generator_was_the_limit_nothing_passes_and_nothing_fails() {
        let mut result = sample::room_push();
        result.invalid.push(Invalid { check: "generator-cpu".into(), found: "97 % of a core".into() });
        let asked = ["lost = 0", "room_push p99 < 1 us"].map(|text| text.parse().unwrap());
        judge(&mut result, &asked);
        assert!(result.objectives.iter().all(|objective| objective.verdict == Verdict::Invalid));
        assert_eq!(result.objectives[1].measured, Some(3.1), "what was measured is still told");
        assert_eq!((result.verdict, exit_code(result.verdict)), (Verdict::Invalid, 3));
    }

    #[test]
    fn exit_codes_are_those_that_are_documented() {
        assert_eq!([Verdict::Pass, Verdict::Fail, Verdict::Invalid].map(exit_code), [0, 99, 3]);
    }
}
