//! Every bound of a shard. Relations between them are asserted where they can be broken.
//!
//! Owns: the numbers. Must not: enforce them. Talks to: all of the core.

use ringcast_proto::SessionId;

use crate::message::MessageLimits;

/// The most payload that one push carries, in bytes; base64 and JSON escapes make its frame longer.
pub const MAX_PUSH_PAYLOAD_BYTES: usize = 1024 * 1024;

/// Sessions in one part of a snapshot.
pub(crate) const SNAPSHOT_PART: usize = 1024;

/// How often a drain closes some sessions, in milliseconds.
pub(crate) const DRAIN_STEP_MS: u64 = 50;

/// The bounds of one shard. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. Past it new ones are refused before anything is read.
    pub max_sessions: u32,
    /// The request head in bytes. Too small refuses clients with long cookies.
    pub head_bytes: usize,
    /// How long a client may take to send its request head. Too small refuses clients on poor networks.
    pub handshake_ms: u64,
    /// How long a join may wait for its answer.
    pub join_ms: u64,
    /// What a client may send behind its request before the join is answered, in bytes.
    pub early_bytes: usize,
    /// One message of a client.
    pub message: MessageLimits,
    /// What may wait for one session, in bytes, [`send_buffer_bytes`](Self::send_buffer_bytes) included. An
    /// empty outbox always takes one frame; the bound counts from the second on. Too small disconnects clients
    /// in a burst, too large costs memory for each that does not read.
    pub outbox_bytes: u32,
    /// What the kernel may hold for one session (SO_SNDBUF), in bytes.
    pub send_buffer_bytes: u32,
    /// Rooms of one session.
    pub rooms_per_session: usize,
    /// A session that was silent for this long is sent a ping.
    pub ping_interval_ms: u64,
    /// Up to this much of the interval is taken off at random, so that sessions that came together are not
    /// pinged together.
    pub ping_jitter_ms: u64,
    /// How long a session may stay silent after a ping.
    pub pong_ms: u64,
    /// How long a close may take: until it is written and the peer has answered it.
    pub close_ms: u64,
    /// How long the answer to a plain request may take to be made and written.
    pub answer_ms: u64,
    /// How long the peer is waited for after the last byte was written.
    pub finish_ms: u64,
    /// What `/echo` takes; `None`: there is no `/echo`.
    pub echo: Option<MessageLimits>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 1 << 20,
            head_bytes: 8 * 1024,
            handshake_ms: 5_000,
            join_ms: 5_000,
            early_bytes: 64 * 1024,
            message: MessageLimits { max_bytes: 64 * 1024, max_fragments: 1024 },
            outbox_bytes: 1024 * 1024,
            send_buffer_bytes: 64 * 1024,
            rooms_per_session: 128,
            ping_interval_ms: 25_000,
            ping_jitter_ms: 2_500,
            pong_ms: 10_000,
            close_ms: 3_000,
            answer_ms: 5_000,
            finish_ms: 1_000,
            echo: None,
        }
    }
}

impl Limits {
    /// What `/echo` takes where it is switched on: the sizes of the outside conformance suites.
    pub const ECHO: MessageLimits = MessageLimits { max_bytes: 16 * 1024 * 1024, max_fragments: 65_536 };

    /// What the core itself may queue for a session behind its first frame, in bytes: the kernel's share is
    /// taken off.
    pub(crate) fn queue_bytes(&self) -> u32 {
        self.outbox_bytes.saturating_sub(self.send_buffer_bytes)
    }

    /// The same for `/echo`, where one message on its way may wait behind another.
    pub(crate) fn echo_queue_bytes(&self) -> u32 {
        self.echo.map_or(0, |echo| u32::try_from(echo.max_bytes * 2).unwrap_or(u32::MAX / 2))
    }

    /// Panics where the bounds contradict one another: a shard could not keep its promises.
    pub(crate) fn assert_sound(&self) {
        assert!(self.max_sessions <= SessionId::MAX_SLOTS, "a session id names 2^24 slots");
        assert!(self.outbox_bytes >= self.send_buffer_bytes, "the kernel's buffer is a part of the outbox");
        assert!(self.ping_jitter_ms < self.ping_interval_ms, "the jitter is a part of the interval");
        assert!(self.rooms_per_session >= 1, "a join needs a room");
        // Frames are counted in 32 bits; one may stand before a full queue.
        assert!(self.outbox_bytes < u32::MAX / 4 && self.echo_queue_bytes() < u32::MAX / 4);
    }
}
