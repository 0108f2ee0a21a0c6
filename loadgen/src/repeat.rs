//! Several runs of the same: the median and the worst beside each other.
//!
//! Owns: how runs become one verdict and one table. Must not: hide a bad run: the worst decides.
//! Talks to: `figures`, `text`.

use std::fmt::Write as _;

use crate::figures::{Figure, Good, Values, collect};
use crate::quantity::{bytes, three_digits, with_unit};
use crate::result::{ObjectiveResult, RunResult, Verdict};
use crate::text::{conclusion, objective_line, paragraph};
use crate::verdict::{word, worse};

/// The verdict over all: each run has to pass. Of no run INVALID.
pub fn verdict(results: &[RunResult]) -> Verdict {
    results.iter().map(|result| result.verdict).reduce(worse).unwrap_or(Verdict::Invalid)
}

/// The verdict and a line for each objective, over all runs.
pub fn verdict_text(results: &[RunResult]) -> String {
    let mut text = String::new();
    paragraph(&mut text, &conclusion_of_all(results), 0);
    for result in results.iter().filter(|result| result.verdict != Verdict::Pass) {
        paragraph(&mut text, &format!("    of them {}", conclusion(result)), 8);
    }
    let mut asked: Vec<&str> = Vec::new();
    for objective in results.iter().flat_map(|result| &result.objectives) {
        if !asked.contains(&objective.asked.as_str()) {
            asked.push(&objective.asked);
        }
    }
    for asked in asked {
        let of: Vec<&ObjectiveResult> =
            results.iter().flat_map(|result| &result.objectives).filter(|one| one.asked == asked).collect();
        paragraph(&mut text, &line_of_all(&of), 4);
    }
    let mut remarks: Vec<&String> = Vec::new();
    for remark in results.iter().flat_map(|result| &result.remarks) {
        if !remarks.contains(&remark) {
            remarks.push(remark);
            paragraph(&mut text, &format!("NOTE {remark}"), 4);
        }
    }
    text
}

/// The verdict over all, in a sentence.
pub fn conclusion_of_all(results: &[RunResult]) -> String {
    let passed = results.iter().filter(|result| result.verdict == Verdict::Pass).count();
    let mut names: Vec<&str> = results.iter().map(|result| result.scenario.name.as_str()).collect();
    names.dedup();
    format!("{} {}: {passed} of {} runs pass", word(verdict(results)), names.join(", "), results.len())
}

/// One objective over all runs that have it.
fn line_of_all(of: &[&ObjectiveResult]) -> String {
    let [first, rest @ ..] = of else { return String::new() };
    if rest.is_empty() {
        return objective_line(first);
    }
    let verdict = of.iter().map(|one| one.verdict).reduce(worse).unwrap_or(Verdict::Invalid);
    let values = Values(of.iter().filter_map(|one| one.measured).collect());
    let mut line = format!("{} {}: ", word(verdict), first.asked);
    if values.0.is_empty() {
        line.push_str("not measured");
    } else {
        // The side on which the limit lies says which one is the worst.
        let upwards = first.asked.contains('>') || first.asked.contains('≥');
        let worst = values.worst(if upwards { Good::Large } else { Good::Small });
        let (median, worst) = (with_unit(values.median(), &first.unit), with_unit(worst, &first.unit));
        let _ = write!(line, "median {median}, worst {worst} of {} runs", values.0.len());
    }
    let samples: u64 = of.iter().map(|one| one.samples).sum();
    if samples > of.len() as u64 {
        let _ = write!(line, ", n={samples}");
    }
    if let Some(one) = of.iter().find(|one| one.verdict == verdict && !one.remark.is_empty()) {
        let _ = write!(line, " ({})", one.remark);
    }
    line
}

/// The figures of all runs: the median and the worst.
pub fn table(results: &[RunResult]) -> String {
    let mut text = String::new();
    let mut group = "";
    for (figure, values) in collect(results) {
        if group != figure.group {
            group = figure.group;
            let runs = format!("{group}, {} runs", results.len());
            let _ = write!(text, "\n{runs:<60}{:>14}{:>14}\n", "median", "worst");
        }
        let value = |value: f64| if figure.in_bytes { bytes(value) } else { three_digits(value) };
        let Figure { name, good, .. } = &figure;
        let _ =
            writeln!(text, "  {name:<58}{:>14}{:>14}", value(values.median()), value(values.worst(*good)));
    }
    text
}

/// Which run is in the middle, by the first objective that was measured in all; the last one where none was.
pub fn middle(results: &[RunResult]) -> Option<&RunResult> {
    let first = |result: &RunResult| {
        result.objectives.iter().find(|objective| !objective.unit.is_empty()).and_then(|first| first.measured)
    };
    let mut measured: Vec<(f64, &RunResult)> =
        results.iter().filter_map(|result| first(result).map(|value| (value, result))).collect();
    if measured.len() < results.len() {
        return results.last();
    }
    measured.sort_by(|one, other| one.0.total_cmp(&other.0));
    measured.get(measured.len().saturating_sub(1) / 2).map(|(_, result)| *result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sample, verdict as judging};

    fn runs(p99s: &[f64]) -> Vec<RunResult> {
        let asked =
            ["room_push p99 < 4 ms", "deliveries_per_s > 10", "lost = 0"].map(|text| text.parse().unwrap());
        let run = |p99: &f64| {
            let mut result = sample::room_push();
            result.latency[2].p99_ms = *p99;
            result.throughput.deliveries_achieved_per_s *= p99 / 3.0;
            judging::judge(&mut result, &asked);
            result
        };
        p99s.iter().map(run).collect()
    }

    #[test]
    fn median_and_worst_stand_beside_each_other() {
        let text = verdict_text(&runs(&[3.3, 3.0, 3.6]));
        assert!(text.starts_with("PASS room-push: 3 of 3 runs pass\n"), "{text}");
        assert!(
            text.contains("PASS room_push p99 < 4 ms: median 3.3 ms, worst 3.6 ms of 3 runs, n=4500"),
            "{text}"
        );
        assert!(text.contains("median 5,500 per s, worst 5,000 per s of 3 runs"), "{text}");
        let table = table(&runs(&[3.3, 3.0, 3.6]));
        let row = table.lines().find(|line| line.contains("last-receiver p99 ")).unwrap();
        assert_eq!(row.split_whitespace().skip(3).collect::<Vec<_>>(), ["3.30", "3.60"]);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    }

    #[test]
    fn one_bad_run_decides() {
        let results = runs(&[3.0, 4.5, 3.1, 3.2, 3.3]);
        assert_eq!(verdict(&results), Verdict::Fail);
        let text = verdict_text(&results);
        assert!(text.starts_with("FAIL room-push: 4 of 5 runs pass\n"), "{text}");
        assert!(
            text.contains("\nFAIL room_push p99 < 4 ms: median 3.2 ms, worst 4.5 ms of 5 runs"),
            "{text}"
        );
        assert_eq!(verdict(&[]), Verdict::Invalid);
    }

    #[test]
    fn the_middle_run_is_shown_in_full() {
        let results = runs(&[3.0, 3.5, 3.2]);
        assert!(middle(&results).is_some_and(|result| (result.latency[2].p99_ms - 3.2).abs() < 1e-9));
        assert!(middle(&[]).is_none());
    }
}
