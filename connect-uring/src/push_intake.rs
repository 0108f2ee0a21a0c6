//! The node's side of `ConnectNodeService.Deliver`: pushes come in, are encoded once, and cross to the shards that may
//! have a member, each in one batch a message; the shards' reports go back as outcomes.
//!
//! Owns: the checks on what a push manager sends, and the tasks that read its streams. Must not: wait for a shard,
//! or let a bad push end a stream. Talks to: `bridge` (the lanes), `interest` (which shards), `open_deliveries`
//! (what is open).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use connect_core::command::{MessageKind, PushFrame, encode_push};
use connect_core::{Counts, Delivery, Target};
use futures_util::Stream;
use ringcast_proto::pubsub::connect_node_service_server::ConnectNodeService;
use ringcast_proto::pubsub::delivery::Target as WireTarget;
use ringcast_proto::pubsub::{
    self, DeliverRequest, DeliverResponse, DeliverWelcome, MessageContent, ReportMode,
};
use ringcast_proto::{RoomId, UserId};
use telemetry::Traces;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::bridge::{ToShard, ToShardLane};
use crate::clock::Clock;
use crate::delivery_log::DeliveryLog;
use crate::delivery_trace::DeliveryTrace;
use crate::fence::Signs;
use crate::interest::{Interest, ShardSet};
use crate::metrics::BridgeMetrics;
use crate::open_deliveries::{OpenDeliveries, StreamId, Told};

/// How long a stream may take for its first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The deadline of a delivery that names none, in milliseconds.
const DEFAULT_DEADLINE_MS: u32 = 1000;

/// The latest deadline; a delivery cannot stay open for longer.
const MAX_DEADLINE_MS: u32 = 60_000;

/// Users that one delivery may exclude.
const MAX_EXCLUDED: usize = 1024;

/// Entries of a push's metadata.
const MAX_METADATA_ENTRIES: usize = 64;

/// Bytes of a push's metadata, keys and values together.
const MAX_METADATA_BYTES: usize = 8 * 1024;

/// What the intake is made of.
pub(crate) struct IntakeParts {
    /// What the hello is answered with.
    pub(crate) welcome: DeliverWelcome,
    /// The largest payload of a push, in bytes.
    pub(crate) max_payload_bytes: usize,
    /// The lanes to all shards.
    pub(crate) shards: Vec<Arc<ToShardLane>>,
    /// Which of them a push goes to.
    pub(crate) interest: Interest,
    /// The clock that the shards go by, too.
    pub(crate) clock: Clock,
    /// Where it is noted that push managers vouch for the node.
    pub(crate) signs: Signs,
    /// Where it counts.
    pub(crate) metrics: BridgeMetrics,
    /// Where it tells of pushes that are traced.
    pub(crate) traces: Traces,
    /// Where it tells of all.
    pub(crate) log: DeliveryLog,
}

/// Takes pushes in. Copies share all state.
#[derive(Clone)]
pub(crate) struct PushIntake {
    parts: Arc<IntakeParts>,
    // Only the bridge's one thread comes here, so the lock is always free; tonic wants its services `Send`.
    open: Arc<Mutex<OpenDeliveries>>,
    gone: Arc<Notify>,
}

impl PushIntake {
    /// An intake without streams.
    pub(crate) fn new(parts: IntakeParts) -> Self {
        Self { parts: Arc::new(parts), open: Arc::default(), gone: Arc::default() }
    }

    /// Takes in the reports of one wake-up of a shard.
    pub(crate) fn report(&self, shard: usize, reports: impl Iterator<Item = connect_core::Report>) {
        let mut open = self.open();
        let now = Instant::now();
        for report in reports {
            let Some(mut done) = open.report(shard, &report, now) else { continue };
            self.parts.metrics.push_seconds.observe((now - done.received).as_secs_f64());
            self.parts.log.done(&done, now);
            if let Some(trace) = done.told.trace.take() {
                trace.end(&done.counts, now, &self.parts.traces);
            }
        }
        self.show(&open);
    }

    /// The node ends: nothing more is taken, and streams end after their last report.
    pub(crate) fn end(&self) {
        self.open().end_all();
    }

    /// Waits until no stream is left.
    pub(crate) async fn ended(&self) {
        while self.open().streams() > 0 {
            self.gone.notified().await;
        }
    }

    fn open(&self) -> MutexGuard<'_, OpenDeliveries> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, open: &OpenDeliveries) {
        self.parts.metrics.open_deliveries.set(open.len() as i64);
        self.parts.metrics.deliver_streams.set(open.streams() as i64);
    }

    async fn read(self, stream: StreamId, mut input: Streaming<DeliverRequest>) {
        if let Err(status) = self.read_all(stream, &mut input).await {
            if status.code() == tonic::Code::ResourceExhausted {
                self.parts.metrics.deliver_streams_cut.inc();
            }
            self.open().cut(stream, status);
        }
    }

    async fn read_all(&self, stream: StreamId, input: &mut Streaming<DeliverRequest>) -> Result<(), Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, input.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello within 5 s"))??;
        let hello = first.as_ref().and_then(|first| first.hello.as_ref());
        let Some(hello) = hello else {
            return Err(Status::invalid_argument("the first message has no hello"));
        };
        tracing::info!(manager = %hello.manager_id.escape_debug(), "push manager connected");
        self.open().welcome(stream, self.parts.welcome.clone());
        let mut request = first;
        while let Some(batch) = request {
            // A message that comes when the node is ending is not taken: nobody is told that it was.
            if !self.may_read(stream).await {
                return Ok(());
            }
            self.take(stream, batch)?;
            if !self.may_read(stream).await {
                return Ok(());
            }
            request = input.message().await?;
        }
        self.open().end_input(stream);
        Ok(())
    }

    async fn may_read(&self, stream: StreamId) -> bool {
        std::future::poll_fn(|context| self.open().poll_may_read(stream, context)).await
    }

    /// Hands one message's pushes to the shards that may have a member, each shard one batch. A shard that is not
    /// asked has nobody.
    fn take(&self, stream: StreamId, request: DeliverRequest) -> Result<(), Status> {
        let received = Instant::now();
        if request.vouched {
            self.parts.signs.push_manager(received);
        }
        let now_ms = self.parts.clock.monotonic_ms();
        let mut batches: Vec<Vec<ToShard>> = Vec::new();
        batches.resize_with(self.parts.shards.len(), Vec::new);
        {
            let mut shards = ShardSet::default();
            let mut open = self.open();
            for mut wire in request.deliveries {
                let wanted = wire.report_mode() == ReportMode::Full;
                let (id, deadline_ms) = (wire.delivery_id, deadline_ms(wire.deadline_ms));
                let told = self.told(&mut wire);
                let Some((target, exclude, frame)) = self.check(wire) else {
                    self.parts.metrics.deliveries_invalid.inc();
                    if wanted {
                        open.answer_empty(stream, id);
                    }
                    if let Some(trace) = told.trace {
                        trace.fail("invalid", &self.parts.traces);
                    }
                    continue;
                };
                self.parts.metrics.count_delivery(&target);
                self.parts.interest.shards_for(&target, &mut shards);
                let mut asked = shards.iter();
                let Some(first) = asked.next() else {
                    if wanted {
                        open.answer_empty(stream, id);
                    }
                    if let Some(trace) = told.trace {
                        trace.end(&Counts::default(), Instant::now(), &self.parts.traces);
                    }
                    continue;
                };
                let id = if wanted {
                    open.begin(stream, id, shards.len(), received, told)
                } else {
                    if let Some(trace) = told.trace {
                        trace.unreported(&self.parts.traces);
                    }
                    open.number()
                };
                let report_by_ms = wanted.then(|| now_ms + u64::from(deadline_ms));
                let delivery = Delivery { id, target, exclude, frame, report_by_ms, shed: false };
                for shard in asked {
                    batches[shard].push(ToShard::Deliver(delivery.clone()));
                }
                batches[first].push(ToShard::Deliver(delivery));
            }
            self.show(&open);
        }
        for (lane, batch) in self.parts.shards.iter().zip(batches).filter(|(_, batch)| !batch.is_empty()) {
            lane.push_batch(batch).map_err(|overrun| Status::resource_exhausted(overrun.to_string()))?;
        }
        Ok(())
    }

    /// What is kept of a push to be told of.
    fn told(&self, wire: &mut pubsub::Delivery) -> Told {
        let wanted = self.parts.log.is_on() || !wire.traceparent.is_empty();
        let message_id = if wanted { std::mem::take(&mut wire.message_id) } else { String::new() };
        let trace = match wire.traceparent.is_empty() {
            true => None,
            false => DeliveryTrace::begin(&self.parts.traces, &wire.traceparent, &message_id),
        };
        Told { message_id, trace }
    }

    /// What a shard needs of a push; `None` where the push is not valid.
    fn check(&self, wire: pubsub::Delivery) -> Option<(Target, Arc<[UserId]>, bytes::Bytes)> {
        let content = wire.content.as_ref()?;
        let metadata: Vec<(&str, &str)> =
            content.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let metadata_bytes: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if content.data.len() > self.parts.max_payload_bytes
            || metadata.len() > MAX_METADATA_ENTRIES
            || metadata_bytes > MAX_METADATA_BYTES
            || wire.exclude_user_ids.len() > MAX_EXCLUDED
        {
            return None;
        }
        let target = match wire.target.as_ref()? {
            WireTarget::RoomId(room) => Target::Room(RoomId::new(room).ok()?),
            WireTarget::UserId(user) => Target::User(UserId::new(user).ok()?),
            WireTarget::Broadcast(true) => Target::All,
            WireTarget::Broadcast(false) => return None,
        };
        // An excluded id that is no id is nobody's: it excludes nobody.
        let exclude = match &wire.exclude_user_ids[..] {
            // Shared by all, without an allocation.
            [] => Arc::default(),
            users => users.iter().filter_map(|user| UserId::new(user).ok()).collect(),
        };
        let (room_id, user_id) = match &target {
            Target::Room(room) => (room.as_str(), ""),
            Target::User(user) => ("", user.as_str()),
            Target::All => ("", ""),
        };
        let frame = encode_push(&PushFrame {
            kind: kind(content),
            room_id,
            user_id,
            timestamp_ms: content.timestamp,
            data: &content.data,
            metadata: &metadata,
        });
        Some((target, exclude, frame))
    }
}

fn deadline_ms(wire: u32) -> u32 {
    if wire == 0 { DEFAULT_DEADLINE_MS } else { wire.min(MAX_DEADLINE_MS) }
}

/// A type that this node does not know (of a newer push manager) reaches clients as text.
fn kind(content: &MessageContent) -> MessageKind {
    match content.r#type() {
        pubsub::MessageType::Text => MessageKind::Text,
        pubsub::MessageType::Audio => MessageKind::Audio,
        pubsub::MessageType::Video => MessageKind::Video,
        pubsub::MessageType::Translation => MessageKind::Translation,
        pubsub::MessageType::System => MessageKind::System,
    }
}

#[tonic::async_trait]
impl ConnectNodeService for PushIntake {
    type DeliverStream = Outcomes;

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<Outcomes>, Status> {
        let stream = self
            .open()
            .open_stream()
            .ok_or_else(|| Status::unavailable("the node is ending, or has too many streams"))?;
        let reader = tokio::spawn(self.clone().read(stream, request.into_inner()));
        Ok(Response::new(Outcomes { intake: self.clone(), stream, reader: reader.abort_handle() }))
    }
}

/// What a push manager is answered; when it is dropped, so is all that is open on the stream.
pub(crate) struct Outcomes {
    intake: PushIntake,
    stream: StreamId,
    reader: AbortHandle,
}

impl Stream for Outcomes {
    type Item = Result<DeliverResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.intake.open().poll_response(self.stream, context)
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        self.reader.abort();
        let mut open = self.intake.open();
        let forgotten = open.forget(self.stream);
        self.intake.parts.metrics.deliveries_forgotten.inc_by(forgotten.len() as u64);
        for trace in forgotten.into_iter().filter_map(|told| told.trace) {
            trace.fail("stream lost", &self.intake.parts.traces);
        }
        self.intake.show(&open);
        self.intake.gone.notify_one();
    }
}

#[cfg(test)]
mod tests;
