//! The controller over real gRPC on loopback, with nodes and push managers that the tests play.

// Unwrapping is how a test fails; clippy sees that for functions marked as tests only.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "cluster")]
mod cluster;
#[cfg(feature = "cluster")]
mod discovery;
mod feed;
mod joins;
#[cfg(feature = "cluster")]
mod mysql;
mod nodes;
mod peers;
mod restart;
mod rooms;
mod rpc_joins;
mod serving;
