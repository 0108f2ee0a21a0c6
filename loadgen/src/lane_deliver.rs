//! Pushes straight into nodes, as a push manager hands them in: what a node costs without the rest of the system.
//!
//! Owns: one Deliver stream a node. Must not: know routes; every push goes to every node. Talks to: the nodes' gRPC
//! ports, `books`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use ringcast_proto::pubsub::connect_node_service_client::ConnectNodeServiceClient;
use ringcast_proto::pubsub::delivery;
use ringcast_proto::pubsub::{DeliverHello, DeliverRequest, Delivery, MessageContent};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::clock::monotonic_ns;
use crate::lane::{Leaving, SharedBooks};
use crate::lane_grpc::{channel, lock};
use crate::publisher::Target;

/// How many pushes one message carries at most.
const MAX_PER_MESSAGE: usize = 256;

/// Messages that wait for a connection to take them.
const MESSAGES_AHEAD: usize = 64;

/// Where a push has no deadline of its own.
const DEADLINE_MS: u32 = 1000;

/// One stream to each node.
pub(crate) struct DeliverLane {
    senders: Vec<mpsc::Sender<DeliverRequest>>,
    readers: Vec<JoinHandle<()>>,
    queued: Vec<Delivery>,
    /// Those of `queued` that no node will answer.
    unanswerable: Vec<u64>,
    books: SharedBooks,
}

impl DeliverLane {
    pub(crate) async fn open(nodes: &[String], books: &SharedBooks) -> anyhow::Result<Self> {
        anyhow::ensure!(!nodes.is_empty(), "no node to deliver to: its gRPC address is needed");
        let (mut senders, mut readers) = (Vec::new(), Vec::new());
        for node in nodes {
            let (sender, reader) = open_stream(node, books).await?;
            senders.push(sender);
            readers.push(reader);
        }
        Ok(Self { senders, readers, queued: Vec::new(), unanswerable: Vec::new(), books: books.clone() })
    }

    pub(crate) fn nodes(&self) -> u16 {
        self.senders.len() as u16
    }

    pub(crate) fn queue(&mut self, push: Leaving) {
        if !push.full {
            self.unanswerable.push(push.id);
        }
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let report_mode = push.mode();
        let (target, exclude_user_ids) = match push.target {
            Target::Room { room, exclude } => (delivery::Target::RoomId(room), exclude),
            Target::User(user) => (delivery::Target::UserId(user), Vec::new()),
            Target::All => (delivery::Target::Broadcast(true), Vec::new()),
        };
        self.queued.push(Delivery {
            delivery_id: push.id,
            target: Some(target),
            exclude_user_ids,
            content: Some(MessageContent {
                data: push.data.into(),
                timestamp: now_ms,
                ..MessageContent::default()
            }),
            deadline_ms: if push.deadline_ms == 0 { DEADLINE_MS } else { push.deadline_ms },
            report_mode,
            message_id: format!("lg-{}", push.id),
            traceparent: String::new(),
        });
    }

    pub(crate) fn flush(&mut self) -> u64 {
        let mut latest = 0;
        while !self.queued.is_empty() {
            let places: Result<Vec<_>, _> = self.senders.iter().map(mpsc::Sender::try_reserve).collect();
            match places {
                Ok(places) => {
                    let rest = self.queued.split_off(self.queued.len().min(MAX_PER_MESSAGE));
                    let deliveries = std::mem::replace(&mut self.queued, rest);
                    let ids = deliveries.iter().map(|delivery| delivery.delivery_id);
                    latest = latest.max(lock(&self.books).left(ids));
                    for place in places {
                        let deliveries = deliveries.clone();
                        place.send(DeliverRequest { hello: None, deliveries, vouched: true });
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => break,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.queued.clear();
                    lock(&self.books).lane_broke(0, Code::Unavailable, "a node ended its stream");
                }
            }
        }
        if self.queued.is_empty() && !self.unanswerable.is_empty() {
            let mut books = lock(&self.books);
            self.unanswerable.drain(..).for_each(|id| books.unanswerable(id));
        }
        latest
    }

    pub(crate) fn is_stuck(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Ends the streams and waits until the nodes have, too: they have read all then, also what they do not report.
    pub(crate) async fn end(self) {
        drop(self.senders);
        for reader in self.readers {
            // A reader has no way to fail.
            let _ = reader.await;
        }
    }
}

async fn open_stream(
    node: &str,
    books: &SharedBooks,
) -> anyhow::Result<(mpsc::Sender<DeliverRequest>, JoinHandle<()>)> {
    let mut client = ConnectNodeServiceClient::new(channel(node).await?);
    let (sender, requests) = mpsc::channel(MESSAGES_AHEAD);
    let hello = DeliverHello { manager_id: format!("loadgen-{}", std::process::id()) };
    sender.send(DeliverRequest { hello: Some(hello), ..DeliverRequest::default() }).await?;
    let answer = client.deliver(ReceiverStream::new(requests)).await;
    let mut outcomes = answer.with_context(|| format!("no Deliver stream at {node}"))?.into_inner();
    let answers = books.clone();
    let reader = tokio::spawn(async move {
        let why = loop {
            match outcomes.message().await {
                Ok(Some(response)) => {
                    let (now, mut books) = (monotonic_ns(), lock(&answers));
                    for outcome in response.outcomes {
                        let part = outcome.outcomes.unwrap_or_default();
                        books.answered_in_part(outcome.delivery_id, &part, now);
                    }
                }
                Ok(None) => break (Code::Unavailable, "the node ended the stream".to_owned()),
                Err(status) => break (status.code(), status.message().to_owned()),
            }
        };
        lock(&answers).lane_broke(0, why.0, &why.1);
    });
    Ok((sender, reader))
}
