//! What a person sees when everything serves: what to open, what to type next, where things are.
//!
//! Owns: the wording.

use std::fmt::Write as _;
use std::path::PathBuf;

/// What the banner tells.
pub(crate) struct Banner {
    pub(crate) controller: Ports,
    pub(crate) push_manager: Ports,
    pub(crate) nodes: Vec<NodeLine>,
    pub(crate) data_dir: PathBuf,
}

/// Where a service listens.
pub(crate) struct Ports {
    pub(crate) grpc: u16,
    pub(crate) metrics: u16,
}

/// A node that serves.
pub(crate) struct NodeLine {
    pub(crate) id: String,
    pub(crate) ports: Ports,
    pub(crate) http: u16,
    pub(crate) shards: u16,
    /// How it does its I/O; empty where that is not known yet.
    pub(crate) driver: String,
}

impl Banner {
    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\nRingcast {} serves.\n", env!("CARGO_PKG_VERSION"))?;
        if let Some(node) = self.nodes.first() {
            writeln!(text, "  open   http://localhost:{}/", node.http)?;
        }
        write!(text, "  type   cargo run --release -p biz -- --action push-to-room --room room-001")?;
        writeln!(text, " --message \"Hello everyone!\"\n")?;
        service(text, "controller", &self.controller, "")?;
        service(text, "push manager", &self.push_manager, "")?;
        for node in &self.nodes {
            let shards = if node.shards == 1 { "1 shard".into() } else { format!("{} shards", node.shards) };
            let more = format!("HTTP and WebSocket {:<6} {shards}, {}", node.http, node.driver);
            service(text, &node.id, &node.ports, &more)?;
        }
        writeln!(text, "  {:<16} {}\n\nCtrl+C stops it.", "data", self.data_dir.display())
    }
}

fn service(text: &mut String, name: &str, ports: &Ports, more: &str) -> std::fmt::Result {
    let line = format!("  {name:<16} gRPC {:<6} metrics {:<6} {more}", ports.grpc, ports.metrics);
    writeln!(text, "{}", line.trim_end_matches([' ', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_to_open_what_to_type_and_where_the_data_is() {
        let node = NodeLine {
            id: "connect-node-1".into(),
            ports: Ports { grpc: 50052, metrics: 9091 },
            http: 18080,
            shards: 2,
            driver: "io_uring".into(),
        };
        let banner = Banner {
            controller: Ports { grpc: 50051, metrics: 9090 },
            push_manager: Ports { grpc: 50053, metrics: 9094 },
            nodes: vec![node],
            data_dir: "./ringcast-data".into(),
        };
        let text = banner.text();
        assert!(text.contains("http://localhost:18080/\n"), "{text}");
        assert!(text.contains("cargo run --release -p biz -- --action push-to-room --room room-001 --message \"Hello everyone!\""));
        assert!(text.contains("2 shards, io_uring\n") && text.contains("./ringcast-data\n"), "{text}");
    }
}
