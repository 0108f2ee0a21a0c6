//! A node in a network of its own: all that it hears and says passes here, and can be broken.
//!
//! Owns: what stands between the node and each of its peers. Must not: know why it is broken. Talks to: `namespace`
//! (the network), `test-servers` (what breaks connections).
//!
//! Inside, etcd and the controllers are at their own addresses; outside, push managers and clients are told addresses
//! of ours. What the test itself asks of the node passes by all that can be broken.

use std::net::SocketAddr;
use std::path::Path;

use test_servers::{Direction, Forwarder};

use super::Cluster;
use super::namespace::{Crossing, Entry, Namespace};
use crate::system::Service;

/// A node's network and what stands around it.
pub struct Isolated {
    /// The node's place.
    pub place: usize,
    /// Before etcd's members.
    pub etcd: Vec<Forwarder>,
    /// Before the controllers.
    pub controllers: Vec<Forwarder>,
    /// Before the node's gRPC server.
    pub push_managers: Forwarder,
    /// Before the node's HTTP port.
    pub clients: Forwarder,
    network: Namespace,
    ports: [u16; 3],
    /// The test's own way to the node's HTTP port and metrics.
    http: Crossing,
    metrics: Crossing,
    _crossings: Vec<Crossing>,
}

/// Which peers of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// etcd's members.
    Etcd,
    /// The controllers.
    Controllers,
    /// The push managers.
    PushManagers,
    /// The clients.
    Clients,
}

impl Isolated {
    /// Makes the network of a node that is to have these ports.
    pub(super) async fn make(cluster: &Cluster, place: usize, ports: [u16; 3]) -> Self {
        let [grpc, metrics, http] = ports;
        let network = Namespace::make().await.expect("the right to make a network (CAP_SYS_ADMIN)");
        let mut crossings = Vec::new();
        let mut out = async |addresses: Vec<SocketAddr>| {
            let mut forwarders = Vec::new();
            for address in addresses {
                let forwarder = Forwarder::start(&address.to_string());
                let target = parse(&forwarder.address());
                crossings.push(network.lead_out(address.port(), target).await.expect("a way out"));
                forwarders.push(forwarder);
            }
            forwarders
        };
        let etcd = out(cluster.etcd.endpoints().iter().map(|endpoint| parse(endpoint)).collect()).await;
        let controllers = out(cluster.controllers.iter().map(|controller| controller.grpc).collect()).await;
        let inward = async |port: u16| network.lead_in(port).await.expect("a way in");
        let (to_grpc, to_clients) = (inward(grpc).await, inward(http).await);
        let (own_http, own_metrics) = (inward(http).await, inward(metrics).await);
        let (push_managers, clients) = (
            Forwarder::start(&to_grpc.address.to_string()),
            Forwarder::start(&to_clients.address.to_string()),
        );
        crossings.extend([to_grpc, to_clients]);
        Self {
            place,
            etcd,
            controllers,
            push_managers,
            clients,
            network,
            ports,
            http: own_http,
            metrics: own_metrics,
            _crossings: crossings,
        }
    }

    /// Starts the node in it.
    pub(super) fn launch(&self, folder: &Path, id: &str, config: &str) -> Service {
        let entry = self.entry();
        let mut service = Service::launch(folder, "connect-uring", id, config, self.ports, |command| {
            entry.enter(command);
        });
        service.http = self.http.address;
        service.metrics = self.metrics.address;
        service
    }

    /// The way in, for the node.
    pub(super) fn entry(&self) -> Entry {
        self.network.entry()
    }

    /// Where clients reach the node.
    pub fn client_address(&self) -> SocketAddr {
        parse(&self.clients.address())
    }

    /// No byte passes between the node and these peers, in neither direction; connections stay.
    pub fn black_hole(&self, peers: &[Peers]) {
        self.each(peers, Forwarder::black_hole);
    }

    /// The node hears these peers, and they do not hear it.
    pub fn only_hears(&self, peers: &[Peers]) {
        for peers in peers {
            // Who connected to whom decides what "to the target" means.
            let towards_node = match peers {
                Peers::Etcd | Peers::Controllers => Direction::FromTarget,
                Peers::PushManagers | Peers::Clients => Direction::ToTarget,
            };
            self.each(&[*peers], |forwarder| forwarder.one_way(towards_node));
        }
    }

    /// These peers hear the node, and it does not hear them.
    pub fn only_speaks(&self, peers: &[Peers]) {
        for peers in peers {
            let from_node = match peers {
                Peers::Etcd | Peers::Controllers => Direction::ToTarget,
                Peers::PushManagers | Peers::Clients => Direction::FromTarget,
            };
            self.each(&[*peers], |forwarder| forwarder.one_way(from_node));
        }
    }

    /// All connections to these peers are reset; new ones are taken.
    pub fn cut(&self, peers: &[Peers]) {
        self.each(peers, Forwarder::cut);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.each(&[Peers::Etcd, Peers::Controllers, Peers::PushManagers, Peers::Clients], Forwarder::heal);
    }

    fn each(&self, peers: &[Peers], act: impl Fn(&Forwarder)) {
        for peers in peers {
            match peers {
                Peers::Etcd => self.etcd.iter().for_each(&act),
                Peers::Controllers => self.controllers.iter().for_each(&act),
                Peers::PushManagers => act(&self.push_managers),
                Peers::Clients => act(&self.clients),
            }
        }
    }
}

fn parse(address: &str) -> SocketAddr {
    address.parse().unwrap_or_else(|_| panic!("{address:?} is no address with a port"))
}
