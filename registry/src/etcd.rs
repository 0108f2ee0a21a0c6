//! The directory in etcd: one task that follows the list, one for each registration.
//!
//! Owns: what they share. Talks to: `follower`, `registrar`.

mod follower;
mod listing;
mod members;
mod registrar;
mod tenure;
mod told;

use std::sync::Arc;
use std::time::Duration;

use settings::EtcdStore;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{Entry, Registration, RegistryError, View};
use follower::Follower;
use members::Members;
use registrar::Registrar;

/// What registering needs.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    members: Arc<Members>,
    /// Counts how often etcd was found to have lost its data.
    wipes: watch::Receiver<u64>,
    ttl: Duration,
}

/// Starts to follow the list until `stop`.
pub(crate) fn open(
    store: &EtcdStore,
    stop: CancellationToken,
) -> Result<(Registry, watch::Receiver<Arc<View>>), RegistryError> {
    let members = Arc::new(Members::new(store)?);
    let (view_sender, view) = watch::channel(Arc::new(View::default()));
    let (wipes_sender, wipes) = watch::channel(0);
    let follower = Follower::new(members.clone(), store.lease, view_sender, wipes_sender);
    tokio::spawn(stop.run_until_cancelled_owned(follower.run()));
    Ok((Registry { members, wipes, ttl: store.lease }, view))
}

impl Registry {
    /// Registers a service, and goes on with it until the registration is dropped.
    pub(crate) fn register(&self, entry: Entry, view: watch::Receiver<Arc<View>>) -> Registration {
        let (orders, taken_orders) = oneshot::channel();
        let registrar = Registrar::new(self.members.clone(), entry, self.ttl, view, self.wipes.clone());
        let lease = registrar.watch();
        tokio::spawn(registrar.run(taken_orders));
        Registration::kept(lease, orders)
    }
}
