//! Follows one controller's route feed: snapshot, changes, heartbeats, and an acknowledgement of each number once its
//! changes are in the routes.
//!
//! Owns: the feed's stream, its numbers, connecting again. Must not: acknowledge what is not applied: a join is
//! confirmed to its client on our word that every later push will find him.
//! Talks to: the controller's `RouteFeedService`, `dispatch` (routes), `route_watch` (what follows of a change).

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringcast_proto::MAX_GRPC_MESSAGE_BYTES;
use ringcast_proto::pubsub::route_feed_service_client::RouteFeedServiceClient;
use ringcast_proto::pubsub::{
    FollowHello, FollowRequest, NodeRoute, RoomRoute, RouteUpdate, RouteUpdateKind, UserRoute,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::feeds::FeedId;
use crate::node_link::{endpoint, reconnect_delays};
use crate::places::PARTS;
use crate::route_watch::Following;
use crate::routing::{Routes, UnknownNode};

/// So much earlier than after its silence a feed is given up by what was read late: a controller counts from when it sent.
const CUT_OFF_MARGIN: Duration = Duration::from_millis(500);

/// How long the feed may be silent before it is opened anew. Heartbeats come every 250 ms.
const MAX_SILENCE: Duration = Duration::from_secs(2);

/// How long the controller may take to open the feed. It holds the snapshot back while it waits for nodes after a
/// start of its own: the first message may take longer than any later one.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first part of the snapshot may take.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// How many changes are applied under one hold of the lock.
const CHUNK: usize = 256;

/// Acknowledgements that may wait to be sent; each says all that those before it said.
const ACKNOWLEDGEMENTS: usize = 64;

/// Why the feed is over.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the controller cannot be reached: {0}")]
    Unreachable(#[from] tonic::transport::Error),
    #[error("it was refused or broke: {code:?}: {message}", code = .0.code(), message = .0.message())]
    Broken(#[from] tonic::Status),
    #[error("the controller is silent")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("it was read too late: the controller may have given us up")]
    Late,
    #[error("the controller ended the feed")]
    Ended,
    #[error("{found:?} answered, which is not the controller that is listed at this address")]
    SomeoneElse { found: String },
    #[error("number {found} came after {last}: something is missing")]
    Gap { last: u64, found: u64 },
    #[error("a step of kind {0} came where it has no place")]
    OutOfPlace(i32),
    #[error(transparent)]
    UnknownNode(#[from] UnknownNode),
    #[error("a node has come and gone too often without being told whole")]
    Crowded,
}

/// Follows one feed.
#[derive(Debug)]
pub(crate) struct Follower {
    /// What all feeds share.
    pub(crate) following: Arc<Following>,
    /// Whose table it fills.
    pub(crate) feed: FeedId,
    /// Where the controller is.
    pub(crate) address: String,
    /// Who is to be there; `None`: whoever answers.
    pub(crate) controller_id: Option<String>,
}

impl Follower {
    /// Follows until it is dropped, through every loss of the controller.
    pub(crate) async fn run(self) {
        let mut delays = reconnect_delays();
        let mut told = false;
        loop {
            let mut in_step = false;
            let Err(error) = self.follow(&mut in_step).await;
            self.following.dispatch.lose(self.feed);
            if in_step {
                delays = reconnect_delays();
                self.following.metrics.feed_losses.inc();
                told = false;
            }
            if !told {
                tracing::warn!(controller = self.address, "no route feed: {error}; trying again");
                told = true;
            }
            tokio::time::sleep(delays.next().unwrap_or(OPEN_TIMEOUT)).await;
        }
    }

    /// Follows one stream to its end; `in_step` is set once its snapshot is in.
    async fn follow(&self, in_step: &mut bool) -> Result<std::convert::Infallible, FeedError> {
        let channel = timeout(OPEN_TIMEOUT, endpoint(&self.address)?.connect()).await??;
        let mut client =
            RouteFeedServiceClient::new(channel).max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES);
        let (acknowledge, requests) = mpsc::channel(ACKNOWLEDGEMENTS);
        let hello = FollowHello { manager_id: self.following.us.id.clone() };
        // The channel is new and has room.
        let _ = acknowledge.try_send(FollowRequest { hello: Some(hello), acknowledged: 0 });
        let answer = timeout(OPEN_TIMEOUT, client.follow(ReceiverStream::new(requests))).await?;
        let mut updates = answer?.into_inner();

        let mut number = self.take_snapshot(&mut updates).await?;
        *in_step = true;
        tracing::info!(controller = self.address, number, "following the route feed");
        loop {
            let acknowledged = FollowRequest { hello: None, acknowledged: number };
            acknowledge.send(acknowledged).await.map_err(|_| FeedError::Ended)?;
            let update = next(&mut updates, MAX_SILENCE).await?;
            number = self.apply(number, update)?;
        }
    }

    /// Gathers the snapshot beside the routes in use, then puts it in their place; its number.
    async fn take_snapshot(&self, updates: &mut Streaming<RouteUpdate>) -> Result<u64, FeedError> {
        let mut routes = Routes::default();
        let mut patience = SNAPSHOT_TIMEOUT;
        loop {
            let update = next(updates, patience).await?;
            let (kind, number) = (update.kind(), update.number);
            match kind {
                RouteUpdateKind::SnapshotPart | RouteUpdateKind::SnapshotEnd => {}
                RouteUpdateKind::Heartbeat => continue,
                RouteUpdateKind::Change => return Err(FeedError::OutOfPlace(update.kind)),
            }
            self.check_who(&update)?;
            patience = MAX_SILENCE;
            gather(&mut routes, update)?;
            if kind == RouteUpdateKind::SnapshotEnd {
                self.install(routes, number).await;
                return Ok(number);
            }
            tokio::task::yield_now().await;
        }
    }

    /// An empty id is a controller's that does not tell its own.
    fn check_who(&self, part: &RouteUpdate) -> Result<(), FeedError> {
        let found = &part.controller_id;
        match &self.controller_id {
            Some(id) if !found.is_empty() && id != found => {
                Err(FeedError::SomeoneElse { found: found.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Puts a snapshot in the place of the feed's table. What the snapshot does not tell and what still holds is copied
    /// into it before, part by part.
    async fn install(&self, mut routes: Routes, number: u64) {
        let dispatch = &self.following.dispatch;
        let mut kept = dispatch.to_keep(self.feed, &routes);
        if !kept.is_empty() {
            routes.adopt(&mut kept);
            for part in 0..PARTS {
                let copied = dispatch.copy(self.feed, part, &kept);
                copied.into_iter().for_each(|copied| routes.paste(copied));
                tokio::task::yield_now().await;
            }
        }
        let (new, former) = dispatch.install(self.feed, routes, number);
        self.following.follow_up(new, vec![former]);
    }

    /// Applies a step that follows number `last`; its number.
    fn apply(&self, last: u64, mut update: RouteUpdate) -> Result<u64, FeedError> {
        let found = update.number;
        let expected = match update.kind() {
            RouteUpdateKind::Heartbeat => last,
            RouteUpdateKind::Change => last + 1,
            RouteUpdateKind::SnapshotPart | RouteUpdateKind::SnapshotEnd => {
                return Err(FeedError::OutOfPlace(update.kind));
            }
        };
        if found != expected {
            return Err(FeedError::Gap { last, found });
        }
        let dispatch = &self.following.dispatch;
        let any_nodes = !update.nodes.is_empty();
        if any_nodes {
            let told_whole = dispatch.told_whole(self.feed, &update.nodes);
            let whole = hold_back(&mut update.nodes, &told_whole);
            self.following.follow_up(dispatch.set_nodes(self.feed, update.nodes), Vec::new());
            self.apply_places(update.rooms, update.users)?;
            self.following.follow_up(dispatch.set_nodes(self.feed, whole), Vec::new());
            if dispatch.is_crowded(self.feed) {
                return Err(FeedError::Crowded);
            }
        } else {
            self.apply_places(update.rooms, update.users)?;
        }
        dispatch.hear(self.feed, found);
        Ok(found)
    }

    fn apply_places(&self, rooms: Vec<RoomRoute>, users: Vec<UserRoute>) -> Result<(), FeedError> {
        let (mut rooms, mut users) = (rooms.into_iter(), users.into_iter());
        while rooms.len() > 0 {
            self.following.dispatch.set_rooms(self.feed, rooms.by_ref().take(CHUNK))?;
        }
        while users.len() > 0 {
            self.following.dispatch.set_users(self.feed, users.by_ref().take(CHUNK))?;
        }
        Ok(())
    }
}

async fn next(updates: &mut Streaming<RouteUpdate>, patience: Duration) -> Result<RouteUpdate, FeedError> {
    let asked = Instant::now();
    let update = timeout(patience, updates.message()).await??.ok_or(FeedError::Ended)?;
    // A message that is there wins against a timer that has run out: a process that was held for longer than the
    // controller waits would take what lay in its socket meanwhile for a feed that is alive.
    if asked.elapsed() + CUT_OFF_MARGIN >= patience { Err(FeedError::Late) } else { Ok(update) }
}

/// That a node is told whole ends what others told of it. So it counts after the rest of its step is in; until then the
/// node is told in part. Gives back the nodes as they are to be told then; `told_whole` says which of them were so before.
pub(crate) fn hold_back(nodes: &mut [NodeRoute], told_whole: &[bool]) -> Vec<NodeRoute> {
    let mut whole = Vec::new();
    for (at, told_whole) in told_whole.iter().enumerate() {
        let node = &nodes[at];
        let is_last_word = nodes[at + 1..].iter().all(|later| later.node_id != node.node_id);
        if is_last_word && !(node.gone || node.partial || *told_whole) {
            whole.push(node.clone());
            nodes[at].partial = true;
        }
    }
    whole
}

/// Adds a part of a snapshot. A node stands in the same part as its first route, or in an earlier one.
pub(crate) fn gather(routes: &mut Routes, part: RouteUpdate) -> Result<(), UnknownNode> {
    for node in part.nodes {
        match node.gone {
            true => routes.forget(&node.node_id),
            false => routes.tell(node),
        }
    }
    part.rooms.into_iter().try_for_each(|room| routes.set_room(room))?;
    part.users.into_iter().try_for_each(|user| routes.set_user(user))
}
