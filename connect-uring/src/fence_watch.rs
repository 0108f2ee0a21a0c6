//! Watches whether the node is cut off, and has its shards close or open.
//!
//! Owns: how often that is looked at, and what is said about it. Must not: decide it (`fence` does). Talks to: the
//! lanes, `registry` for the lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::Lease;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::bridge::{ToShard, ToShardLane};
use crate::fence::{Fence, Signs};
use crate::http::NodeStatus;
use crate::metrics::BridgeMetrics;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What the watch goes by, and whom it tells.
pub(crate) struct FenceWatch {
    /// When controllers and push managers were heard.
    pub(crate) signs: Signs,
    /// How the registration is doing.
    pub(crate) lease: watch::Receiver<Lease>,
    /// The lanes to all shards.
    pub(crate) shards: Vec<Arc<ToShardLane>>,
    /// What clients are told.
    pub(crate) status: Arc<NodeStatus>,
    /// Where it counts.
    pub(crate) metrics: BridgeMetrics,
}

impl FenceWatch {
    /// Watches for ever.
    pub(crate) async fn run(self) {
        let mut fence = Fence::default();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = Instant::now();
            let lease = *self.lease.borrow();
            self.metrics.lease_held.set(i64::from(matches!(lease, Lease::Held { .. } | Lease::Fixed)));
            let renewed = match lease {
                Lease::Held { renewed } | Lease::Lost { renewed } => Some(renewed),
                Lease::Fixed | Lease::Waiting | Lease::Taken => None,
            };
            match fence.judge(now, self.signs.last().max(renewed)) {
                Some(true) => self.close(),
                Some(false) => self.open(),
                None => {}
            }
        }
    }

    fn close(&self) {
        let connections = self.status.connections();
        tracing::error!(
            connections,
            "cut off: for 8 s no renewed lease, no controller, no push manager; clients are closed until one is back"
        );
        self.metrics.fenced.set(1);
        self.metrics.fences.inc();
        self.status.set_fenced(true);
        set(&self.shards, true);
    }

    fn open(&self) {
        tracing::info!("no longer cut off; clients are taken again");
        self.metrics.fenced.set(0);
        self.status.set_fenced(false);
        set(&self.shards, false);
    }
}

/// Has all shards close to clients, or open.
pub(crate) fn set(shards: &[Arc<ToShardLane>], on: bool) {
    for shard in shards {
        let taken = shard.push(ToShard::Fence(on));
        debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
    }
}
