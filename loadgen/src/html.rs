//! A result as one self-contained page: the verdict on top, plots, tables, and the result itself as data.
//!
//! Owns: what the page holds and in which order. Must not: let the page ask any other place for anything.
//! Talks to: `plot` (the pictures), `quantity`, the files of `report_page`.

use std::fmt::Write as _;

use crate::plot::{Axis, Chart, Line, Scale, bars, escaped};
use crate::quantity::{bytes, duration, grouped, short, three_digits, with_unit};
use crate::result::{Moment, RunResult, Verdict};
use crate::text::conclusion;
use crate::verdict::{split_scope, word, worse};

const STYLE: &str = include_str!("report_page/style.css");
const SCRIPT: &str = include_str!("report_page/hover.js");

/// Nodes that get a line of their own over time.
const MOST_NODES: usize = 8;

/// The page of these results, one after the other.
pub fn page(results: &[RunResult]) -> String {
    let verdict = results.iter().map(|result| result.verdict).reduce(worse).unwrap_or(Verdict::Invalid);
    let mut names: Vec<&str> = results.iter().map(|result| result.scenario.name.as_str()).collect();
    names.dedup();
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <link rel=\"icon\" href=\"data:,\">\n<title>{} {}</title>\n<style>\n{STYLE}</style></head>\n<body>\n",
        word(verdict),
        escaped(&names.join(", "))
    );
    for result in results {
        run(&mut html, result);
    }
    html.push_str("<h2>Data</h2>\n<p class=\"dim\">The results in JSON, as <code>--json</code> writes them, are in this page as \
                   <code>&lt;script type=\"application/json\"&gt;</code>.</p>\n");
    for result in results {
        // `<` cannot end the element early when it is written as an escape, which means the same in JSON.
        let data = serde_json::to_string(result).unwrap_or_default().replace('<', "\\u003c");
        let _ = writeln!(html, "<script type=\"application/json\" class=\"result\">{data}</script>");
    }
    let _ = write!(html, "<script>\n{SCRIPT}</script>\n</body></html>\n");
    html
}

fn run(html: &mut String, result: &RunResult) {
    let (scenario, machine) = (&result.scenario, &result.machine);
    let said = conclusion(result);
    let said = said.strip_prefix(word(result.verdict)).unwrap_or(&said);
    let started = std::time::UNIX_EPOCH + std::time::Duration::from_millis(result.started_unix_ms);
    let _ = write!(
        html,
        "<div class=\"banner {0}\"><h1><span class=\"word {0}\">{0}</span>{1}</h1>\n<p>{2}</p>\n\
         <p class=\"dim\">{3} from {4}, on {5} cores of {6}, {7}, Linux {8}, {9}, steal {10} %</p></div>\n",
        word(result.verdict),
        escaped(said),
        escaped(&scenario.about),
        duration(result.took_s),
        humantime::format_rfc3339_seconds(started),
        machine.cores,
        escaped(&machine.cpu),
        bytes(machine.memory_bytes as f64),
        escaped(&machine.kernel),
        escaped(&machine.congestion_control),
        short(machine.steal_percent)
    );
    objectives(html, result);
    list(html, "Remarks", &result.remarks);
    html.push_str("<h2>Over time and in distribution</h2>\n<div class=\"charts\">\n");
    for chart in charts(result) {
        html.push_str(&chart.svg());
    }
    let shares = |shares: &[crate::result::Share]| -> Vec<(String, u64)> {
        shares.iter().map(|share| (share.name.clone(), share.connections)).collect()
    };
    html.push_str(&bars("Connections at the end by node", &shares(&result.fairness.nodes)));
    html.push_str(&bars("Connections at the end by shard", &shares(&result.fairness.shards)));
    html.push_str("</div>\n");
    tables(html, result);
}

fn objectives(html: &mut String, result: &RunResult) {
    let rows = result.objectives.iter().map(|objective| {
        let verdict = word(objective.verdict);
        let measured =
            objective.measured.map_or("not measured".into(), |value| with_unit(value, &objective.unit));
        vec![
            format!("<span class=\"word {verdict}\">{verdict}</span>"),
            escaped(&objective.asked),
            measured,
            if objective.samples > 1 { grouped(objective.samples) } else { String::new() },
            escaped(&objective.remark),
        ]
    });
    table(html, &["", "objective", "measured", "n", "remark"], &[true, true, false, false, true], rows);
}

fn charts(result: &RunResult) -> Vec<Chart> {
    let moments = &result.timeline;
    let mut charts = percentiles(result);
    let over = |name: &str, of: &dyn Fn(&Moment) -> Option<f64>| Line {
        name: name.into(),
        points: moments.iter().map(|moment| (moment.at_s, of(moment))).collect(),
        dashed: false,
    };
    let events: Vec<(f64, String)> = moments
        .iter()
        .filter(|moment| !moment.event.is_empty())
        .map(|moment| (moment.at_s, moment.event.clone()))
        .collect();
    let chart = |title: &str, unit, scale, lines| Chart {
        title: title.into(),
        x: Axis { name: "s since the start", scale: Scale::Linear },
        y: Axis { name: unit, scale },
        lines,
        limits: Vec::new(),
        events: events.clone(),
    };
    charts.push(chart(
        "Latency of each receiver over time",
        "ms",
        Scale::Log,
        vec![
            over("p50", &|moment| moment.p50_ms),
            over("p99", &|moment| moment.p99_ms),
            over("generator late by", &|moment| moment.lag_ms),
        ],
    ));
    charts.push(chart(
        "Connections over time",
        "joined",
        Scale::Linear,
        vec![over("joined", &|moment| Some(moment.live as f64))],
    ));
    if moments.iter().any(|moment| moment.joins_per_s > 0.0) {
        let lines = vec![over("joins/s", &|moment| Some(moment.joins_per_s))];
        charts.push(chart("Joins over time", "per s", Scale::Linear, lines));
    }
    let mut deliveries = vec![over("deliveries/s", &|moment| Some(moment.deliveries_per_s))];
    let offered = result.throughput.deliveries_offered_per_s;
    if let (true, Some(first), Some(last)) = (offered > 0.0, moments.first(), moments.last()) {
        let points = vec![(first.at_s, Some(offered)), (last.at_s, Some(offered))];
        deliveries.push(Line { name: "offered".into(), points, dashed: true });
    }
    if moments.iter().any(|moment| moment.deliveries_per_s > 0.0) {
        charts.push(chart("Deliveries over time", "per s", Scale::Linear, deliveries));
    }
    let mut nodes: Vec<&String> = moments.iter().flat_map(|moment| moment.live_by_node.keys()).collect();
    nodes.sort();
    nodes.dedup();
    if (2..=MOST_NODES).contains(&nodes.len()) {
        let of = |node: &String| {
            over(node, &|moment| Some(moment.live_by_node.get(node).map_or(0.0, |n| *n as f64)))
        };
        let lines = nodes.into_iter().map(of).collect();
        charts.push(chart("Connections by node over time", "joined", Scale::Linear, lines));
    }
    charts
}

/// A chart for each scope: the curves of several lie on top of one another.
fn percentiles(result: &RunResult) -> Vec<Chart> {
    let mut scopes: Vec<&str> = Vec::new();
    for measured in result.latency.iter().filter(|measured| measured.samples > 0) {
        if !scopes.contains(&measured.scope.as_str()) {
            scopes.push(&measured.scope);
        }
    }
    scopes.into_iter().map(|scope| percentiles_of(result, scope)).collect()
}

fn percentiles_of(result: &RunResult, scope: &str) -> Chart {
    let measured = result.latency.iter().filter(|measured| measured.scope == scope && measured.samples > 0);
    let lines = measured.map(|measured| {
        // The largest of n values stands where 1 in n lies beyond.
        let last = 1.0 - 1.0 / measured.samples.max(2) as f64;
        let points = measured.curve.iter().map(|(quantile, ms)| (quantile.min(last), Some(*ms))).collect();
        Line { name: measured.until.clone(), points, dashed: measured.until == "report" }
    });
    let limits = result.objectives.iter().filter(|objective| {
        let asked = objective.asked.split_whitespace().next().unwrap_or_default();
        objective.unit == "ms" && split_scope(asked).0 == split_scope(scope).0
    });
    Chart {
        title: format!("Latency by percentile: {scope}"),
        x: Axis { name: "share of values at most this", scale: Scale::Nines },
        y: Axis { name: "ms", scale: Scale::Log },
        lines: lines.collect(),
        limits: limits.map(|objective| (objective.limit, objective.asked.clone())).collect(),
        events: Vec::new(),
    }
}

fn tables(html: &mut String, result: &RunResult) {
    html.push_str("<h2>Latency, ms</h2>\n");
    let rows = result.latency.iter().map(|scope| {
        let values = [scope.p50_ms, scope.p90_ms, scope.p99_ms, scope.p999_ms, scope.p9999_ms, scope.max_ms]
            .map(three_digits);
        let mut row = vec![escaped(&scope.scope), escaped(&scope.until), grouped(scope.samples)];
        row.extend(values);
        row
    });
    let heads = ["scope", "until", "n", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    table(html, &heads, &[true, true], rows);
    html.push_str("<div class=\"tables\">\n<div><h2>Throughput</h2>\n");
    let t = &result.throughput;
    let rows = [
        ("pushes/s", t.pushes_offered_per_s, t.pushes_achieved_per_s),
        ("deliveries/s", t.deliveries_offered_per_s, t.deliveries_achieved_per_s),
    ];
    let rows = rows
        .map(|(name, offered, achieved)| vec![name.into(), three_digits(offered), three_digits(achieved)]);
    table(html, &["", "offered", "achieved"], &[true], rows);
    let _ = writeln!(
        html,
        "<p class=\"dim\">{}/s received, over {}</p>\n</div><div><h2>Connections</h2>",
        bytes(t.received_bytes_per_s),
        duration(t.measured_s)
    );
    connections(html, result);
    html.push_str("</div><div><h2>Correctness</h2>\n");
    correctness(html, result);
    html.push_str("</div><div><h2>Reports of the push manager</h2>\n");
    let r = &result.correctness.reported;
    counts(
        html,
        &[
            ("members", r.members),
            ("written", r.written),
            ("queued", r.queued),
            ("dropped: too slow", r.dropped_slow),
            ("dropped: closed", r.dropped_closed),
            ("dropped: a queue was full", r.dropped_shed),
            ("offline", r.offline),
            ("unknown", r.unknown),
            ("pushes without an answer", result.correctness.unanswered),
        ],
    );
    html.push_str("</div></div>\n");
    processes(html, result);
    fairness(html, result);
    generator(html, result);
}

fn connections(html: &mut String, result: &RunResult) {
    let c = &result.connections;
    let mut rows = vec![
        ("asked for".to_owned(), c.asked),
        ("begun".into(), c.begun),
        ("joined".into(), c.joined),
        ("live at the start of the measured part".into(), c.live_at_start),
        ("live at its end".into(), c.live_at_end),
        ("refused".into(), c.refused),
        ("broken".into(), c.broken),
        ("left by plan".into(), c.left),
    ];
    rows.extend(
        c.closed_by_server.iter().map(|(code, count)| (format!("closed by the server with {code}"), *count)),
    );
    let rows: Vec<(&str, u64)> = rows.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    counts(html, &rows);
    let _ =
        writeln!(html, "<p class=\"dim\">ramp {}, {} joins/s</p>", duration(c.ramp_s), short(c.joins_per_s));
}

fn correctness(html: &mut String, result: &RunResult) {
    let c = &result.correctness;
    counts(
        html,
        &[
            ("pushes", c.published),
            ("deliveries expected", c.expected),
            ("arrived", c.received),
            ("lost", c.lost),
            ("duplicate", c.duplicate),
            ("reordered", c.reordered),
            ("after the client left", c.after_leave),
            ("corrupt", c.corrupt),
        ],
    );
    if c.contradictions.is_empty() {
        html.push_str("<p class=\"dim\">Reports and arrivals do not contradict each other.</p>\n");
    }
    list(html, "Contradictions", &c.contradictions);
}

fn processes(html: &mut String, result: &RunResult) {
    html.push_str("<h2>Processes</h2>\n");
    let optional = |value: Option<f64>| value.map_or("-".into(), three_digits);
    let rows = result.processes.iter().map(|process| {
        vec![
            escaped(&process.name),
            escaped(&process.role),
            three_digits(process.cores),
            optional(process.cores_user),
            bytes(process.rss_before_bytes as f64),
            bytes(process.rss_bytes as f64),
            optional(process.rss_per_connection_bytes),
            optional(process.cpu_us_per_delivery),
        ]
    });
    let heads = [
        "process",
        "role",
        "cores",
        "in user mode",
        "RSS before",
        "RSS at the end",
        "bytes/connection",
        "µs/delivery",
    ];
    table(html, &heads, &[true, true], rows);
}

fn fairness(html: &mut String, result: &RunResult) {
    let shares = result.fairness.nodes.iter().chain(&result.fairness.shards);
    let rows: Vec<Vec<String>> = shares
        .map(|share| {
            vec![
                escaped(&share.name),
                grouped(share.connections),
                share.received.map_or("-".into(), grouped),
                share.p99_ms.map_or("-".into(), three_digits),
            ]
        })
        .collect();
    if !rows.is_empty() {
        html.push_str("<h2>Nodes and shards</h2>\n");
        table(html, &["", "connections", "received", "p99 ms"], &[true], rows);
    }
}

fn generator(html: &mut String, result: &RunResult) {
    let g = &result.generator;
    let _ = write!(
        html,
        "<h2>Generator</h2>\n<p>{} cores, RSS {}; pushes left late by {} ms at p99, {} ms at most; {} were never sent.</p>\n",
        short(g.cores),
        bytes(g.rss_bytes as f64),
        short(g.lag_p99_ms),
        short(g.lag_max_ms),
        grouped(g.dropped_sends)
    );
    let threads: Vec<String> =
        g.threads.iter().map(|(name, share)| format!("{name} {} %", short(share * 100.0))).collect();
    let _ = writeln!(
        html,
        "<p class=\"dim\">Threads, in percent of a core: {}</p>",
        escaped(&threads.join(", "))
    );
    html.push_str("<h2>Errors</h2>\n");
    if result.errors.is_empty() {
        html.push_str("<p>None.</p>\n");
    } else {
        let errors: Vec<(&str, u64)> =
            result.errors.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        counts(html, &errors);
    }
    html.push_str("<h2>What was run</h2>\n");
    let parameters = result.scenario.parameters.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        vec![escaped(name), escaped(&text)]
    });
    table(html, &["parameter", "value"], &[true, true], parameters);
    let _ = writeln!(
        html,
        "<p class=\"dim\">loadgen {}</p>\n<pre>{}</pre>",
        escaped(&result.loadgen_version),
        escaped(&result.command.join(" "))
    );
}

fn counts(html: &mut String, rows: &[(&str, u64)]) {
    let rows = rows.iter().map(|(name, count)| vec![escaped(name), grouped(*count)]);
    table(html, &[], &[true], rows);
}

fn list(html: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(html, "<h2>{title}</h2>\n<ul>");
    for line in lines {
        let _ = write!(html, "<li>{}</li>", escaped(line));
    }
    html.push_str("</ul>\n");
}

/// A table; `left` tells which columns hold words. The cells are markup already.
fn table(html: &mut String, heads: &[&str], left: &[bool], rows: impl IntoIterator<Item = Vec<String>>) {
    let class =
        |column: usize| if left.get(column).copied().unwrap_or(false) { " class=\"left\"" } else { "" };
    html.push_str("<div class=\"scroll\"><table>");
    if !heads.is_empty() {
        html.push_str("<thead><tr>");
        for (column, head) in heads.iter().enumerate() {
            let _ = write!(html, "<th{}>{head}</th>", class(column));
        }
        html.push_str("</tr></thead>");
    }
    html.push_str("<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{cell}</td>", class(column));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile, sample, verdict};

    fn judged() -> RunResult {
        let mut result = sample::room_push();
        let objectives = profile::defaults(&result).objectives;
        verdict::judge(&mut result, &objectives);
        result
    }

    #[test]
    fn the_page_asks_no_other_place_for_anything() {
        let page = page(&[judged()]);
        for way_out in
            ["http:", "https:", "src=", "@import", "url(", "<link rel=\"stylesheet", "fetch(", "XMLHttp"]
        {
            // The one address is the name by which SVG elements are made; nothing is fetched from it.
            let rest = page.replace("http://www.w3.org/2000/svg", "");
            assert!(!rest.contains(way_out), "{way_out}");
        }
        assert_eq!(page.matches("href=").count(), 1, "the empty icon, so that no browser asks for one");
    }

    #[test]
    fn the_page_holds_the_result_the_verdict_and_the_plots() {
        let result = judged();
        let page = page(std::slice::from_ref(&result));
        let data =
            page.split("class=\"result\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
        assert_eq!(serde_json::from_str::<RunResult>(data).unwrap(), result);
        let (verdict, first_plot) = (page.find("word PASS").unwrap(), page.find("<svg").unwrap());
        assert!(verdict < first_plot, "the verdict stands on top");
        for title in [
            "Latency by percentile: join",
            "Latency by percentile: room_push(100)",
            "Latency of each receiver over time",
            "Connections over time",
            "Deliveries over time",
            "Connections by node over time",
            "Connections at the end by shard",
        ] {
            assert!(page.contains(&format!("<b>{title}</b>")), "{title}");
        }
    }

    #[test]
    fn what_others_named_cannot_become_markup() {
        let mut result = judged();
        let evil = "</script><script>alert(1)</script>";
        result.scenario.name = evil.into();
        result.remarks.push(evil.into());
        result.errors.insert(evil.into(), 1);
        result.timeline[3].event = evil.into();
        result.processes[0].name = evil.into();
        result.scenario.parameters.insert(evil.into(), evil.into());
        let page = page(&[result]);
        assert!(!page.contains("<script>alert"), "{evil} came through");
    }
}
