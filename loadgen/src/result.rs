//! What a run found, in the form in which it is kept: `--json` writes it, `compare` and the HTML page read it.
//!
//! Owns: the form and its version. Must not: measure or judge. Talks to: nobody.
//!
//! Units stand in the names: `_ms`, `_s`, `_bytes`, `_per_s`, `cores` (1.0 is one core kept busy).

use std::collections::BTreeMap;
use std::ops::AddAssign;

use ringcast_proto::pubsub::Outcomes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of this form. It grows by new fields only; a changed meaning is a new version.
pub const SCHEMA_VERSION: u32 = 1;

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct RunResult {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The generator's version.
    pub loadgen_version: String,
    /// The command line, so that the run can be repeated.
    pub command: Vec<String>,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// How long it took, in seconds, ramp included.
    pub took_s: f64,
    /// The scenario, as it was run.
    pub scenario: ScenarioEcho,
    /// Where it ran.
    pub machine: Machine,
    /// The verdict over all objectives.
    pub verdict: Verdict,
    /// Why the run says nothing of the system, where it does not; empty otherwise.
    pub invalid: Vec<Invalid>,
    /// The objectives, in their order.
    pub objectives: Vec<ObjectiveResult>,
    /// What became of the clients.
    pub connections: Connections,
    /// What was asked for and what was achieved while it was measured.
    pub throughput: Throughput,
    /// Latencies by scope.
    pub latency: Vec<LatencyScope>,
    /// What was lost, doubled, out of order.
    pub correctness: Correctness,
    /// The clients of each node, and of each shard.
    pub fairness: Fairness,
    /// The processes of the system, as they said themselves.
    pub processes: Vec<ProcessFigures>,
    /// The generator itself.
    pub generator: GeneratorFigures,
    /// Errors by kind, such as `refused 503` or `push UNAVAILABLE`.
    pub errors: BTreeMap<String, u64>,
    /// The run over time, one entry about each second.
    pub timeline: Vec<Moment>,
    /// What else is to be known, such as how many nodes were judged.
    pub remarks: Vec<String>,
}

/// What was run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct ScenarioEcho {
    /// Its name.
    pub name: String,
    /// What it does, in a sentence.
    pub about: String,
    /// All its parameters, by name.
    pub parameters: BTreeMap<String, serde_json::Value>,
}

/// Where it ran.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processor model.
    pub cpu: String,
    /// Cores.
    pub cores: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// TCP congestion control.
    pub congestion_control: String,
    /// Share of the time, in percent, that the hypervisor took from this machine while it was measured.
    pub steal_percent: f64,
}

/// How it ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every objective holds: exit code 0.
    Pass,
    /// An objective does not hold: exit code 99.
    Fail,
    /// The generator was the bottleneck, or something that was to be measured was not: exit code 3.
    Invalid,
}

/// Why a run says nothing of the system.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Invalid {
    /// Which check failed: `generator-cpu`, `generator-lag`, `dropped-sends`, `no-samples`, ...
    pub check: String,
    /// What was found and what was allowed.
    pub found: String,
}

/// One objective and what became of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct ObjectiveResult {
    /// As it was asked for: `room_push(100) last-receiver p99 < 50 ms`.
    pub asked: String,
    /// The limit, in `unit`.
    pub limit: f64,
    /// What was measured, in `unit`; `None` where there was nothing to measure.
    pub measured: Option<f64>,
    /// `ms`, `B`, `cores`, `per s`, `connections`, or empty for a plain number.
    pub unit: String,
    /// How many samples stand behind it.
    pub samples: u64,
    /// Whether it holds.
    pub verdict: Verdict,
    /// What a reader should know beside the number; may be empty.
    pub remark: String,
}

/// What became of the clients.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Connections {
    /// Clients that were asked for.
    pub asked: u64,
    /// Connects that were begun; reconnects count again.
    pub begun: u64,
    /// Those that got their 101.
    pub joined: u64,
    /// Joined when the measured part began.
    pub live_at_start: u64,
    /// Joined when the measured part ended.
    pub live_at_end: u64,
    /// Refused with a status.
    pub refused: u64,
    /// Closed by the server, by close code.
    pub closed_by_server: BTreeMap<String, u64>,
    /// Broken without a close frame.
    pub broken: u64,
    /// Gone by plan.
    pub left: u64,
    /// How long the ramp took, in seconds.
    pub ramp_s: f64,
    /// Joins per second over the ramp.
    pub joins_per_s: f64,
}

/// What was asked for and what was achieved while it was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Throughput {
    /// How long the measured part was, in seconds.
    pub measured_s: f64,
    /// Pushes per second that the schedule asked for.
    pub pushes_offered_per_s: f64,
    /// Pushes per second that left.
    pub pushes_achieved_per_s: f64,
    /// Deliveries per second that these ask for.
    pub deliveries_offered_per_s: f64,
    /// Deliveries per second that arrived.
    pub deliveries_achieved_per_s: f64,
    /// Payload and frames received per second.
    pub received_bytes_per_s: f64,
}

/// A distribution of latencies.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct LatencyScope {
    /// Which pushes: `room_push(100)`, `user_push`, `broadcast(1000)`, `join`, ...
    pub scope: String,
    /// From the intended time to what: `each-receiver`, `first-receiver`, `last-receiver`, `report`, `joined`.
    pub until: String,
    /// How many values there are.
    pub samples: u64,
    /// Half are at most this.
    pub p50_ms: f64,
    /// 90 %.
    pub p90_ms: f64,
    /// 99 %.
    pub p99_ms: f64,
    /// 99.9 %.
    pub p999_ms: f64,
    /// 99.99 %.
    pub p9999_ms: f64,
    /// All.
    pub max_ms: f64,
    /// The curve, as pairs of quantile (0 to 1) and milliseconds, rising.
    pub curve: Vec<(f64, f64)>,
}

/// What was lost, doubled, out of order, and whether the reports told the truth.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Correctness {
    /// Pushes that left.
    pub published: u64,
    /// Deliveries that had to arrive, by the generator's own count of members.
    pub expected: u64,
    /// Deliveries that arrived, each once.
    pub received: u64,
    /// Expected and never arrived.
    pub lost: u64,
    /// Arrived again.
    pub duplicate: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived at a client that had left the room, or was never in it.
    pub after_leave: u64,
    /// Arrived with a wrong checksum.
    pub corrupt: u64,
    /// The sum of the push manager's reports.
    pub reported: Receipts,
    /// Pushes that were refused or never answered.
    pub unanswered: u64,
    /// Where reports and arrivals contradict each other, a line each; empty: nowhere.
    pub contradictions: Vec<String>,
}

/// Outcomes of pushes, in sessions, as the push manager reported them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Receipts {
    /// Sessions in all.
    pub members: u64,
    /// The kernel took the frame.
    pub written: u64,
    /// Not known at the deadline.
    pub queued: u64,
    /// The session was too slow.
    pub dropped_slow: u64,
    /// The session had closed.
    pub dropped_closed: u64,
    /// A queue was full.
    pub dropped_shed: u64,
    /// Nobody was there.
    pub offline: u64,
    /// The link was lost.
    pub unknown: u64,
}

impl From<&Outcomes> for Receipts {
    fn from(told: &Outcomes) -> Self {
        Self {
            members: told.members,
            written: told.written,
            queued: told.queued,
            dropped_slow: told.dropped_slow,
            dropped_closed: told.dropped_closed,
            dropped_shed: told.dropped_shed,
            offline: told.offline,
            unknown: told.unknown,
        }
    }
}

impl AddAssign<&Receipts> for Receipts {
    fn add_assign(&mut self, more: &Receipts) {
        self.members += more.members;
        self.written += more.written;
        self.queued += more.queued;
        self.dropped_slow += more.dropped_slow;
        self.dropped_closed += more.dropped_closed;
        self.dropped_shed += more.dropped_shed;
        self.offline += more.offline;
        self.unknown += more.unknown;
    }
}

/// How evenly the load lay.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Fairness {
    /// By node.
    pub nodes: Vec<Share>,
    /// By shard, named `node/shard`.
    pub shards: Vec<Share>,
}

/// The part of the load that one node or shard had.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Connections at the end.
    pub connections: u64,
    /// Deliveries received by its clients; `None` where clients do not know their shard.
    pub received: Option<u64>,
    /// p99 of what its clients received, in milliseconds; likewise.
    pub p99_ms: Option<f64>,
}

/// A process of the system, from its own metrics or from `/proc`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct ProcessFigures {
    /// `controller`, `push-manager`, `connect-node`, `all-in-one` or a peer's name.
    pub role: String,
    /// Its id, such as `connect-node-1`.
    pub name: String,
    /// Cores that it kept busy on average while it was measured.
    pub cores: f64,
    /// The part of it in user mode, where that is known.
    pub cores_user: Option<f64>,
    /// Resident memory before the first client.
    pub rss_before_bytes: u64,
    /// Resident memory at the end of the measured part.
    pub rss_bytes: u64,
    /// The growth divided by its connections.
    pub rss_per_connection_bytes: Option<f64>,
    /// Microseconds of CPU per delivery of this process, less what it needed idle where that was measured.
    pub cpu_us_per_delivery: Option<f64>,
}

/// The generator itself: what proves that it was not the limit.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct GeneratorFigures {
    /// Cores that it kept busy.
    pub cores: f64,
    /// Its threads and the share of a core that each kept busy.
    pub threads: Vec<(String, f64)>,
    /// Resident memory.
    pub rss_bytes: u64,
    /// How late pushes left: p99, in milliseconds.
    pub lag_p99_ms: f64,
    /// The latest.
    pub lag_max_ms: f64,
    /// Pushes of the schedule that were never sent.
    pub dropped_sends: u64,
}

/// The run at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Moment {
    /// Seconds since the start.
    pub at_s: f64,
    /// Joined clients.
    pub live: u64,
    /// Joins per second since the last moment.
    pub joins_per_s: f64,
    /// Pushes per second since the last moment.
    pub pushes_per_s: f64,
    /// Deliveries per second since the last moment.
    pub deliveries_per_s: f64,
    /// p50 of each receiver since the last moment, in milliseconds; `None` where nothing arrived.
    pub p50_ms: Option<f64>,
    /// p99 of it.
    pub p99_ms: Option<f64>,
    /// How late the generator was (max), in milliseconds.
    pub lag_ms: Option<f64>,
    /// Live clients by node.
    pub live_by_node: BTreeMap<String, u64>,
    /// What happened, such as `ramp done` or `node 1 killed`; mostly empty.
    pub event: String,
}
