//! The directory on a real etcd: what is registered is seen, what is lost is made again, whatever becomes of etcd.

mod garbage;
mod login;
mod members;
mod outage;
mod presence;
mod taken;

use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::{Directory, Entry, Kind, Lease, Registration, View};
use settings::EtcdStore;
use test_servers::Etcd;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The lease in most tests: short, and longer than etcd's own least.
const TTL: Duration = Duration::from_secs(4);

/// How long anything may take on a machine that compiles meanwhile.
const LONG: Duration = Duration::from_secs(30);

/// One service's directory, which ends with the test.
struct Service {
    directory: Directory,
    _stop: DropGuard,
}

impl Service {
    fn of(etcd: &Etcd) -> Self {
        Self::with(&store(etcd))
    }

    fn with(store: &EtcdStore) -> Self {
        let stop = CancellationToken::new();
        let directory = Directory::etcd(store, stop.clone()).expect("settings that can work");
        Self { directory, _stop: stop.drop_guard() }
    }

    /// Waits until the view is so.
    async fn sees(&self, what: &str, is_so: impl Fn(&View) -> bool) -> Arc<View> {
        let deadline = Instant::now() + LONG;
        loop {
            // The age changes without a word, so it is looked at in between.
            let view = self.directory.view();
            if is_so(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "not seen within {LONG:?}: {what}; {view:?}");
            let _ = tokio::time::timeout(Duration::from_millis(20), self.directory.watch().changed()).await;
        }
    }

    /// Waits until exactly these are seen, as (id, incarnation).
    async fn sees_nodes(&self, nodes: &[(&str, u64)]) {
        let is_so = |view: &View| {
            let seen: Vec<(&str, u64)> =
                view.of(Kind::Node).map(|entry| (entry.id.as_str(), entry.incarnation)).collect();
            seen == nodes
        };
        self.sees(&format!("{nodes:?}"), is_so).await;
    }
}

fn store(etcd: &Etcd) -> EtcdStore {
    EtcdStore { endpoints: etcd.endpoints(), lease: TTL, ..EtcdStore::default() }
}

fn node(id: &str, incarnation: u64) -> Entry {
    Entry {
        kind: Kind::Node,
        id: id.into(),
        incarnation,
        grpc_address: "127.0.0.1:50052".into(),
        public_ws_url: format!("ws://{id}:8080/ws"),
    }
}

/// Waits until a registration is so.
async fn lease_is(registration: &Registration, what: &str, is_so: impl Fn(Lease) -> bool) -> Lease {
    let mut watched = registration.watch();
    let waited = tokio::time::timeout(LONG, watched.wait_for(|lease| is_so(*lease))).await;
    match waited {
        Ok(lease) => *lease.expect("the registration lives"),
        Err(_) => panic!("not so within {LONG:?}: {what}; it is {:?}", registration.lease()),
    }
}

async fn is_held(registration: &Registration) -> Lease {
    lease_is(registration, "held", |lease| matches!(lease, Lease::Held { .. })).await
}
