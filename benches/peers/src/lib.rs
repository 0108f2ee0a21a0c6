//! Peers beside us: the same scenarios against Ringcast's node and against small servers made of what others would
//! pick, in paired rounds.
//!
//! A run goes through the files in this order: `contestant` starts a server, `bench` pins and steers, `load`
//! connects, publishes and judges by the load generator's clients and publishers, `cpu` reads what it cost, `run` makes a row of it, `table` the medians.
//! Must not: know the inside of any contestant; each is a process that is spoken to over its sockets.

pub mod bench;
pub mod contestant;
pub mod cpu;
pub mod load;
pub mod process;
pub mod run;
pub mod scenario;
pub mod setup;
pub mod stop;
pub mod table;
pub mod upgrade;
