//! Which nodes there are, for `GET /nodes`: what the controller says, asked again every 2 s while anybody asks the node,
//! else every 30 s: of a thousand nodes each would get a list of a thousand for nobody.
//!
//! Owns: what a page is told of a node, and in which order. Must not: decide where a client goes. Talks to:
//! `control_link` (the connection to the controller), `http`, which answers from what is kept here.
//!
//! While no controller is there, the last word is told on: old addresses are better than none.

use std::cmp::{Ordering, Reverse};
use std::collections::VecDeque;
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
const MAX_NODES: usize = 256;

/// How many answers take turns until the list is brought up to date, as if each client that chooses had gone to the first
/// node of his. So many spread evenly over 1, 2, 3, 4, 6 or 12 nodes of equal load before anybody has heard of one of them.
const TURNS: usize = 12;

/// After how long a client that has chosen a node is surely among those that it is told to hold: it joins, the node tells
/// its controller each second, controllers tell one another, and the list is asked for.
const HEARD_OF: Duration = Duration::from_secs(4);

/// Clients that are remembered to have chosen.
const MAX_CHOSEN: usize = 4096;

/// Where clients went that may not have been heard of yet.
#[derive(Debug, Default)]
struct Chosen {
    /// The first node of each present answer, by its turn.
    offered: Vec<String>,
    went: VecDeque<(Instant, String)>,
}

impl Chosen {
    /// So many clients have chosen by the present answers.
    fn add(&mut self, clients: usize, now: Instant) {
        let offered = self.offered.iter().cycle().take(if self.offered.is_empty() { 0 } else { clients });
        self.went.extend(offered.take(MAX_CHOSEN).map(|node| (now, node.clone())));
        let surplus = self.went.len().saturating_sub(MAX_CHOSEN);
        self.went.drain(..surplus);
        self.went.retain(|(since, _)| now - *since < HEARD_OF);
    }

    /// How many may not have been heard of at a node.
    fn at(&self, node: &str) -> u64 {
        self.went.iter().filter(|(_, went)| went == node).count() as u64
    }
}

/// Keeps the list up to date for ever.
pub(crate) async fn keep(mut controller: watch::Receiver<Option<Channel>>, status: Arc<NodeStatus>) {
    let mut told = false;
    let mut known: Option<Instant> = None;
    let mut chosen = Chosen::default();
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
                    chosen.add(status.take_nodes_chosen(), Instant::now());
                    let bodies;
                    (chosen.offered, bodies) = lists(nodes, &chosen).into_iter().unzip();
                    status.set_nodes(bodies);
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

/// A node, and the clients that it will have once those who were told of it first are there.
struct Ranked {
    node: NodeInfo,
    connections: u64,
}

impl Ranked {
    fn new(node: NodeInfo, chosen: &Chosen) -> Self {
        Self { connections: node.connections + chosen.at(&node.node_id), node }
    }

    /// The least loaded one first, by its share; full ones last.
    fn before(&self, other: &Self) -> Ordering {
        let left = u128::from(self.connections) * u128::from(other.node.capacity);
        let right = u128::from(other.connections) * u128::from(self.node.capacity);
        let full = |ranked: &Self| ranked.connections >= ranked.node.capacity;
        full(self)
            .cmp(&full(other))
            .then(left.cmp(&right))
            .then(Reverse(self.node.capacity).cmp(&Reverse(other.node.capacity)))
            .then_with(|| self.node.node_id.cmp(&other.node.node_id))
    }
}

/// The nodes that take clients and say where, the least loaded ones first: an answer for each turn, with its first node.
fn lists(mut nodes: Vec<NodeInfo>, chosen: &Chosen) -> Vec<(String, Bytes)> {
    nodes.retain(|node| node.state() == NodeState::Ready && !node.public_ws_url.is_empty());
    let mut ranked: Vec<Ranked> = nodes.into_iter().map(|node| Ranked::new(node, chosen)).collect();
    let turns = if ranked.len() > 1 { TURNS } else { 1 };
    let mut lists = Vec::with_capacity(turns);
    for _ in 0..turns {
        ranked.sort_by(Ranked::before);
        ranked.truncate(MAX_NODES);
        let list = List { nodes: ranked.iter().map(|ranked| Line::of(&ranked.node)).collect() };
        let body = serde_json::to_vec(&list).unwrap_or_default().into();
        let first = ranked.first_mut().map(|first| {
            first.connections += 1;
            first.node.node_id.clone()
        });
        lists.push((first.unwrap_or_default(), body));
    }
    lists
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

    fn bodies(nodes: Vec<NodeInfo>) -> Vec<Bytes> {
        lists(nodes, &Chosen::default()).into_iter().map(|(_, body)| body).collect()
    }

    fn ids(nodes: Vec<NodeInfo>) -> Vec<String> {
        first_ids(&bodies(nodes)[0])
    }

    fn first_ids(body: &Bytes) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_slice(body).unwrap();
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
        let told = &bodies(vec![node("here", 5, 10)])[0];
        let expected = r#"{"nodes":[{"node_id":"here","url":"ws://here/ws","connections":5,"capacity":10,"state":"ready"}]}"#;
        assert_eq!(*told, expected);
    }

    #[test]
    fn askers_take_turns_until_the_list_is_new() {
        let firsts = |nodes: Vec<NodeInfo>| -> Vec<String> {
            bodies(nodes).iter().map(|body| first_ids(body).swap_remove(0)).collect()
        };
        let equal = firsts(vec![node("a", 0, 100), node("b", 0, 100), node("c", 0, 100)]);
        assert_eq!(equal[..6], ["a", "b", "c", "a", "b", "c"]);
        let uneven = firsts(vec![node("busy", 3, 100), node("idle", 0, 100)]);
        assert_eq!(uneven[..5], ["idle", "idle", "idle", "busy", "idle"]);
        let body = &bodies(vec![node("a", 0, 100), node("b", 0, 100)])[3];
        assert!(
            String::from_utf8_lossy(body).matches("\"connections\":0").count() == 2,
            "what is told is true"
        );
    }

    #[test]
    fn who_has_chosen_counts_until_he_has_been_heard_of() {
        let nodes = || vec![node("a", 0, 100), node("b", 0, 100), node("c", 0, 100)];
        let mut chosen = Chosen::default();
        let begun = Instant::now();
        let firsts = |chosen: &Chosen| -> Vec<String> {
            lists(nodes(), chosen).into_iter().map(|(first, _)| first).take(3).collect()
        };
        chosen.offered = firsts(&chosen);
        chosen.add(4, begun);
        assert_eq!(["a", "b", "c"].map(|node| chosen.at(node)), [2, 1, 1]);
        assert_eq!(firsts(&chosen), ["b", "c", "a"], "the list is new, and the last four are not in it yet");
        chosen.add(0, begun + HEARD_OF);
        assert_eq!(firsts(&chosen), ["a", "b", "c"]);
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
                let answer = status.answer(HttpRequest::Nodes { choosing: false });
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
