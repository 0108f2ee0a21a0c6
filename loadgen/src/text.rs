//! A result as text for a terminal of 100 columns: the verdict first and last, then what stands behind it.
//!
//! Owns: the order and the wording. Must not: judge, or compute what the result does not hold.
//! Talks to: `quantity` (how figures are written), `verdict` (its words).

use std::fmt::Write as _;

use crate::quantity::{bytes, duration, grouped, short, three_digits, with_unit};
use crate::result::{ObjectiveResult, RunResult, Share, Verdict};
use crate::verdict::word;

/// The longest line, in characters.
pub(crate) const COLUMNS: usize = 100;

/// Where the second column of a section begins.
const INDENT: usize = 15;

/// Shards that are shown one by one; of more only the extremes.
const MOST_SHARDS: usize = 8;

/// The whole result.
pub fn render(result: &RunResult) -> String {
    let mut text = verdict(result);
    text.push('\n');
    text.push_str(&details(result));
    text.push('\n');
    paragraph(&mut text, &conclusion(result), 0);
    text
}

/// The verdict, a line for each objective, and what a reader should know beside them.
pub fn verdict(result: &RunResult) -> String {
    let mut text = String::new();
    paragraph(&mut text, &conclusion(result), 0);
    for objective in &result.objectives {
        paragraph(&mut text, &objective_line(objective), 4);
    }
    for remark in &result.remarks {
        paragraph(&mut text, &format!("NOTE {remark}"), 4);
    }
    text
}

/// One line: `PASS room_push(100) last-receiver p99 < 50 ms: 3.1 ms, n=25000`.
pub fn objective_line(objective: &ObjectiveResult) -> String {
    let mut line = format!("{} {}: ", word(objective.verdict), objective.asked);
    match objective.measured {
        Some(measured) => line.push_str(&with_unit(measured, &objective.unit)),
        None => line.push_str("not measured"),
    }
    if objective.samples > 1 {
        let _ = write!(line, ", n={}", objective.samples);
    }
    if !objective.remark.is_empty() {
        let _ = write!(line, " ({})", objective.remark);
    }
    line
}

/// The verdict over all, in a sentence.
pub fn conclusion(result: &RunResult) -> String {
    let (name, all) = (&result.scenario.name, result.objectives.len());
    let count = |verdict| result.objectives.iter().filter(|objective| objective.verdict == verdict).count();
    let said = match result.verdict {
        _ if !result.invalid.is_empty() => {
            let why: Vec<String> = result
                .invalid
                .iter()
                .map(|invalid| format!("{}: {}", invalid.check, invalid.found))
                .collect();
            format!("the run says nothing of the system; {}", why.join("; "))
        }
        Verdict::Invalid if all == 0 => "there is no objective to hold it to".into(),
        Verdict::Invalid => format!("{} of {all} objectives could not be measured", count(Verdict::Invalid)),
        Verdict::Fail => format!("{} of {all} objectives do not hold", count(Verdict::Fail)),
        Verdict::Pass => format!("{all} of {all} objectives hold"),
    };
    format!("{} {name}: {said}", word(result.verdict))
}

/// Everything that stands behind the verdict.
pub fn details(result: &RunResult) -> String {
    let mut text = String::new();
    run(&mut text, result);
    connections(&mut text, result);
    throughput(&mut text, result);
    latency(&mut text, result);
    correctness(&mut text, result);
    fairness(&mut text, result);
    processes(&mut text, result);
    generator(&mut text, result);
    errors(&mut text, result);
    text
}

fn run(text: &mut String, result: &RunResult) {
    let (scenario, machine) = (&result.scenario, &result.machine);
    section(text, "scenario", &format!("{}: {}", scenario.name, scenario.about));
    section(text, "command", &result.command.join(" "));
    let started = std::time::UNIX_EPOCH + std::time::Duration::from_millis(result.started_unix_ms);
    section(
        text,
        "run",
        &format!(
            "{} from {} by loadgen {}",
            duration(result.took_s),
            humantime::format_rfc3339_seconds(started),
            result.loadgen_version
        ),
    );
    section(
        text,
        "machine",
        &format!(
            "{} cores of {}, {}, Linux {}, {}, steal {} %",
            machine.cores,
            machine.cpu,
            bytes(machine.memory_bytes as f64),
            machine.kernel,
            machine.congestion_control,
            short(machine.steal_percent)
        ),
    );
    text.push('\n');
}

fn connections(text: &mut String, result: &RunResult) {
    let c = &result.connections;
    let mut line =
        format!("asked {}  begun {}  joined {}", grouped(c.asked), grouped(c.begun), grouped(c.joined));
    for (name, count) in [("refused", c.refused), ("broken", c.broken), ("left by plan", c.left)] {
        let _ = write!(line, "  {name} {}", grouped(count));
    }
    section(text, "connections", &line);
    section(
        text,
        "",
        &format!(
            "live {} at the start of the measured part, {} at its end",
            grouped(c.live_at_start),
            grouped(c.live_at_end)
        ),
    );
    section(text, "", &format!("ramp {}, {} joins/s", duration(c.ramp_s), short(c.joins_per_s)));
    if !c.closed_by_server.is_empty() {
        let closed: Vec<String> =
            c.closed_by_server.iter().map(|(code, count)| format!("{code}: {}", grouped(*count))).collect();
        section(text, "", &format!("closed by the server, by code  {}", closed.join("  ")));
    }
}

fn throughput(text: &mut String, result: &RunResult) {
    let t = &result.throughput;
    section(text, "throughput", &format!("{:<16}{:>12}{:>12}", "", "offered", "achieved"));
    for (name, offered, achieved) in [
        ("pushes/s", t.pushes_offered_per_s, t.pushes_achieved_per_s),
        ("deliveries/s", t.deliveries_offered_per_s, t.deliveries_achieved_per_s),
    ] {
        let line = format!("{name:<16}{:>12}{:>12}", three_digits(offered), three_digits(achieved));
        section(text, "", &line);
    }
    let line = format!("{}/s received, over {}", bytes(t.received_bytes_per_s), duration(t.measured_s));
    section(text, "", &line);
}

fn latency(text: &mut String, result: &RunResult) {
    text.push('\n');
    let _ = writeln!(
        text,
        "{:<31}{:>11}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "latency, ms", "n", "p50", "p90", "p99", "p99.9", "p99.99", "max"
    );
    let mut shown = "";
    for scope in &result.latency {
        if shown != scope.scope {
            shown = &scope.scope;
            let _ = writeln!(text, "  {shown}");
        }
        let values = [scope.p50_ms, scope.p90_ms, scope.p99_ms, scope.p999_ms, scope.p9999_ms, scope.max_ms]
            .map(three_digits);
        let _ = write!(text, "    {:<27}{:>11}", scope.until, grouped(scope.samples));
        for value in values {
            let _ = write!(text, "{value:>9}");
        }
        text.push('\n');
    }
    if result.latency.is_empty() {
        text.push_str("  none was measured\n");
    }
    text.push('\n');
}

fn correctness(text: &mut String, result: &RunResult) {
    let c = &result.correctness;
    section(
        text,
        "correctness",
        &format!(
            "pushes {}  deliveries expected {}  arrived {}",
            grouped(c.published),
            grouped(c.expected),
            grouped(c.received)
        ),
    );
    let counts = [
        ("lost", c.lost),
        ("duplicate", c.duplicate),
        ("reordered", c.reordered),
        ("after leave", c.after_leave),
        ("corrupt", c.corrupt),
    ];
    section(text, "", &counts.map(|(name, count)| format!("{name} {}", grouped(count))).join("  "));
    let r = &c.reported;
    let counts = [
        ("members", r.members),
        ("written", r.written),
        ("queued", r.queued),
        ("slow", r.dropped_slow),
        ("closed", r.dropped_closed),
        ("shed", r.dropped_shed),
        ("offline", r.offline),
        ("unknown", r.unknown),
    ];
    section(text, "receipts", &counts.map(|(name, count)| format!("{name} {}", grouped(count))).join("  "));
    section(text, "", &format!("pushes refused or without an answer {}", grouped(c.unanswered)));
    match c.contradictions.as_slice() {
        [] => section(text, "", "reports and arrivals do not contradict each other"),
        lines => lines.iter().for_each(|line| section(text, "", &format!("CONTRADICTION {line}"))),
    }
}

fn fairness(text: &mut String, result: &RunResult) {
    let (nodes, shards) = (&result.fairness.nodes, &result.fairness.shards);
    if nodes.is_empty() && shards.is_empty() {
        return;
    }
    text.push('\n');
    let _ = writeln!(text, "{:<35}{:>13}{:>14}{:>10}", "fairness", "connections", "received", "p99 ms");
    let line = |text: &mut String, share: &Share| {
        let received = share.received.map_or("-".into(), grouped);
        let p99 = share.p99_ms.map_or("-".into(), three_digits);
        let _ =
            writeln!(text, "  {:<33}{:>13}{received:>14}{p99:>10}", share.name, grouped(share.connections));
    };
    nodes.iter().for_each(|node| line(text, node));
    if shards.len() <= MOST_SHARDS {
        shards.iter().for_each(|shard| line(text, shard));
    } else {
        let by_size = |share: &&Share| share.connections;
        let (least, most) = (shards.iter().min_by_key(by_size), shards.iter().max_by_key(by_size));
        let _ = writeln!(text, "  of {} shards the least and the most", shards.len());
        least.into_iter().chain(most).for_each(|shard| line(text, shard));
    }
}

fn processes(text: &mut String, result: &RunResult) {
    text.push('\n');
    let _ = writeln!(
        text,
        "{:<35}{:>8}{:>8}{:>13}{:>12}{:>10}{:>14}",
        "processes", "cores", "user", "RSS before", "RSS", "B/conn", "µs/delivery"
    );
    let optional = |value: Option<f64>| value.map_or("-".into(), three_digits);
    for process in &result.processes {
        let _ = writeln!(
            text,
            "  {:<33}{:>8}{:>8}{:>13}{:>12}{:>10}{:>14}",
            process.name,
            three_digits(process.cores),
            optional(process.cores_user),
            bytes(process.rss_before_bytes as f64),
            bytes(process.rss_bytes as f64),
            optional(process.rss_per_connection_bytes),
            optional(process.cpu_us_per_delivery)
        );
    }
    if result.processes.is_empty() {
        text.push_str("  none was measured\n");
    }
    text.push('\n');
}

fn generator(text: &mut String, result: &RunResult) {
    let g = &result.generator;
    let busiest = g.threads.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    let busiest = busiest.map_or(String::new(), |(name, share)| {
        format!(" (busiest of {} threads: {name}, {} %)", g.threads.len(), short(share * 100.0))
    });
    section(
        text,
        "generator",
        &format!("{} cores{busiest}, RSS {}", short(g.cores), bytes(g.rss_bytes as f64)),
    );
    section(
        text,
        "",
        &format!(
            "pushes left late by {} ms at p99, {} ms at most; {} were never sent",
            short(g.lag_p99_ms),
            short(g.lag_max_ms),
            grouped(g.dropped_sends)
        ),
    );
}

fn errors(text: &mut String, result: &RunResult) {
    if result.errors.is_empty() {
        return section(text, "errors", "none");
    }
    let mut errors: Vec<(&String, &u64)> = result.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (number, (kind, count)) in errors.into_iter().enumerate() {
        section(text, if number == 0 { "errors" } else { "" }, &format!("{} x {kind}", grouped(*count)));
    }
}

/// A line with its name before it, wrapped under itself.
fn section(text: &mut String, name: &str, line: &str) {
    if !line.is_empty() {
        paragraph(text, &format!("{name:<INDENT$}{line}"), INDENT);
    }
}

/// Wraps at blanks, or within a word that is longer than a line; what follows the first line is indented.
pub(crate) fn paragraph(text: &mut String, line: &str, indent: usize) {
    let mut rest = line.trim_end();
    let mut room = COLUMNS;
    while rest.chars().count() > room {
        let end = rest.char_indices().nth(room).map_or(rest.len(), |(at, _)| at);
        // Not among the blanks behind the name of a section, or nothing would be left of the line.
        let from =
            if room == COLUMNS { rest.char_indices().nth(indent).map_or(end, |(at, _)| at) } else { 0 };
        let mut blanks =
            rest.char_indices().filter(|(at, letter)| (from..=end).contains(at) && *letter == ' ');
        let at = blanks.next_back().map_or(end, |(at, _)| at);
        text.push_str(rest[..at].trim_end());
        text.push('\n');
        text.extend(std::iter::repeat_n(' ', indent));
        rest = rest[at..].trim_start();
        room = COLUMNS - indent;
    }
    text.push_str(rest);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Invalid;
    use crate::{profile, sample, verdict};

    fn judged(mut result: RunResult) -> RunResult {
        let chosen = profile::defaults(&result);
        result.remarks.extend(chosen.remarks);
        verdict::judge(&mut result, &chosen.objectives);
        result
    }

    #[test]
    fn the_text_of_a_run_is_what_it_was() {
        let text = render(&judged(sample::room_push()));
        let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/room-push.txt");
        if std::env::var_os("LOADGEN_KEEP_TEXT").is_some() {
            std::fs::write(kept, &text).unwrap();
        }
        let expected = std::fs::read_to_string(kept).unwrap_or_default();
        assert!(text == expected, "LOADGEN_KEEP_TEXT=1 keeps this as the new text:\n{text}");
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        let mut result = judged(sample::room_push());
        result.remarks = vec!["word ".repeat(70)];
        result.invalid =
            vec![Invalid { check: "generator-lag".into(), found: "pushes left late ".repeat(10) }];
        result.errors.insert("push UNAVAILABLE: the node is away".into(), 1_234);
        result.command.push("é".repeat(250));
        result.fairness.shards = vec![result.fairness.shards[0].clone(); 100];
        for line in render(&result).lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn the_verdict_stands_first_and_last() {
        let text = render(&judged(sample::room_push()));
        assert_eq!(text.lines().next(), Some("PASS room-push: 13 of 13 objectives hold"));
        assert_eq!(text.lines().next(), text.lines().last());
        assert!(text.contains("\nPASS room_push(100) last-receiver p99 < 50 ms: 3.1 ms, n=1500\n"), "{text}");
    }

    #[test]
    fn a_generator_at_its_limit_never_says_pass() {
        let mut result = sample::room_push();
        result.invalid.push(Invalid { check: "generator-cpu".into(), found: "0.97 of a core".into() });
        let text = render(&judged(result));
        assert!(!text.contains("PASS"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("INVALID ")).count(), 15, "{text}");
        assert!(
            text.lines().last().is_some_and(|line| line.contains("generator-cpu: 0.97 of a core")),
            "{text}"
        );
    }
}
