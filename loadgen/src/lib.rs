//! Open-loop load: clients that connect on a schedule and judge what reaches them, and publishers that push on
//! a schedule.
//!
//! Latency counts from the time at which a push was meant to leave, never from when it left, so that a stall of
//! the system, or of the generator, cannot hide itself.
//!
//! Owns: simulated clients, the payload that carries their evidence, the tallies. Must not: share a counter with
//! the system that it judges. Talks to: a node's WebSocket port and a push manager's gRPC port.

mod books;
mod clock;
mod connection;
mod correctness;
mod descriptors;
mod fleet;
mod handshake;
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

pub use clock::monotonic_ns;
pub use descriptors::raise_open_files;
pub use fleet::Fleet;
pub use lane::Doors;
pub use payload::{Found, MAX_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES, Stamp, StampReader};
pub use plan::{CLIENTS_PER_THREAD, FleetPlan, Leave, Manner, Naming, RINGCAST_PATH, Reconnect};
pub use publisher::{Aim, PublishPlan, PublishReport, Publisher, PushResult, Target, Via};
pub use report::{ConnectionReport, FleetReport, Latency, PushSpan, Totals};
pub use run::run;
pub use scenario::{Action, Bounds, Deed, Group, Handicap, Jitter, Load, Ramp, Scenario, Stage, To};
pub use schedule::Arrival;
pub use system::{DEFAULT_CONTROLLER, DEFAULT_MANAGER, NodeAddr, ServiceAddr, SystemUnderTest};
pub use tally::{Ended, StreamTally};
