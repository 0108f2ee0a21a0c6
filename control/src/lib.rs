//! The Ringcast controller: who is in which room on which node, who gets a seat, and the numbered route feed that
//! push managers follow.
//!
//! A join comes in at `node_service`, is decided by `presence` under the lock of `registry`, goes out as a step of
//! the `feed`, and is confirmed when every push manager has acknowledged that step. Where controllers share presence,
//! its node's `lane` asks the store for the seat first.

mod commands;
mod config;
mod feed;
mod feed_service;
mod join_gate;
mod join_trace;
mod joins;
mod lane;
mod lane_task;
mod lanes;
mod links;
mod log_gate;
mod membership;
mod metrics;
mod node_list;
mod node_service;
mod node_watch;
mod peers;
mod presence;
#[cfg(feature = "cluster")]
mod presence_redis;
mod presence_store;
mod reads;
mod recovery;
mod refusal;
mod registry;
mod room_service;
mod room_store;
mod rooms;
#[cfg(feature = "cluster")]
mod rooms_mysql;
mod rooms_sqlite;
mod routes;
mod server;
mod sharing;
mod store;
mod stores;

pub use config::{Args, Discovery, Settings, Timing};
pub use server::{Running, start};
