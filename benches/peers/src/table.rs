//! Rows to medians and paired ratios.
//!
//! Owns: the arithmetic and the form of the tables. Must not: measure. Void rows count for nothing but are told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::contestant::Contestant;
use crate::run::Row;
use crate::scenario::{Load, SCENARIOS, Scenario};

/// A column: its head, what it shows of a row, digits behind the point.
type Column = (&'static str, fn(&Row) -> f64, usize);

/// Columns of what is paced.
const PACED: [Column; 9] = [
    ("CPU us", |row| row.cpu_us, 2),
    ("user", |row| row.user_us, 2),
    ("system", |row| row.system_us, 2),
    ("per s", |row| row.deliveries_per_s, 0),
    ("p50 ms", |row| row.p50_ms, 2),
    ("p99 ms", |row| row.p99_ms, 2),
    ("last p50", |row| row.last_p50_ms, 2),
    ("last p99", |row| row.last_p99_ms, 2),
    ("client", |row| row.client_cores, 2),
];

/// Columns of idle connections.
const IDLE: [Column; 5] = [
    ("B each", |row| row.rss_per_connection, 0),
    ("per s", |row| row.upgrades_per_s, 0),
    ("CPU us", |row| row.upgrade_cpu_us, 1),
    ("p50 ms", |row| row.handshake_p50_ms, 2),
    ("p99 ms", |row| row.handshake_p99_ms, 2),
];

/// All rows as tables, a scenario each, with ratios against these contestants.
pub fn tables(rows: &[Row], against: &[Contestant]) -> String {
    let mut text = String::new();
    for scenario in SCENARIOS {
        for steered in [true, false] {
            let rows: Vec<&Row> =
                rows.iter().filter(|row| row.scenario == scenario.name && row.steered == steered).collect();
            if !rows.is_empty() {
                table(&mut text, &scenario, steered, &rows, against);
            }
        }
    }
    text
}

fn table(text: &mut String, scenario: &Scenario, steered: bool, rows: &[&Row], against: &[Contestant]) {
    let steering = if steered { "steered" } else { "not steered" };
    let _ = writeln!(
        text,
        "\n{}: {} ({steering}; medians, ratios paired with the worst behind)\n",
        scenario.name, scenario.about
    );
    let (columns, primary): (&[Column], fn(&Row) -> f64) = match scenario.load {
        Load::Idle => (&IDLE, |row| row.upgrades_per_s),
        Load::Burst(_) => (&PACED, |row| row.deliveries_per_s),
        _ => (&PACED, |row| row.cpu_us),
    };
    let more_is_better = matches!(scenario.load, Load::Idle | Load::Burst(_));
    let mut heads: Vec<String> = vec!["contestant".into(), "rounds".into()];
    heads.extend(columns.iter().map(|(head, ..)| (*head).to_owned()));
    let of = if more_is_better { "per s" } else { "CPU" };
    heads.extend(against.iter().map(|other| format!("{of} / {}", other.name())));
    let _ = writeln!(text, "| {} |", heads.join(" | "));
    let _ = writeln!(text, "|{}", " --- |".repeat(heads.len()));
    for contestant in Contestant::ALL {
        let (sound, void): (Vec<&Row>, Vec<&Row>) = rows
            .iter()
            .copied()
            .filter(|row| row.contestant == contestant.name())
            .partition(|row| row.void.is_none());
        if sound.is_empty() && void.is_empty() {
            continue;
        }
        let mut cells = vec![contestant.name().to_owned(), format!("{}", sound.len())];
        for (_, value, digits) in columns {
            cells.push(cell(median(sound.iter().map(|row| value(row))), *digits));
        }
        for other in against {
            let ratio = |row: &&Row| {
                let pair = rows.iter().find(|pair| {
                    pair.contestant == other.name() && pair.round == row.round && pair.void.is_none()
                })?;
                Some(primary(row) / primary(pair))
            };
            let ratios: Vec<f64> = sound.iter().filter_map(ratio).collect();
            let worst = ratios.iter().copied().reduce(if more_is_better { f64::min } else { f64::max });
            cells.push(match (median(ratios.iter().copied()), worst) {
                (Some(median), Some(worst)) if contestant != *other => format!("{median:.2} ({worst:.2})"),
                (median, _) => cell(median, 2),
            });
        }
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        for (reason, rounds) in reasons(&void) {
            let _ = writeln!(text, "| {}: {rounds} void: {reason} |", contestant.name());
        }
    }
}

fn reasons(void: &[&Row]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for row in void {
        *reasons.entry(row.void.clone().unwrap_or_default()).or_insert(0) += 1;
    }
    reasons
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}

/// The middle value, or the mean of the two in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(contestant: &str, round: u32, cpu_us: f64) -> Row {
        Row {
            scenario: "C2".into(),
            contestant: contestant.into(),
            round,
            steered: true,
            cpu_us,
            ..Row::default()
        }
    }

    #[test]
    fn ratios_are_paired_and_void_rows_do_not_count() {
        let mut rows = vec![row("floor", 0, 4.0), row("io-uring", 0, 2.0), row("floor", 1, 10.0)];
        rows.extend([row("io-uring", 1, 8.0), row("floor", 2, 4.0), row("io-uring", 2, 2.4)]);
        rows.push(Row { void: Some("3 frames lost".into()), ..row("io-uring", 3, 0.1) });
        let text = tables(&rows, &[Contestant::Floor]);
        let line = text.lines().find(|line| line.starts_with("| io-uring | ")).unwrap_or_default();
        assert!(line.starts_with("| io-uring | 3 | 2.40 |"), "{text}");
        assert!(line.ends_with("| 0.60 (0.80) |"), "the median and the worst of 0.5, 0.8 and 0.6: {text}");
        assert!(text.contains("io-uring: 1 void: 3 frames lost"), "{text}");
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median([f64::NAN].into_iter()), None);
    }
}
