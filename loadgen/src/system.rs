//! The system that a run judges: where its parts are.
//!
//! Owns: addresses and process ids, and finding them. Must not: push or measure. Talks to: the controller's gRPC
//! port, the nodes' `/stats`, `scrape`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use ringcast_proto::pubsub::ListNodesRequest;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;

use crate::lane_grpc::channel;
use crate::scrape::{NodeStats, node_stats, pid_of_listener};

/// Where a controller is by default.
pub const DEFAULT_CONTROLLER: &str = "127.0.0.1:50051";

/// Where a push manager is by default.
pub const DEFAULT_MANAGER: &str = "127.0.0.1:50053";

/// The default metrics ports.
const CONTROLLER_METRICS: u16 = 9090;
const MANAGER_METRICS: u16 = 9094;

/// How many nodes are looked for on the documented ports.
const NODES_PROBED: u16 = 64;

/// How long a probe of a port may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A service other than a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAddr {
    /// Its name in the result, such as `push-manager-1`.
    pub name: String,
    /// Its gRPC address.
    pub grpc: String,
    /// Its metrics address, where it is known.
    pub metrics: Option<SocketAddr>,
    /// Its process on this machine, where it is known.
    pub pid: Option<u32>,
}

/// A node, or a peer's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddr {
    /// Its name in the result, such as `connect-node-1`.
    pub name: String,
    /// What it is: `connect-node`, or a peer's name.
    pub role: String,
    /// Its HTTP and WebSocket address.
    pub http: SocketAddr,
    /// Its gRPC address, for loads that push straight into nodes.
    pub grpc: Option<String>,
    /// Its metrics address, where it is known.
    pub metrics: Option<SocketAddr>,
    /// Its process on this machine, where it is known.
    pub pid: Option<u32>,
}

/// The system that a run judges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemUnderTest {
    /// The controller; a peer has none.
    pub controller: Option<ServiceAddr>,
    /// The push managers, used in turn.
    pub managers: Vec<ServiceAddr>,
    /// The nodes, in the order in which actions count them.
    pub nodes: Vec<NodeAddr>,
}

impl ServiceAddr {
    /// A service at this address; its process is found where it is on this machine.
    pub fn new(name: &str, grpc: &str, metrics: Option<SocketAddr>) -> Self {
        let port = grpc.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let pid = port.and_then(pid_of_listener);
        Self { name: name.into(), grpc: grpc.into(), metrics, pid }
    }
}

impl NodeAddr {
    /// A peer's server: only its HTTP address is known, and its process where it is given.
    pub fn peer(role: &str, http: SocketAddr, pid: Option<u32>) -> Self {
        Self { name: role.into(), role: role.into(), http, grpc: None, metrics: None, pid }
    }
}

impl SystemUnderTest {
    /// A peer: one server without gRPC.
    pub fn peer(role: &str, http: SocketAddr, pid: Option<u32>) -> Self {
        Self { nodes: vec![NodeAddr::peer(role, http, pid)], ..Self::default() }
    }

    /// Finds a running system: the nodes at these HTTP addresses, or, where none are given, those that the
    /// controller lists and that answer `/stats` on the documented ports (node n: HTTP 8079 + n).
    pub async fn find(controller: &str, managers: &[String], nodes: &[SocketAddr]) -> anyhow::Result<Self> {
        let listed = list_nodes(controller).await;
        let mut found = Vec::new();
        if nodes.is_empty() {
            let listed = listed.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            for number in 1..=NODES_PROBED.min(listed.len().max(1) as u16 * 4) {
                let http = SocketAddr::from((Ipv4Addr::LOCALHOST, 8079 + number));
                if let Some(stats) = node_stats(http, PROBE_TIMEOUT).await
                    && listed.iter().any(|(id, _)| *id == stats.node_id)
                {
                    found.push((http, stats));
                }
            }
            anyhow::ensure!(
                !found.is_empty(),
                "the controller at {controller} lists {} nodes, none of which answers on the ports from 8080 on: \
                 give the nodes' HTTP addresses",
                listed.len()
            );
        } else {
            for http in nodes {
                let stats = node_stats(*http, PROBE_TIMEOUT).await;
                found.push((*http, stats.with_context(|| format!("no node answers /stats at {http}"))?));
            }
        }
        let listed = listed.unwrap_or_default();
        let nodes = found.into_iter().map(|(http, stats)| node(http, &stats, &listed)).collect();
        let controller =
            ServiceAddr::new("controller-1", controller, metrics_beside(controller, CONTROLLER_METRICS));
        let managers = managers.iter().enumerate().map(|(at, grpc)| {
            ServiceAddr::new(&format!("push-manager-{}", at + 1), grpc, metrics_beside(grpc, MANAGER_METRICS))
        });
        Ok(Self { controller: Some(controller), managers: managers.collect(), nodes })
    }
}

/// The documented metrics port on the host of a gRPC address at its documented port; elsewhere it is not known.
fn metrics_beside(grpc: &str, port: u16) -> Option<SocketAddr> {
    let (host, grpc_port) = grpc.rsplit_once(':')?;
    let documented = [DEFAULT_CONTROLLER, DEFAULT_MANAGER]
        .iter()
        .any(|known| known.rsplit_once(':').is_some_and(|(_, known)| known == grpc_port));
    let ip: IpAddr = if host == "localhost" { Ipv4Addr::LOCALHOST.into() } else { host.parse().ok()? };
    documented.then(|| SocketAddr::new(ip, port))
}

fn node(http: SocketAddr, stats: &NodeStats, listed: &[(String, String)]) -> NodeAddr {
    let grpc = listed.iter().find(|(id, _)| *id == stats.node_id).map(|(_, grpc)| grpc.clone());
    let grpc_port = grpc.as_ref().and_then(|grpc| grpc.rsplit_once(':')?.1.parse().ok());
    // Documented: nodes 1 to 3 at 9091 to 9093, node n from 4 on at 9091 + n.
    let metrics = http.port().checked_sub(8079).filter(|number| (1..=NODES_PROBED).contains(number));
    let metrics = metrics.map(|number| if number < 4 { 9090 + number } else { 9091 + number });
    NodeAddr {
        name: stats.node_id.clone(),
        role: "connect-node".into(),
        http,
        pid: grpc_port.and_then(pid_of_listener),
        grpc,
        metrics: metrics.map(|port| SocketAddr::new(http.ip(), port)),
    }
}

/// Ids and gRPC addresses of the nodes that the controller knows.
async fn list_nodes(controller: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut client = ControllerServiceClient::new(channel(controller).await?);
    let answer = client.list_nodes(ListNodesRequest {}).await.context("the controller's list of nodes")?;
    Ok(answer.into_inner().nodes.into_iter().map(|node| (node.node_id, node.grpc_address)).collect())
}
