//! The system that a run judges: where its parts are.
//!
//! Owns: addresses and process ids, and finding them. Must not: push or measure. Talks to: the controller's gRPC
//! port, the nodes' `/stats`, `scrape`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::{ListNodesRequest, NodeInfo};

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

/// How long a controller may take to say which nodes there are.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// The controllers; a peer has none.
    pub controllers: Vec<ServiceAddr>,
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

    /// Finds a running system: the nodes at these HTTP addresses, or, where none are given, those that a controller
    /// lists and that answer `/stats` where clients reach them, or on the documented ports (node n: HTTP 8079 + n).
    pub async fn find(
        controllers: &[String],
        managers: &[String],
        nodes: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        let listed = list_nodes(controllers).await;
        let mut found = Vec::new();
        if nodes.is_empty() {
            let listed = listed.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
            for http in candidates(listed).await {
                if let Some(stats) = node_stats(http, PROBE_TIMEOUT).await
                    && listed.iter().any(|node| node.node_id == stats.node_id)
                    && found.iter().all(|(_, known): &(_, NodeStats)| known.node_id != stats.node_id)
                {
                    found.push((http, stats));
                }
            }
            anyhow::ensure!(
                !found.is_empty(),
                "the controller at {} lists {} nodes, none of which answers at its public_ws_url or on the ports from \
                 8080 on: give the nodes' HTTP addresses",
                controllers.join(","),
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
        let named = |name: &str, addresses: &[String], metrics: u16| -> Vec<ServiceAddr> {
            let addresses = addresses.iter().enumerate();
            addresses
                .map(|(at, grpc)| {
                    ServiceAddr::new(&format!("{name}-{}", at + 1), grpc, metrics_beside(grpc, metrics))
                })
                .collect()
        };
        Ok(Self {
            controllers: named("controller", controllers, CONTROLLER_METRICS),
            managers: named("push-manager", managers, MANAGER_METRICS),
            nodes,
        })
    }
}

impl SystemUnderTest {
    /// How many nodes the controllers know; `None` where none of them says.
    pub async fn listed_nodes(&self) -> Option<usize> {
        let controllers: Vec<String> = self.controllers.iter().map(|service| service.grpc.clone()).collect();
        Some(list_nodes(&controllers).await.ok()?.len())
    }
}

/// Where listed nodes may answer: where clients reach them, then the documented ports.
async fn candidates(listed: &[NodeInfo]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for host in listed.iter().filter_map(|node| public_host(&node.public_ws_url)) {
        let Ok(addresses) = tokio::net::lookup_host(host).await else { continue };
        let addresses: Vec<SocketAddr> = addresses.collect();
        found.extend(addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()));
    }
    let documented = 1..=NODES_PROBED.min(listed.len().max(1) as u16 * 4);
    found.extend(documented.map(|number| SocketAddr::from((Ipv4Addr::LOCALHOST, 8079 + number))));
    found
}

/// host:port of `ws://host:port/ws`; TLS ends somewhere before the node, which this generator does not speak.
fn public_host(url: &str) -> Option<String> {
    let host = url.strip_prefix("ws://")?.split(['/', '?']).next().filter(|host| !host.is_empty())?;
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { host.to_owned() } else { format!("{host}:80") })
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

fn node(http: SocketAddr, stats: &NodeStats, listed: &[NodeInfo]) -> NodeAddr {
    let grpc = listed.iter().find(|node| node.node_id == stats.node_id).map(|node| node.grpc_address.clone());
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

/// The nodes that the first of the controllers that answers knows.
async fn list_nodes(controllers: &[String]) -> anyhow::Result<Vec<NodeInfo>> {
    let mut why = anyhow::anyhow!("no controller to ask");
    for controller in controllers {
        match list_nodes_of(controller).await {
            Ok(nodes) => return Ok(nodes),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn list_nodes_of(controller: &str) -> anyhow::Result<Vec<NodeInfo>> {
    let answer = async {
        let mut client = ControllerServiceClient::new(channel(controller).await?);
        client.list_nodes(ListNodesRequest {}).await.context("the controller's list of nodes")
    };
    let answer = tokio::time::timeout(LIST_TIMEOUT, answer).await;
    let answer = answer.with_context(|| format!("the controller at {controller} does not answer"))??;
    Ok(answer.into_inner().nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_says_where_a_node_is() {
        assert_eq!(public_host("ws://a.example:8080/ws").as_deref(), Some("a.example:8080"));
        assert_eq!(public_host("ws://a.example/ws").as_deref(), Some("a.example:80"));
        assert_eq!(public_host("ws://[::1]:8080").as_deref(), Some("[::1]:8080"));
        assert_eq!(public_host("wss://a.example/ws"), None);
        assert_eq!(public_host(""), None);
    }

    #[tokio::test]
    async fn the_next_controller_is_asked_where_one_is_not_there() {
        let nobody = |port: u16| format!("127.0.0.1:{port}");
        let error = list_nodes(&[nobody(9), nobody(10)]).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:10"), "the last one is named: {error}");
        assert!(list_nodes(&[]).await.is_err());
    }
}
