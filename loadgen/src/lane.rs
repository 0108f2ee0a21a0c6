//! The ways by which pushes leave.
//!
//! Owns: the choice between them. Must not: know schedules. Talks to: `lane_grpc`, `lane_deliver`, `lane_socket`;
//! `press` drives it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use ringcast_proto::pubsub::ReportMode;

use crate::books::Books;
use crate::lane_deliver::DeliverLane;
use crate::lane_grpc::{StreamLane, UnaryLane};
use crate::lane_socket::SocketLane;
use crate::publisher::{Target, Via};

/// Where pushes can be handed in.
#[derive(Debug, Clone, Default)]
pub struct Doors {
    /// gRPC addresses of push managers, used in turn: a stream of pushes keeps to one on [`Via::Stream`], so that
    /// its order is kept; calls go to each in turn. One that is lost is left out until it is back: what it had is
    /// unknown, what comes after goes to the others, and no push is sent twice.
    pub managers: Vec<String>,
    /// gRPC addresses of nodes, for [`Via::Deliver`]; every push goes to all of them.
    pub nodes: Vec<String>,
    /// HTTP address of a server and the path of its publishers, in which `{room}` is replaced, such as
    /// `/pub?room={room}`, for [`Via::WebSocket`].
    pub socket: Option<(SocketAddr, String)>,
}

/// A push that is about to leave.
pub(crate) struct Leaving {
    /// Its id in the books.
    pub(crate) id: u64,
    /// Whom it is for.
    pub(crate) target: Target,
    /// Its lane, as [`Lane::route`] says.
    pub(crate) lane: u16,
    /// The stamped payload.
    pub(crate) data: Vec<u8>,
    /// Its deadline.
    pub(crate) deadline_ms: u32,
    /// Whether all is to be reported of it.
    pub(crate) full: bool,
}

impl Leaving {
    /// How much to report.
    pub(crate) fn mode(&self) -> i32 {
        if self.full { ReportMode::Full } else { ReportMode::None }.into()
    }
}

/// The books, which answers change too.
pub(crate) type SharedBooks = Arc<Mutex<Books>>;

/// How the pushes of a load leave.
pub(crate) enum Lane {
    Unary(UnaryLane),
    Stream(Vec<StreamLane>),
    Deliver(DeliverLane),
    Socket(SocketLane),
}

impl Lane {
    /// Connects; `targets` are those to which the load will push.
    pub(crate) async fn open(
        via: Via,
        doors: &Doors,
        targets: &[Target],
        books: &SharedBooks,
    ) -> anyhow::Result<Self> {
        Ok(match via {
            Via::Unary => Self::Unary(UnaryLane::open(&doors.managers, books).await?),
            Via::Stream => Self::Stream(StreamLane::open_all(&doors.managers, books).await?),
            Via::Deliver => Self::Deliver(DeliverLane::open(&doors.nodes, books).await?),
            Via::WebSocket => {
                let (addr, path) = doors.socket.as_ref().context("no server to publish to by WebSocket")?;
                Self::Socket(SocketLane::open(*addr, path, targets, books).await?)
            }
        })
    }

    /// How many answers a push gets, and the number of its lane.
    pub(crate) fn route(&self, place: usize) -> (u16, u16) {
        match self {
            Self::Unary(_) | Self::Socket(_) => (1, 0),
            Self::Stream(lanes) => (1, open_lane(lanes, place) as u16),
            Self::Deliver(lane) => (lane.nodes(), 0),
        }
    }

    /// Takes a push, which leaves with the next [`Lane::flush`] at the latest.
    pub(crate) fn queue(&mut self, push: Leaving) {
        match self {
            Self::Unary(lane) => lane.call(push),
            Self::Stream(lanes) => {
                let lane = usize::from(push.lane);
                lanes[lane].queue(push);
            }
            Self::Deliver(lane) => lane.queue(push),
            Self::Socket(lane) => lane.queue(push),
        }
    }

    /// Sends what is queued, as far as it can be sent without waiting; the largest lateness in nanoseconds.
    pub(crate) fn flush(&mut self) -> u64 {
        match self {
            Self::Unary(lane) => lane.take_latest(),
            Self::Stream(lanes) => lanes.iter_mut().map(StreamLane::flush).max().unwrap_or(0),
            Self::Deliver(lane) => lane.flush(),
            Self::Socket(lane) => lane.flush(),
        }
    }

    /// Whether something is queued that could not be sent yet.
    pub(crate) fn is_stuck(&self) -> bool {
        match self {
            Self::Unary(_) => false,
            Self::Stream(lanes) => lanes.iter().any(StreamLane::is_stuck),
            Self::Deliver(lane) => lane.is_stuck(),
            Self::Socket(lane) => lane.is_stuck(),
        }
    }

    /// Lets everything that has left arrive, where no answer tells that it has.
    pub(crate) async fn end(self) {
        if let Self::Deliver(lane) = self {
            lane.end().await;
        }
    }
}

/// The lane of a stream of pushes: its own, or, while nobody is there, the next that is open.
fn open_lane(lanes: &[StreamLane], place: usize) -> usize {
    let in_turn = (0..lanes.len()).map(|ahead| (place + ahead) % lanes.len());
    in_turn.clone().find(|lane| lanes[*lane].is_open()).unwrap_or(place % lanes.len())
}
