//! The nodes of this process while they serve, and their planned stop.
//!
//! Owns: what a signal does. Talks to: `connect_uring`, whose threads know neither each other nor signals.

use anyhow::Result;
use connect_uring::{Drainer, Node};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// Nodes that serve.
pub(crate) struct Nodes {
    drainers: Vec<Drainer>,
    /// Each waits for the end of one node.
    ends: JoinSet<Result<()>>,
    terminate: Signal,
    interrupt: Signal,
}

impl Nodes {
    /// Watches over nodes that have been started, and takes the process's signals from now on. In a runtime.
    pub(crate) fn watch(nodes: Vec<Node>) -> Result<Self> {
        let drainers = nodes.iter().map(Node::drainer).collect();
        let mut ends = JoinSet::new();
        for node in nodes {
            ends.spawn_blocking(|| node.wait());
        }
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { drainers, ends, terminate, interrupt })
    }

    /// Waits for a signal; an error where a node ends without one.
    pub(crate) async fn serve(&mut self) -> Result<()> {
        tokio::select! {
            _ = next(&mut self.terminate, &mut self.interrupt) => Ok(()),
            Some(ended) = self.ends.join_next() => {
                ended??;
                anyhow::bail!("a node has stopped by itself")
            }
        }
    }

    /// Drains all nodes and waits for their end. A further signal ends the process at once.
    pub(crate) async fn drain(mut self) -> Result<()> {
        tracing::info!(
            "stopping: no new clients, sessions are closed over the drain; a second signal ends it now"
        );
        self.drainers.iter().for_each(Drainer::drain);
        let mut result = Ok(());
        loop {
            tokio::select! {
                second = next(&mut self.terminate, &mut self.interrupt) => {
                    std::process::exit(128 + second.as_raw_value())
                }
                ended = self.ends.join_next() => match ended {
                    None => return result,
                    Some(ended) => result = result.and(ended?),
                },
            }
        }
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> SignalKind {
    tokio::select! {
        _ = terminate.recv() => SignalKind::terminate(),
        _ = interrupt.recv() => SignalKind::interrupt(),
    }
}
