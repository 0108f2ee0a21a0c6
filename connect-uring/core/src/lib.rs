//! The connect node's shard as a pure value: sessions, rooms, outboxes, the WebSocket protocol.
//!
//! Owns: everything that a session does. Must not: hold a socket, a clock, a thread, a lock, randomness or unsafe
//! code. Talks to: a driver, through the vocabulary of [`event`].
#![forbid(unsafe_code)]

pub mod client;
pub mod close;
pub mod command;
pub mod event;
pub mod frame;
pub mod handshake;
mod join_query;
pub mod message;
mod response;

pub use event::{
    CensusChange, ControlEvent, Counts, Delivery, DropReason, HttpAnswer, HttpRequest, Input, JoinDecision,
    Now, Outputs, Piece, Report, SessionInfo, Target, Write,
};
