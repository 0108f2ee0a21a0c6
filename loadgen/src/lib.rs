//! Open-loop load: clients that connect on a schedule and judge what reaches them, and publishers that push on
//! a schedule.
//!
//! Latency counts from the time at which a push was meant to leave, never from when it left, so that a stall of
//! the system, or of the generator, cannot hide itself.
//!
//! Owns: simulated clients, the payload that carries their evidence, the tallies. Must not: share a counter with
//! the system that it judges. Talks to: a node's WebSocket port and a push manager's gRPC port.

mod clock;
mod connection;
mod descriptors;
mod fleet;
mod handshake;
mod judgement;
mod measured;
mod payload;
mod plan;
mod poller;
mod publisher;
mod report;
pub mod result;
mod returns;
mod sources;
mod spans;
mod streams;
mod tally;
mod worker;

pub use clock::monotonic_ns;
pub use descriptors::raise_open_files;
pub use fleet::Fleet;
pub use payload::{Found, MAX_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES, Stamp, StampReader};
pub use plan::{CLIENTS_PER_THREAD, FleetPlan, Leave, Manner, Naming, RINGCAST_PATH, Reconnect};
pub use publisher::{Aim, PublishPlan, PublishReport, Publisher, PushResult, Target, Via};
pub use report::{ConnectionReport, FleetReport, Latency, PushSpan, Totals};
pub use tally::{Ended, StreamTally};
