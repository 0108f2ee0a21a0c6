//! Which nodes there are, for `GET /nodes`: what the controller says, asked again every 2 s while anybody asks the node,
//! else every 30 s: of a thousand nodes each would get a list of a thousand for nobody.
//!
//! Owns: what a page is told of a node, and in which order. Must not: decide where a client goes. Talks to:
//! `control_link` (the connection to the controller), `http`, which answers from what is kept here.
//!
//! While no controller is there, the last word is told on: old addresses are better than none.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringcast_proto::MAX_GRPC_MESSAGE_BYTES;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::{ListNodesRequest, NodeInfo, NodeState};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::http::NodeStatus;

/// How often the controller is asked, and how long it may take to answer.
const EVERY: Duration = Duration::from_secs(2);

/// How often it is asked while nobody asks the node.
const UNASKED: Duration = Duration::from_secs(30);

/// How many nodes are told of: the least loaded ones.
const MAX_NODES: usize = 4096;

/// Keeps the list up to date for ever.
pub(crate) async fn keep(mut controller: watch::Receiver<Option<Channel>>, status: Arc<NodeStatus>) {
    let mut told = false;
    let mut known: Option<Instant> = None;
    loop {
        let channel = match controller.wait_for(Option::is_some).await {
            Ok(channel) => channel.clone(),
            Err(_) => return,
        };
        let due = status.take_nodes_asked() || known.is_none_or(|known| known.elapsed() >= UNASKED);
        if let Some(channel) = channel.filter(|_| due) {
            match timeout(EVERY, ask(channel)).await {
                Ok(Ok(nodes)) => {
                    let without = nodes.iter().find(|node| node.public_ws_url.is_empty());
                    if let Some(node) = without.filter(|_| !std::mem::replace(&mut told, true)) {
                        tracing::info!(
                            node = %node.node_id.escape_debug(),
                            "/nodes leaves out nodes that do not tell where clients reach them: set PUBLIC_WS_URL"
                        );
                    }
                    status.set_nodes(body(nodes));
                    known = Some(Instant::now());
                }
                Ok(Err(status)) => tracing::debug!(%status, "the controller does not tell of the nodes"),
                Err(_) => tracing::debug!("the controller takes too long to tell of the nodes"),
            }
        }
        sleep(EVERY).await;
    }
}

async fn ask(controller: Channel) -> Result<Vec<NodeInfo>, Status> {
    let mut controller =
        ControllerServiceClient::new(controller).max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES);
    Ok(controller.list_nodes(ListNodesRequest {}).await?.into_inner().nodes)
}

#[derive(Serialize)]
struct List<'a> {
    nodes: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    node_id: &'a str,
    url: &'a str,
    connections: u64,
    capacity: u64,
    state: &'static str,
}

impl<'a> Line<'a> {
    fn of(node: &'a NodeInfo) -> Self {
        Self {
            node_id: &node.node_id,
            url: &node.public_ws_url,
            connections: node.connections,
            capacity: node.capacity,
            state: "ready",
        }
    }
}

/// The nodes that take clients and say where, the least loaded ones first.
fn body(mut nodes: Vec<NodeInfo>) -> Bytes {
    nodes.retain(|node| node.state() == NodeState::Ready && !node.public_ws_url.is_empty());
    nodes.sort_by(|a, b| {
        let left = u128::from(a.connections) * u128::from(b.capacity);
        let right = u128::from(b.connections) * u128::from(a.capacity);
        let full = |node: &NodeInfo| node.connections >= node.capacity;
        full(a)
            .cmp(&full(b))
            .then(left.cmp(&right))
            .then(Reverse(a.capacity).cmp(&Reverse(b.capacity)))
            .then_with(|| a.node_id.cmp(&b.node_id))
    });
    let list = List { nodes: nodes.iter().take(MAX_NODES).map(Line::of).collect() };
    serde_json::to_vec(&list).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use connect_core::HttpRequest;
    use ringcast_proto::pubsub::controller_service_server::{ControllerService, ControllerServiceServer};
    use ringcast_proto::pubsub::{self, ListNodesResponse};
    use tokio::net::TcpListener;
    use tonic::transport::server::TcpIncoming;
    use tonic::{Request, Response};

    use super::*;

    fn node(id: &str, connections: u64, capacity: u64) -> NodeInfo {
        NodeInfo {
            node_id: id.to_owned(),
            public_ws_url: format!("ws://{id}/ws"),
            connections,
            capacity,
            ..NodeInfo::default()
        }
    }

    fn ids(nodes: Vec<NodeInfo>) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_slice(&body(nodes)).unwrap();
        let ids = list["nodes"].as_array().unwrap().iter().map(|node| node["node_id"].as_str().unwrap());
        ids.map(str::to_owned).collect()
    }

    #[test]
    fn the_least_loaded_node_comes_first_by_its_share_and_a_full_one_last() {
        let nodes = vec![
            node("half", 50, 100),
            node("full", 10, 10),
            node("large", 100, 1000),
            node("none", 0, 0),
            node("empty-b", 0, 10),
            node("empty-a", 0, 10),
            node("empty-large", 0, 20),
        ];
        let expected = ["empty-large", "empty-a", "empty-b", "large", "half", "full", "none"];
        let got = ids(nodes);
        assert_eq!(got[..5], expected[..5]);
        assert_eq!(got.len(), 7);
    }

    #[test]
    fn only_nodes_that_take_clients_and_say_where_are_told_of() {
        let mut draining = node("draining", 0, 10);
        draining.set_state(NodeState::Draining);
        let mut lost = node("lost", 0, 10);
        lost.set_state(NodeState::Lost);
        let nameless = NodeInfo { public_ws_url: String::new(), ..node("nameless", 0, 10) };
        assert_eq!(ids(vec![draining, lost, nameless, node("here", 5, 10)]), ["here"]);
        let told = body(vec![node("here", 5, 10)]);
        let expected = r#"{"nodes":[{"node_id":"here","url":"ws://here/ws","connections":5,"capacity":10,"state":"ready"}]}"#;
        assert_eq!(told, expected);
    }

    #[test]
    fn the_list_is_bounded() {
        let many = (0..MAX_NODES as u64 + 10).map(|n| node(&format!("node-{n}"), n, 1_000_000)).collect();
        let ids = ids(many);
        assert_eq!(ids.len(), MAX_NODES);
        assert_eq!(ids[0], "node-0");
    }

    /// A controller that knows of so many nodes, and answers nothing else.
    struct FakeController(watch::Receiver<Vec<NodeInfo>>);

    macro_rules! refuses {
        ($($call:ident $request:ident -> $response:ident),*) => {
            #[tonic::async_trait]
            impl ControllerService for FakeController {
                async fn list_nodes(
                    &self,
                    _: Request<ListNodesRequest>,
                ) -> Result<Response<ListNodesResponse>, Status> {
                    Ok(Response::new(ListNodesResponse { nodes: self.0.borrow().clone() }))
                }

                $(async fn $call(
                    &self,
                    _: Request<pubsub::$request>,
                ) -> Result<Response<pubsub::$response>, Status> {
                    Err(Status::unimplemented("not asked here"))
                })*
            }
        };
    }

    refuses!(
        join_room JoinRoomRequest -> JoinRoomResponse,
        leave_room LeaveRoomRequest -> LeaveRoomResponse,
        get_room_info GetRoomInfoRequest -> GetRoomInfoResponse,
        get_user_node GetUserNodeRequest -> GetUserNodeResponse,
        get_room_stats GetRoomStatsRequest -> GetRoomStatsResponse,
        set_room SetRoomRequest -> SetRoomResponse,
        select_connect_node SelectConnectNodeRequest -> SelectConnectNodeResponse
    );

    /// Waits until `/nodes` answers so.
    async fn answers(status: &NodeStatus, code: u16, part: &str) {
        let is_so = async {
            loop {
                let answer = status.answer(HttpRequest::Nodes);
                if answer.status == code && String::from_utf8_lossy(&answer.body).contains(part) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), is_so).await.expect("/nodes answers otherwise");
    }

    #[tokio::test]
    async fn the_list_follows_the_controller_and_outlives_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (known, fake) = watch::channel(vec![node("one", 0, 10)]);
        let server = ringcast_proto::limited_server()
            .add_service(ControllerServiceServer::new(FakeController(fake)))
            .serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(server);
        let status = Arc::new(NodeStatus::new("node-1".to_owned(), 1, Vec::new()));
        let (link, linked) = watch::channel(None);
        tokio::spawn(keep(linked, Arc::clone(&status)));
        answers(&status, 503, "no_list").await;
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        link.send_replace(Some(channel));
        answers(&status, 200, "\"node_id\":\"one\"").await;
        known.send_replace(vec![node("two", 0, 10)]);
        answers(&status, 200, "\"node_id\":\"two\"").await;
        link.send_replace(None);
        server.abort();
        // Longer than it takes to ask again.
        sleep(EVERY + Duration::from_millis(200)).await;
        answers(&status, 200, "\"node_id\":\"two\"").await;
    }
}
