//! Where shards and the tokio thread of the bridge meet, and nowhere else: two bounded lanes a shard, each with
//! an eventfd that was made before any shard unshared its table of descriptors.
//!
//! Owns: the lanes and what crosses them. Must not: call a waker of the other runtime (it would write to a
//! descriptor number that means something else in this thread's table). Talks to: `shard_loop` on one side,
//! `push_intake`, `control_link` and `metrics` on the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use bytes::Bytes;
use connect_core::{CensusChange, ControlEvent, Delivery, JoinDecision, Report};
use ringcast_proto::{RoomId, SessionId, ShardId};
use tokio::io::unix::AsyncFd;

use crate::event_fd::EventFd;
use crate::lane::Lane;
use crate::shard_stats::ShardStats;

/// Items that may wait for a shard before deliveries are shed.
pub(crate) const SHED_ABOVE_ITEMS: usize = 16_384;

/// Bytes of frames that may wait for a shard before deliveries are shed.
pub(crate) const SHED_ABOVE_BYTES: usize = 64 * 1024 * 1024;

/// Items that may wait for a shard before deliveries are refused and their stream is cut.
pub(crate) const REFUSE_ABOVE_ITEMS: usize = 4 * SHED_ABOVE_ITEMS;

/// Items that may wait for the bridge; what is beyond stays with the shard.
pub(crate) const MAX_FROM_SHARD_ITEMS: usize = 65_536;

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
    /// The answer to [`FromShard::Members`].
    Reply {
        /// The session that asked.
        session: SessionId,
        /// The whole frame.
        frame: Bytes,
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
    /// The node is cut off, or is so no longer: while it is, sessions are closed and none is taken.
    Fence(bool),
    /// Take no new client and close the sessions, spread over this many milliseconds.
    Drain {
        /// The time to spread over.
        over_ms: u64,
    },
    /// To be sent back as [`FromShard::Mark`], behind all that is to be said of what came before it.
    Mark,
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
    /// A session asks who is in its room.
    Members(SessionId, RoomId),
    /// A room or a user came to the shard or went.
    Census(CensusChange),
    /// The answer to [`ToShard::Mark`].
    Mark,
    /// The drain is over: no session is left.
    Drained,
}

/// A shard has so much before it that the stream of deliveries is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("shard {} is behind by {REFUSE_ABOVE_ITEMS} items: {refused} deliveries were refused", shard.0)]
pub(crate) struct Overrun {
    /// The shard.
    pub(crate) shard: ShardId,
    /// Deliveries of the batch that were not taken.
    pub(crate) refused: usize,
}

/// The lane from the bridge to a shard.
#[derive(Debug)]
pub(crate) struct ToShardLane {
    shard: ShardId,
    lane: Lane<ToShard>,
}

impl ToShardLane {
    fn new(shard: ShardId) -> io::Result<Self> {
        Ok(Self { shard, lane: Lane::new()? })
    }

    /// Adds one; see [`push_batch`](Self::push_batch).
    pub(crate) fn push(&self, item: ToShard) -> Result<(), Overrun> {
        self.push_batch([item])
    }

    /// Adds a batch in order, under one lock and with one wake-up at most.
    ///
    /// Past [`SHED_ABOVE_ITEMS`] or [`SHED_ABOVE_BYTES`] a delivery goes on without its frame, marked as shed; past
    /// [`REFUSE_ABOVE_ITEMS`] it is refused. Everything else is always taken: there is no more of it than open
    /// joins, commands and questions.
    pub(crate) fn push_batch(&self, batch: impl IntoIterator<Item = ToShard>) -> Result<(), Overrun> {
        let refused = self.lane.push_with(|queue| {
            let mut refused = 0;
            for mut item in batch {
                let mut weight = 0;
                if let ToShard::Deliver(delivery) = &mut item {
                    if queue.len() >= REFUSE_ABOVE_ITEMS {
                        refused += 1;
                        continue;
                    }
                    if queue.len() >= SHED_ABOVE_ITEMS || queue.weight() >= SHED_ABOVE_BYTES {
                        delivery.shed = true;
                        delivery.frame = Bytes::new();
                    }
                    weight = delivery.frame.len();
                }
                queue.push(item, weight);
            }
            refused
        });
        if refused == 0 { Ok(()) } else { Err(Overrun { shard: self.shard, refused }) }
    }

    /// Takes all that waits, in order. The shard's side.
    pub(crate) fn drain_into(&self, taken: &mut VecDeque<ToShard>) {
        self.lane.drain_into(taken);
    }

    /// Whether the shard may sleep on [`event`](Self::event).
    pub(crate) fn may_sleep(&self) -> bool {
        self.lane.may_sleep()
    }

    /// What the shard sleeps on.
    pub(crate) fn event(&self) -> &EventFd {
        self.lane.event()
    }
}

/// The lane from a shard to the bridge, as the shard sees it.
#[derive(Debug)]
pub(crate) struct FromShardLane(Lane<FromShard>);

impl FromShardLane {
    /// Moves items into the lane, as many as it holds; the others stay where they are.
    pub(crate) fn push_from(&self, waiting: &mut VecDeque<FromShard>) {
        self.0.push_with(|queue| {
            let room = MAX_FROM_SHARD_ITEMS.saturating_sub(queue.len()).min(waiting.len());
            waiting.drain(..room).for_each(|item| queue.push(item, 0));
        });
    }
}

/// The bridge's end of the lane from a shard. There is one reader.
#[derive(Debug)]
pub(crate) struct BridgeEnd(Arc<FromShardLane>);

impl AsRawFd for BridgeEnd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.event().as_raw_fd()
    }
}

impl AsFd for BridgeEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.event().as_fd()
    }
}

impl BridgeEnd {
    /// Registers the end with the tokio runtime that is entered now.
    pub(crate) fn into_async(self) -> io::Result<AsyncBridgeEnd> {
        // SAFETY: the end always gives the same descriptor, which stays open while it holds the lane.
        Ok(AsyncBridgeEnd(unsafe { AsyncFd::register(self) }?))
    }
}

/// A [`BridgeEnd`] that a tokio task waits on.
#[derive(Debug)]
pub(crate) struct AsyncBridgeEnd(AsyncFd<BridgeEnd>);

impl AsyncBridgeEnd {
    /// Takes all that waits, in order; where nothing waits, sleeps until something does. A call that is dropped
    /// loses nothing.
    pub(crate) async fn next_batch(&mut self, taken: &mut VecDeque<FromShard>) -> io::Result<()> {
        loop {
            let lane = &self.0.get_ref().0.0;
            lane.drain_into(taken);
            if !taken.is_empty() {
                return Ok(());
            }
            if lane.may_sleep() {
                // The eventfd is not read: tokio asks epoll for edges, and each signal is one.
                self.0.readable().await?.clear_ready();
            }
        }
    }
}

/// What the bridge holds of a shard.
#[derive(Debug)]
pub(crate) struct ShardHandle {
    /// What it is told.
    pub(crate) to_shard: Arc<ToShardLane>,
    /// What it says.
    pub(crate) from_shard: BridgeEnd,
    /// Its figures.
    pub(crate) stats: Arc<ShardStats>,
}

/// What a shard holds of the bridge.
#[derive(Debug)]
pub(crate) struct ShardEnd {
    /// The shard.
    pub(crate) id: ShardId,
    /// What it is told.
    pub(crate) to_shard: Arc<ToShardLane>,
    /// What it says.
    pub(crate) from_shard: Arc<FromShardLane>,
    /// Its figures.
    pub(crate) stats: Arc<ShardStats>,
}

/// Makes the two lanes of a shard. To be called before its thread unshares its table of descriptors.
pub(crate) fn connect(shard: ShardId) -> io::Result<(ShardHandle, ShardEnd)> {
    let to_shard = Arc::new(ToShardLane::new(shard)?);
    let from_shard = Arc::new(FromShardLane(Lane::new()?));
    let stats = Arc::new(ShardStats::default());
    let end = ShardEnd {
        id: shard,
        to_shard: Arc::clone(&to_shard),
        from_shard: Arc::clone(&from_shard),
        stats: Arc::clone(&stats),
    };
    Ok((ShardHandle { to_shard, from_shard: BridgeEnd(from_shard), stats }, end))
}

impl ShardEnd {
    /// The descriptors that the shard's table must keep.
    pub(crate) fn descriptors(&self) -> [RawFd; 2] {
        [self.to_shard.event().as_raw_fd(), self.from_shard.0.event().as_raw_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use connect_core::Target;

    fn delivery(id: u64, bytes: usize) -> ToShard {
        ToShard::Deliver(Delivery {
            id,
            target: Target::All,
            exclude: Arc::from([]),
            frame: Bytes::from(vec![0; bytes]),
            report_by_ms: None,
            shed: false,
        })
    }

    fn drain(lane: &ToShardLane) -> Vec<(bool, usize)> {
        let mut taken = VecDeque::new();
        lane.drain_into(&mut taken);
        let deliveries = taken.iter().filter_map(|item| match item {
            ToShard::Deliver(delivery) => Some((delivery.shed, delivery.frame.len())),
            _ => None,
        });
        deliveries.collect()
    }

    #[test]
    fn deliveries_past_the_bound_lose_their_frame_and_then_are_refused() {
        let lane = ToShardLane::new(ShardId(0)).unwrap();
        lane.push_batch((0..SHED_ABOVE_ITEMS as u64).map(|id| delivery(id, 1))).unwrap();
        lane.push_batch((SHED_ABOVE_ITEMS as u64..REFUSE_ABOVE_ITEMS as u64).map(|id| delivery(id, 1)))
            .unwrap();
        assert_eq!(
            lane.push_batch([delivery(0, 1), ToShard::Snapshot, delivery(1, 1)]),
            Err(Overrun { shard: ShardId(0), refused: 2 })
        );
        let taken = drain(&lane);
        assert_eq!(taken.len(), REFUSE_ABOVE_ITEMS);
        assert!(taken[..SHED_ABOVE_ITEMS].iter().all(|delivery| *delivery == (false, 1)));
        assert!(taken[SHED_ABOVE_ITEMS..].iter().all(|delivery| *delivery == (true, 0)));
        lane.push(delivery(0, 1)).unwrap();
        assert_eq!(drain(&lane), [(false, 1)], "an emptied lane sheds nothing");
    }

    #[test]
    fn deliveries_past_the_bound_of_bytes_are_shed() {
        let lane = ToShardLane::new(ShardId(0)).unwrap();
        lane.push(delivery(0, SHED_ABOVE_BYTES)).unwrap();
        lane.push(delivery(1, 1)).unwrap();
        assert_eq!(drain(&lane), [(false, SHED_ABOVE_BYTES), (true, 0)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_lane_leaves_the_rest_with_the_shard_and_loses_nothing() {
        let (handle, shard) = connect(ShardId(0)).unwrap();
        let mut end = handle.from_shard.into_async().unwrap();
        let mut waiting: VecDeque<_> = (0..2 * MAX_FROM_SHARD_ITEMS).map(|_| FromShard::Drained).collect();
        let writer = std::thread::spawn(move || {
            while !waiting.is_empty() {
                shard.from_shard.push_from(&mut waiting);
            }
        });
        let (mut taken, mut batch) = (0, VecDeque::new());
        while taken < 2 * MAX_FROM_SHARD_ITEMS {
            end.next_batch(&mut batch).await.unwrap();
            assert!(batch.len() <= MAX_FROM_SHARD_ITEMS);
            taken += batch.len();
            batch.clear();
        }
        assert_eq!(taken, 2 * MAX_FROM_SHARD_ITEMS);
        writer.join().unwrap();
    }
}
