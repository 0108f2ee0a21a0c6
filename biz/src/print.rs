//! What the caller sees: for people, or one JSON object a push; and the exit codes.
//!
//! Owns: all wording of results. Must not: call anyone.

use std::fmt::Write as _;
use std::time::Duration;

use ringcast_proto::pubsub::Outcomes;
use serde_json::{Value, json};
use tonic::Code;

use crate::args::Args;
use crate::call::{Answer, Failure, Outcome};

/// The exit code of a push; see `--help`.
pub(crate) fn exit_code(outcome: &Outcome) -> u8 {
    match &outcome.answer {
        Ok(answer) if answer.success => 0,
        Ok(_) => 1,
        Err(Failure::Refused { .. }) => 3,
        Err(Failure::Unreachable(_) | Failure::Unknown { .. }) => 4,
    }
}

/// A push for people, some lines.
pub(crate) fn text(args: &Args, outcome: &Outcome) -> String {
    let what = format!("{} {}", args.action.name(), args.target());
    match &outcome.answer {
        Ok(answer) => answer_text(&what, answer, outcome),
        Err(Failure::Refused { code, reason, message }) => {
            let reason = if reason.is_empty() { String::new() } else { format!(" {reason}") };
            format!("{what}: refused: {}{reason}: {message}\n", code_name(*code))
        }
        Err(Failure::Unreachable(asked)) => {
            format!(
                "{what}: unreachable: no push manager at {}; nothing was pushed\n",
                reasons(asked, "; at ")
            )
        }
        Err(Failure::Unknown { address, why }) => {
            format!(
                "{what}: unknown: no answer from {address}: {why}; it may have been pushed, and is not sent again\n"
            )
        }
    }
}

/// `a:1: Connection refused; at b:2: timed out`
fn reasons(asked: &[(String, String)], between: &str) -> String {
    let reasons: Vec<String> = asked.iter().map(|(address, why)| format!("{address}: {why}")).collect();
    reasons.join(between)
}

fn answer_text(what: &str, answer: &Answer, outcome: &Outcome) -> String {
    let report = &answer.report;
    let result = if answer.success { "delivered" } else { answer.message.as_str() };
    let total = report.total.unwrap_or_default();
    let mut text = format!("{what}: {result}\n");
    let inside = Duration::from_micros(report.elapsed_us);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  message  {}", answer.message_id);
    let _ =
        writeln!(text, "  elapsed  {} ms, {} ms of it in the push manager", ms(outcome.elapsed), ms(inside));
    if let Some(trace) = &outcome.trace_id {
        let _ = writeln!(text, "  trace    {trace}");
    }
    let _ = writeln!(text, "  members  {}", counts(&total));
    let width = report.nodes.iter().map(|node| node.node_id.len()).max().unwrap_or(0);
    for node in &report.nodes {
        let outcomes = node.outcomes.unwrap_or_default();
        let _ = writeln!(text, "    {:width$}  {}", node.node_id, counts(&outcomes));
    }
    if report.routes_stale_ms > 0 {
        let _ = writeln!(
            text,
            "  routes   {} ms old: the controller is away, sessions that joined since may have been missed",
            report.routes_stale_ms
        );
    }
    text
}

/// `3: written 2, dropped slow 1`
fn counts(outcomes: &Outcomes) -> String {
    let parts: Vec<String> = named(outcomes)
        .into_iter()
        .filter(|(_, sessions)| *sessions > 0)
        .map(|(name, sessions)| format!("{} {sessions}", name.replace('_', " ")))
        .collect();
    if parts.is_empty() {
        outcomes.members.to_string()
    } else {
        format!("{}: {}", outcomes.members, parts.join(", "))
    }
}

fn named(outcomes: &Outcomes) -> [(&'static str, u64); 7] {
    [
        ("written", outcomes.written),
        ("queued", outcomes.queued),
        ("dropped_slow", outcomes.dropped_slow),
        ("dropped_closed", outcomes.dropped_closed),
        ("dropped_shed", outcomes.dropped_shed),
        ("offline", outcomes.offline),
        ("unknown", outcomes.unknown),
    ]
}

/// A push as one JSON object on one line.
pub(crate) fn json(args: &Args, number: u64, outcome: &Outcome) -> String {
    let mut line = json!({
        "number": number,
        "action": args.action.name(),
        "target": args.target(),
        "elapsed_ms": outcome.elapsed.as_secs_f64() * 1000.0,
        "exit_code": exit_code(outcome),
    });
    if let Some(trace) = &outcome.trace_id {
        line["trace_id"] = json!(trace);
    }
    match &outcome.answer {
        Ok(answer) => {
            let report = &answer.report;
            line["success"] = json!(answer.success);
            line["message"] = json!(answer.message);
            line["message_id"] = json!(answer.message_id);
            line["push_manager"] = json!(answer.address);
            line["report"] = json!({
                "total": outcomes_json(&report.total.unwrap_or_default()),
                "nodes": report.nodes.iter().map(|node| json!({
                    "node_id": node.node_id,
                    "outcomes": outcomes_json(&node.outcomes.unwrap_or_default()),
                })).collect::<Vec<_>>(),
                "routes_stale_ms": report.routes_stale_ms,
                "elapsed_us": report.elapsed_us,
            });
        }
        Err(failure) => {
            line["success"] = json!(false);
            line["error"] = match failure {
                Failure::Refused { code, reason, message } => {
                    json!({ "kind": "refused", "code": code_name(*code), "reason": reason, "message": message })
                }
                Failure::Unreachable(asked) => {
                    json!({ "kind": "unreachable", "message": reasons(asked, "; ") })
                }
                Failure::Unknown { address, why } => {
                    json!({ "kind": "unknown", "push_manager": address, "message": why })
                }
            };
        }
    }
    format!("{line}\n")
}

fn outcomes_json(outcomes: &Outcomes) -> Value {
    let mut object = json!({ "members": outcomes.members });
    for (name, sessions) in named(outcomes) {
        object[name] = json!(sessions);
    }
    object
}

/// What several pushes came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Pushes that are over.
    pub(crate) pushes: u64,
    by_exit_code: [u64; 5],
    unknown: u64,
    members: u64,
    written: u64,
    slowest: Duration,
}

impl Summary {
    /// Counts a push.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        self.pushes += 1;
        self.by_exit_code[usize::from(exit_code(outcome))] += 1;
        self.slowest = self.slowest.max(outcome.elapsed);
        self.unknown += u64::from(matches!(outcome.answer, Err(Failure::Unknown { .. })));
        if let Ok(answer) = &outcome.answer {
            let total = answer.report.total.unwrap_or_default();
            self.members += total.members;
            self.written += total.written;
        }
    }

    /// The exit code of all: the highest.
    pub(crate) fn exit_code(&self) -> u8 {
        let highest = self.by_exit_code.iter().rposition(|&pushes| pushes > 0);
        highest.unwrap_or(0) as u8
    }

    /// For people, one line.
    pub(crate) fn text(&self, took: Duration) -> String {
        let [delivered, undelivered, _, refused, unreachable] = self.by_exit_code;
        format!(
            "{} pushes in {:.3} s: {delivered} delivered, {undelivered} not delivered, {refused} refused, \
             {} unreachable, {} unknown; {} of {} sessions written; slowest {} ms\n",
            self.pushes,
            took.as_secs_f64(),
            unreachable - self.unknown,
            self.unknown,
            self.written,
            self.members,
            ms(self.slowest),
        )
    }
}

fn ms(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

/// As gRPC spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringcast_proto::pubsub::{DeliveryReport, NodeOutcomes};

    fn args() -> Args {
        let args = ["biz", "--action", "push-to-room", "--room", "r", "--message", "x"];
        settings::parse_from(args.map(Into::into)).unwrap()
    }

    fn answered(success: bool, message: &str) -> Outcome {
        let one = Outcomes { members: 2, written: 2, ..Default::default() };
        let two = Outcomes { members: 1, dropped_slow: 1, ..Default::default() };
        let report = DeliveryReport {
            total: Some(Outcomes { members: 3, written: 2, dropped_slow: 1, ..Default::default() }),
            nodes: vec![
                NodeOutcomes { node_id: "connect-node-1".into(), outcomes: Some(one) },
                NodeOutcomes { node_id: "n2".into(), outcomes: Some(two) },
            ],
            routes_stale_ms: 0,
            elapsed_us: 1_250,
        };
        let (message, message_id, address) = (message.into(), "id-1".into(), "a:1".into());
        let answer = Answer { success, message, message_id, report, address };
        Outcome { elapsed: Duration::from_micros(2_340), answer: Ok(answer), trace_id: None }
    }

    fn failed(failure: Failure) -> Outcome {
        Outcome { elapsed: Duration::from_millis(1), answer: Err(failure), trace_id: None }
    }

    fn unreachable() -> Outcome {
        let asked = [("a:1", "Connection refused"), ("b:2", "timed out")];
        failed(Failure::Unreachable(asked.map(|(address, why)| (address.into(), why.into())).into()))
    }

    fn unknown() -> Outcome {
        failed(Failure::Unknown { address: "a:1".into(), why: "broken pipe".into() })
    }

    fn refused() -> Outcome {
        failed(Failure::Refused {
            code: Code::InvalidArgument,
            reason: "ROOM_ID_INVALID".into(),
            message: "room_id is empty".into(),
        })
    }

    #[test]
    fn a_report_is_readable() {
        assert_eq!(
            text(&args(), &answered(true, "")),
            "push-to-room r: delivered\n  message  id-1\n  elapsed  2.34 ms, 1.25 ms of it in the push manager\n  \
             members  3: written 2, dropped slow 1\n    connect-node-1  2: written 2\n    n2              1: dropped \
             slow 1\n"
        );
        assert!(text(&args(), &answered(false, "room empty")).starts_with("push-to-room r: room empty\n"));
        let mut stale = answered(true, "");
        stale.answer.as_mut().unwrap().report.routes_stale_ms = 4_321;
        assert!(text(&args(), &stale).contains("4321 ms old"));
    }

    #[test]
    fn failures_say_whether_anything_was_pushed() {
        assert_eq!(
            text(&args(), &refused()),
            "push-to-room r: refused: INVALID_ARGUMENT ROOM_ID_INVALID: room_id is empty\n"
        );
        assert_eq!(
            text(&args(), &unreachable()),
            "push-to-room r: unreachable: no push manager at a:1: Connection refused; at b:2: timed out; nothing was \
             pushed\n"
        );
        assert_eq!(
            text(&args(), &unknown()),
            "push-to-room r: unknown: no answer from a:1: broken pipe; it may have been pushed, and is not sent again\n"
        );
    }

    #[test]
    fn json_is_one_object_on_one_line() {
        let line = json(&args(), 7, &answered(true, ""));
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&value["number"], &value["success"], &value["exit_code"]),
            (&json!(7), &json!(true), &json!(0))
        );
        assert_eq!(value["report"]["total"]["written"], 2);
        assert_eq!(value["report"]["nodes"][1]["outcomes"]["dropped_slow"], 1);
        let value: Value = serde_json::from_str(&json(&args(), 1, &refused())).unwrap();
        assert_eq!(value["error"]["reason"], "ROOM_ID_INVALID");
        assert_eq!(value["exit_code"], 3);
        let value: Value = serde_json::from_str(&json(&args(), 1, &unknown())).unwrap();
        assert_eq!(value["error"]["kind"], "unknown", "{value}");
    }

    #[test]
    fn exit_codes_are_as_the_help_says_and_the_highest_counts() {
        let outcomes = [
            (answered(true, ""), 0),
            (answered(false, "user offline"), 1),
            (refused(), 3),
            (unreachable(), 4),
            (unknown(), 4),
        ];
        let mut summary = Summary::default();
        for (outcome, code) in outcomes {
            assert_eq!(exit_code(&outcome), code);
            summary.add(&outcome);
            assert_eq!(summary.exit_code(), code);
        }
        let text = summary.text(Duration::from_secs(2));
        assert_eq!(
            text,
            "5 pushes in 2.000 s: 1 delivered, 1 not delivered, 1 refused, 1 unreachable, 1 unknown; 4 of \
             6 sessions written; slowest 2.34 ms\n"
        );
    }
}
