//! The configuration files of a cluster's processes.
//!
//! Owns: their text. Must not: start anything.

use std::fmt::Write as _;

use super::{Cluster, Isolated, RedisServers};
use crate::system::free_ports;

/// Over how long a planned stop of a node closes its sessions.
pub(super) const DRAIN: &str = "2s";

/// A controller's file, and its ports.
pub(super) fn controller(cluster: &Cluster, number: usize) -> (String, [u16; 3]) {
    let ports @ [grpc, metrics, _] = free_ports();
    let data = cluster.folder().join(format!("controller-{number}-data"));
    let mut text = stores(cluster);
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        text,
        "server:\n  id: controller-{number}\n  port: {grpc}\n  metrics_port: {metrics}\n  data_dir: {}\n\
         room:\n  default_max_users: 0\n",
        data.display()
    );
    (text, ports)
}

/// A push manager's file, and its ports.
pub(super) fn manager(cluster: &Cluster, number: usize) -> (String, [u16; 3]) {
    let ports @ [grpc, metrics, _] = free_ports();
    let mut text = etcd(cluster);
    let _ =
        write!(text, "push:\n  id: push-manager-{number}\n  grpc_port: {grpc}\n  metrics_port: {metrics}\n");
    (text, ports)
}

/// A node's file.
pub(super) fn node(
    cluster: &Cluster,
    id: &str,
    [grpc, metrics, http]: [u16; 3],
    isolated: Option<&Isolated>,
) -> String {
    let mut text = etcd(cluster);
    let (reached_at, public) = match isolated {
        Some(isolated) => (isolated.push_managers.address(), isolated.clients.address()),
        None => (format!("127.0.0.1:{grpc}"), format!("127.0.0.1:{http}")),
    };
    let _ = write!(
        text,
        "connect:\n  node_id: {id}\n  grpc_port: {grpc}\n  metrics_port: {metrics}\n  http_port: {http}\n  \
         node_addr: '{reached_at}'\n  public_ws_url: ws://{public}/ws\n  shards: 1\n  limits:\n    drain: {DRAIN}\n"
    );
    text
}

fn etcd(cluster: &Cluster) -> String {
    let endpoints: Vec<String> =
        cluster.etcd.endpoints().iter().map(|endpoint| format!("'{endpoint}'")).collect();
    format!("etcd:\n  endpoints: [{}]\n  lease: 10s\n", endpoints.join(", "))
}

fn stores(cluster: &Cluster) -> String {
    let mut text = etcd(cluster);
    match &cluster.redis {
        RedisServers::One(redis) => {
            let _ = write!(text, "redis:\n  addr: '{}'\n", redis.address());
        }
        RedisServers::Sentinels(servers) => {
            let (addresses, master) = (servers.addresses().join(","), servers.master_name());
            let _ = write!(text, "redis:\n  addr: '{addresses}'\n  sentinel_master: {master}\n");
        }
        RedisServers::Cluster(servers) => {
            let _ = write!(text, "redis:\n  addr: '{}'\n  cluster: true\n", servers.addresses().join(","));
        }
    }
    let (maria, database) = (&cluster.maria, &cluster.database);
    // A JSON text is a YAML text, whatever the password holds.
    let password = serde_json::Value::from(maria.password());
    let _ = write!(
        text,
        "database:\n  host: 127.0.0.1\n  port: {}\n  user: {}\n  password: {password}\n  dbname: {database}\n",
        maria.port(),
        maria.user()
    );
    text
}
