//! The controller over real gRPC on loopback, with nodes and push managers that the tests play.

// Unwrapping is how a test fails; clippy sees that for functions marked as tests only.
#![allow(clippy::unwrap_used)]

mod feed;
mod joins;
mod nodes;
mod peers;
mod restart;
mod rooms;
mod rpc_joins;
mod serving;
