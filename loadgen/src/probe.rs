//! The processes of the system, measured from outside while a run goes on.
//!
//! Owns: which processes there are, and their use over the measured part. Must not: judge. Talks to: `scrape`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::result::ProcessFigures;
use crate::scrape::{Usage, metrics_usage, proc_usage};
use crate::system::SystemUnderTest;

/// How long a scrape may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(2);

/// The processes of a system.
#[derive(Debug)]
pub(crate) struct Probe {
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    role: String,
    name: String,
    pid: Option<u32>,
    metrics: Option<SocketAddr>,
    /// The places of the nodes in it.
    nodes: Vec<usize>,
    before: Usage,
    ramped: Usage,
    connections: u64,
    last: Usage,
    begun: Usage,
    cpu_s: f64,
    user_s: Option<f64>,
}

impl Process {
    fn new(
        role: &str,
        name: &str,
        pid: Option<u32>,
        metrics: Option<SocketAddr>,
        node: Option<usize>,
    ) -> Self {
        let none = Usage::default();
        Self {
            role: role.into(),
            name: name.into(),
            pid,
            metrics,
            nodes: node.into_iter().collect(),
            before: none,
            ramped: none,
            connections: 0,
            last: none,
            begun: none,
            cpu_s: 0.0,
            user_s: None,
        }
    }

    async fn usage(&self) -> Option<Usage> {
        match (self.pid.and_then(proc_usage), self.metrics) {
            (Some(usage), _) => Some(usage),
            (None, Some(metrics)) => metrics_usage(metrics, SCRAPE_TIMEOUT).await,
            (None, None) => None,
        }
    }
}

impl Probe {
    /// The processes of a system that can be looked at, each once, as they are before the first client.
    pub(crate) async fn new(system: &SystemUnderTest) -> Self {
        let mut probe = Self { processes: Vec::new() };
        for (at, node) in system.nodes.iter().enumerate() {
            let process = Process::new(&node.role, &node.name, node.pid, node.metrics, Some(at));
            probe.add(process).await;
        }
        for manager in &system.managers {
            let process = Process::new("push-manager", &manager.name, manager.pid, manager.metrics, None);
            probe.add(process).await;
        }
        for controller in &system.controllers {
            let process =
                Process::new("controller", &controller.name, controller.pid, controller.metrics, None);
            probe.add(process).await;
        }
        probe
    }

    async fn add(&mut self, process: Process) {
        let twin = self.processes.iter_mut().find(|known| known.pid.is_some() && known.pid == process.pid);
        if let Some(twin) = twin {
            twin.role = if process.role == twin.role { twin.role.clone() } else { "all-in-one".into() };
            twin.nodes.extend(process.nodes);
            return;
        }
        let Some(usage) = process.usage().await else { return };
        self.processes.push(Process { before: usage, ramped: usage, last: usage, ..process });
    }

    /// The clients are there, so many at each node.
    pub(crate) async fn ramped(&mut self, live_by_node: &[u64]) {
        for process in &mut self.processes {
            process.ramped = process.usage().await.unwrap_or(process.ramped);
            process.connections = process.nodes.iter().map(|node| live_by_node[*node]).sum();
        }
    }

    /// The measured part of a stage begins.
    pub(crate) async fn begin(&mut self) {
        for process in &mut self.processes {
            process.begun = process.usage().await.unwrap_or(process.last);
        }
    }

    /// It ends.
    pub(crate) async fn end(&mut self) {
        for process in &mut self.processes {
            // One that is gone keeps what it had.
            let Some(usage) = process.usage().await else { continue };
            // One that was started anew begins at 0.
            process.cpu_s += (usage.cpu_s - process.begun.cpu_s).max(0.0);
            if let (Some(end), Some(begin)) = (usage.user_s, process.begun.user_s) {
                process.user_s = Some(process.user_s.unwrap_or(0.0) + (end - begin).max(0.0));
            }
            process.last = usage;
        }
    }

    /// What they came to, of a measured part of so many seconds in which so many deliveries arrived, in all and by
    /// node.
    pub(crate) fn figures(&self, measured_s: f64, deliveries: u64, by_node: &[u64]) -> Vec<ProcessFigures> {
        let each = self.processes.iter().map(|process| {
            let own: u64 = process.nodes.iter().map(|node| by_node[*node]).sum();
            let own = if process.nodes.is_empty() { deliveries } else { own };
            let grown = process.ramped.rss_bytes as f64 - process.before.rss_bytes as f64;
            ProcessFigures {
                role: process.role.clone(),
                name: process.name.clone(),
                cores: process.cpu_s / measured_s.max(1e-9),
                cores_user: process.user_s.map(|user| user / measured_s.max(1e-9)),
                rss_before_bytes: process.before.rss_bytes,
                rss_bytes: process.last.rss_bytes,
                rss_per_connection_bytes: (process.connections > 0)
                    .then(|| (grown / process.connections as f64).max(0.0)),
                cpu_us_per_delivery: (own > 0).then(|| process.cpu_s * 1e6 / own as f64),
            }
        });
        each.collect()
    }
}
