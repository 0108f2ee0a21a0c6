//! Open-loop load: clients that connect on a schedule and judge what reaches them, and publishers that push on
//! a schedule.
//!
//! Latency counts from the time at which a push was meant to leave, never from when it left, so that a stall of
//! the system, or of the generator, cannot hide itself.
//!
//! Owns: simulated clients, the payload that carries their evidence, the tallies, the verdict. Must not: share a
//! counter with the system that it judges. Talks to: a node's WebSocket port and a push manager's gRPC port.
//!
//! # From outside
//!
//! [`run`] carries out a [`Scenario`] against a [`SystemUnderTest`] and returns a [`result::RunResult`]. Scenarios
//! are data: built in ([`Scenario::names`]), from a file, or from text, each with overrides by dotted path.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use loadgen::{Scenario, SystemUnderTest, run};
//!
//! // Ringcast, through a push manager.
//! let system = SystemUnderTest::find(&["127.0.0.1:50051".into()], &["127.0.0.1:50053".into()], &[]).await?;
//! let room = run(Scenario::builtin("room", &["stages.0.loads.0.rate=100".into()])?, system, |_| {}).await?;
//!
//! // A server on which `/sub?room=` subscribes and each message on `/pub?room=` is a push to the room.
//! let peer = SystemUnderTest::peer("floor", "127.0.0.1:9000".parse()?, Some(1234));
//! let overrides = ["path=/sub?room={room}".into(), "stages.0.loads.0.via=websocket".into()];
//! let same = run(Scenario::builtin("room", &overrides)?, peer, |_| {}).await?;
//! # let _ = (room, same);
//! # Ok(())
//! # }
//! ```
//!
//! [`Fleet`] and [`Publisher`] are the two halves by themselves, for tests that do more than measure.
//!
//! # Inside
//!
//! | part | files |
//! | --- | --- |
//! | a client | `connection`, `handshake`, `tally`, `measured`; on threads with descriptor tables of their own: `worker`, `returns`, `pulse`, `poller`, `descriptors`, `sources`, `fleet` |
//! | a publisher | `schedule`, `press` (the thread), `books` (what is in flight), `lane` with `lane_grpc`, `lane_deliver`, `lane_socket` |
//! | evidence | `journal` (all that each client saw, for tests), `payload` (the stamp), `streams` (who may get what), `spans` (first and last receiver), `judgement` (what had to come) |
//! | a run | `scenario`, `scenario_source`, `system`, `run` with `run_loads`, `run_clients`, `run_actions`, `timeline`, `probe`, `scrape`, `machine` |
//! | what it says | `correctness`, `validity`, `run_result`, `result`; then `objective`, `verdict`, `text`, `html`, `compare` and what they use |

mod books;
mod clock;
mod connection;
mod correctness;
mod descriptors;
mod fleet;
mod handshake;
mod journal;
mod judgement;
mod lane;
mod lane_deliver;
mod lane_grpc;
mod lane_socket;
mod machine;
mod measured;
mod payload;
mod plan;
mod poller;
mod press;
mod probe;
mod publisher;
mod pulse;
mod report;
pub mod result;
mod returns;
mod run;
mod run_actions;
mod run_clients;
mod run_loads;
mod run_result;
mod scenario;
mod scenario_source;
mod schedule;
mod scrape;
mod sources;
mod spans;
mod streams;
mod system;
mod tally;
mod timeline;
mod validity;
mod worker;

// What becomes of a result.
pub mod compare;
mod figures;
pub mod html;
pub mod kept;
pub mod live;
pub mod objective;
mod plot;
pub mod profile;
mod quantity;
pub mod repeat;
#[cfg(test)]
mod sample;
pub mod schema;
pub mod text;
pub mod verdict;

pub use clock::monotonic_ns;
pub use descriptors::raise_open_files;
pub use fleet::Fleet;
pub use journal::{Entry, Seen};
pub use lane::Doors;
pub use payload::{Found, MAX_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES, Stamp, StampReader};
pub use plan::{CLIENTS_PER_THREAD, FleetPlan, Heartbeat, Leave, Manner, Naming, RINGCAST_PATH, Reconnect};
pub use publisher::{Aim, PublishPlan, PublishReport, Publisher, PushResult, Target, Via};
pub use report::{ConnectionReport, FleetReport, Latency, PushSpan, Totals};
pub use run::run;
pub use scenario::{Action, Bounds, Deed, Group, Handicap, Jitter, Load, Ramp, Scenario, Stage, To};
pub use schedule::Arrival;
pub use system::{DEFAULT_CONTROLLER, DEFAULT_MANAGER, NodeAddr, ServiceAddr, SystemUnderTest};
pub use tally::{Ended, StreamTally};
