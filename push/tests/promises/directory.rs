//! Controllers are found by etcd, and a push manager is known there.

use std::sync::Arc;
use std::time::Duration;

use push::Settings;
use registry::{Directory, Entry, Kind, Lease, Registration, View};
use settings::EtcdStore;
use test_servers::Etcd;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::controller::FakeController;
use crate::node::{Behaviour, FakeNode};
use crate::serving::metrics;
use crate::{PATIENCE, System, by_node, room, soon, to_room, written};

/// What other services do in the directory.
struct Others {
    directory: Directory,
    store: EtcdStore,
    _stop: DropGuard,
}

impl Others {
    fn of(etcd: &Etcd) -> Self {
        let store =
            EtcdStore { endpoints: etcd.endpoints(), lease: Duration::from_secs(10), ..EtcdStore::default() };
        let stop = CancellationToken::new();
        let directory = Directory::etcd(&store, stop.clone()).unwrap();
        Self { directory, store, _stop: stop.drop_guard() }
    }

    async fn register(&self, kind: Kind, id: &str, address: String) -> Registration {
        let entry = Entry {
            kind,
            id: id.into(),
            incarnation: 1,
            grpc_address: address,
            public_ws_url: String::new(),
        };
        let registration = self.directory.register(entry);
        let mut lease = registration.watch();
        soon("a lease", lease.wait_for(|lease| matches!(lease, Lease::Held { .. }))).await.unwrap();
        registration
    }

    fn settings(&self) -> Settings {
        Settings { etcd: Some(self.store.clone()), ..Settings::default() }
    }
}

async fn nodes(system: &System) -> (Vec<String>, u32) {
    let report = system.push(to_room("r", PATIENCE)).await.report.unwrap();
    (by_node(&report).into_iter().map(|(id, _)| id.to_owned()).collect(), report.routes_stale_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_come_and_go_and_their_nodes_are_routed_to() {
    let etcd = Etcd::start(1);
    let others = Others::of(&etcd);
    let (a, b) = (FakeController::start(), FakeController::start());
    let n = FakeNode::start("n", Behaviour::Answer(written(1)));
    let m = FakeNode::start("m", Behaviour::Answer(written(1)));
    for (controller, node) in [(&a, &n), (&b, &m)] {
        controller.set_node(node.route());
        controller.set_room(room("r", node, 1));
    }
    let _n = others.register(Kind::Node, "n", n.address.to_string()).await;
    let _m = others.register(Kind::Node, "m", m.address.to_string()).await;
    let at_a = others.register(Kind::Controller, "a", a.address.to_string()).await;
    let system = System::start_with(a, others.settings()).await;
    system.in_step().await;
    let address = system.running.grpc_addr.to_string();
    let mut view = others.directory.watch();
    let is_told = |view: &Arc<View>| view.of(Kind::PushManager).any(|us| us.grpc_address == address);
    soon("its entry", view.wait_for(is_told)).await.unwrap();
    soon("it serves", async {
        while system.client.clone().push_to_room(to_room("r", PATIENCE)).await.is_err() {}
    })
    .await;
    soon("fresh routes", async { while nodes(&system).await != (vec!["n".into()], 0) {} }).await;

    let _b = others.register(Kind::Controller, "b", b.address.to_string()).await;
    soon("the acknowledgement", b.acknowledged()).await;
    let both = (vec!["m".to_owned(), "n".to_owned()], 0);
    assert_eq!(nodes(&system).await, both);
    at_a.revoke().await;
    let aside = "ringcast_push_routes_set_aside 1";
    soon("the end of a's feed", async { while !metrics(&system).await.contains(aside) {} }).await;
    let (routed, stale) = nodes(&system).await;
    assert_eq!((&routed, stale > 0), (&both.0, true), "a is gone, and nobody has told its node yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_push_manager_of_one_id_does_not_start() {
    let etcd = Etcd::start(1);
    let others = Others::of(&etcd);
    let _first = others.register(Kind::PushManager, "push-manager-1", "127.0.0.1:1".into()).await;
    let settings = Settings { grpc_port: 0, metrics_port: 0, process_metrics: false, ..others.settings() };
    let error = push::start(settings, CancellationToken::new()).await.unwrap_err();
    let error = error.downcast::<settings::SettingError>().unwrap().to_string();
    assert!(error.starts_with("MANAGER_ID = push-manager-1: another push manager"), "{error}");
}
