//! The links of connect nodes, as streams.
//!
//! Owns: the order of a link's messages, the silence after which it is lost, the heartbeats out.
//! Must not: decide anything (`links` does, under the registry's lock). Talks to: `registry`.

use std::sync::Arc;
use std::time::Duration;

use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::node_link_service_server::NodeLinkService;
use ringcast_proto::pubsub::{ControllerHeartbeat, ControllerMessage, NodeMessage, node_message};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::links;
use crate::presence::LinkRef;
use crate::refusal;
use crate::registry::{LinkMessage, Registry};

/// Messages that may wait for a node; a node that lets more wait is cut.
const LINK_QUEUE: usize = 4096;

/// The service.
#[derive(Debug)]
pub(crate) struct NodeService {
    pub(crate) registry: Arc<Registry>,
    /// Cancelled when the controller stops.
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl NodeLinkService for NodeService {
    type LinkStream = ReceiverStream<LinkMessage>;

    async fn link(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (messages, stream) = mpsc::channel(LINK_QUEUE);
        let task = LinkTask {
            registry: self.registry.clone(),
            inbound: request.into_inner(),
            messages,
            cut: self.stop.child_token(),
            stop: self.stop.clone(),
        };
        tokio::spawn(task.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct LinkTask {
    registry: Arc<Registry>,
    inbound: Streaming<NodeMessage>,
    messages: mpsc::Sender<LinkMessage>,
    cut: CancellationToken,
    stop: CancellationToken,
}

impl LinkTask {
    async fn run(mut self) {
        let ended = match self.register().await {
            Ok(at) => {
                let ended = self.serve(at).await;
                self.registry.link_lost(at);
                ended
            }
            Err(status) => Err(status),
        };
        let code = ended.as_ref().map_or_else(Status::code, |()| Code::Ok);
        self.registry.metrics.handled("Link", code);
        if let Err(status) = ended {
            // A node that does not read need not be told.
            let _ = self.messages.try_send(Err(status));
        }
    }

    async fn register(&mut self) -> Result<LinkRef, Status> {
        let silence = self.registry.timing.link_silence;
        let first = tokio::select! {
            first = tokio::time::timeout(silence, self.inbound.message()) => first,
            () = self.cut.cancelled() => return Err(refusal::stopping()),
        };
        let first = first.map_err(|_| refusal::too_late(silence))??;
        match first.and_then(|message| message.message) {
            Some(node_message::Message::Register(register)) => {
                let (card, link) = links::card(register)?;
                let (messages, cut) = (self.messages.clone(), self.cut.clone());
                self.registry.admit(card, link, messages, cut).await
            }
            _ => Err(refusal::protocol("a link begins with the node's registration")),
        }
    }

    /// Serves a registered node until its stream ends.
    async fn serve(&mut self, at: LinkRef) -> Result<(), Status> {
        let timing = self.registry.timing;
        let mut heartbeat = tokio::time::interval(timing.link_heartbeat.max(Duration::from_millis(1)));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silence = tokio::time::sleep(timing.link_silence);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                message = self.inbound.message() => {
                    silence.as_mut().reset(Instant::now() + timing.link_silence);
                    let Some(message) = message? else { return Ok(()) };
                    if !self.take(at, message)? {
                        return Ok(());
                    }
                }
                _ = heartbeat.tick() => {
                    let message = Message::Heartbeat(ControllerHeartbeat {});
                    let message = ControllerMessage { message: Some(message) };
                    // A full queue has messages that tell as much.
                    let _ = self.messages.try_send(Ok(message));
                }
                () = &mut silence => return Err(refusal::too_late(timing.link_silence)),
                () = self.cut.cancelled() => {
                    let stopping = self.stop.is_cancelled();
                    return Err(if stopping { refusal::stopping() } else { refusal::link_cut("replaced, or out of step") });
                }
            }
        }
    }

    /// Takes one message in. Returns whether the stream goes on.
    fn take(&self, at: LinkRef, message: NodeMessage) -> Result<bool, Status> {
        let registry = &self.registry;
        match message.message {
            Some(node_message::Message::Snapshot(part)) => registry.snapshot(at, part.sessions, part.last),
            Some(node_message::Message::Batch(batch)) => registry.batch(at, batch.number, batch.events)?,
            Some(node_message::Message::CommandResult(result)) => registry.command_result(at, result),
            Some(node_message::Message::Heartbeat(heartbeat)) => registry.heartbeat(at, heartbeat),
            Some(node_message::Message::Deregister(_)) => {
                registry.deregister(at);
                return Ok(false);
            }
            Some(node_message::Message::Register(_)) => {
                return Err(refusal::protocol("a link registers one node"));
            }
            // A later version's message.
            None => {}
        }
        Ok(true)
    }
}
