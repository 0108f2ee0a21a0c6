//! The links to the nodes: one long-lived `Deliver` stream each, opened again for as long as the node is routed to.
//!
//! Owns: connecting, the hello and its check, batches out, outcomes in, backoff.
//! Must not: queue anything itself: a stream pulls from its queue when the connection can take more, and only then
//! are pushes handed over. Talks to: `dispatch`; a node's `ConnectNodeService`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::{Stream, StreamExt as _, stream};
use ringcast_proto::pubsub::connect_node_service_client::ConnectNodeServiceClient;
use ringcast_proto::pubsub::{DeliverHello, DeliverRequest, DeliverResponse, Delivery};
use ringcast_proto::{GRPC_KEEPALIVE_INTERVAL, GRPC_KEEPALIVE_TIMEOUT, MAX_GRPC_MESSAGE_BYTES};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::board::Batch;
use crate::dispatch::Dispatch;
use crate::links::{LinkStream, NewLink};
use crate::metrics::Metrics;
use crate::node_queue::Queued;
use crate::push_trace::traceparent;
use crate::request::less_margin;

/// How long a node may take to let us connect, and again to welcome us.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a link that is not routed to any more looks whether it can end.
const RETIRE_INTERVAL: Duration = Duration::from_millis(50);

/// How often a node hears that we vouch for it where nothing is pushed: it fences itself 8 s after the last of its
/// signs of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// How long a node may take to end a stream that we have ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The delays between attempts to reach a peer: 50 ms to 1 s, with jitter, for ever. The seed is our own: without one
/// all processes would jitter alike, and come back in step.
pub(crate) fn reconnect_delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_millis(500))
        .with_factor(2.0)
        .without_max_times()
        // Adds up to the delay itself.
        .with_jitter()
        .with_jitter_seed(fastrand::u64(..))
        .build()
}

/// How we reach a gRPC server of ours; `address` is host:port, with or without `http://`.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    Ok(Endpoint::from_shared(uri)?
        .connect_timeout(OPEN_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .http2_keep_alive_interval(GRPC_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(GRPC_KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Why a stream did not come to be, or is over.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("cannot be reached: {0}")]
    Unreachable(#[from] tonic::transport::Error),
    #[error("refused the stream: {code:?}: {message}", code = .0.code(), message = .0.message())]
    Refused(tonic::Status),
    #[error("did not answer within {OPEN_TIMEOUT:?}")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("is {found} of start {incarnation}, which is not who the feed says is there")]
    SomeoneElse { found: String, incarnation: u64 },
    #[error("broke: {code:?}: {message}", code = .0.code(), message = .0.message())]
    Broken(tonic::Status),
    #[error("was ended by the node")]
    Ended,
}

/// The links, each a task.
#[derive(Debug)]
pub(crate) struct NodeLinks {
    dispatch: Arc<Dispatch>,
    metrics: Arc<Metrics>,
    manager_id: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl NodeLinks {
    /// None yet. All end by `stop`, and are awaited by `tasks`.
    pub(crate) fn new(
        dispatch: Arc<Dispatch>,
        metrics: Arc<Metrics>,
        manager_id: String,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { dispatch, metrics, manager_id, stop, tasks }
    }

    /// Runs a link until it is retired or all is stopped.
    pub(crate) fn start(&self, new: NewLink) {
        let runner = Runner {
            dispatch: self.dispatch.clone(),
            metrics: self.metrics.clone(),
            manager_id: self.manager_id.clone(),
            new,
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(runner.run()).await;
            runner.dispatch.remove_link(runner.new.link);
        });
    }
}

struct Runner {
    dispatch: Arc<Dispatch>,
    metrics: Arc<Metrics>,
    manager_id: String,
    new: NewLink,
}

impl Runner {
    async fn run(&self) {
        let mut delays = reconnect_delays();
        let mut told = false;
        while !self.new.retired.is_cancelled() {
            let Some(stream) = self.dispatch.open_stream(self.new.link) else { return };
            let opened = self.new.retired.run_until_cancelled(self.open(&stream)).await;
            let error = match opened {
                None => return,
                Some(Err(error)) => error,
                Some(Ok(inbound)) => {
                    tracing::info!(node = &*self.new.node, address = self.new.address, "linked to a node");
                    delays = reconnect_delays();
                    told = false;
                    let ended = self.converse(&stream, inbound).await;
                    self.dispatch.close_stream(&stream);
                    let Err(error) = ended else { return };
                    self.metrics.link_breaks.inc();
                    error
                }
            };
            if !told {
                tracing::warn!(
                    node = &*self.new.node,
                    address = self.new.address,
                    "the link to a node {error}"
                );
                told = true;
            }
            let delay = delays.next().unwrap_or(OPEN_TIMEOUT);
            self.new.retired.run_until_cancelled(sleep(delay)).await;
            self.dispatch.drop_expired(self.new.link);
        }
    }

    /// Connects and is welcomed.
    async fn open(&self, stream: &LinkStream) -> Result<Streaming<DeliverResponse>, LinkError> {
        let channel: Channel = timeout(OPEN_TIMEOUT, endpoint(&self.new.address)?.connect()).await??;
        let mut client =
            ConnectNodeServiceClient::new(channel).max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES);
        let outbound = outbound(self.dispatch.clone(), stream.clone(), self.manager_id.clone());
        let answer = timeout(OPEN_TIMEOUT, client.deliver(outbound)).await?;
        let mut inbound = answer.map_err(LinkError::Refused)?.into_inner();
        let first = timeout(OPEN_TIMEOUT, inbound.message()).await?.map_err(LinkError::Refused)?;
        let welcome = first.ok_or(LinkError::Ended)?.welcome.unwrap_or_default();
        if *welcome.node_id != *self.new.node || welcome.incarnation != self.new.incarnation {
            // Were it let pass, the feed's word on the new start would open a second stream beside this one, and
            // pushes on the two could overtake each other.
            return Err(LinkError::SomeoneElse { found: welcome.node_id, incarnation: welcome.incarnation });
        }
        Ok(inbound)
    }

    /// Takes outcomes until the stream breaks, or until the link is retired and nothing is under way.
    async fn converse(
        &self,
        stream: &LinkStream,
        mut inbound: Streaming<DeliverResponse>,
    ) -> Result<(), LinkError> {
        self.dispatch.raise_stream(stream);
        loop {
            let retired = self.new.retired.is_cancelled();
            if retired && self.dispatch.is_idle(self.new.link) {
                break;
            }
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.dispatch.take_outcomes(self.new.link, message.outcomes),
                    Ok(None) => return Err(LinkError::Ended),
                    Err(status) => return Err(LinkError::Broken(status)),
                },
                () = self.new.retired.cancelled(), if !retired => {}
                () = sleep(RETIRE_INTERVAL), if retired => {}
            }
        }
        // Our side ends after what it has taken; the node's end says that it has read it.
        self.dispatch.close_stream(stream);
        let _ = timeout(CLOSE_TIMEOUT, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
        Ok(())
    }
}

/// What goes to the node: the hello, then whatever waits each time that the connection can take more, or a sign of life where
/// it is due.
fn outbound(
    dispatch: Arc<Dispatch>,
    stream: LinkStream,
    manager_id: String,
) -> impl Stream<Item = DeliverRequest> + Send + 'static {
    let hello = DeliverRequest { hello: Some(DeliverHello { manager_id }), ..DeliverRequest::default() };
    // One timer for as long as the stream lasts, looked after when it rings: to set one for each wait for pushes would
    // cost every push.
    let outbound = Outbound { dispatch, stream, alarm: Box::pin(sleep(SIGN_OF_LIFE)), sent: Instant::now() };
    let batches = stream::unfold(outbound, |mut outbound| async move {
        let request = outbound.next().await?;
        Some((request, outbound))
    });
    stream::once(async { hello }).chain(batches)
}

struct Outbound {
    dispatch: Arc<Dispatch>,
    stream: LinkStream,
    alarm: Pin<Box<Sleep>>,
    /// When anything was sent last.
    sent: Instant,
}

impl Outbound {
    async fn next(&mut self) -> Option<DeliverRequest> {
        loop {
            let now = Instant::now();
            match self.dispatch.take_batch(&self.stream, now) {
                Batch::Ended => return None,
                Batch::Nothing => {}
                Batch::Pushes(pushes) => {
                    self.sent = now;
                    let deliveries = pushes.into_iter().map(|queued| delivery(queued, now)).collect();
                    let vouched = self.stream.vouched.load(Relaxed);
                    return Some(DeliverRequest { hello: None, deliveries, vouched });
                }
            }
            tokio::select! {
                biased;
                () = self.stream.work.notified() => {}
                () = self.alarm.as_mut() => {
                    let now = Instant::now();
                    let is_due = now.duration_since(self.sent) >= SIGN_OF_LIFE;
                    if is_due {
                        self.sent = now;
                    }
                    self.alarm.as_mut().reset((self.sent + SIGN_OF_LIFE).into());
                    if is_due && self.stream.vouched.load(Relaxed) {
                        return Some(DeliverRequest { vouched: true, ..DeliverRequest::default() });
                    }
                }
            }
        }
    }
}

/// The last node to take a push gets it without a copy.
fn delivery(queued: Queued, now: Instant) -> Delivery {
    let remaining = queued.deadline.saturating_duration_since(now);
    let traceparent = traceparent(&queued.push, queued.part);
    let push = Arc::unwrap_or_clone(queued.push);
    Delivery {
        delivery_id: queued.id,
        target: Some(push.target),
        exclude_user_ids: push.exclude,
        content: Some(push.content),
        deadline_ms: less_margin(remaining).as_millis() as u32,
        report_mode: push.report_mode.into(),
        message_id: push.message_id,
        traceparent,
    }
}
