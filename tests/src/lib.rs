//! The harness of the end-to-end tests: real processes of the release build, real sockets, clients that nobody
//! here wrote.
//!
//! Everything is bounded in time and ends with the test: processes are ended by their ids, readiness is a
//! condition that is waited for. `RINGCAST_BIN_DIR` names the folder of the binaries, else it is the one above
//! the test's own; `RINGCAST_TEST_DRIVER` is `io_uring` (the default), `epoll`, `refused` or `memlock`, see
//! [`Variant`].
//!
//! Owns: starting, watching and ending the system under test. Must not: judge it; the tests do.

#[cfg(feature = "cluster")]
pub mod cluster;
pub mod collector;
pub mod grpc;
pub mod http;
pub mod member;
pub mod oracle;
pub mod own_network;
pub mod place;
pub mod ports;
pub mod process;
pub mod procfs;
pub mod push_frame;
pub mod quickstart;
pub mod script;
pub mod system;
pub mod variant;
pub mod wait;

pub use member::{Event, Kind, Member, Members};
pub use own_network::{enter_own_network, enter_own_network_with_cards};
pub use process::Process;
pub use push_frame::PushFrame;
pub use system::{Service, System, SystemPlan};
pub use variant::Variant;
pub use wait::{alone, eventually, eventually_every};
