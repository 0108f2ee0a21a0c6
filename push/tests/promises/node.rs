//! A node that does with pushes what a test tells it to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt as _};
use ringcast_proto::MAX_GRPC_MESSAGE_BYTES;
use ringcast_proto::pubsub::connect_node_service_server::{ConnectNodeService, ConnectNodeServiceServer};
use ringcast_proto::pubsub::{
    DeliverRequest, DeliverResponse, DeliverWelcome, Delivery, DeliveryOutcome, NodeRoute, Outcomes,
    ReportMode,
};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::controller::{end_runtime, own_runtime, reserve_address};

/// What the node does with a push.
#[derive(Clone, Copy)]
pub(crate) enum Behaviour {
    /// It reports this of each.
    Answer(Outcomes),
    /// It takes them and says nothing.
    Silent,
    /// It welcomes a stream and reads nothing of it.
    Stuck,
}

#[derive(Clone)]
struct Intake {
    welcome: DeliverWelcome,
    behaviour: Arc<Mutex<Behaviour>>,
    received: Arc<Mutex<Vec<Delivery>>>,
    count: watch::Sender<usize>,
    streams: watch::Sender<usize>,
    /// Requests by which the push manager vouched for it.
    vouched: watch::Sender<usize>,
}

pub(crate) struct FakeNode {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    intake: Intake,
    /// Dropping it ends every connection at once, as the death of a process does.
    runtime: Option<Runtime>,
    _reserved: TcpSocket,
}

impl FakeNode {
    /// A node that answers.
    pub(crate) fn start(id: &str, behaviour: Behaviour) -> Self {
        let mut node = Self::away(id, behaviour);
        node.rise();
        node
    }

    /// A node that nothing listens for yet.
    pub(crate) fn away(id: &str, behaviour: Behaviour) -> Self {
        let (address, reserved) = reserve_address();
        let intake = Intake {
            welcome: DeliverWelcome { node_id: id.into(), incarnation: 1 },
            behaviour: Arc::new(Mutex::new(behaviour)),
            received: Arc::default(),
            count: watch::Sender::new(0),
            streams: watch::Sender::new(0),
            vouched: watch::Sender::new(0),
        };
        Self { id: id.into(), address, intake, runtime: None, _reserved: reserved }
    }

    pub(crate) fn rise(&mut self) {
        let (runtime, listener) = own_runtime(self.address);
        let service = ConnectNodeServiceServer::new(self.intake.clone())
            .max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES);
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        self.runtime = Some(runtime);
    }

    /// Serves at the same address as another node or another start would.
    pub(crate) fn rise_as(&mut self, id: &str, incarnation: u64) {
        self.intake.welcome = DeliverWelcome { node_id: id.into(), incarnation };
        self.rise();
    }

    pub(crate) fn kill(&mut self) {
        end_runtime(self.runtime.take().unwrap());
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        *self.intake.behaviour.lock().unwrap() = behaviour;
    }

    pub(crate) fn route(&self) -> NodeRoute {
        NodeRoute {
            node_id: self.id.clone(),
            incarnation: self.intake.welcome.incarnation,
            grpc_address: self.address.to_string(),
            ..NodeRoute::default()
        }
    }

    /// All that has come, in order.
    pub(crate) fn received(&self) -> Vec<Delivery> {
        self.intake.received.lock().unwrap().clone()
    }

    /// Waits until so many have come.
    pub(crate) async fn has_received(&self, count: usize) {
        self.intake.count.subscribe().wait_for(|have| *have >= count).await.unwrap();
    }

    /// Waits until so many streams were welcomed.
    pub(crate) async fn has_welcomed(&self, streams: usize) {
        self.intake.streams.subscribe().wait_for(|have| *have >= streams).await.unwrap();
    }

    /// Waits until it is vouched for once more.
    pub(crate) async fn is_vouched_for(&self) {
        let mut vouched = self.intake.vouched.subscribe();
        let before = *vouched.borrow_and_update();
        vouched.wait_for(|now| *now > before).await.unwrap();
    }

    /// How many streams have been opened.
    pub(crate) fn streams(&self) -> usize {
        *self.intake.streams.borrow()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Intake {
    async fn serve(
        self,
        mut pushes: Streaming<DeliverRequest>,
        answers: mpsc::UnboundedSender<DeliverResponse>,
    ) {
        let hello = pushes.message().await.unwrap().unwrap().hello.unwrap();
        assert_eq!(hello.manager_id, "push-manager-1");
        let welcome = Some(self.welcome.clone());
        let _ = answers.send(DeliverResponse { welcome, ..Default::default() });
        self.streams.send_modify(|streams| *streams += 1);
        if matches!(*self.behaviour.lock().unwrap(), Behaviour::Stuck) {
            // Until the runtime ends; the stream has to be held.
            return answers.closed().await;
        }
        while let Ok(Some(request)) = pushes.message().await {
            self.vouched.send_modify(|vouched| *vouched += usize::from(request.vouched));
            let behaviour = *self.behaviour.lock().unwrap();
            let outcomes = request.deliveries.iter().filter_map(|delivery| match behaviour {
                Behaviour::Answer(outcomes) if delivery.report_mode() == ReportMode::Full => {
                    Some(DeliveryOutcome { delivery_id: delivery.delivery_id, outcomes: Some(outcomes) })
                }
                _ => None,
            });
            let outcomes: Vec<_> = outcomes.collect();
            let received = {
                let mut received = self.received.lock().unwrap();
                received.extend(request.deliveries);
                received.len()
            };
            self.count.send_replace(received);
            if !outcomes.is_empty() {
                let _ = answers.send(DeliverResponse { welcome: None, outcomes });
            }
        }
    }
}

#[tonic::async_trait]
impl ConnectNodeService for Intake {
    type DeliverStream = Pin<Box<dyn Stream<Item = Result<DeliverResponse, Status>> + Send>>;

    async fn deliver(
        &self,
        request: Request<Streaming<DeliverRequest>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let (answers, stream) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().serve(request.into_inner(), answers));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream).map(Ok))))
    }
}
