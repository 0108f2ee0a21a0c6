//! Scenarios: what a run does, as data.
//!
//! Owns: the form of a scenario and its checks. Must not: run it. Talks to: `scenario_source` (built-ins, files,
//! overrides), `run`.
//!
//! All times are in seconds, all sizes in bytes, all rates a second; keys are written with hyphens. A key that is
//! not known is an error that names it.

use serde::{Deserialize, Serialize};

use crate::plan::RINGCAST_PATH;
use crate::publisher::Via;
use crate::schedule::Arrival;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it does, in a sentence.
    pub about: String,
    /// Where chance begins: the same seed makes the same schedule.
    #[serde(default = "one")]
    pub seed: u64,
    /// The clients, in groups.
    pub clients: Vec<Group>,
    /// How they connect.
    #[serde(default)]
    pub ramp: Ramp,
    /// What happens, one after the other.
    pub stages: Vec<Stage>,
    /// The path of a client's upgrade, in which `{user}` and `{room}` are replaced.
    #[serde(default = "ringcast_path")]
    pub path: String,
    /// The path of a WebSocket publisher, for loads `via: websocket`.
    #[serde(default = "publisher_path")]
    pub publisher_path: String,
    /// After a stage, how long stragglers are waited for at most.
    #[serde(default = "settle")]
    pub settle: f64,
    /// Threads for the clients of each group; 0: one for each 16,000.
    #[serde(default)]
    pub threads: usize,
    /// Bounds on the generator itself, past which the run is invalid.
    #[serde(default)]
    pub validity: Bounds,
    /// Makes the generator slow on purpose, to test that it says so.
    #[serde(default)]
    pub handicap: Handicap,
}

/// Clients that are alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// Its name; the names of its users and rooms begin with it.
    #[serde(default = "client")]
    pub name: String,
    /// How many; they go to all nodes in turn.
    pub count: usize,
    /// Members of a room: clients 0 to n - 1 are in the first, and so on; 0: all are in one room.
    #[serde(default)]
    pub room_size: usize,
    /// They connect before this stage; without it before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins_before: Option<String>,
    /// The share that stops to read as soon as it has joined, 0 to 1.
    #[serde(default)]
    pub deaf: f64,
    /// The share that reads only so slowly, 0 to 1.
    #[serde(default)]
    pub slow: f64,
    /// What a slow client reads, in bytes a second.
    #[serde(default = "slow_rate")]
    pub slow_bytes: u32,
    /// SO_RCVBUF of each client; 0: as the kernel has it.
    #[serde(default)]
    pub receive_buffer: usize,
    /// Whether and when those come back whose connection was lost or closed by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect: Option<Jitter>,
}

/// A wait that is drawn evenly between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Jitter {
    /// The shortest wait.
    #[serde(default = "jitter_min")]
    pub min: f64,
    /// The longest.
    #[serde(default = "jitter_max")]
    pub max: f64,
}

/// How clients connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Ramp {
    /// Connects a second, on a schedule that waits for nobody.
    pub rate: f64,
    /// How many may await their 101 at a time.
    pub open: usize,
    /// How long a client waits for its 101.
    pub timeout: f64,
    /// How long after the last connect is due the ramp may take.
    pub patience: f64,
}

/// A part of a run in which loads run side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// How long it is measured.
    pub seconds: f64,
    /// How long the same load runs before.
    #[serde(default)]
    pub warm_up: f64,
    /// The loads.
    #[serde(default)]
    pub loads: Vec<Load>,
    /// What else happens.
    #[serde(default)]
    pub actions: Vec<Action>,
}

/// A load: pushes of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Load {
    /// Whom the pushes are for.
    pub to: To,
    /// The group of those rooms or users; the first group without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// How many of the rooms or users are pushed to, in turn; 0: all.
    #[serde(default)]
    pub targets: usize,
    /// Pushes a second.
    pub rate: f64,
    /// How the times between them are drawn.
    #[serde(default)]
    pub arrival: Arrival,
    /// How many are due at the same moment; the rate stays.
    #[serde(default = "one_push")]
    pub burst: u32,
    /// Payload bytes of a push; at least those of the stamp, 63.
    #[serde(default = "payload")]
    pub bytes: usize,
    /// How they leave.
    #[serde(default)]
    pub via: Via,
    /// The share of pushes of which everything is to be reported, 0 to 1; the others ask for no report.
    #[serde(default = "all")]
    pub reported: f64,
    /// The deadline of a push in milliseconds; 0: the system's default.
    #[serde(default)]
    pub deadline_ms: u32,
    /// How many may be in flight; what is due beyond is dropped, and the run is invalid.
    #[serde(default = "outstanding")]
    pub outstanding: usize,
}

/// Whom pushes are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum To {
    /// Rooms.
    Room,
    /// Users.
    User,
    /// Everyone.
    All,
}

/// Something that happens while loads run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Action {
    /// When, from the start of the stage's measured part.
    pub at: f64,
    /// What.
    #[serde(rename = "do")]
    pub what: Deed,
    /// The node, from 1, for what is done to a node.
    #[serde(default = "first_node")]
    pub node: usize,
    /// The group, for what its clients do; the first without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The share of the group's clients that do it, 0 to 1: those of the lowest numbers.
    #[serde(default = "all")]
    pub share: f64,
    /// Clients a second, for `churn`.
    #[serde(default)]
    pub rate: f64,
    /// What the shell is given, for `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// SIGKILL to a node whose process id is known.
    Kill,
    /// SIGTERM to a node whose process id is known: a planned stop.
    Terminate,
    /// A shell command, such as one that starts a node again.
    Command,
    /// Clients close their connections.
    Close,
    /// Clients reset their connections.
    Reset,
    /// Clients stop to read.
    Deaf,
    /// Clients read again.
    Hear,
    /// The controller takes clients out of their rooms; they stay connected.
    LeaveRoom,
    /// From now on clients leave and come back; a rate of 0 ends it.
    Churn,
}

/// Bounds on the generator itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Bounds {
    /// The share of a core that one of its threads may need, running or kept from it, over the measured part.
    pub thread_cores: f64,
    /// Its lag (p99) may be so much in milliseconds at least, ...
    pub lag_ms: f64,
    /// ... or this share of the p99 that it reports, if that is more, ...
    pub lag_share: f64,
    /// ... but never more than this, in milliseconds.
    pub lag_most_ms: f64,
    /// The share of clients that may fail to join; fewer are a matter of objectives.
    pub not_joined: f64,
}

/// What the generator wastes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Handicap {
    /// Microseconds of CPU for each frame that a client receives.
    pub frame_us: u64,
    /// Microseconds of CPU for each push that leaves.
    pub push_us: u64,
}

impl Default for Ramp {
    fn default() -> Self {
        Self { rate: 2_000.0, open: 2_000, timeout: 10.0, patience: 30.0 }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { thread_cores: 0.9, lag_ms: 1.0, lag_share: 0.1, lag_most_ms: 50.0, not_joined: 0.01 }
    }
}

impl Group {
    /// How many rooms it has.
    pub fn rooms(&self) -> usize {
        self.count.div_ceil(self.members()).max(1)
    }

    /// How many clients are in a room.
    pub fn members(&self) -> usize {
        if self.room_size == 0 { self.count.max(1) } else { self.room_size }
    }
}

impl Scenario {
    /// What is wrong with it, naming key, value and remedy.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.clients.is_empty(), "clients: a scenario needs a group of clients");
        for (at, group) in self.clients.iter().enumerate() {
            share(&format!("clients.{at}.deaf"), group.deaf)?;
            share(&format!("clients.{at}.slow"), group.slow)?;
            let double = self.clients[..at].iter().any(|other| other.name == group.name);
            anyhow::ensure!(!double, "clients.{at}.name: `{}` is taken, give each its own name", group.name);
            if let Some(stage) = &group.joins_before {
                let known = self.stages.iter().any(|other| other.name == *stage);
                anyhow::ensure!(known, "clients.{at}.joins-before: there is no stage `{stage}`");
            }
        }
        positive("ramp.rate", self.ramp.rate)?;
        for (at, stage) in self.stages.iter().enumerate() {
            let name = format!("stages.{at}");
            positive(&format!("{name}.seconds"), stage.seconds)?;
            for (place, load) in stage.loads.iter().enumerate() {
                let name = format!("{name}.loads.{place}");
                positive(&format!("{name}.rate"), load.rate)?;
                share(&format!("{name}.reported"), load.reported)?;
                self.group(load.group.as_deref()).map_err(|error| anyhow::anyhow!("{name}.{error}"))?;
            }
            for (place, action) in stage.actions.iter().enumerate() {
                let name = format!("{name}.actions.{place}");
                share(&format!("{name}.share"), action.share)?;
                self.group(action.group.as_deref()).map_err(|error| anyhow::anyhow!("{name}.{error}"))?;
                let command = action.what != Deed::Command || action.command.is_some();
                anyhow::ensure!(command, "{name}.command: `do: command` needs one");
                anyhow::ensure!(action.node > 0, "{name}.node: 0, but nodes are counted from 1");
            }
        }
        Ok(())
    }

    /// The place of a group; the first where no name is given.
    pub(crate) fn group(&self, name: Option<&str>) -> anyhow::Result<usize> {
        let Some(name) = name else { return Ok(0) };
        let place = self.clients.iter().position(|group| group.name == name);
        place.ok_or_else(|| anyhow::anyhow!("group: there is no group `{name}` of clients"))
    }
}

fn share(name: &str, value: f64) -> anyhow::Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&value), "{name}: {value} is no share: give 0 to 1");
    Ok(())
}

fn positive(name: &str, value: f64) -> anyhow::Result<()> {
    anyhow::ensure!(value > 0.0 && value.is_finite(), "{name}: {value}: give more than 0");
    Ok(())
}

fn one() -> u64 {
    1
}

fn one_push() -> u32 {
    1
}

fn first_node() -> usize {
    1
}

fn all() -> f64 {
    1.0
}

fn ringcast_path() -> String {
    RINGCAST_PATH.into()
}

fn publisher_path() -> String {
    "/pub?room={room}".into()
}

fn settle() -> f64 {
    3.0
}

fn client() -> String {
    "c".into()
}

fn slow_rate() -> u32 {
    4096
}

fn jitter_min() -> f64 {
    0.5
}

fn jitter_max() -> f64 {
    20.0
}

fn payload() -> usize {
    128
}

fn outstanding() -> usize {
    20_000
}
