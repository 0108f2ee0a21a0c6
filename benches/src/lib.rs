//! What the benches share: a shard without sockets, with clients that take every byte at once.
//!
//! Owns: playing the driver's part for a shard. Must not: time anything.

use bytes::Bytes;
use connect_core::command::{MessageKind, PushFrame, encode_push};
use connect_core::{Delivery, Input, JoinDecision, Limits, Now, Outputs, Shard, Target, Write};
use ringcast_proto::{RoomId, SessionId, ShardId};

/// A shard, and the time that its driver tells it.
pub struct Played {
    /// The shard.
    pub shard: Shard,
    /// What it asks of its driver.
    pub out: Outputs,
    /// Its sessions that have joined.
    pub sessions: Vec<SessionId>,
    now: Now,
    deliveries: u64,
}

impl Default for Played {
    fn default() -> Self {
        Self {
            shard: Shard::new(ShardId(0), Limits::default(), 7),
            out: Outputs::default(),
            sessions: Vec::new(),
            now: Now { monotonic_ms: 1_000, unix_ms: 1_700_000_000_000 },
            deliveries: 0,
        }
    }
}

impl Played {
    /// A shard with so many sessions, all in one room.
    pub fn with_members(count: usize, room: &str) -> Self {
        let mut played = Self::default();
        for number in 0..count {
            let session = played.join(&format!("u{number}"), room);
            played.sessions.push(session);
        }
        played
    }

    /// Connects, joins and writes the 101 out.
    pub fn join(&mut self, user: &str, room: &str) -> SessionId {
        let request = format!(
            "GET /ws?user_id={user}&room_id={room} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let session =
            self.shard.accept(self.now, &mut self.out).expect("the limits allow this many sessions");
        self.handle(Input::Received { session, bytes: request.as_bytes() });
        assert_eq!(self.out.control.drain(..).count(), 1, "the session asks to join");
        self.handle(Input::JoinAnswered { session, decision: JoinDecision::Accepted });
        assert_eq!(self.write_out(), 1, "the 101 goes out");
        self.out.control.clear();
        session
    }

    /// The peer is gone: the session leaves and its slot is free again.
    pub fn leave(&mut self, session: SessionId) {
        self.handle(Input::Broken { session });
        self.handle(Input::Gone { session });
        self.out.end.clear();
        self.out.control.clear();
    }

    /// Tells the shard.
    pub fn handle(&mut self, input: Input<'_>) {
        self.shard.handle(self.now, input, &mut self.out);
    }

    /// A push to a room, reported.
    pub fn push(&mut self, room: &RoomId, frame: &Bytes) {
        self.deliveries += 1;
        self.handle(Input::Deliver(Delivery {
            id: self.deliveries,
            target: Target::Room(room.clone()),
            exclude: [].into(),
            frame: frame.clone(),
            report_by_ms: Some(self.now.monotonic_ms + 1_000),
            shed: false,
        }));
    }

    /// Fetches each writable session's write and completes it whole; returns how many writes that were.
    pub fn write_out(&mut self) -> usize {
        let mut writable = std::mem::take(&mut self.out.writable);
        let mut writes = 0;
        for session in writable.drain(..) {
            let mut write = Write::default();
            self.shard.fill(session, &mut write);
            let bytes = write.len();
            if bytes > 0 {
                writes += 1;
                self.handle(Input::Wrote { session, bytes, failed: false });
            }
        }
        if self.out.writable.is_empty() {
            self.out.writable = writable;
        }
        writes
    }
}

/// A push of 128 bytes to a room, as the bridge encodes it.
pub fn room_frame(room: &str) -> Bytes {
    encode_push(&PushFrame {
        kind: MessageKind::Text,
        room_id: room,
        user_id: "",
        timestamp_ms: 1_700_000_000_000,
        data: &[b'x'; 128],
        metadata: &[],
    })
}
