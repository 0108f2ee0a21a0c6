//! Where shards and the tokio thread of the bridge meet, and nowhere else: two bounded lanes a shard, each with
//! an eventfd that was made before any shard unshared its table of descriptors.
//!
//! Owns: the lanes and what crosses them. Must not: call a waker of the other runtime (it would write to a
//! descriptor number that means something else in this thread's table). Talks to: `shard_loop` on one side,
//! `push_intake`, `control_link` and `metrics` on the other.

use connect_core::{CensusChange, ControlEvent, Delivery, JoinDecision, Report};
use ringcast_proto::{RoomId, SessionId};

/// What the bridge tells a shard.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// A push.
    Deliver(Delivery),
    /// A join has been decided.
    JoinAnswered {
        /// The session that asked.
        session: SessionId,
        /// The decision.
        decision: JoinDecision,
    },
    /// A controller's command.
    ChangeRooms {
        /// Its number.
        command: u64,
        /// The sessions, all of this shard.
        sessions: Vec<SessionId>,
        /// The room.
        room: RoomId,
        /// Add it, or take it away.
        add: bool,
    },
    /// The control link is new: send a snapshot.
    Snapshot,
    /// Whether a controller is there; without one, joins are answered 503 at once.
    ControllerReachable(bool),
    /// Take no new client and close the sessions, spread over this many milliseconds.
    Drain {
        /// The time to spread over.
        over_ms: u64,
    },
    /// End now: sessions that are left are cut off.
    Stop,
}

/// What a shard tells the bridge.
#[derive(Debug)]
pub(crate) enum FromShard {
    /// For the controller.
    Control(ControlEvent),
    /// For the push manager that asked.
    Report(Report),
    /// A room or a user came to the shard or went.
    Census(CensusChange),
    /// The drain is over: no session is left.
    Drained,
}
