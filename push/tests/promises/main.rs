//! What the push manager promises, seen from outside: a controller and nodes played over real loopback gRPC.

// What goes wrong in what a test plays is the test's failure.
#![allow(clippy::unwrap_used)]

mod callers;
mod controller;
mod controllers;
#[cfg(feature = "cluster")]
mod directory;
mod errors;
mod feed;
mod links;
mod node;
mod order;
mod reports;
mod serving;
mod streams;

use std::net::SocketAddr;
use std::time::Duration;

use push::{Running, Settings};
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::{
    DeliveryReport, MessageContent, NodeRoute, Outcomes, PushToRoomRequest, PushToRoomResponse, RoomRoute,
    UserRoute,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::controller::FakeController;
use crate::node::FakeNode;

/// How long anything that has to come may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Awaits what has to come.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A push manager with its controller.
struct System {
    controller: FakeController,
    running: Running,
    stop: CancellationToken,
    client: PushManagerServiceClient<Channel>,
}

impl System {
    async fn start(controller: FakeController) -> Self {
        Self::start_beside(controller, &[]).await
    }

    /// With other controllers, or what is said to be one, beside the first.
    async fn start_beside(controller: FakeController, others: &[SocketAddr]) -> Self {
        let addresses = [controller.address].iter().chain(others).map(ToString::to_string).collect();
        Self::start_with(controller, Settings { controller_address: addresses, ..Settings::default() }).await
    }

    async fn start_with(controller: FakeController, settings: Settings) -> Self {
        let stop = CancellationToken::new();
        let settings = Settings { grpc_port: 0, metrics_port: 0, process_metrics: false, ..settings };
        let running = push::start(settings, stop.clone()).await.unwrap();
        let client =
            PushManagerServiceClient::connect(format!("http://{}", running.grpc_addr)).await.unwrap();
        Self { controller, running, stop, client }
    }

    /// With nodes that hold a room `r`: on each so many sessions.
    async fn with_room(nodes: &[(&FakeNode, u32)]) -> Self {
        let controller = FakeController::start();
        for (node, sessions) in nodes {
            controller.set_node(node.route());
            controller.set_room(room("r", node, *sessions));
        }
        let system = Self::start(controller).await;
        system.in_step().await;
        system
    }

    /// Waits until the push manager has acknowledged all that the controller told.
    async fn in_step(&self) {
        soon("the acknowledgement", self.controller.acknowledged()).await;
    }

    async fn push(&self, request: PushToRoomRequest) -> PushToRoomResponse {
        soon("the answer", self.client.clone().push_to_room(request)).await.unwrap().into_inner()
    }
}

fn room(id: &str, node: &FakeNode, sessions: u32) -> RoomRoute {
    RoomRoute { room_id: id.into(), node_id: node.id.clone(), sessions }
}

fn user(id: &str, node: &FakeNode, sessions: u32) -> UserRoute {
    UserRoute { user_id: id.into(), node_id: node.id.clone(), sessions }
}

fn text(data: &str) -> Option<MessageContent> {
    Some(MessageContent { data: data.to_owned().into(), ..Default::default() })
}

fn to_room(id: &str, deadline: Duration) -> PushToRoomRequest {
    PushToRoomRequest {
        room_id: id.into(),
        content: text("hello"),
        deadline_ms: deadline.as_millis() as u32,
        ..Default::default()
    }
}

fn written(sessions: u32) -> Outcomes {
    Outcomes { members: sessions.into(), written: sessions.into(), ..Default::default() }
}

fn unknown(sessions: u32) -> Outcomes {
    Outcomes { members: sessions.into(), unknown: sessions.into(), ..Default::default() }
}

fn shed(sessions: u32) -> Outcomes {
    Outcomes { members: sessions.into(), dropped_shed: sessions.into(), ..Default::default() }
}

fn closed(sessions: u32) -> Outcomes {
    Outcomes { members: sessions.into(), dropped_closed: sessions.into(), ..Default::default() }
}

/// The report's outcomes by node, in the order of their ids.
fn by_node(report: &DeliveryReport) -> Vec<(&str, Outcomes)> {
    let mut nodes: Vec<_> =
        report.nodes.iter().map(|node| (node.node_id.as_str(), node.outcomes.unwrap_or_default())).collect();
    nodes.sort_by_key(|(id, _)| *id);
    nodes
}

fn total(response: &PushToRoomResponse) -> Outcomes {
    response.report.as_ref().and_then(|report| report.total).unwrap_or_default()
}

fn gone(node: &FakeNode) -> NodeRoute {
    NodeRoute { gone: true, ..node.route() }
}
