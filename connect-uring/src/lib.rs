//! The connect node: WebSocket sessions on thread-per-core io_uring loops, and one tokio thread, the bridge, that
//! speaks gRPC with push managers and the controller.
//!
//! Owns: boot order and the public face ([`Settings`], [`start`], [`Node`]). Must not: start a thread, open a
//! descriptor or a runtime before [`start`]. Talks to: `main` and the all-in-one binary.

mod acceptor;
mod bridge;
mod bridge_runtime;
mod census;
mod clock;
mod config;
mod control_link;
mod controller_choice;
mod delivery_log;
mod delivery_trace;
mod drain;
mod event_fd;
#[cfg(test)]
mod fake_shards;
mod fence;
mod fence_watch;
mod http;
mod hub;
mod interest;
mod join_traces;
mod kernel_check;
mod lane;
mod link_state;
mod members;
mod metrics;
mod node;
mod node_lease;
mod node_list;
mod open_deliveries;
mod plane;
mod plane_epoll;
mod plane_uring;
mod pulse;
mod push_intake;
mod shard_driver;
mod shard_intake;
mod shard_loop;
mod shard_metrics;
mod shard_stats;
mod signals;
mod socket_table;

pub use config::{Args, DriverChoice, Settings};
pub use node::{Drainer, Node, start};
pub use pulse::Pulse;
