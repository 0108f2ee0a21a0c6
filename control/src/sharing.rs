//! Presence as all controllers of a cluster have it: a look every second at what the store holds of nodes, and what
//! follows for those that moved, or that nobody has any more.
//!
//! Owns: the store, what was last read of nodes, the pace of the looks. Must not: write sessions (`lanes` does) or
//! decide about a node (`node_watch` does). Talks to: the store, `registry`.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::registry::{Kind, View};
use ahash::AHashMap;
use ringcast_proto::NodeId;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::links::Farewell;
use crate::log_gate::LogGate;
use crate::node_list::ToldNodes;
use crate::node_watch::{Reaper, Whereabouts, is_listed, whereabouts};
use crate::presence::LinkRef;
use crate::presence_store::{NodeAt, NodeRecord, PresenceError, PresenceStore, Verdict};
use crate::registry::{Registry, State};

/// How long one call to the store may take.
pub(crate) const CALL: Duration = Duration::from_secs(2);

/// Calls of lanes at the same time; the rest of what the store takes of its writers is for the looks.
const LANE_CALLS: usize = 40;

/// How often nodes are looked at and told of.
const PACE: Duration = Duration::from_secs(1);

/// The store that controllers share, and what was last read from it.
#[derive(Debug)]
pub(crate) struct Sharing {
    pub(crate) store: Arc<dyn PresenceStore>,
    pub(crate) gate: LogGate,
    /// Held by a lane during a call.
    pub(crate) lane_calls: Semaphore,
    told: Mutex<ToldNodes>,
    /// Ends everything that goes on in the background.
    over: CancellationToken,
}

impl Sharing {
    /// Sharing by a store, until `over` is cancelled. A build without the cluster has no such store.
    #[cfg_attr(not(feature = "cluster"), allow(dead_code))]
    pub(crate) fn new(store: Arc<dyn PresenceStore>, over: CancellationToken) -> Self {
        let lane_calls = Semaphore::new(LANE_CALLS);
        Self { store, gate: LogGate::default(), lane_calls, told: Mutex::default(), over }
    }

    /// What the other controllers last told of their nodes. Whoever needs the owner's lock as well takes this one
    /// first, and never asks for it within a turn.
    pub(crate) fn told(&self) -> MutexGuard<'_, ToldNodes> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the store, within bounds.
    pub(crate) async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, PresenceError>>,
    ) -> Result<T, PresenceError> {
        let late = || Err(PresenceError(format!("no answer within {} ms", CALL.as_millis())));
        tokio::time::timeout(CALL, call).await.unwrap_or_else(|_| late())
    }

    /// Runs in the background until the controller has stopped.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = work => {}
            }
        });
    }
}

/// Looks around for as long as it is run.
pub(crate) async fn look_around(registry: Arc<Registry>, sharing: Arc<Sharing>) {
    let mut looks = tokio::time::interval(PACE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reaper = Reaper::default();
    loop {
        looks.tick().await;
        // Each in any case: a beat also notices that the store has lost what it held.
        let looked = registry.look(&sharing, &mut reaper).await;
        let beaten = registry.beat(&sharing).await;
        if let Err(error) = looked.and(beaten) {
            registry.metrics.store_errors.inc();
            if let Some(left_out) = sharing.gate.open() {
                tracing::warn!(%error, left_out, "the nodes of the other controllers cannot be looked at");
            }
        }
    }
}

impl Registry {
    /// A node that this controller had before its restart did not come back, within the lease. Where there is a list
    /// of all services, that list says when it is gone; at fixed addresses it is now.
    pub(crate) fn forget_absent(self: &Arc<Self>, node: NodeId) {
        if let Some(sharing) = self.sharing.as_ref().filter(|_| self.membership.view().fixed) {
            sharing.spawn(self.clone().remove_absent(sharing.clone(), node));
        }
    }

    async fn look(self: &Arc<Self>, sharing: &Sharing, reaper: &mut Reaper) -> Result<(), PresenceError> {
        // Those that are clean before the records are read must be in them.
        let clean: Vec<(LinkRef, NodeAt)> = self.read(|state| {
            let lanes = state.lanes.iter().filter(|(_, lane)| lane.is_clean());
            lanes.map(|(at, lane)| (at, lane.node().clone())).collect()
        });
        let records = sharing.ask(sharing.store.nodes()).await?;
        let by_id: AHashMap<&NodeId, &NodeRecord> =
            records.iter().map(|record| (&record.card.id, record)).collect();
        self.turn(|state, _| {
            self.look_for_moved(state, &records);
            self.look_for_awaited(state, &by_id);
            for (at, node) in clean {
                let known = by_id.get(&node.id).map(|record| (record.card.incarnation, record.link));
                if known.is_none_or(|known| known < (node.incarnation, node.link)) {
                    tracing::warn!(node = %node.id, "the store of presence lost a node: it is written anew");
                    self.spoil(state, at);
                }
            }
        });
        sharing.told().tell(records.clone());
        self.reap(sharing, reaper, &records).await;
        Ok(())
    }

    /// Nodes that are known here, and that another controller has.
    fn look_for_moved(self: &Arc<Self>, state: &mut State, records: &[NodeRecord]) {
        for record in records {
            let Some(key) = state.presence.node_by_id(&record.card.id) else { continue };
            let Some(node) = state.presence.node(key) else { continue };
            match whereabouts(node.card.incarnation, node.link(), record, &self.controller_id) {
                Whereabouts::Here => {}
                Whereabouts::Moving => {
                    if let Some(link) = state.links.get(&key) {
                        link.cut.cancel();
                    }
                }
                Whereabouts::Moved => self.remove_node(state, key, Farewell::Moved),
                Whereabouts::Succeeded => self.remove_node(state, key, Farewell::Succeeded),
            }
        }
    }

    /// After a restart: nodes that are not to be waited for, since another controller has them, or they are gone.
    fn look_for_awaited(&self, state: &mut State, records: &AHashMap<&NodeId, &NodeRecord>) {
        let view = self.membership.fresh_view();
        let awaited: Vec<NodeId> = state.recovery.missing().cloned().collect();
        for node in awaited {
            let record = records.get(&node);
            let gone = |view: &View| match record {
                Some(record) => !is_listed(view, &node, record.card.incarnation),
                // The store has lost it, or it has left while this controller was down.
                None => view.of(Kind::Node).all(|entry| entry.id != node.as_str()),
            };
            let elsewhere = record.is_some_and(|record| record.controller != *self.controller_id);
            if elsewhere || view.as_deref().is_some_and(gone) {
                state.recovery.settled(&node);
            }
        }
    }

    /// Takes nodes out that nobody has: their members leave.
    async fn reap(self: &Arc<Self>, sharing: &Sharing, reaper: &mut Reaper, records: &[NodeRecord]) {
        let reaped = self.read(|state| {
            if !state.recovery.is_over() {
                return Vec::new();
            }
            let held = |id: &NodeId, incarnation: u64| {
                let node = state.presence.node_by_id(id).and_then(|key| state.presence.node(key));
                node.is_some_and(|node| node.card.incarnation == incarnation)
            };
            reaper.look(records, &self.membership.view(), &self.controller_id, held, Instant::now())
        });
        for at in reaped {
            let (node, incarnation) = (&at.id, at.incarnation);
            match sharing.store.remove(&at).await {
                Ok(()) => {
                    self.metrics.node_reaped();
                    tracing::info!(%node, incarnation, "a node that nobody has any more is gone");
                }
                Err(error) => tracing::warn!(%node, %error, "a node that nobody has cannot be taken out yet"),
            }
        }
    }

    /// Tells the load and the state of the nodes that are held here.
    async fn beat(self: &Arc<Self>, sharing: &Sharing) -> Result<(), PresenceError> {
        let (links, records): (Vec<LinkRef>, Vec<NodeRecord>) = self.read(|state| {
            let known = state.lanes.iter().filter(|(_, lane)| lane.is_known());
            known.filter_map(|(at, _)| Some((at, self.record_of(state, at.node)?))).unzip()
        });
        let (verdicts, same) = sharing.ask(sharing.store.beat(&records)).await?;
        if !same {
            tracing::warn!("the store of presence has lost what it held: all nodes are written anew");
        }
        self.turn(|state, _| {
            for (at, verdict) in links.into_iter().zip(verdicts) {
                if !same || verdict == Verdict::Fenced {
                    self.spoil(state, at);
                }
            }
        });
        Ok(())
    }
}
