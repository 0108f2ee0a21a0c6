//! Two sides of results beside each other: what b needs for each of a.
//!
//! Owns: the figures that are worth comparing, medians, and what is beyond noise. Must not: read files (`kept` does).
//! Talks to: `result`, `quantity`.
//!
//! A difference is beyond noise where each side has at least three runs and their ranges do not meet: by chance
//! alone that happens to one figure in ten with three runs a side, to one in 126 with five.

use std::fmt::Write as _;

use crate::quantity::{bytes, grouped, three_digits};
use crate::result::{LatencyScope, ProcessFigures, RunResult, Verdict};
use crate::text::paragraph;
use crate::verdict::word;

/// Fewer runs than these on a side say nothing of noise.
const LEAST_RUNS: usize = 3;

/// A result and the name of its file.
pub type Named = (String, RunResult);

/// One figure of one run.
struct Figure {
    group: &'static str,
    name: String,
    value: f64,
    good: Good,
    in_bytes: bool,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Good {
    Small,
    Large,
}

/// One figure of all runs of a side.
struct Values(Vec<f64>);

impl Values {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => (sorted[middle - 1] + sorted[middle]) / 2.0,
        }
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    fn worst(&self, good: Good) -> f64 {
        if good == Good::Small { self.most() } else { self.least() }
    }
}

/// The comparison as text for 100 columns. Each side has at least one result.
pub fn render(a: &[Named], b: &[Named]) -> String {
    let mut text = String::new();
    head(&mut text, "a", a);
    head(&mut text, "b", b);
    for line in differences(a, b) {
        paragraph(&mut text, &line, 4);
    }
    let several = a.len() > 1 || b.len() > 1;
    let judged = a.len() >= LEAST_RUNS && b.len() >= LEAST_RUNS;
    let beyond = table(&mut text, a, b, several, judged);
    text.push('\n');
    let said = match (judged, beyond.is_empty()) {
        (false, _) => format!(
            "Nothing is said of noise: that takes {LEAST_RUNS} results or more a side (--a x.json --a y.json ... --b ...)."
        ),
        (true, true) => "No difference is beyond noise: everywhere the ranges of both sides meet.".into(),
        (true, false) => format!("Beyond noise, since the ranges do not meet: {}.", beyond.join("; ")),
    };
    paragraph(&mut text, &said, 0);
    text
}

fn head(text: &mut String, side: &str, runs: &[Named]) {
    for (number, (name, result)) in runs.iter().enumerate() {
        let side = if number == 0 { side } else { " " };
        let mut line = format!("{side}  {name}: {} {}", word(result.verdict), result.scenario.name);
        let c = &result.correctness;
        let counts = [
            ("lost", c.lost),
            ("duplicate", c.duplicate),
            ("reordered", c.reordered),
            ("corrupt", c.corrupt),
        ];
        for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let _ = write!(line, ", {} {what}", grouped(count));
        }
        if result.verdict == Verdict::Invalid {
            line.push_str("; its figures say nothing of the system");
        }
        paragraph(text, &line, 4);
    }
}

/// What else is not the same on both sides, a line each.
fn differences(a: &[Named], b: &[Named]) -> Vec<String> {
    let (Some((_, a)), Some((_, b))) = (a.first(), b.first()) else { return Vec::new() };
    let mut found = Vec::new();
    let mut differ = |what: &str, one: String, other: String| {
        if one != other {
            found.push(format!("{what}: {one} in a, {other} in b"));
        }
    };
    differ("scenario", a.scenario.name.clone(), b.scenario.name.clone());
    let (left, right) = (&a.scenario.parameters, &b.scenario.parameters);
    let mut names: Vec<&String> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let value = |of: Option<&serde_json::Value>| of.map_or("nothing".into(), ToString::to_string);
        differ(name, value(left.get(name)), value(right.get(name)));
    }
    let (left, right) = (&a.machine, &b.machine);
    differ("kernel", left.kernel.clone(), right.kernel.clone());
    differ("cpu", left.cpu.clone(), right.cpu.clone());
    differ("cores", left.cores.to_string(), right.cores.to_string());
    differ("congestion control", left.congestion_control.clone(), right.congestion_control.clone());
    found
}

/// Writes the table; what is beyond noise comes back.
fn table(text: &mut String, a: &[Named], b: &[Named], several: bool, judged: bool) -> Vec<String> {
    let (left, right) = (collect(a), collect(b));
    let mut beyond = Vec::new();
    let mut group = "";
    let heads = match several {
        true => format!("{:>11}{:>11}{:>11}{:>11}{:>9}", "a median", "a worst", "b median", "b worst", "b/a"),
        false => format!("{:>14}{:>14}{:>10}", "a", "b", "b/a"),
    };
    for (figure, one) in &left {
        let Some((_, other)) =
            right.iter().find(|(found, _)| found.name == figure.name && found.group == figure.group)
        else {
            continue;
        };
        if group != figure.group {
            group = figure.group;
            let _ = write!(text, "\n{group:<44}{heads}\n");
        }
        let value = |value: f64| if figure.in_bytes { bytes(value) } else { three_digits(value) };
        let ratio = ratio(one.median(), other.median());
        let _ = write!(text, "  {:<42}", figure.name);
        if several {
            for number in [one.median(), one.worst(figure.good), other.median(), other.worst(figure.good)] {
                let _ = write!(text, "{:>11}", value(number));
            }
            let _ = write!(text, "{ratio:>9}");
        } else {
            let _ = write!(text, "{:>14}{:>14}{ratio:>10}", value(one.median()), value(other.median()));
        }
        if judged && (one.most() < other.least() || other.most() < one.least()) {
            let better = (other.median() < one.median()) == (figure.good == Good::Small);
            let how = if better { "better" } else { "worse" };
            text.push_str(if better { " +" } else { " -" });
            beyond.push(format!("{} {ratio} ({how})", figure.name));
        }
        text.push('\n');
    }
    missing(text, &left, &right);
    beyond
}

/// Names what only one side has.
fn missing(text: &mut String, left: &[(Figure, Values)], right: &[(Figure, Values)]) {
    for (side, these, those) in [("a", left, right), ("b", right, left)] {
        let only: Vec<&str> = these
            .iter()
            .filter(|(figure, _)| {
                !those.iter().any(|(other, _)| other.name == figure.name && other.group == figure.group)
            })
            .map(|(figure, _)| figure.name.as_str())
            .collect();
        if !only.is_empty() {
            text.push('\n');
            paragraph(text, &format!("only in {side}: {}", only.join(", ")), 4);
        }
    }
}

fn ratio(one: f64, other: f64) -> String {
    if one == other {
        return "1.00x".into();
    }
    let ratio = other / one;
    if ratio.is_finite() { format!("{}x", three_digits(ratio)) } else { "-".into() }
}

/// The figures of all runs of a side, in the order in which they come first.
fn collect(runs: &[Named]) -> Vec<(Figure, Values)> {
    let mut all: Vec<(Figure, Values)> = Vec::new();
    for (_, result) in runs {
        for figure in figures(result) {
            match all.iter_mut().find(|(known, _)| known.name == figure.name && known.group == figure.group) {
                Some((_, values)) => values.0.push(figure.value),
                None => {
                    let value = figure.value;
                    all.push((figure, Values(vec![value])));
                }
            }
        }
    }
    all
}

/// What of a run is worth comparing.
fn figures(result: &RunResult) -> Vec<Figure> {
    let mut figures = Vec::new();
    for scope in result.latency.iter().filter(|scope| scope.samples > 0) {
        add_latency(&mut figures, scope);
    }
    let mut add = |group, name: String, value: f64, good, in_bytes| {
        figures.push(Figure { group, name, value, good, in_bytes });
    };
    let (t, c) = (&result.throughput, &result.connections);
    let group = "throughput";
    for (name, value) in [
        ("pushes/s", t.pushes_achieved_per_s),
        ("deliveries/s", t.deliveries_achieved_per_s),
        ("joins/s", c.joins_per_s),
    ] {
        if value > 0.0 {
            add(group, name.into(), value, Good::Large, false);
        }
    }
    let mut roles: Vec<&str> = Vec::new();
    for process in &result.processes {
        if !roles.contains(&process.role.as_str()) {
            roles.push(&process.role);
        }
    }
    for role in &roles {
        let of: Vec<&ProcessFigures> =
            result.processes.iter().filter(|process| process.role == *role).collect();
        let group = "CPU";
        add(group, format!("{role} cores"), of.iter().map(|process| process.cores).sum(), Good::Small, false);
        let user: Option<f64> = of.iter().map(|process| process.cores_user).sum();
        if let Some(user) = user {
            add(group, format!("{role} cores in user mode"), user, Good::Small, false);
        }
        if let Some(each) = mean(of.iter().map(|process| process.cpu_us_per_delivery)) {
            add(group, format!("{role} µs per delivery"), each, Good::Small, false);
        }
    }
    for role in &roles {
        let of: Vec<&ProcessFigures> =
            result.processes.iter().filter(|process| process.role == *role).collect();
        let group = "memory";
        let rss = of.iter().map(|process| process.rss_bytes as f64).sum();
        add(group, format!("{role} RSS"), rss, Good::Small, true);
        if let Some(each) = mean(of.iter().map(|process| process.rss_per_connection_bytes)) {
            add(group, format!("{role} bytes per connection"), each, Good::Small, true);
        }
    }
    let g = &result.generator;
    add("generator", "cores".into(), g.cores, Good::Small, false);
    add("generator", "lag p99, ms".into(), g.lag_p99_ms, Good::Small, false);
    figures
}

fn add_latency(figures: &mut Vec<Figure>, scope: &LatencyScope) {
    for (statistic, value) in
        [("p50", scope.p50_ms), ("p99", scope.p99_ms), ("p99.9", scope.p999_ms), ("max", scope.max_ms)]
    {
        let name = format!("{} {} {statistic}", scope.scope, scope.until);
        figures.push(Figure { group: "latency, ms", name, value, good: Good::Small, in_bytes: false });
    }
}

/// The mean of what is known; `None` where nothing is.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let known: Vec<f64> = values.flatten().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    /// The sample with all last receivers this many times as late.
    fn run(name: &str, times: f64) -> Named {
        let mut result = sample::room_push();
        let last = &mut result.latency[2];
        for value in [&mut last.p50_ms, &mut last.p99_ms, &mut last.p999_ms, &mut last.max_ms] {
            *value *= times;
        }
        (name.into(), result)
    }

    fn row<'a>(text: &'a str, name: &str) -> &'a str {
        text.lines()
            .find(|line| line.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("{name} in {text}"))
    }

    #[test]
    fn one_run_a_side_gives_ratios_and_says_nothing_of_noise() {
        let text = render(&[run("x.json", 1.0)], &[run("y.json", 2.0)]);
        let p99 = row(&text, "room_push(100) last-receiver p99 ");
        let cells: Vec<&str> = p99.split_whitespace().skip(3).collect();
        assert_eq!(cells, ["3.10", "6.20", "2.00x"]);
        assert!(row(&text, "room_push(100) each-receiver p99 ").ends_with("1.00x"), "{text}");
        assert!(text.contains("Nothing is said of noise"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn several_runs_give_medians_the_worst_and_what_is_beyond_noise() {
        let a = [1.0, 1.2, 1.1].map(|times| run("a.json", times));
        let apart = [1.6, 1.5, 1.4].map(|times| run("b.json", times));
        let text = render(&a, &apart);
        let cells: Vec<&str> =
            row(&text, "room_push(100) last-receiver p99 ").split_whitespace().skip(3).collect();
        assert_eq!(cells, ["3.41", "3.72", "4.65", "4.96", "1.36x", "-"]);
        assert!(text.contains("Beyond noise") && text.contains("last-receiver p99 1.36x (worse)"), "{text}");
        assert!(!text.contains("each-receiver p99 1.00x ("), "{text}");
        let meeting = [1.6, 1.15, 1.4].map(|times| run("b.json", times));
        assert!(render(&a, &meeting).contains("No difference is beyond noise"));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn what_else_differs_is_told() {
        let (a, mut b) = (run("a.json", 1.0), run("b.json", 1.0));
        b.1.scenario.parameters.insert("rate_per_s".into(), 10.into());
        b.1.correctness.lost = 7;
        b.1.processes.truncate(1);
        let text = render(&[a], &[b]);
        assert!(text.contains("rate_per_s: 50 in a, 10 in b"), "{text}");
        assert!(text.contains("b.json: PASS room-push, 7 lost"), "{text}");
        assert!(text.contains("only in a: push-manager cores"), "{text}");
    }

    #[test]
    fn a_side_with_an_even_number_of_runs_has_its_median_between_the_middle_two() {
        assert!((Values(vec![4.0, 1.0, 2.0, 3.0]).median() - 2.5).abs() < f64::EPSILON);
    }
}
