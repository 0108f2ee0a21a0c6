//! The Ringcast controller: who is in which room on which node, who gets a seat, and the numbered route feed that
//! push managers follow.
//!
//! A join comes in at `node_service`, is decided by `presence` under the lock of `registry`, goes out as a step of
//! the `feed`, and is confirmed when every push manager has acknowledged that step.

mod commands;
mod config;
mod feed;
mod feed_service;
mod joins;
mod links;
mod log_gate;
mod metrics;
mod node_service;
mod presence;
mod recovery;
mod refusal;
mod registry;
mod room_service;
mod rooms;
mod routes;
mod server;
mod store;

pub use config::{Args, Settings, Timing};
pub use server::{Running, start};
