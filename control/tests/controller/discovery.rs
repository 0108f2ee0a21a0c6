//! Controllers that find the others, and are found, by etcd.

use std::path::Path;
use std::time::Duration;

use control::{Discovery, Settings};
use registry::{Directory, Entry, Kind, Lease, Registration};
use ringcast_proto::pubsub::session_command::Command;
use ringcast_proto::pubsub::{JoinDecision, JoinRoomRequest, ListNodesRequest, NodeState};
use settings::{EtcdStore, RedisStore};
use test_servers::{Etcd, Redis};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::{until_so, users_in};
use crate::peers::{Controller, Follower, Node, folder, join, session, settings, soon};
use crate::serving::scrape;

const LEASE: Duration = Duration::from_secs(4);

fn store(etcd: &Etcd) -> EtcdStore {
    EtcdStore { endpoints: etcd.endpoints(), lease: LEASE, ..EtcdStore::default() }
}

/// A controller that registers, alone or with a store of presence.
fn found(data: &Path, id: &str, etcd: &Etcd, redis: Option<&Redis>) -> Settings {
    let redis = redis.map(|redis| RedisStore { addresses: vec![redis.address()], ..RedisStore::default() });
    Settings { id: id.into(), discovery: Discovery::Etcd(store(etcd)), redis, ..settings(data) }
}

/// A service that is registered for as long as this is kept.
struct Service {
    registration: Registration,
    directory: Directory,
    _stop: DropGuard,
}

impl Service {
    async fn register(etcd: &Etcd, kind: Kind, id: &str) -> Self {
        let stop = CancellationToken::new();
        let directory = Directory::etcd(&store(etcd), stop.clone()).unwrap();
        let entry = Entry {
            kind,
            id: id.into(),
            incarnation: 1,
            grpc_address: format!("{id}.example:1"),
            public_ws_url: String::new(),
        };
        let registration = directory.register(entry);
        let mut lease = registration.watch();
        let held = lease.wait_for(|lease| matches!(lease, Lease::Held { .. }));
        soon("the registration", held).await.unwrap();
        Self { registration, directory, _stop: stop.drop_guard() }
    }

    /// Waits until this service sees so many controllers.
    async fn sees_controllers(&self, count: usize) {
        let seen = async || (self.directory.view().of(Kind::Controller).count() == count).then_some(());
        until_so("the controllers", seen).await;
    }
}

#[tokio::test]
async fn a_new_controller_holds_joins_until_every_push_manager_that_is_registered_follows() {
    let etcd = Etcd::start(1);
    let _manager = Service::register(&etcd, Kind::PushManager, "pm-1").await;
    let data = folder();
    let controller = Controller::start(found(data.path(), "a", &etcd, None)).await;
    let mut node = controller.node("n").await;
    node.send(vec![join(1, "u", "r")]).await;
    let held = async || {
        let text = scrape(&controller).await;
        text.lines().any(|line| line == "ringcast_controller_held_joins 1").then_some(())
    };
    until_so("the held join", held).await;
    let mut follower = Follower::follow(&controller).await;
    assert_eq!(follower.room("r", "n"), 0, "it was decided before anybody followed");
    follower.step().await;
    follower.acknowledge().await;
    assert_eq!(node.answers(1).await[0].decision(), JoinDecision::Accepted);
    controller.stop().await;
}

#[tokio::test]
async fn a_lost_node_stays_while_it_is_listed_and_leaves_when_it_is_not() {
    let etcd = Etcd::start(1);
    let data = folder();
    let listed = Service::register(&etcd, Kind::Node, "n").await;
    let controller = Controller::start(found(data.path(), "a", &etcd, None)).await;
    listed.sees_controllers(1).await;
    let mut node = controller.node("n").await;
    assert_eq!(node.join(1, "u", "r").await, JoinDecision::Accepted);
    let mut follower = Follower::follow(&controller).await;
    drop(node);
    let lost = async || {
        let nodes = controller.rpc().await.list_nodes(ListNodesRequest {}).await.unwrap().into_inner().nodes;
        (nodes[0].state() == NodeState::Lost).then_some(())
    };
    until_so("the loss", lost).await;
    assert!(follower.step().await.nodes[0].unlinked);
    follower.acknowledge().await;
    let quiet = tokio::time::timeout(LEASE / 2, follower.step()).await;
    assert!(quiet.is_err(), "a node that is alive was removed: {quiet:?}");
    listed.registration.revoke().await;
    assert!(follower.step().await.nodes[0].gone);
    controller.stop().await;
}

#[tokio::test]
async fn controllers_find_one_another_and_take_out_the_nodes_of_one_that_is_gone() {
    let (etcd, redis) = (Etcd::start(1), Redis::plain());
    let (data, other) = (folder(), folder());
    let a = Controller::start(found(data.path(), "a", &etcd, Some(&redis))).await;
    let b = Controller::start(found(other.path(), "b", &etcd, Some(&redis))).await;
    let watcher = Service::register(&etcd, Kind::PushManager, "pm-1").await;
    let listed = Service::register(&etcd, Kind::Node, "n").await;
    watcher.sees_controllers(2).await;
    let mut at_a = Node::link(&a, "n", 1, 1).await.unwrap();
    at_a.snapshot(vec![session(1, "u", "r")]).await;
    let there = async || users_in(&b, "r").await.unwrap().contains("u").then_some(());
    until_so("the session in the store", there).await;

    let (mut first, mut second) = (Follower::follow(&a).await, Follower::follow(&b).await);
    let mut rpc = b.rpc().await;
    let request =
        JoinRoomRequest { user_id: "u".into(), room_id: "second".into(), ..JoinRoomRequest::default() };
    let call = tokio::spawn(async move { rpc.join_room(request).await });
    let command = at_a.command().await;
    let Some(Command::AddRoom(rooms)) = &command.command else { panic!("{command:?}") };
    at_a.did(&command, rooms.session_ids.clone()).await;
    while first.room("second", "n") == 0 {
        first.step().await;
    }
    first.acknowledge().await;
    assert_eq!(soon("the call", call).await.unwrap().unwrap().into_inner().sessions, 1);

    // The node dies with its controller.
    a.stop().await;
    drop(at_a);
    listed.registration.revoke().await;
    let nobody = async || users_in(&b, "r").await.unwrap().is_empty().then_some(());
    until_so("the members' leave", nobody).await;
    let reaped = scrape(&b).await;
    assert!(reaped.contains("ringcast_controller_reaped_nodes_total 1"), "{reaped}");
    assert_eq!(second.raw().await.unwrap().nodes.len(), 0, "it was never this controller's");
    b.stop().await;
}

#[tokio::test]
async fn a_restarted_controller_waits_for_its_own_nodes_and_not_for_those_that_moved() {
    let (etcd, redis) = (Etcd::start(1), Redis::plain());
    let (data, other) = (folder(), folder());
    let (_stays, _moves) = (
        Service::register(&etcd, Kind::Node, "stays").await,
        Service::register(&etcd, Kind::Node, "moves").await,
    );
    let a = Controller::start(found(data.path(), "a", &etcd, Some(&redis))).await;
    let b = Controller::start(found(other.path(), "b", &etcd, Some(&redis))).await;
    let mut stays = Node::link(&a, "stays", 1, 1).await.unwrap();
    stays.snapshot(vec![session(1, "u", "r")]).await;
    let mut moves = Node::link(&a, "moves", 1, 1).await.unwrap();
    moves.snapshot(vec![session(1, "v", "r")]).await;
    let both = async || (users_in(&b, "r").await.unwrap().len() == 2).then_some(());
    until_so("both sessions in the store", both).await;
    a.stop().await;

    let a = Controller::start(found(data.path(), "a", &etcd, Some(&redis))).await;
    let mut follower = Follower::open(&a).await;
    let mut moved = Node::link(&b, "moves", 1, 2).await.unwrap();
    moved.snapshot(vec![session(1, "v", "r")]).await;
    let early = tokio::time::timeout(Duration::from_millis(500), follower.raw()).await;
    assert!(early.is_err(), "the feed spoke before its own node was back: {early:?}");
    assert_eq!(users_in(&a, "r").await.unwrap().len(), 2, "what is shared is known meanwhile");
    let mut back = Node::link(&a, "stays", 1, 2).await.unwrap();
    back.snapshot(vec![session(1, "u", "r")]).await;
    soon("the snapshot", follower.snapshot()).await;
    assert_eq!(follower.nodes.keys().collect::<Vec<_>>(), ["stays"]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_second_controller_with_the_same_id_stops_with_the_setting_that_says_so() {
    let etcd = Etcd::start(1);
    let (data, other) = (folder(), folder());
    let first = Controller::start(found(data.path(), "a", &etcd, None)).await;
    let watcher = Service::register(&etcd, Kind::PushManager, "pm-1").await;
    watcher.sees_controllers(1).await;
    let second =
        control::start(found(other.path(), "a", &etcd, None), CancellationToken::new()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), second.stopped()).await.unwrap();
    let error = ended.unwrap_err();
    assert!(error.to_string().contains("CONTROLLER_ID"), "{error:#}");
    first.stop().await;
}
