//! What a run is held to: objectives, and their text such as `room_push(100) last-receiver p99 < 50 ms`.
//!
//! Owns: the grammar, and errors that say what is wrong and what would be right. Must not: look at a result
//! (`verdict` does). Talks to: nobody.
//!
//! ```text
//! objective = subject comparator number [unit]
//! subject   = scope["(" members ")"] [until] statistic     room_push(100) last-receiver p99
//!           | role figure                                  node rss
//!           | "cpu_us_per_delivery(" role ")"
//!           | count | rate                                 lost, deliveries_per_s
//! ```

use std::fmt;
use std::str::FromStr;

/// Latency scopes, each with what it is held to where the objective does not say: a push to many is there when
/// the last has it.
const SCOPES: [(&str, Option<&str>); 4] = [
    ("room_push", Some("last-receiver")),
    ("user_push", Some("each-receiver")),
    ("broadcast", Some("last-receiver")),
    ("join", Some("joined")),
];

const UNTILS: [&str; 5] = ["first-receiver", "each-receiver", "last-receiver", "report", "joined"];

const COMPARATORS: [(&str, Comparator); 8] = [
    // The longer ones first: `<=` begins with `<`.
    ("<=", Comparator::AtMost),
    (">=", Comparator::AtLeast),
    ("==", Comparator::Equal),
    ("≤", Comparator::AtMost),
    ("≥", Comparator::AtLeast),
    ("<", Comparator::Below),
    (">", Comparator::Above),
    ("=", Comparator::Equal),
];

const TIME_UNITS: [(&str, f64); 4] = [("ms", 1.0), ("us", 1e-3), ("µs", 1e-3), ("s", 1e3)];

const BYTE_UNITS: [(&str, f64); 7] = [
    ("B", 1.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1024.0 * 1024.0),
    ("GiB", 1024.0 * 1024.0 * 1024.0),
];

/// One thing that has to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// As it was asked for, blanks made single.
    pub asked: String,
    /// What is measured.
    pub subject: Subject,
    /// How it is compared.
    pub comparator: Comparator,
    /// With what, in the subject's [unit](Subject::unit).
    pub limit: f64,
}

/// What an objective measures.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A statistic of a latency scope.
    Latency {
        /// `room_push`, `user_push`, `broadcast` or `join`.
        scope: String,
        /// How many members the pushes went to; `None` where any will do.
        members: Option<u64>,
        /// Until whom.
        until: String,
        /// Which value of the distribution.
        statistic: Statistic,
    },
    /// A figure of all processes with a role: the worst one counts.
    Process {
        /// `node`, `controller`, `push-manager`, `all-in-one`, `system` for the sum of all, `generator`, or a
        /// peer's name.
        role: String,
        /// Which figure.
        figure: Figure,
    },
    /// A plain number of a run.
    Count(Count),
}

/// A value of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the meaning.
pub enum Statistic {
    P50,
    P90,
    P99,
    P999,
    P9999,
    Max,
}

impl Statistic {
    const ALL: [(&str, Self); 6] = [
        ("p50", Self::P50),
        ("p90", Self::P90),
        ("p99", Self::P99),
        ("p99.9", Self::P999),
        ("p99.99", Self::P9999),
        ("max", Self::Max),
    ];

    /// How many values it takes until it is another than the largest.
    pub fn least_samples(self) -> u64 {
        match self {
            Self::P50 => 2,
            Self::P90 => 10,
            Self::P99 => 100,
            Self::P999 => 1_000,
            Self::P9999 => 10_000,
            Self::Max => 1,
        }
    }
}

/// A figure of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Cores kept busy on average.
    Cores,
    /// Resident memory at the end of the measured part.
    Rss,
    /// Growth of it for each connection.
    BytesPerConnection,
    /// Microseconds of CPU for each delivery.
    CpuPerDelivery,
    /// Connections at the end; only a node has them.
    Connections,
}

impl Figure {
    const ALL: [(&str, Self); 4] = [
        ("cores", Self::Cores),
        ("rss", Self::Rss),
        ("bytes_per_connection", Self::BytesPerConnection),
        ("connections", Self::Connections),
    ];
}

/// A plain number of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Clients that were joined from the start of the measured part to its end.
    Connections,
    /// Deliveries that never arrived.
    Lost,
    /// Deliveries that arrived again.
    Duplicate,
    /// Deliveries that arrived after a later one.
    Reordered,
    /// Deliveries with a wrong checksum.
    Corrupt,
    /// Deliveries to clients that had left.
    AfterLeave,
    /// Contradictions between reports and arrivals.
    Contradictions,
    /// Pushes that were refused or never answered.
    Unanswered,
    /// Connects that were refused with a status.
    Refused,
    /// Connections that broke without a close frame.
    Broken,
    /// Errors of all kinds.
    Errors,
    /// Deliveries a second.
    DeliveriesPerS,
    /// Pushes a second.
    PushesPerS,
    /// Joins a second over the ramp.
    JoinsPerS,
}

impl Count {
    const ALL: [(&str, Self); 14] = [
        ("connections", Self::Connections),
        ("lost", Self::Lost),
        ("duplicate", Self::Duplicate),
        ("reordered", Self::Reordered),
        ("corrupt", Self::Corrupt),
        ("after_leave", Self::AfterLeave),
        ("contradictions", Self::Contradictions),
        ("unanswered", Self::Unanswered),
        ("refused", Self::Refused),
        ("broken", Self::Broken),
        ("errors", Self::Errors),
        ("deliveries_per_s", Self::DeliveriesPerS),
        ("pushes_per_s", Self::PushesPerS),
        ("joins_per_s", Self::JoinsPerS),
    ];
}

/// How a measured value is compared with a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparator {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `=`
    Equal,
}

impl Comparator {
    /// Whether the value holds against the limit. No comparison holds for what is not a number.
    pub fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
            Self::Equal => value == limit,
        }
    }

    /// Of two values the one that is further from holding.
    pub fn worse(self, one: f64, other: f64, limit: f64) -> f64 {
        match self {
            Self::Below | Self::AtMost => one.max(other),
            Self::Above | Self::AtLeast => one.min(other),
            Self::Equal if (one - limit).abs() > (other - limit).abs() => one,
            Self::Equal => other,
        }
    }
}

impl Subject {
    /// The unit of its values: `ms`, `B`, `cores`, `µs`, `per s`, `connections`, or empty for a plain number.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Latency { .. } => "ms",
            Self::Process { figure, .. } => match figure {
                Figure::Cores => "cores",
                Figure::Rss | Figure::BytesPerConnection => "B",
                Figure::CpuPerDelivery => "µs",
                Figure::Connections => "connections",
            },
            Self::Count(Count::DeliveriesPerS | Count::PushesPerS | Count::JoinsPerS) => "per s",
            Self::Count(Count::Connections) => "connections",
            Self::Count(_) => "",
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.asked)
    }
}

impl FromStr for Objective {
    type Err = String;

    /// The error says what is wrong and what would be right, without the text itself.
    fn from_str(text: &str) -> Result<Self, String> {
        let asked = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (comparator, subject, limit) = split(&asked)?;
        let subject = parse_subject(subject)?;
        let limit = parse_limit(limit, &subject)?;
        Ok(Self { asked, subject, comparator, limit })
    }
}

/// The comparator that comes first, with what stands before and after it.
fn split(asked: &str) -> Result<(Comparator, &str, &str), String> {
    let first = COMPARATORS
        .iter()
        .filter_map(|(sign, comparator)| {
            asked.find(sign).map(|at| (at, usize::MAX - sign.len(), sign, comparator))
        })
        .min_by_key(|(at, shortness, ..)| (*at, *shortness));
    let Some((at, _, sign, comparator)) = first else {
        return Err(
            "has no comparison; give <, <=, >, >= or =, such as room_push(100) last-receiver p99 < 50 ms"
                .into(),
        );
    };
    Ok((*comparator, asked[..at].trim(), asked[at + sign.len()..].trim()))
}

fn parse_subject(text: &str) -> Result<Subject, String> {
    let words: Vec<&str> = text.split(' ').filter(|word| !word.is_empty()).collect();
    let Some((&first, rest)) = words.split_first() else {
        return Err("does not say what to compare; give such as user_push p99 or node rss".into());
    };
    let (name, argument) = match first.split_once('(') {
        None => (first, None),
        Some((name, argument)) => match argument.strip_suffix(')') {
            Some(argument) => (name, Some(argument)),
            None => return Err(format!("{first}: the bracket is not closed; give {first})")),
        },
    };
    if name == "cpu_us_per_delivery" {
        return match (argument, rest) {
            (Some(role), []) if !role.is_empty() => {
                Ok(Subject::Process { role: role.into(), figure: Figure::CpuPerDelivery })
            }
            _ => Err("cpu_us_per_delivery needs a role: give cpu_us_per_delivery(node)".into()),
        };
    }
    if let Some((scope, until)) = SCOPES.iter().find(|(scope, _)| *scope == name) {
        return parse_latency(scope, argument, *until, rest);
    }
    if argument.is_some() {
        return Err(format!("{name}: there is no such scope; give one of: {}", names(&SCOPES)));
    }
    match rest {
        [] => find(&Count::ALL, name).map(Subject::Count).ok_or_else(|| {
            let scopes = names(&SCOPES);
            format!(
                "{name}: is not measured; give one of: {}, a scope ({scopes}) or a process's figure (node rss)",
                names(&Count::ALL)
            )
        }),
        [figure] => match find(&Figure::ALL, figure) {
            Some(Figure::Connections) if name != "node" => Err("only a node has connections: give node connections".into()),
            Some(figure) => Ok(Subject::Process { role: name.into(), figure }),
            None if figure.starts_with('p') => {
                Err(format!("{name}: there is no such scope; give one of: {}", names(&SCOPES)))
            }
            None => Err(format!(
                "{figure}: a process has no such figure; give one of: {}",
                names(&Figure::ALL)
            )),
        },
        _ => Err(format!("{name}: there is no such scope; give one of: {}", names(&SCOPES))),
    }
}

fn parse_latency(
    scope: &str,
    members: Option<&str>,
    default_until: Option<&str>,
    rest: &[&str],
) -> Result<Subject, String> {
    let members = match members {
        None => None,
        Some(members) => {
            let number = members.replace([',', '_'], "").parse::<u64>();
            Some(number.map_err(|_| {
                format!("{scope}({members}): give the number of members, such as {scope}(100)")
            })?)
        }
    };
    let (until, statistic) = match rest {
        [] => return Err(format!("{scope}: give a percentile, such as {scope} p99")),
        [statistic] => (default_until.unwrap_or(UNTILS[1]), *statistic),
        [until, statistic] => (*until, *statistic),
        [_, _, more, ..] => {
            return Err(format!("{more}: is one word too many; give {scope} last-receiver p99"));
        }
    };
    let Some(statistic_found) = find(&Statistic::ALL, statistic) else {
        let hint = if UNTILS.contains(&statistic) { " after it" } else { "" };
        return Err(format!("{statistic}: give one of{hint}: {}", names(&Statistic::ALL)));
    };
    if !UNTILS.contains(&until) {
        return Err(format!("{until}: give one of: {}", UNTILS.join(", ")));
    }
    Ok(Subject::Latency { scope: scope.into(), members, until: until.into(), statistic: statistic_found })
}

/// The number, in the subject's unit.
fn parse_limit(text: &str, subject: &Subject) -> Result<f64, String> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || ".,_".contains(c))).unwrap_or(text.len());
    let (digits, unit) = (text[..end].replace([',', '_'], ""), text[end..].trim());
    let Some(number) = digits.parse::<f64>().ok().filter(|number| number.is_finite()) else {
        return Err(match text {
            "" => "has nothing to compare with; give a number after the comparison".into(),
            _ => format!("{text}: give a number, such as {}", example(subject)),
        });
    };
    let wrong =
        |units: &str| Err(format!("{text}: give a number with {units}, such as {}", example(subject)));
    let (units, may_lack): (&[(&str, f64)], bool) = match (subject.unit(), subject) {
        ("ms", _) => (&TIME_UNITS, false),
        ("B", Subject::Process { figure: Figure::BytesPerConnection, .. }) => (&BYTE_UNITS, true),
        ("B", _) => (&BYTE_UNITS, false),
        ("cores", _) => (&[("cores", 1.0), ("core", 1.0)], true),
        ("µs", _) => (&[("µs", 1.0), ("us", 1.0)], true),
        ("per s", _) => (&[("per s", 1.0), ("/s", 1.0)], true),
        _ => (&[], true),
    };
    match units.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => Ok(number * factor),
        None if unit.is_empty() && may_lack => Ok(number),
        None if units.is_empty() => wrong("no unit"),
        None => wrong(&format!("one of the units {}", names(units))),
    }
}

fn example(subject: &Subject) -> &'static str {
    match (subject.unit(), subject) {
        ("ms", _) => "50 ms",
        ("B", Subject::Process { figure: Figure::BytesPerConnection, .. }) => "400",
        ("B", _) => "512 MB",
        ("cores", _) => "0.5",
        ("µs", _) => "4.5",
        ("per s" | "connections", _) => "10000",
        _ => "0",
    }
}

fn find<T: Copy>(all: &[(&str, T)], name: &str) -> Option<T> {
    all.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn names<T>(all: &[(&str, T)]) -> String {
    all.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Objective {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> String {
        text.parse::<Objective>().expect_err(text)
    }

    #[test]
    fn a_latency_names_scope_members_until_and_percentile() {
        let objective = parse("room_push(100)  last-receiver p99 < 50 ms");
        assert_eq!(objective.asked, "room_push(100) last-receiver p99 < 50 ms");
        let Subject::Latency { scope, members, until, statistic } = objective.subject else {
            panic!("not a latency")
        };
        assert_eq!((scope.as_str(), members, until.as_str()), ("room_push", Some(100), "last-receiver"));
        assert_eq!(
            (statistic, objective.comparator, objective.limit),
            (Statistic::P99, Comparator::Below, 50.0)
        );
    }

    #[test]
    fn what_an_objective_leaves_out_has_a_default() {
        let until = |text| match parse(text).subject {
            Subject::Latency { until, members: None, .. } => until,
            other => panic!("{other:?}"),
        };
        assert_eq!(until("room_push p99 < 1 s"), "last-receiver");
        assert_eq!(until("user_push p99<10ms"), "each-receiver");
        assert_eq!(until("broadcast max <= 1 s"), "last-receiver");
        assert_eq!(until("join p99.99 < 50 ms"), "joined");
    }

    #[test]
    fn every_form_that_is_documented_is_read() {
        for (text, unit, limit) in [
            ("connections >= 10,000", "connections", 10_000.0),
            ("node connections >= 10_000", "connections", 10_000.0),
            ("lost = 0", "", 0.0),
            ("duplicate == 0", "", 0.0),
            ("reordered = 0", "", 0.0),
            ("corrupt = 0", "", 0.0),
            ("after_leave = 0", "", 0.0),
            ("contradictions = 0", "", 0.0),
            ("unanswered = 0", "", 0.0),
            ("refused = 0", "", 0.0),
            ("broken = 0", "", 0.0),
            ("errors = 0", "", 0.0),
            ("node cores < 1", "cores", 1.0),
            ("controller cores < 0.5 cores", "cores", 0.5),
            ("node rss < 1 GB", "B", 1e9),
            ("controller rss ≤ 512MB", "B", 512e6),
            ("push-manager rss < 512 MiB", "B", 536_870_912.0),
            ("node bytes_per_connection < 400", "B", 400.0),
            ("node bytes_per_connection < 1 KiB", "B", 1024.0),
            ("join p99 < 0.05 s", "ms", 50.0),
            ("user_push report p50 < 500 us", "ms", 0.5),
            ("deliveries_per_s > 100000", "per s", 100_000.0),
            ("pushes_per_s >= 50/s", "per s", 50.0),
            ("joins_per_s > 1000 per s", "per s", 1_000.0),
            ("cpu_us_per_delivery(node) < 4.5 µs", "µs", 4.5),
            ("cpu_us_per_delivery(uWebSockets) < 5", "µs", 5.0),
        ] {
            let objective = parse(text);
            assert_eq!(objective.subject.unit(), unit, "{text}");
            assert!((objective.limit - limit).abs() < 1e-9 * limit.max(1.0), "{text}: {}", objective.limit);
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let cases = [
            ("room_push(100) p99", "has no comparison; give <, <=, >, >= or ="),
            ("< 50 ms", "does not say what to compare"),
            ("room_push(100 p99 < 50 ms", "room_push(100: the bracket is not closed"),
            ("room_push(many) p99 < 50 ms", "room_push(many): give the number of members"),
            ("room_psh p99 < 50 ms", "room_psh: there is no such scope; give one of: room_push, user_push"),
            ("room_psh(100) p99 < 50 ms", "room_psh: there is no such scope"),
            ("room_push < 50 ms", "room_push: give a percentile"),
            ("room_push p98 < 50 ms", "p98: give one of: p50, p90, p99, p99.9, p99.99, max"),
            ("room_push last-receiver < 50 ms", "last-receiver: give one of after it: p50"),
            ("room_push slowest p99 < 50 ms", "slowest: give one of: first-receiver"),
            ("room_push last-receiver p99 please < 50 ms", "please: is one word too many"),
            ("room_push p99 < 50", "50: give a number with one of the units ms, us, µs, s, such as 50 ms"),
            ("room_push p99 < 50 mins", "50 mins: give a number with one of the units ms"),
            ("room_push p99 <", "has nothing to compare with"),
            ("room_push p99 < fast", "fast: give a number, such as 50 ms"),
            ("room_push p99 << 50 ms", "< 50 ms: give a number"),
            ("lost = -1", "-1: give a number, such as 0"),
            ("lost = 0 ms", "0 ms: give a number with no unit"),
            ("losses = 0", "losses: is not measured; give one of: connections, lost"),
            ("node memory < 1 GB", "memory: a process has no such figure; give one of: cores, rss"),
            ("node rss < 1", "1: give a number with one of the units B, KB, MB"),
            ("controller connections > 1", "only a node has connections"),
            ("cpu_us_per_delivery < 5", "cpu_us_per_delivery needs a role"),
        ];
        for (text, wrong) in cases {
            let line = refused(text);
            assert!(line.contains(wrong), "{text}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn nothing_holds_for_what_is_no_number() {
        for (_, comparator) in COMPARATORS {
            assert!(!comparator.holds(f64::NAN, 1.0), "{comparator:?}");
        }
    }
}
