//! Promise: a node that is cut off from some of its peers, or hears them and is not heard, loses nothing silently: it
//! serves on while somebody has it, closes its clients when nobody has, and is whole when the network is.
#![cfg(feature = "cluster")]

use std::time::Duration;

use ringcast_tests::cluster::{Bounds, ClusterPlan, Drill, DrillPlan, Figures, Isolated, Peers};
use ringcast_tests::{eventually, scenarios};

/// The node that is cut off.
const NODE: usize = 0;

/// Longer than the lease lives, and than a node waits until it fences itself.
const LONG: Duration = Duration::from_secs(14);

/// A node fences itself after 8 s; the rest is for its clients to be told and to come back.
const FENCED: Duration = Duration::from_secs(16);

const ALL_SERVICES: [Peers; 3] = [Peers::Etcd, Peers::Controllers, Peers::PushManagers];

scenarios! {
    a_node_without_etcd_serves_on = without_etcd;
    a_node_without_push_managers_and_etcd_keeps_its_clients = without_push_managers_and_etcd;
    a_node_that_nobody_has_closes_its_clients = without_anybody;
    clients_behind_a_black_hole_are_back_elsewhere = clients_black_holed;
    #[ignore = "nightly: a variant of those above"]
    a_node_that_hears_and_is_not_heard = only_hears;
    #[ignore = "nightly: a variant of those above"]
    a_node_that_is_heard_and_hears_nothing = only_speaks;
    #[ignore = "nightly: it takes its time"]
    a_node_whose_link_flaps = flapping;
}

async fn begin(name: &str) -> Drill {
    let cluster = ClusterPlan { isolated: Some(NODE), ..ClusterPlan::default() };
    let plan = DrillPlan { cluster, ..DrillPlan::default() };
    // All of the node's traffic passes the test's own threads.
    Drill::begin(name, DrillPlan { clients: plan.clients.min(900), ..plan }).await
}

fn network(drill: &Drill) -> &Isolated {
    drill.cluster.isolated.as_ref().expect("the plan asks for it")
}

async fn without_etcd() -> Figures {
    let mut drill = begin("a node without etcd").await;
    drill.fault();
    network(&drill).black_hole(&[Peers::Etcd]);
    lease_is_over(&mut drill).await;
    // It is routed to for 10 s without a lease.
    drill.load_for(Duration::from_secs(3)).await;
    drill.some_join(Duration::from_secs(5)).await;
    assert_eq!(drill.lost(), 0, "it has its links and streams: {:?}", drill.endings());
    network(&drill).heal();
    registered_again(&mut drill).await;
    drill.end(Bounds::announced(0.01)).await
}

async fn without_push_managers_and_etcd() -> Figures {
    let mut drill = begin("a node without push managers and etcd").await;
    drill.fault();
    network(&drill).black_hole(&[Peers::Etcd, Peers::PushManagers]);
    drill.is_unrouted(NODE, Duration::from_secs(8)).await;
    lease_is_over(&mut drill).await;
    drill.load().await;
    assert_eq!(drill.lost(), 0, "a controller has it: {:?}", drill.endings());
    network(&drill).heal();
    registered_again(&mut drill).await;
    // A third of all clients was there for a third of the time; what they missed was announced.
    drill.end(Bounds::announced(0.4)).await
}

async fn without_anybody() -> Figures {
    let mut drill = begin("a node that nobody has").await;
    let clients = drill.crowd.by_node()[NODE];
    drill.fault();
    network(&drill).black_hole(&ALL_SERVICES);
    fenced(&mut drill, clients).await;
    network(&drill).heal();
    registered_again(&mut drill).await;
    drill.end(Bounds::announced(0.3)).await
}

async fn only_hears() -> Figures {
    let mut drill = begin("a node that hears and is not heard").await;
    drill.fault();
    network(&drill).only_hears(&ALL_SERVICES);
    one_way(drill).await
}

async fn only_speaks() -> Figures {
    let mut drill = begin("a node that is heard and hears nothing").await;
    drill.fault();
    network(&drill).only_speaks(&ALL_SERVICES);
    one_way(drill).await
}

/// Whatever a half-open connection looks like to either side, nothing hangs: the node is out, or serves on, and what
/// was not delivered was announced.
async fn one_way(mut drill: Drill) -> Figures {
    drill.load_for(LONG).await;
    lease_is_over(&mut drill).await;
    drill.load_for(Duration::from_secs(2)).await;
    drill.all_are_back(drill.since_fault() + Duration::from_secs(15)).await;
    network(&drill).heal();
    registered_again(&mut drill).await;
    drill.end(Bounds::announced(0.4)).await
}

async fn flapping() -> Figures {
    const TURNS: u32 = 20;
    let mut drill = begin("a node whose link flaps").await;
    drill.fault();
    for _ in 0..TURNS {
        network(&drill).black_hole(&ALL_SERVICES);
        drill.load_for(Duration::from_secs(1)).await;
        network(&drill).heal();
        drill.load_for(Duration::from_secs(1)).await;
    }
    let losses = || drill.cluster.nodes[NODE].metric("ringcast_node_controller_link_losses_total");
    let before = losses().expect("the node's metrics");
    for _ in 0..TURNS / 2 {
        network(&drill).cut(&ALL_SERVICES);
        drill.load_for(Duration::from_secs(1)).await;
    }
    let lost = losses().expect("the node's metrics") - before;
    assert!(lost >= f64::from(TURNS / 4), "{lost} of {} cuts were felt", TURNS / 2);
    assert_eq!(drill.lost(), 0, "flaps are not outages: {:?}", drill.endings());
    drill.end(Bounds::announced(0.2)).await
}

async fn clients_black_holed() -> Figures {
    let mut drill = begin("clients behind a black hole").await;
    let clients = drill.crowd.by_node()[NODE];
    drill.fault();
    network(&drill).black_hole(&[Peers::Clients]);
    drill.has_bitten(clients, Duration::from_secs(15)).await;
    let endings: Vec<String> = drill.endings().into_keys().collect();
    assert_eq!(endings, ["broken: the node is silent"], "they found out by themselves");
    drill.all_are_back(Duration::from_secs(40)).await;
    network(&drill).heal();
    drill.end(Bounds { presence: Duration::from_secs(45), ..Bounds::announced(0.1) }).await
}

/// The fault bites: nobody could renew the node's lease.
async fn lease_is_over(drill: &mut Drill) {
    eventually("the node's lease is over", LONG, async || {
        if drill.cluster.is_registered(NODE) { Err("its key is there") } else { Ok(()) }
    })
    .await;
    let took = drill.since_fault();
    drill.figures.note("the lease is over", took);
}

async fn registered_again(drill: &mut Drill) {
    eventually("the node is registered again", LONG, async || {
        if drill.cluster.is_registered(NODE) { Ok(()) } else { Err("no key of it") }
    })
    .await;
    drill.cluster.whole().await;
}

/// The node closes its clients by itself, with a code that tells them to come back, and they are elsewhere.
async fn fenced(drill: &mut Drill, clients: usize) {
    drill.has_bitten(clients, FENCED).await;
    let took = drill.since_fault();
    drill.figures.note("the node has fenced itself", took);
    let endings = drill.endings();
    let told = |ending: &String| {
        let code = ending.strip_prefix("closed ").and_then(|code| code.parse::<u16>().ok());
        code.is_some_and(|code| (4000..4500).contains(&code) || code == 1012)
    };
    assert!(endings.keys().all(told), "each was told to come back: {endings:?}");
    drill.all_are_back(Duration::from_secs(40)).await;
    drill
        .presence_is_right("after a node fenced itself", drill.since_fault() + Duration::from_secs(15))
        .await;
}
