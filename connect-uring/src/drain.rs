//! The planned stop, step by step: no new clients, sessions closed over a while, all told to those who wait, then
//! the end.
//!
//! Owns: the order of the steps and how long each may take. Must not: know how a step is done. Talks to: `node`,
//! which begins it, `hub`, `control_link`, `push_intake`, `registry`.

use std::sync::Arc;
use std::time::Duration;

use registry::Registration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::bridge::{ToShard, ToShardLane};
use crate::bridge_runtime::SERVICE;
use crate::control_link::ControlLink;
use crate::http::NodeStatus;
use crate::push_intake::PushIntake;

/// For how long sessions that were closed may take to be gone before they are cut off.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// How long a shard's thread may take to end what is left.
const SHARD_END: Duration = Duration::from_secs(3);

/// How long push managers may take to read their last reports.
const LAST_REPORTS: Duration = Duration::from_secs(2);

/// The threads of the shards.
pub(crate) type ShardThreads = Vec<std::thread::JoinHandle<()>>;

/// All that a planned stop involves.
pub(crate) struct Drain {
    /// The lanes to all shards.
    pub(crate) shards: Vec<Arc<ToShardLane>>,
    /// How many shards have no session left.
    pub(crate) drained: watch::Receiver<usize>,
    /// What clients and the controller are told.
    pub(crate) status: Arc<NodeStatus>,
    /// What gRPC health checks are told.
    pub(crate) health: HealthReporter,
    /// The controller.
    pub(crate) link: ControlLink,
    /// The push managers.
    pub(crate) intake: PushIntake,
    /// The lease under which the node is listed.
    pub(crate) registration: Option<Registration>,
}

impl Drain {
    /// Stops as planned: sessions are closed over `over`, and what is left 5 s later is cut off.
    pub(crate) async fn run(mut self, over: Duration, threads: ShardThreads) {
        let began = Instant::now();
        tracing::info!(connections = self.status.connections(), ?over, "draining");
        self.status.set_draining();
        for service in ["", SERVICE] {
            self.health.set_service_status(service, ServingStatus::NotServing).await;
        }
        self.tell(|| ToShard::Drain { over_ms: over.as_millis() as u64 });
        self.link.heartbeat();
        let shards = self.shards.len();
        // Push managers go on reaching the sessions that are still there, until the node leaves.
        let all = self.drained.wait_for(|drained| *drained >= shards);
        if timeout_at(began + over + AFTER_DRAIN, all).await.is_err() {
            tracing::warn!(connections = self.status.connections(), "cutting off the sessions that are left");
        }
        self.link.leave().await;
        // Behind the controller's word: until then the others went by the lease.
        if let Some(registration) = self.registration.take() {
            registration.revoke().await;
        }
        self.end(threads).await;
        tracing::info!(seconds = began.elapsed().as_secs_f64(), "drained");
    }

    /// Stops now: sessions are cut off, but what was accepted is still reported.
    pub(crate) async fn end(self, threads: ShardThreads) {
        self.intake.end();
        self.tell(|| ToShard::Stop);
        let joined = tokio::task::spawn_blocking(|| threads.into_iter().all(|thread| thread.join().is_ok()));
        match timeout(SHARD_END, joined).await {
            Ok(Ok(true)) => {}
            Ok(_) => tracing::error!("a shard did not end well"),
            Err(_) => tracing::error!("a shard did not end in time"),
        }
        if timeout(LAST_REPORTS, self.intake.ended()).await.is_err() {
            tracing::warn!("a push manager did not read its last reports");
        }
    }

    fn tell(&self, item: impl Fn() -> ToShard) {
        for shard in &self.shards {
            let taken = shard.push(item());
            debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
        }
    }
}
