//! A service's registration, as the service holds it.

#[cfg(feature = "etcd")]
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::Lease;

/// How long giving a lease back may take.
#[cfg(feature = "etcd")]
pub(crate) const REVOKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// An order to give the lease back; answered when that is done.
#[cfg(feature = "etcd")]
pub(crate) type Revoke = oneshot::Sender<()>;

/// A service's registration. Dropping it ends the renewals, so that the lease runs out.
#[derive(Debug)]
pub struct Registration {
    lease: watch::Receiver<Lease>,
    keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    /// Nothing to keep; the sender lives, so that whoever watches waits.
    Fixed { _lease: watch::Sender<Lease> },
    /// The task that renews; it ends when this is dropped.
    #[cfg(feature = "etcd")]
    Task(oneshot::Sender<Revoke>),
}

impl Registration {
    /// One that cannot be lost.
    pub(crate) fn fixed() -> Self {
        let (sender, lease) = watch::channel(Lease::Fixed);
        Self { lease, keeper: Keeper::Fixed { _lease: sender } }
    }

    /// One that a task keeps, which listens to `orders`.
    #[cfg(feature = "etcd")]
    pub(crate) fn kept(lease: watch::Receiver<Lease>, orders: oneshot::Sender<Revoke>) -> Self {
        Self { lease, keeper: Keeper::Task(orders) }
    }

    /// How it is doing now.
    pub fn lease(&self) -> Lease {
        *self.lease.borrow()
    }

    /// The same whenever it changes; each renewal is a change.
    pub fn watch(&self) -> watch::Receiver<Lease> {
        self.lease.clone()
    }

    /// Gives the lease back, so that the others see at once that the service is gone. At most 2 s.
    pub async fn revoke(self) {
        match self.keeper {
            Keeper::Fixed { .. } => {}
            #[cfg(feature = "etcd")]
            Keeper::Task(orders) => {
                let (done, is_done) = oneshot::channel();
                if orders.send(done).is_ok() {
                    // Where it takes too long the lease runs out instead.
                    let _ = tokio::time::timeout(REVOKE_TIMEOUT, is_done).await;
                }
            }
        }
    }
}
