//! Keeps one service registered: a lease, a key under it, renewals, all of it again where it was lost.
//!
//! Owns: the service's key. Must not: take a key from a live service. Talks to: `members`, `tenure`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{Compare, CompareOp, Error, LeaseGrantOptions, PutOptions, Txn, TxnOp};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep_until, timeout};

use super::listing::{Key, read};
use super::members::{AskError, Members};
use super::tenure::{Step, Tenure};
use super::told::Told;
use crate::registration::{REVOKE_TIMEOUT, Revoke};
use crate::{Entry, Lease, View};

/// Between two tries where etcd is away or somebody else has the id; up to as much again by chance.
const PAUSE: Duration = Duration::from_millis(300);

/// What etcd says of a lease whose number is in use.
const LEASE_EXISTS: &str = "lease already exists";

/// The task behind a registration.
pub(crate) struct Registrar {
    members: Arc<Members>,
    entry: Entry,
    key: String,
    /// What the key says: the entry, with the incarnation of this very start.
    value: String,
    ttl: Duration,
    tenure: Tenure,
    /// The lease that was last asked for.
    lease: i64,
    /// When our key was last known to be there.
    written: Option<Instant>,
    told: watch::Sender<Lease>,
    view: watch::Receiver<Arc<View>>,
    wipes: watch::Receiver<u64>,
    trouble: Told,
}

/// What came of asking for the key.
enum Claim {
    /// It is ours; when the lease was asked for.
    Held(Instant),
    /// Another live service has it.
    Taken,
    /// Somebody wrote it meanwhile.
    Raced,
}

impl Registrar {
    pub(crate) fn new(
        members: Arc<Members>,
        entry: Entry,
        ttl: Duration,
        view: watch::Receiver<Arc<View>>,
        wipes: watch::Receiver<u64>,
    ) -> Self {
        Self {
            members,
            key: entry.key(),
            // An entry of texts and numbers is always JSON.
            value: serde_json::to_string(&entry).unwrap_or_default(),
            entry,
            ttl,
            tenure: Tenure::new(ttl, Instant::now()),
            lease: 0,
            written: None,
            told: watch::Sender::new(Lease::Waiting),
            view,
            wipes,
            trouble: Told::default(),
        }
    }

    /// What the service sees.
    pub(crate) fn watch(&self) -> watch::Receiver<Lease> {
        self.told.subscribe()
    }

    /// Goes on until it is ordered to give the lease back, or nobody is left who could.
    pub(crate) async fn run(mut self, mut orders: oneshot::Receiver<Revoke>) {
        let order = loop {
            tokio::select! {
                biased;
                order = &mut orders => break order,
                () = self.advance() => {}
            }
        };
        if let Ok(done) = order {
            // Where it takes too long the lease runs out instead.
            let _ = timeout(REVOKE_TIMEOUT, self.give_back()).await;
            // Nobody may be waiting any more.
            let _ = done.send(());
        }
    }

    /// Does one step.
    async fn advance(&mut self) {
        let step = self.tenure.step(Instant::now());
        self.tell();
        match step {
            Step::Register => self.register().await,
            Step::Renew => self.renew().await,
            Step::Wait(until) => self.wait(until).await,
        }
        self.tell();
    }

    async fn register(&mut self) {
        match self.claim().await {
            Ok(Claim::Held(sent)) => {
                self.tenure.held(sent, self.early());
                self.written = Some(Instant::now());
                self.trouble.clear();
                tracing::info!(key = self.key, "registered");
            }
            Ok(Claim::Taken) => {
                if self.trouble.is_news("taken", Instant::now()) {
                    tracing::warn!(
                        key = self.key,
                        "another live service has this id; waiting until it is gone"
                    );
                }
                self.tenure.taken(soon());
            }
            Ok(Claim::Raced) => self.tenure.failed(soon()),
            Err(error) => self.failed(&error),
        }
    }

    /// Makes a lease and the key, where nobody has it: it is not there, it has no lease, or it is of this very start
    /// of the service.
    async fn claim(&mut self) -> Result<Claim, AskError> {
        let key = self.key.as_str();
        let (_, found) =
            self.members.ask(|client| async move { client.kv_client().get(key, None).await }).await?;
        let mut known_revision = 0;
        if let Some(pair) = found.kvs().first() {
            let found = Key { name: pair.key(), value: pair.value(), lease: pair.lease() };
            if found.lease != 0 && !read(found).is_ok_and(|other| other.incarnation == self.entry.incarnation)
            {
                return Ok(Claim::Taken);
            }
            known_revision = pair.mod_revision();
        }
        let sent = Instant::now();
        // Chosen here, so that it can be given back also when the answer was lost.
        self.lease = fastrand::i64(1..);
        let (lease, seconds) = (self.lease, self.ttl.as_secs().max(1).cast_signed());
        self.members
            .ask(|client| async move {
                let options = LeaseGrantOptions::new().with_id(lease);
                match client.lease_client().grant(seconds, Some(options)).await {
                    // Another member has granted it, and its answer was lost: nobody else draws this number.
                    Err(Error::GRpcStatus(status)) if status.message().contains(LEASE_EXISTS) => Ok(()),
                    granted => granted.map(drop),
                }
            })
            .await?;
        let value = self.value.as_str();
        let is_unchanged = Compare::mod_revision(key, CompareOp::Equal, known_revision);
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let write = Txn::new().when([is_unchanged]).and_then([put]);
        let write = &write;
        let (_, answer) =
            self.members.ask(|client| async move { client.kv_client().txn(write.clone()).await }).await?;
        Ok(if answer.succeeded() { Claim::Held(sent) } else { Claim::Raced })
    }

    async fn renew(&mut self) {
        let lease = self.lease;
        let renewed = self
            .members
            .ask(|client| async move {
                let sent = Instant::now();
                match client.lease_client().keep_alive(lease).await {
                    Ok(_) => Ok(Some(sent)),
                    // etcd has no such lease.
                    Err(Error::LeaseKeepAliveError(_)) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await;
        match renewed {
            Ok((_, Some(sent))) => {
                self.tenure.held(sent, self.early());
                if self.trouble.clear() {
                    tracing::info!(key = self.key, "the lease is renewed again");
                }
            }
            Ok((_, None)) => self.lost("the lease has run out"),
            Err(error) if error.is_not_found() => self.lost("the lease has run out"),
            Err(error) => self.failed(&error),
        }
    }

    /// Waits, and looks meanwhile whether the key is lost, or whoever had the id is gone.
    async fn wait(&mut self, until: Instant) {
        tokio::select! {
            () = sleep_until(until.into()) => {}
            changed = self.wipes.changed() => match changed {
                Ok(()) if self.tenure.is_held() => self.lost("etcd has lost its data"),
                Ok(()) => {}
                // The directory was stopped, and the view is as it is for ever.
                Err(_) => sleep_until(until.into()).await,
            },
            changed = self.view.changed() => if changed.is_err() { sleep_until(until.into()).await },
        }
        let view = self.view.borrow_and_update().clone();
        let other = view.entries.iter().find(|other| other.is_same_service(&self.entry));
        let is_ours = other.is_some_and(|other| other.incarnation == self.entry.incarnation);
        if self.tenure.is_held() && view.as_of > self.written && !is_ours {
            self.lost("the key is gone");
        } else if self.tenure.is_taken() && other.is_none() && view.as_of.is_some() {
            self.tenure.failed(Instant::now());
        }
    }

    fn lost(&mut self, why: &str) {
        tracing::warn!(key = self.key, "{why}; registering again");
        self.tenure.lost(Instant::now() + self.early());
    }

    fn failed(&mut self, error: &AskError) {
        let text = error.to_string();
        if self.trouble.is_news(&text, Instant::now()) {
            let what = if self.tenure.is_held() { "not renewed" } else { "not registered" };
            tracing::warn!(key = self.key, "{what}: {text}; trying on");
        }
        self.tenure.failed(soon());
    }

    /// The key is deleted first, and only where it is ours: that ends it also where a lease may not be revoked, and where
    /// it has one that we asked for before.
    async fn give_back(&self) {
        let (key, lease) = (self.key.as_str(), self.lease);
        if lease == 0 {
            return;
        }
        let is_ours = Compare::value(key, CompareOp::Equal, self.value.as_str());
        let delete = Txn::new().when([is_ours]).and_then([TxnOp::delete(key, None)]);
        let delete = &delete;
        let deleted = self.members.ask(|client| async move { client.kv_client().txn(delete.clone()).await });
        let deleted = deleted.await.map(drop);
        let revoked = self.members.ask(|client| async move { client.lease_client().revoke(lease).await });
        if let Err(error) = deleted.and(revoked.await.map(drop)) {
            tracing::warn!(key = self.key, "the lease is not given back: {error}; it runs out by itself");
        }
    }

    fn tell(&self) {
        self.told.send_if_modified(|told| {
            let lease = self.tenure.lease();
            std::mem::replace(told, lease) != lease
        });
    }

    /// By how much this service is earlier than the others, so that not all come at once.
    fn early(&self) -> Duration {
        (self.ttl / 20).mul_f32(fastrand::f32())
    }
}

/// The time of the next try.
fn soon() -> Instant {
    Instant::now() + PAUSE + PAUSE.mul_f32(fastrand::f32())
}
