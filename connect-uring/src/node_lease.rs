//! Whose a node's id is: its own, before it says a word to a controller, and until it ends.
//!
//! Owns: how long a node waits for its id, and what is said where another has it. Must not: renew a lease (`registry`
//! does). Talks to: `registry`; `control_link`, whose controllers may also refuse an id.

use std::time::Duration;

use registry::Lease;
use settings::{EtcdStore, SettingError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// For how long a node tries again whose id the controllers refuse, where no lease is: they keep a lost node for 10 s.
const WITHOUT_LEASE: Duration = Duration::from_secs(12);

/// What to do when it is still taken then.
const ID_TAKEN: &str = "another live node has this id: stop it, or give this one another id";

/// For how long a node whose id is taken tries again.
pub(crate) fn patience(etcd: Option<&EtcdStore>) -> Duration {
    etcd.map_or(WITHOUT_LEASE, EtcdStore::id_patience)
}

/// The id is another live node's.
pub(crate) fn id_taken(node_id: &str) -> SettingError {
    SettingError::new("NODE_ID", node_id, ID_TAKEN)
}

/// Waits until the id is the node's own. A registry that cannot be reached is waited for without end; an error where
/// another live node keeps the id for longer than `patience`.
pub(crate) async fn until_own(
    lease: &mut watch::Receiver<Lease>,
    node_id: &str,
    patience: Duration,
) -> Result<(), SettingError> {
    let mut taken_since = None;
    loop {
        match *lease.borrow_and_update() {
            Lease::Fixed | Lease::Held { .. } | Lease::Lost { .. } => return Ok(()),
            Lease::Waiting => {}
            Lease::Taken => {
                if taken_since.is_none() {
                    tracing::warn!("another node has this id; waiting for its lease to run out");
                }
                taken_since.get_or_insert_with(Instant::now);
            }
        }
        let Some(since) = taken_since else {
            if lease.changed().await.is_err() {
                return Ok(());
            }
            continue;
        };
        match timeout_at(since + patience, lease.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) if *lease.borrow() == Lease::Taken => return Err(id_taken(node_id)),
            // The registry was lost while the id was: its word is waited for.
            Err(_) => taken_since = None,
        }
    }
}

/// Waits until another live node has the id that was the node's own: it was away for longer than its lease.
pub(crate) async fn until_lost(lease: &mut watch::Receiver<Lease>) {
    // Nobody says anything any more: the node is ending.
    if lease.wait_for(|lease| *lease == Lease::Taken).await.is_err() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    /// In place of the real one, so that a test does not wait for so long.
    const PATIENCE: Duration = Duration::from_millis(200);

    fn now() -> std::time::Instant {
        std::time::Instant::now()
    }

    #[tokio::test]
    async fn an_id_that_stays_taken_is_given_up_and_no_earlier() {
        let (_sender, mut lease) = watch::channel(Lease::Taken);
        let began = Instant::now();
        let error = until_own(&mut lease, "node-1", PATIENCE).await.unwrap_err().to_string();
        assert!(error.starts_with("NODE_ID = node-1: another live node has this id"), "{error}");
        assert!(began.elapsed() >= PATIENCE);
    }

    #[tokio::test]
    async fn an_id_that_becomes_free_in_time_is_the_nodes_own() {
        let (sender, mut lease) = watch::channel(Lease::Waiting);
        let mut waits = tokio::spawn(async move { until_own(&mut lease, "node-1", 20 * PATIENCE).await });
        assert!(timeout(PATIENCE, &mut waits).await.is_err(), "a registry that is away is waited for");
        sender.send_replace(Lease::Taken);
        assert!(timeout(PATIENCE, &mut waits).await.is_err());
        sender.send_replace(Lease::Held { renewed: now() });
        waits.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_node_is_lost_when_its_id_is_anothers_and_not_when_its_lease_is() {
        let (sender, mut lease) = watch::channel(Lease::Held { renewed: now() });
        let mut lost = tokio::spawn(async move { until_lost(&mut lease).await });
        sender.send_replace(Lease::Lost { renewed: now() });
        assert!(timeout(PATIENCE, &mut lost).await.is_err());
        sender.send_replace(Lease::Taken);
        lost.await.unwrap();
    }
}
