//! Two sides of results beside each other: what b needs for each of a.
//!
//! Owns: the table, and what is beyond noise. Must not: read files (`kept` does).
//! Talks to: `figures` (what is compared), `quantity`.
//!
//! A difference is beyond noise where each side has at least three runs and their ranges do not meet: by chance
//! alone that happens to one figure in ten with three runs a side, to one in 126 with five.

use std::fmt::Write as _;

use crate::figures::{Figure, Good, Values, collect};
use crate::quantity::{bytes, grouped, three_digits};
use crate::result::{RunResult, Verdict};
use crate::text::paragraph;
use crate::verdict::word;

/// Fewer runs than these on a side say nothing of noise.
const LEAST_RUNS: usize = 3;

/// Differences that are named in the closing sentence.
const MOST_NAMED: usize = 5;

/// A result and the name of its file.
pub type Named = (String, RunResult);

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
        (true, false) => beyond_noise(beyond),
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
fn table(text: &mut String, a: &[Named], b: &[Named], several: bool, judged: bool) -> Vec<(f64, String)> {
    let results = |side: &[Named]| collect(side.iter().map(|(_, result)| result));
    let (left, right) = (results(a), results(b));
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
            let size = (other.median() / one.median()).ln().abs();
            beyond.push((size, format!("{} {ratio} ({how})", figure.name)));
        }
        text.push('\n');
    }
    missing(text, &left, &right);
    beyond
}

/// How many differences are beyond noise, and the largest of them; the table marks all.
fn beyond_noise(mut beyond: Vec<(f64, String)>) -> String {
    beyond.sort_by(|one, other| other.0.total_cmp(&one.0));
    let largest: Vec<&str> = beyond.iter().take(MOST_NAMED).map(|(_, what)| what.as_str()).collect();
    let are = if beyond.len() == 1 { "difference is" } else { "differences are" };
    format!(
        "{} {are} beyond noise, since the ranges do not meet (+ better, - worse); the largest: {}.",
        beyond.len(),
        largest.join("; ")
    )
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
        assert!(text.contains("beyond noise") && text.contains("last-receiver p50 1.36x (worse)"), "{text}");
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
}
