//! Open-loop load: clients that connect on a schedule and judge what reaches them, and publishers that push on
//! a schedule.
//!
//! Latency counts from the time at which a push was meant to leave, never from when it left, so that a stall of
//! the system, or of the generator, cannot hide itself.
//!
//! Owns: simulated clients, the payload that carries their evidence, the tallies. Must not: share a counter with
//! the system that it judges. Talks to: a node's WebSocket port and a push manager's gRPC port.

mod clock;
pub mod compare;
mod connection;
mod figures;
mod fleet;
mod handshake;
pub mod html;
pub mod kept;
pub mod live;
pub mod objective;
mod payload;
mod plan;
mod plot;
mod poller;
pub mod profile;
mod publisher;
mod quantity;
pub mod repeat;
mod report;
pub mod result;
#[cfg(test)]
mod sample;
pub mod schema;
mod tally;
pub mod text;
pub mod verdict;
mod worker;

pub use clock::{monotonic_ns, raise_open_files};
pub use fleet::Fleet;
pub use payload::{MIN_PAYLOAD_BYTES, Stamp};
pub use plan::{FleetPlan, Leave, Naming};
pub use publisher::{Aim, PublishPlan, PublishReport, Publisher, PushResult, Target, Via};
pub use report::{ConnectionReport, FleetReport, Latency, PushSpan, Totals};
pub use tally::{Ended, StreamTally};
