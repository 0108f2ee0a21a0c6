//! Publishes through a node's own gRPC stream, as a push manager does.
//!
//! Owns: the stream, delivery numbers, what the node reported. Must not: keep a schedule. Talks to: a node's
//! `ConnectNodeService`.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use ringcast_proto::pubsub::connect_node_service_client::ConnectNodeServiceClient;
use ringcast_proto::pubsub::delivery::Target;
use ringcast_proto::pubsub::{DeliverHello, DeliverRequest, Delivery, MessageContent, Outcomes, ReportMode};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

use crate::scenario::Scenario;

/// How often the runtime is let run after a message was handed over: through the stream's task, the connection's, to
/// the socket.
const HOPS: usize = 4;

/// The stream to a node.
pub struct Deliver {
    requests: mpsc::UnboundedSender<DeliverRequest>,
    batch: Vec<Delivery>,
    number: u64,
    report_mode: ReportMode,
    to_user: bool,
    reported: Arc<Mutex<Reported>>,
}

/// What the node reported.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reported {
    /// Pushes that were reported.
    pub pushes: u64,
    /// Sessions written, of all of them.
    pub written: u64,
    /// Sessions with any other fate.
    pub other: u64,
}

impl Deliver {
    /// Opens the stream and shakes hands; `reports`: the node tells the fate of every push.
    pub async fn connect(addr: SocketAddr, reports: bool, to_user: bool) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}"))?.tcp_nodelay(true);
        let channel = endpoint.connect_timeout(Duration::from_secs(5)).connect().await?;
        let (requests, stream) = mpsc::unbounded_channel();
        let hello = DeliverHello { manager_id: "peers".into() };
        requests.send(DeliverRequest { hello: Some(hello), deliveries: Vec::new() })?;
        let answers =
            ConnectNodeServiceClient::new(channel).deliver(UnboundedReceiverStream::new(stream)).await?;
        let mut answers = answers.into_inner();
        answers.message().await?.context("the node ended the stream")?;
        let reported = Arc::new(Mutex::new(Reported::default()));
        let books = Arc::clone(&reported);
        tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
                for Outcomes { written, members, .. } in
                    answer.outcomes.into_iter().filter_map(|outcome| outcome.outcomes)
                {
                    books.pushes += 1;
                    books.written += written;
                    books.other += members - written;
                }
            }
        });
        let report_mode = if reports { ReportMode::Full } else { ReportMode::None };
        Ok(Self { requests, batch: Vec::new(), number: 0, report_mode, to_user, reported })
    }

    /// Adds a push to the message that leaves next.
    pub fn add(&mut self, room: u32, payload: Vec<u8>) {
        let target = if self.to_user {
            Target::UserId(Scenario::user(room as usize))
        } else {
            Target::RoomId(Scenario::room(room))
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_millis() as i64;
        let content = MessageContent { data: payload.into(), timestamp, ..MessageContent::default() };
        self.number += 1;
        self.batch.push(Delivery {
            delivery_id: self.number,
            target: Some(target),
            content: Some(content),
            deadline_ms: 10_000,
            report_mode: self.report_mode.into(),
            message_id: "m0000001".into(),
            ..Delivery::default()
        });
    }

    /// Sends what was added, as one message.
    pub async fn flush(&mut self) -> Result<()> {
        let deliveries = std::mem::take(&mut self.batch);
        self.requests
            .send(DeliverRequest { hello: None, deliveries })
            .context("the stream to the node has ended")?;
        self.breathe().await
    }

    /// Lets the connection read and write.
    pub async fn breathe(&mut self) -> Result<()> {
        for _ in 0..HOPS {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Whether the node was asked to report.
    pub fn wants_reports(&self) -> bool {
        self.report_mode == ReportMode::Full
    }

    /// What the node has reported so far.
    pub fn reported(&self) -> Reported {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
