//! The connect node's shard as a pure value: sessions, rooms, outboxes, the WebSocket protocol.
//!
//! Owns: everything that a session does. Must not: hold a socket, a clock, a thread, a lock, randomness or unsafe
//! code. Talks to: a driver, through the vocabulary of [`event`].
#![forbid(unsafe_code)]

pub mod client;
pub mod close;
pub mod command;
mod counters;
mod deadlines;
mod delivery;
pub mod event;
pub mod frame;
pub mod handshake;
mod join_query;
mod limits;
pub mod message;
mod outbox;
mod response;
mod room;
mod session;
mod session_table;
mod shard;
mod slab;

pub use close::CloseReason;
pub use counters::{Counters, REFUSAL_STATUSES};
pub use event::{
    CensusChange, ControlEvent, Counts, Delivery, DropReason, HttpAnswer, HttpRequest, Input, JoinDecision,
    Now, Outputs, Piece, Report, SessionInfo, Target, Write,
};
pub use limits::{Limits, MAX_PUSH_PAYLOAD_BYTES};
pub use message::MessageLimits;
pub use shard::{AcceptRefused, Shard};
