//! Follows the controller's route feed: snapshot, changes, heartbeats, and an acknowledgement of each number once
//! its changes are in the routes.
//!
//! Owns: the feed's stream, its numbers, connecting again. Must not: acknowledge what is not applied: a join is
//! confirmed to its client on our word that every later push will find him.
//! Talks to: the controller's `RouteFeedService`, `dispatch` (routes), `node_link` (new links).

use std::sync::Arc;
use std::time::Duration;

use ringcast_proto::MAX_GRPC_MESSAGE_BYTES;
use ringcast_proto::pubsub::route_feed_service_client::RouteFeedServiceClient;
use ringcast_proto::pubsub::{FollowHello, FollowRequest, RouteUpdate, RouteUpdateKind};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::dispatch::Dispatch;
use crate::metrics::Metrics;
use crate::node_link::{NodeLinks, endpoint, reconnect_delays};
use crate::routing::{NodeChange, Routes, UnknownNode};

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
    #[error("the controller ended the feed")]
    Ended,
    #[error("number {found} came after {last}: something is missing")]
    Gap { last: u64, found: u64 },
    #[error("a step of kind {0} came where it has no place")]
    OutOfPlace(i32),
    #[error(transparent)]
    UnknownNode(#[from] UnknownNode),
}

/// Follows the feed.
#[derive(Debug)]
pub(crate) struct RouteWatch {
    /// Where the routes are kept.
    pub(crate) dispatch: Arc<Dispatch>,
    /// The links that follow the nodes.
    pub(crate) links: NodeLinks,
    /// Counts losses.
    pub(crate) metrics: Arc<Metrics>,
    /// Where the controller is.
    pub(crate) controller_address: String,
    /// Who follows.
    pub(crate) manager_id: String,
    /// Set true when the first snapshot is in.
    pub(crate) ready: watch::Sender<bool>,
}

impl RouteWatch {
    /// Follows until it is dropped, through every loss of the controller.
    pub(crate) async fn run(self) {
        let mut delays = reconnect_delays();
        let mut told = false;
        loop {
            let mut in_step = false;
            let Err(error) = self.follow(&mut in_step).await;
            if in_step {
                delays = reconnect_delays();
                self.metrics.feed_losses.inc();
                told = false;
            }
            if !told {
                tracing::warn!(controller = self.controller_address, "no route feed: {error}; trying again");
                told = true;
            }
            tokio::time::sleep(delays.next().unwrap_or(OPEN_TIMEOUT)).await;
        }
    }

    /// Follows one stream to its end; `in_step` is set once its snapshot is in.
    async fn follow(&self, in_step: &mut bool) -> Result<std::convert::Infallible, FeedError> {
        let channel = timeout(OPEN_TIMEOUT, endpoint(&self.controller_address)?.connect()).await??;
        let mut client =
            RouteFeedServiceClient::new(channel).max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES);
        let (acknowledge, requests) = mpsc::channel(ACKNOWLEDGEMENTS);
        let hello = FollowHello { manager_id: self.manager_id.clone() };
        // The channel is new and has room.
        let _ = acknowledge.try_send(FollowRequest { hello: Some(hello), acknowledged: 0 });
        let answer = timeout(OPEN_TIMEOUT, client.follow(ReceiverStream::new(requests))).await?;
        let mut updates = answer?.into_inner();

        let mut number = self.take_snapshot(&mut updates).await?;
        *in_step = true;
        tracing::info!(controller = self.controller_address, number, "following the route feed");
        loop {
            let acknowledged = FollowRequest { hello: None, acknowledged: number };
            acknowledge.send(acknowledged).await.map_err(|_| FeedError::Ended)?;
            let update = next(&mut updates, MAX_SILENCE).await?;
            number = self.apply(number, update).await?;
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
            patience = MAX_SILENCE;
            gather(&mut routes, update)?;
            if kind == RouteUpdateKind::SnapshotEnd {
                let (new, former) = self.dispatch.install(routes, number);
                new.into_iter().for_each(|link| self.links.start(link));
                tokio::task::spawn_blocking(move || drop(former));
                self.ready.send_replace(true);
                return Ok(number);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Applies a step that follows number `last`; its number.
    async fn apply(&self, last: u64, update: RouteUpdate) -> Result<u64, FeedError> {
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
        let any_gone = !update.nodes.is_empty();
        self.dispatch.set_nodes(update.nodes).into_iter().for_each(|link| self.links.start(link));
        let mut rooms = update.rooms.into_iter();
        while rooms.len() > 0 {
            self.dispatch.set_rooms(rooms.by_ref().take(CHUNK))?;
        }
        let mut users = update.users.into_iter();
        while users.len() > 0 {
            self.dispatch.set_users(users.by_ref().take(CHUNK))?;
        }
        self.dispatch.hear(found);
        if any_gone {
            let dispatch = self.dispatch.clone();
            tokio::spawn(async move {
                while dispatch.sweep() {
                    tokio::task::yield_now().await;
                }
            });
        }
        Ok(found)
    }
}

async fn next(updates: &mut Streaming<RouteUpdate>, patience: Duration) -> Result<RouteUpdate, FeedError> {
    timeout(patience, updates.message()).await??.ok_or(FeedError::Ended)
}

/// Adds a part of a snapshot. A node stands in the same part as its first route, or in an earlier one.
fn gather(routes: &mut Routes, part: RouteUpdate) -> Result<(), UnknownNode> {
    let mut changes: Vec<NodeChange> = Vec::new();
    part.nodes.into_iter().for_each(|node| routes.set_node(node, &mut changes));
    part.rooms.into_iter().try_for_each(|room| routes.set_room(room))?;
    part.users.into_iter().try_for_each(|user| routes.set_user(user))
}
