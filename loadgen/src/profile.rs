//! What a run is held to where nobody says otherwise: the expected performance and resources of
//! `tests/quickstart.zh.md`, at p99, and correctness always.
//!
//! Owns: those tables, and which rows of them a run measures. Must not: judge. Talks to: `objective`, `result`.

use crate::objective::{Objective, Subject};
use crate::result::RunResult;
use crate::verdict::{self, split_scope};

/// Latencies: which pushes, to at most how many members, and the objective without its scope.
const LATENCIES: [(&str, u64, &str); 3] = [
    ("room_push", 100, "last-receiver p99 < 50 ms"),
    ("user_push", u64::MAX, "each-receiver p99 < 10 ms"),
    ("broadcast", u64::MAX, "last-receiver p99 < 100 ms"),
];

/// What a broadcast's limit is meant for.
const BROADCAST_NODES: usize = 10;

/// Connections that a node holds.
const NODE_CONNECTIONS: u64 = 10_000;

/// Resources: the role in a result and in an objective, cores, memory in MB.
const RESOURCES: [(&str, &str, f64, f64); 3] = [
    ("controller", "controller", 0.5, 512.0),
    ("connect-node", "node", 1.0, 1000.0),
    ("push-manager", "push-manager", 0.5, 512.0),
];

/// What no run may do, whatever else it is held to.
const CORRECTNESS: [&str; 6] =
    ["lost = 0", "duplicate = 0", "reordered = 0", "corrupt = 0", "after_leave = 0", "contradictions = 0"];

/// Objectives, and what could not be made one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chosen {
    /// What to judge by, in this order.
    pub objectives: Vec<Objective>,
    /// What a reader should know of that choice, a sentence each.
    pub remarks: Vec<String>,
}

impl Chosen {
    fn add(&mut self, text: &str) {
        self.objectives.push(text.parse().expect("an objective of our own tables can be read"));
    }
}

/// The rows of both tables that this run measured, and correctness.
pub fn defaults(result: &RunResult) -> Chosen {
    let mut chosen = Chosen::default();
    add_latencies(result, &mut chosen);
    add_connections(result, &mut chosen);
    add_resources(result, &mut chosen);
    add_correctness(result, &mut chosen);
    chosen
}

/// These objectives, and correctness where they do not speak of it.
pub fn with_correctness(result: &RunResult, asked: &[Objective]) -> Chosen {
    let mut chosen = Chosen { objectives: asked.to_vec(), remarks: Vec::new() };
    add_correctness(result, &mut chosen);
    chosen
}

/// Judges a result by what was asked for, or, where nothing was, by the defaults.
pub fn judge(result: &mut RunResult, asked: &[Objective]) {
    let chosen = if asked.is_empty() { defaults(result) } else { with_correctness(result, asked) };
    for remark in chosen.remarks {
        if !result.remarks.contains(&remark) {
            result.remarks.push(remark);
        }
    }
    verdict::judge(result, &chosen.objectives);
}

fn add_latencies(result: &RunResult, chosen: &mut Chosen) {
    // Each scope once, though it is there for the first, each and the last receiver.
    let mut scopes: Vec<&str> = Vec::new();
    for scope in &result.latency {
        if !scopes.contains(&scope.scope.as_str()) {
            scopes.push(&scope.scope);
        }
    }
    for scope in scopes {
        let (name, members) = split_scope(scope);
        let Some((_, most, rest)) = LATENCIES.iter().find(|(known, ..)| *known == name) else { continue };
        if members.is_some_and(|members| members > *most) {
            chosen.remarks.push(format!(
                "not judged: {scope}; the default limit is for {name}({most}), --slo sets another"
            ));
            continue;
        }
        chosen.add(&format!("{scope} {rest}"));
        let nodes = result.fairness.nodes.len();
        if name == "broadcast" && nodes != BROADCAST_NODES {
            let plural = if nodes == 1 { "" } else { "s" };
            chosen.remarks.push(format!(
                "the limit of a broadcast is meant for {BROADCAST_NODES} nodes; it was judged over the {nodes} node{plural} that there {}",
                if nodes == 1 { "is" } else { "are" }
            ));
        }
    }
}

fn add_connections(result: &RunResult, chosen: &mut Chosen) {
    let nodes = result.fairness.nodes.len() as u64;
    let asked = result.connections.asked;
    if nodes > 0 && asked >= NODE_CONNECTIONS * nodes {
        chosen.add(&format!("node connections >= {NODE_CONNECTIONS}"));
    } else if asked >= NODE_CONNECTIONS {
        chosen.remarks.push(format!(
            "not judged: {NODE_CONNECTIONS} connections of each node; {asked} clients lay on {nodes} nodes"
        ));
    }
}

fn add_resources(result: &RunResult, chosen: &mut Chosen) {
    let has = |role: &str| result.processes.iter().any(|process| process.role == role);
    if has("all-in-one") {
        let nodes = result.fairness.nodes.len().max(1) as f64;
        let [controller, node, push] = RESOURCES;
        let cores = controller.2 + nodes * node.2 + push.2;
        let megabytes = controller.3 + nodes * node.3 + push.3;
        chosen.add(&format!("all-in-one cores < {cores}"));
        chosen.add(&format!("all-in-one rss < {megabytes} MB"));
        chosen.remarks.push(
            "not judged one by one: CPU and memory of controller, node and push manager, which run in one \
             process; it was judged against the sum of their limits"
                .into(),
        );
        return;
    }
    let mut missing = Vec::new();
    for (role, word, cores, megabytes) in RESOURCES {
        if has(role) {
            chosen.add(&format!("{word} cores < {cores}"));
            chosen.add(&format!("{word} rss < {megabytes} MB"));
        } else {
            missing.push(word);
        }
    }
    if !missing.is_empty() {
        chosen
            .remarks
            .push(format!("not judged: CPU and memory of {}, which were not measured", missing.join(", ")));
    }
}

fn add_correctness(result: &RunResult, chosen: &mut Chosen) {
    if result.correctness.published == 0 {
        return;
    }
    for text in CORRECTNESS {
        let objective: Objective = text.parse().expect("an objective of our own tables can be read");
        let spoken_of = |other: &Objective| match (&other.subject, &objective.subject) {
            (Subject::Count(one), Subject::Count(other)) => one == other,
            _ => false,
        };
        if !chosen.objectives.iter().any(spoken_of) {
            chosen.objectives.push(objective);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn asked(chosen: &Chosen) -> Vec<&str> {
        chosen.objectives.iter().map(|objective| objective.asked.as_str()).collect()
    }

    #[test]
    fn what_the_run_measured_is_held_to_the_tables_and_to_correctness() {
        let chosen = defaults(&sample::room_push());
        assert_eq!(
            asked(&chosen),
            [
                "room_push(100) last-receiver p99 < 50 ms",
                "controller cores < 0.5",
                "controller rss < 512 MB",
                "node cores < 1",
                "node rss < 1000 MB",
                "push-manager cores < 0.5",
                "push-manager rss < 512 MB",
                "lost = 0",
                "duplicate = 0",
                "reordered = 0",
                "corrupt = 0",
                "after_leave = 0",
                "contradictions = 0",
            ]
        );
        assert_eq!(chosen.remarks, [""; 0]);
    }

    #[test]
    fn everything_in_one_process_is_held_to_the_sum() {
        let mut result = sample::room_push();
        result.processes.truncate(1);
        result.processes[0].role = "all-in-one".into();
        let chosen = defaults(&result);
        assert_eq!(asked(&chosen)[1..3], ["all-in-one cores < 3", "all-in-one rss < 3024 MB"]);
        assert!(chosen.remarks[0].contains("in one process"), "{:?}", chosen.remarks);
    }

    #[test]
    fn what_cannot_be_judged_is_named() {
        let mut result = sample::room_push();
        result.processes.clear();
        result.latency[0].scope = "room_push(1000)".into();
        result.latency.truncate(1);
        let remarks = defaults(&result).remarks.join("\n");
        assert!(remarks.contains("not judged: room_push(1000)"), "{remarks}");
        assert!(
            remarks.contains("not judged: CPU and memory of controller, node, push-manager"),
            "{remarks}"
        );
    }

    #[test]
    fn a_broadcast_says_over_how_many_nodes() {
        let mut result = sample::room_push();
        result.latency[2].scope = "broadcast(100)".into();
        let chosen = defaults(&result);
        assert!(asked(&chosen).contains(&"broadcast(100) last-receiver p99 < 100 ms"));
        assert!(chosen.remarks[0].contains("over the 2 nodes"), "{:?}", chosen.remarks);
    }

    #[test]
    fn an_objective_of_the_users_own_replaces_the_tables_but_not_correctness() {
        let own = ["room_push p99 < 5 ms", "lost <= 3"].map(|text| text.parse().unwrap());
        let chosen = with_correctness(&sample::room_push(), &own);
        assert_eq!(asked(&chosen)[..3], ["room_push p99 < 5 ms", "lost <= 3", "duplicate = 0"]);
        assert_eq!(chosen.objectives.len(), 7);
    }
}
