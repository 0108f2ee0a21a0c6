//! The task that drives a node's lane: one call to the store at a time, in the order of the node's words.
//!
//! Owns: which call does a lane's next piece of work, and the pace after a failure. Must not: decide what that is
//! (`lane` does), or who has a seat. Talks to: the store; `registry`, whose lock is held for a moment before and after
//! each call, never during one.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use ringcast_proto::NodeId;
use ringcast_proto::pubsub::JoinDecision;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::lane::{Lane, Work};
use crate::presence::{LinkRef, SessionKey};
use crate::presence_store::{Change, NodeAt, NodeRecord, PresenceError, Verdict};
use crate::registry::{Registry, State};
use crate::sharing::{CALL, Sharing};

/// How long a node's whole synchronisation, or removal, may take.
const WHOLE: Duration = Duration::from_secs(60);

/// Sessions that are read under one hold of the lock.
const READ_CHUNK: usize = 2048;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] PresenceError),
    #[error("the store of presence did not answer in time")]
    Late,
    #[error("the store of presence says that another link has the node")]
    Fenced,
}

impl From<tokio::time::error::Elapsed> for Trouble {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Late
    }
}

impl Registry {
    async fn begin(self: &Arc<Self>, sharing: &Sharing, at: LinkRef) -> Result<(), Trouble> {
        let Some(record) = self.read(|state| self.record_of(state, at.node)) else { return Ok(()) };
        let verdict = timeout(CALL, sharing.store.begin(&record)).await??;
        self.turn(|state, _| {
            let Some(lane) = state.lanes.change(at) else { return };
            if verdict != Verdict::Fenced {
                return lane.begun();
            }
            for session in lane.fence() {
                self.refuse(
                    state,
                    at,
                    session,
                    false,
                    JoinDecision::Unavailable,
                    "another link has the node",
                );
            }
            tracing::info!(node = %record.card.id, "another controller has the node by a later link");
            if let Some(link) = state.link(at) {
                link.cut.cancel();
            }
        });
        Ok(())
    }

    async fn synchronise(
        self: &Arc<Self>,
        sharing: &Sharing,
        at: LinkRef,
        node: &NodeAt,
    ) -> Result<(), Trouble> {
        let places = self.read(|state| state.presence.places_of(at.node));
        let mut sessions = Vec::with_capacity(places.len());
        for part in places.chunks(READ_CHUNK) {
            let record = |state: &State, place: &SessionKey| state.presence.record_at(at.node, *place);
            self.read(|state| sessions.extend(part.iter().filter_map(|place| record(state, place))));
        }
        let count = sessions.len();
        let verdict = timeout(WHOLE, sharing.store.sync(node, sessions, self.now().unix_s)).await??;
        if verdict == Verdict::Fenced {
            return Err(Trouble::Fenced);
        }
        tracing::debug!(node = %node.id, sessions = count, "a node is whole in the store of presence");
        self.turn(|state, _| state.lanes.change(at).map(Lane::synced));
        Ok(())
    }

    async fn apply(
        self: &Arc<Self>,
        sharing: &Sharing,
        at: LinkRef,
        node: &NodeAt,
        changes: Vec<Change>,
    ) -> Result<(), Trouble> {
        let verdicts = timeout(CALL, sharing.store.apply(node, &changes, self.now().unix_s)).await??;
        self.metrics.verdicts(&verdicts);
        self.turn(|state, now| {
            for decided in state.lanes.applied(at, changes, &verdicts).ok_or(Trouble::Fenced)? {
                self.decided(state, at, decided, now);
            }
            Ok(())
        })
    }

    /// Takes a node out, where nobody has it by a later link.
    async fn remove(&self, sharing: &Sharing, record: &NodeRecord) -> Result<(), Trouble> {
        let last = NodeRecord { linked: false, whole: false, ..record.clone() };
        if timeout(CALL, sharing.store.begin(&last)).await?? != Verdict::Fenced {
            timeout(WHOLE, sharing.store.remove(&record.at())).await??;
        }
        Ok(())
    }

    /// Takes a node out that this controller had before its restart, unless it has come back, here or elsewhere; tried
    /// until it is done.
    pub(crate) async fn remove_absent(self: Arc<Self>, sharing: Arc<Sharing>, node: NodeId) {
        let mut delays = delays();
        while let Err(error) = self.remove_if_absent(&sharing, &node).await {
            self.troubled(&sharing, &node, &error);
            tokio::time::sleep(delays.next().unwrap_or(CALL)).await;
        }
    }

    async fn remove_if_absent(&self, sharing: &Sharing, node: &NodeId) -> Result<(), Trouble> {
        let records = timeout(CALL, sharing.store.nodes()).await??;
        let own = |record: &NodeRecord| record.card.id == *node && record.controller == *self.controller_id;
        // One that comes back after this look has a later link, which its removal leaves alone.
        let is_back = self.read(|state| state.presence.node_by_id(node).is_some());
        for record in records.into_iter().filter(|record| own(record) && !is_back) {
            timeout(WHOLE, sharing.store.remove(&record.at())).await??;
        }
        Ok(())
    }

    fn troubled(&self, sharing: &Sharing, node: &NodeId, error: &Trouble) {
        self.metrics.store_errors.inc();
        if let Some(left_out) = sharing.gate.open() {
            tracing::warn!(%node, %error, left_out, "a node's presence cannot be shared: trying again");
        }
    }
}

/// Drives a lane until its link has nothing to tell any more.
pub(crate) async fn drive(registry: Arc<Registry>, sharing: Arc<Sharing>, at: LinkRef, wake: Arc<Notify>) {
    let mut delays = delays();
    loop {
        // Whoever waits here gathers more for its next call meanwhile. It is never closed.
        let permit = sharing.lane_calls.acquire().await;
        let Some((node, work)) = registry.turn(|state, _| state.lanes.next_work(at)) else { return };
        let done = match work {
            Work::Idle => {
                drop(permit);
                wake.notified().await;
                continue;
            }
            Work::Over => break,
            Work::Begin => registry.begin(&sharing, at).await.map(|()| false),
            Work::Sync => registry.synchronise(&sharing, at, &node).await.map(|()| true),
            Work::Apply(changes) => registry.apply(&sharing, at, &node, changes).await.map(|()| true),
            Work::Remove(record) => {
                let removed = registry.remove(&sharing, &record).await;
                if removed.is_ok() {
                    registry.turn(|state, _| state.lanes.change(at).map(Lane::removed));
                }
                removed.map(|()| true)
            }
        };
        drop(permit);
        match done {
            Ok(true) => delays = self::delays(),
            Ok(false) => {}
            Err(error) => {
                registry.troubled(&sharing, &node.id, &error);
                registry.turn(|state, _| registry.spoil(state, at));
                tokio::time::sleep(delays.next().unwrap_or(CALL)).await;
            }
        }
    }
    registry.turn(|state, _| state.lanes.over(at, state.presence.node(at.node).is_some()));
}

/// 100 ms to 2 s, for ever.
fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        // Its own seed is the same in every process.
        .with_jitter_seed(fastrand::u64(..))
        .without_max_times()
        .build()
}
