//! The whole boundary of the shard core on one page: what a driver tells it, what it asks of the driver.
//!
//! Owns: the vocabulary. Must not: hold state. Talks to: `shard` behind it, the driver before it.
//!
//! The driver calls [`Shard::accept`](crate::Shard::accept) for a new socket, [`Shard::handle`](crate::Shard::handle)
//! for everything that happens, [`Shard::handle_deadline`](crate::Shard::handle_deadline) when
//! [`Shard::next_deadline`](crate::Shard::next_deadline) has come, and, for every session in
//! [`Outputs::writable`], [`Shard::fill`](crate::Shard::fill) to fetch one write.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ringcast_proto::{RoomId, SessionId, UserId};
use smallvec::SmallVec;

/// The time, as the driver tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a monotonic clock; all deadlines are in these.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch, for timestamps that clients see.
    pub unix_ms: i64,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes arrived on a session's socket.
    Received {
        /// The session.
        session: SessionId,
        /// Any piece of the byte stream.
        bytes: &'a [u8],
    },
    /// The peer will send nothing more (FIN).
    ReceiveEnded {
        /// The session.
        session: SessionId,
    },
    /// The socket is broken (reset, time-out, error): nothing can be read or written any more.
    Broken {
        /// The session.
        session: SessionId,
    },
    /// The write that [`fill`](crate::Shard::fill) handed out is over.
    Wrote {
        /// The session.
        session: SessionId,
        /// How many of its bytes the kernel took.
        bytes: usize,
        /// The socket failed; nothing more can be written.
        failed: bool,
    },
    /// The driver is done with the socket: the last completion is in, the descriptor is closed. Only now is the
    /// slot free.
    Gone {
        /// The session.
        session: SessionId,
    },
    /// The controller has decided of a join.
    JoinAnswered {
        /// The session that asked.
        session: SessionId,
        /// The decision.
        decision: JoinDecision,
    },
    /// The answer to an [`HttpRequest`].
    HttpAnswered {
        /// The session that asked.
        session: SessionId,
        /// The answer.
        answer: HttpAnswer,
    },
    /// The answer to [`Outputs::members`].
    Reply {
        /// The session that asked.
        session: SessionId,
        /// The whole WebSocket frame.
        frame: Bytes,
    },
    /// A push for this shard.
    Deliver(Delivery),
    /// Adds a room to live sessions or takes it from them.
    ChangeRooms {
        /// The controller's number, given back in [`ControlEvent::RoomsChanged`].
        command: u64,
        /// The sessions; those that are not live any more are left out of the answer.
        sessions: &'a [SessionId],
        /// The room.
        room: &'a RoomId,
        /// Add it, or take it away.
        add: bool,
    },
    /// Asks for a snapshot of all live sessions, and for every open join once more.
    Snapshot,
    /// Take no new client, close the sessions with 1012, spread evenly until then.
    Drain {
        /// When the last session is to be closed, in monotonic milliseconds.
        until_ms: u64,
    },
    /// The node is cut off from all others, or is so no longer. While it is: no new sessions; those that are there
    /// are closed at once.
    Fence {
        /// Whether it is.
        on: bool,
    },
}

/// What was decided of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinDecision {
    /// The session is in the room.
    Accepted,
    /// No seat is left: 409.
    RoomFull,
    /// No controller, too many rooms, or the store is away: 503 with Retry-After.
    Unavailable,
    /// The ids are not valid: 400.
    Invalid,
}

/// One push, encoded once for the node, as it reaches a shard.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The bridge's number for it, unique on the shard while it is open.
    pub id: u64,
    /// Whom it is for.
    pub target: Target,
    /// Users who are not to get it.
    pub exclude: Arc<[UserId]>,
    /// The whole WebSocket frame, header and payload.
    pub frame: Bytes,
    /// When to report what is not known by then as queued, in monotonic milliseconds; `None`: no report.
    pub report_by_ms: Option<u64>,
    /// The queue to this shard was full: count the members, send nothing, report them as shed.
    pub shed: bool,
}

/// Whom a push is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every session in this room.
    Room(RoomId),
    /// Every session of this user.
    User(UserId),
    /// Every live session.
    All,
}

/// What became of a push on this shard, in sessions: members = the sum of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions found at delivery.
    pub members: u64,
    /// The kernel took the frame's last byte.
    pub written: u64,
    /// Not known yet when this was reported.
    pub queued: u64,
    /// Dropped by reason, indexed by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
}

/// Why a frame never reached the kernel whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The session's outbox was at its bound.
    Slow = 0,
    /// The session ended first.
    Closed = 1,
    /// A queue on the way was full.
    Shed = 2,
}

impl DropReason {
    /// All reasons, in the order of their index.
    pub const ALL: [Self; 3] = [Self::Slow, Self::Closed, Self::Shed];

    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Closed => "closed",
            Self::Shed => "shed",
        }
    }
}

/// The report of one [`Delivery`] that asked for it; exactly one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The delivery's number.
    pub delivery: u64,
    /// What became of it.
    pub counts: Counts,
}

/// What the core asks of its driver, gathered over one wake-up. The driver empties it each time.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Sessions that have bytes to write and no write under way; each once.
    pub writable: Vec<SessionId>,
    /// All has been written: `shutdown(SHUT_WR)`, go on reading until the peer ends.
    pub finish: Vec<SessionId>,
    /// End the socket now: `shutdown(SHUT_RDWR)`, await its last completion, close it, then [`Input::Gone`].
    pub end: Vec<SessionId>,
    /// For the controller, in order.
    pub control: Vec<ControlEvent>,
    /// HTTP requests that the driver answers.
    pub http: Vec<(SessionId, HttpRequest)>,
    /// Sessions that ask who is in their room.
    pub members: Vec<(SessionId, RoomId)>,
    /// Reports.
    pub reports: Vec<Report>,
    /// Rooms and users that came to this shard or went, in order.
    pub census: Vec<CensusChange>,
}

/// A room or a user came to the shard with its first live session, or went with its last. From these changes of
/// all shards the bridge counts the distinct rooms and users of the node without knowing any session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CensusChange {
    /// A room's first session.
    RoomCame(RoomId),
    /// A room's last session has left it.
    RoomWent(RoomId),
    /// A user's first session.
    UserCame(UserId),
    /// A user's last session has ended.
    UserWent(UserId),
}

/// What the controller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlEvent {
    /// A session asks to join.
    Join {
        /// Who it is, with the one room that it asks for.
        session: SessionInfo,
        /// Only asks what the decision would be (a GET without Upgrade).
        probe: bool,
        /// Of which trace it is a part, as the client said; nobody has checked it.
        traceparent: Option<Box<str>>,
    },
    /// A session that asked to join has ended; once for each.
    End {
        /// The session.
        session: SessionId,
    },
    /// Answers [`Input::ChangeRooms`].
    RoomsChanged {
        /// The controller's number.
        command: u64,
        /// The sessions that are now as was asked.
        sessions: Vec<SessionId>,
    },
    /// A part of the snapshot; open joins follow the last part as [`ControlEvent::Join`].
    Snapshot {
        /// Some live sessions.
        sessions: Vec<SessionInfo>,
        /// Nothing follows.
        last: bool,
    },
}

/// Who a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// The session.
    pub session: SessionId,
    /// Its user.
    pub user: UserId,
    /// The user's name; may be empty.
    pub user_name: String,
    /// Its rooms.
    pub rooms: Vec<RoomId>,
    /// What it gave beside its name.
    pub metadata: Vec<(String, String)>,
    /// When it connected, in milliseconds since the Unix epoch.
    pub connected_unix_ms: i64,
}

/// An HTTP request that is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpRequest {
    /// `GET /health`.
    Health,
    /// `GET /stats`.
    Stats,
    /// `GET /nodes`, and `GET /nodes?choose` by a client that goes to the first of them.
    Nodes {
        /// It goes there.
        choosing: bool,
    },
    /// `GET /` or `GET /client.html`.
    Page,
}

/// An HTTP answer. The core writes the head (with CORS, `Connection: close`, and Retry-After where the status is 503)
/// and ends the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The media type.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

/// One write of one session: the driver keeps it until the kernel is done with it.
#[derive(Debug, Default)]
pub struct Write {
    /// The bytes, in order.
    pub pieces: SmallVec<[Piece; 1]>,
    /// How many bytes of the first piece have been written already.
    pub skip: usize,
}

/// A run of bytes whose address does not change while it is held.
#[derive(Debug, Clone)]
pub enum Piece {
    /// A frame that many sessions share.
    Shared(Rc<Bytes>),
    /// Bytes of this session alone.
    Own(Rc<[u8]>),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Own(bytes) => bytes,
        }
    }
}

impl Write {
    /// The bytes to write, `skip` taken off.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.skip;
        self.pieces.iter().map(move |piece| {
            let slice = piece.as_ref();
            &slice[std::mem::take(&mut skip).min(slice.len())..]
        })
    }

    /// How many bytes there are to write.
    #[inline]
    pub fn len(&self) -> usize {
        self.slices().map(<[u8]>::len).sum()
    }

    /// Nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
