//! The route feed, as streams.
//!
//! Owns: what a follower's stream carries when: the snapshot, then steps, heartbeats when there is nothing else.
//! Must not: number or keep anything (`feed` does). Talks to: `registry`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream;
use ringcast_proto::MAX_ID_BYTES;
use ringcast_proto::pubsub::route_feed_service_server::RouteFeedService;
use ringcast_proto::pubsub::{FollowRequest, RouteUpdate, RouteUpdateKind};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::feed::{FeedItem, FollowerId, FollowerItems, FollowerQueue, follower_queue};
use crate::refusal;
use crate::registry::Registry;

/// The service.
#[derive(Debug)]
pub(crate) struct FeedService {
    pub(crate) registry: Arc<Registry>,
    /// Cancelled when the controller stops.
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl RouteFeedService for FeedService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<RouteUpdate, Status>> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (queue, items) = follower_queue();
        let gone = CancellationToken::new();
        let follower = Arc::new(OnceLock::new());
        let reader = Reader {
            registry: self.registry.clone(),
            inbound: request.into_inner(),
            queue,
            follower: follower.clone(),
        };
        let (registry, reading) = (self.registry.clone(), follower.clone());
        let (stop, stream_gone) = (self.stop.clone(), gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = reader.run() => {}
                () = stop.cancelled() => {}
                () = stream_gone.cancelled() => {}
            }
            if let Some(id) = reading.get() {
                registry.unfollow(*id);
            }
        });
        let writer = Writer {
            registry: self.registry.clone(),
            items,
            follower,
            parts: VecDeque::new(),
            last_number: None,
            ended: false,
            _gone: gone.drop_guard(),
        };
        Ok(Response::new(Box::pin(stream::unfold(writer, Writer::next))))
    }
}

/// Reads the hello and the acknowledgements.
struct Reader {
    registry: Arc<Registry>,
    inbound: Streaming<FollowRequest>,
    queue: FollowerQueue,
    follower: Arc<OnceLock<FollowerId>>,
}

impl Reader {
    async fn run(mut self) {
        let id = match self.hello().await {
            Ok(id) => id,
            Err(status) => return self.queue.end(status),
        };
        let _ = self.follower.set(id);
        while let Ok(Some(request)) = self.inbound.message().await {
            if !self.registry.acknowledge(id, request.acknowledged) {
                return;
            }
        }
    }

    async fn hello(&mut self) -> Result<FollowerId, Status> {
        let limit = self.registry.timing.link_silence;
        let first = tokio::time::timeout(limit, self.inbound.message()).await;
        let first = first.map_err(|_| refusal::too_late(limit))??;
        let Some(hello) = first.and_then(|request| request.hello) else {
            return Err(refusal::protocol("a follower begins with its hello"));
        };
        if hello.manager_id.is_empty() || hello.manager_id.len() > MAX_ID_BYTES {
            return Err(refusal::invalid("manager_id", "has to be 1 to 64 bytes long"));
        }
        tracing::info!(manager = hello.manager_id, "a push manager follows the route feed");
        Ok(self.registry.follow(hello.manager_id, self.queue.clone()))
    }
}

/// Makes what the stream carries, when the transport asks for it.
struct Writer {
    registry: Arc<Registry>,
    items: FollowerItems,
    follower: Arc<OnceLock<FollowerId>>,
    parts: VecDeque<RouteUpdate>,
    /// The number of the last update; `None` before the snapshot, when nothing must claim that the feed is alive.
    last_number: Option<u64>,
    ended: bool,
    /// Ends the reading side, and with it the following, when the transport lets go of the stream.
    _gone: tokio_util::sync::DropGuard,
}

impl Writer {
    async fn next(mut self) -> Option<(Result<RouteUpdate, Status>, Self)> {
        if self.ended {
            return None;
        }
        let update = self.update().await.transpose()?;
        if let Err(status) = &update {
            self.registry.metrics.handled("Follow", status.code());
            self.ended = true;
        }
        Some((update, self))
    }

    /// The next update; `None` where the follower has ended its side.
    async fn update(&mut self) -> Result<Option<RouteUpdate>, Status> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                if let Some(id) = self.follower.get() {
                    self.registry.follower_progress(*id);
                }
                self.last_number = Some(part.number);
                return Ok(Some(part));
            }
            let idle = match self.last_number {
                Some(_) => self.registry.timing.feed_heartbeat,
                None => Duration::from_secs(3600),
            };
            match tokio::time::timeout(idle, self.items.next()).await {
                Ok(Some(FeedItem::Snapshot(parts))) => self.parts = parts.into(),
                Ok(Some(FeedItem::Step(step))) => {
                    self.last_number = Some(step.number);
                    return Ok(Some(Arc::unwrap_or_clone(step)));
                }
                Ok(Some(FeedItem::End(status))) => return Err(status),
                Ok(None) => {
                    self.registry.metrics.handled("Follow", Code::Ok);
                    return Ok(None);
                }
                Err(_) => {
                    if let Some(number) = self.last_number {
                        let kind = RouteUpdateKind::Heartbeat.into();
                        return Ok(Some(RouteUpdate { number, kind, ..RouteUpdate::default() }));
                    }
                }
            }
        }
    }
}
