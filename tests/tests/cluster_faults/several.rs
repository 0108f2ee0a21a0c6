//! Several processes at once or in turn, and a storm of clients.

use std::time::Duration;

use ringcast_tests::cluster::{Bounds, Drill, DrillPlan, Figures, Part};

use crate::one::{linked, links_have_left};

const LEASE_BOUND: Duration = Duration::from_secs(15);

/// Held for so long, processes are late, and nothing more.
const SHORT_STOP: Duration = Duration::from_secs(3);

/// A controller that has links, a push manager and a node.
fn one_of_each_with(node: usize, drill: &Drill) -> [Part; 3] {
    [Part::Controller(linked(&drill.cluster)), Part::Manager(node), Part::Node(node)]
}

pub(crate) async fn one_of_each() -> Figures {
    let mut drill = Drill::begin("one of each", DrillPlan::default()).await;

    let (parts, clients) = (one_of_each_with(0, &drill), drill.crowd.by_node()[0]);
    drill.fault();
    parts.iter().for_each(|part| drill.cluster.kill(*part));
    drill.has_bitten(clients, Duration::from_secs(10)).await;
    drill.all_are_back(Duration::from_secs(25)).await;
    drill.presence_is_right("after one of each died", 2 * LEASE_BOUND).await;
    assert!(drill.reports().0 > 50, "the others push on: {:?}", drill.reports());
    parts.iter().for_each(|part| drill.cluster.restart(*part));
    drill.cluster.whole().await;

    let parts = one_of_each_with(1, &drill);
    drill.fault();
    parts.iter().for_each(|part| drill.cluster.stop(*part));
    drill.load_for(SHORT_STOP).await;
    parts.iter().for_each(|part| drill.cluster.cont(*part));
    drill.cluster.whole().await;
    drill.some_join(Duration::from_secs(10)).await;
    assert_eq!(drill.lost(), 0, "nothing but late: {:?}", drill.endings());

    let (parts, clients) = (one_of_each_with(2, &drill), drill.crowd.by_node()[2]);
    drill.fault();
    for status in drill.cluster.terminate_together(&parts).await {
        assert_eq!(status.code(), Some(0), "{status}");
    }
    drill.has_bitten(clients, Duration::from_secs(2)).await;
    let endings: Vec<(String, usize)> = drill.endings().into_iter().collect();
    assert_eq!(endings, [("closed 1012".to_owned(), clients)], "every client of the node was told");
    drill.all_are_back(drill.since_fault() + Duration::from_secs(15)).await;
    drill.presence_is_right("after one of each was stopped", drill.since_fault() + LEASE_BOUND).await;
    parts.iter().for_each(|part| drill.cluster.restart(*part));
    drill.end(Bounds::announced(0.03)).await
}

pub(crate) async fn one_of_each_for_long() -> Figures {
    let mut drill = Drill::begin("one of each held for long", DrillPlan::default()).await;
    let (parts, clients) = (one_of_each_with(1, &drill), drill.crowd.by_node()[1]);
    let long = drill.times.long_stop;
    drill.fault();
    parts.iter().for_each(|part| drill.cluster.stop(*part));
    drill.has_bitten(clients, Duration::from_secs(12)).await;
    drill.all_are_back(Duration::from_secs(30)).await;
    drill.load_for(long.saturating_sub(drill.since_fault())).await;
    parts.iter().for_each(|part| drill.cluster.cont(*part));
    drill.cluster.whole().await;
    drill.presence_is_right("after one of each was held", drill.since_fault() + LEASE_BOUND).await;
    drill.end(Bounds::announced(0.2)).await
}

pub(crate) async fn two_nodes() -> Figures {
    let mut drill = Drill::begin("two nodes at once", DrillPlan::default()).await;
    let by_node = drill.crowd.by_node();
    drill.fault();
    drill.cluster.kill(Part::Node(0));
    drill.cluster.kill(Part::Node(1));
    drill.has_bitten(by_node[0] + by_node[1], Duration::from_secs(10)).await;
    drill.is_unrouted(0, Duration::from_millis(2_500)).await;
    drill.all_are_back(Duration::from_secs(25)).await;
    drill.presence_is_right("after two nodes died", 2 * LEASE_BOUND).await;
    drill.cluster.restart(Part::Node(0));
    drill.cluster.restart(Part::Node(1));
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn two_controllers() -> Figures {
    let mut drill = Drill::begin("two controllers at once", DrillPlan::default()).await;
    let first = linked(&drill.cluster);
    let second = (first + 1) % drill.cluster.controllers.len();
    drill.fault();
    drill.cluster.kill(Part::Controller(first));
    drill.cluster.kill(Part::Controller(second));
    links_have_left(&mut drill, first).await;
    links_have_left(&mut drill, second).await;
    drill.some_join(Duration::from_secs(20)).await;
    drill.presence_is_right("after two controllers died", drill.since_fault() + LEASE_BOUND).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.restart(Part::Controller(first));
    drill.cluster.restart(Part::Controller(second));
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn all_push_managers() -> Figures {
    let mut drill = Drill::begin("all push managers at once", DrillPlan::default()).await;
    let all = 0..drill.cluster.managers.len();
    all.clone().for_each(|place| drill.cluster.kill(Part::Manager(place)));
    drill.fault();
    drill.load().await;
    assert_eq!(drill.reports().0, 0, "nobody is there to push through");
    all.for_each(|place| drill.cluster.restart(Part::Manager(place)));
    drill.cluster.whole().await;
    drill.some_join(Duration::from_secs(15)).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn all_controllers_and_a_node() -> Figures {
    let mut drill = Drill::begin("all controllers and a node", DrillPlan::default()).await;
    let (clients, refused) = (drill.crowd.by_node()[0], drill.crowd.refused());
    drill.fault();
    let controllers = 0..drill.cluster.controllers.len();
    controllers.clone().for_each(|place| drill.cluster.kill(Part::Controller(place)));
    drill.cluster.kill(Part::Node(0));
    drill.has_bitten(clients, Duration::from_secs(10)).await;
    drill.load().await;
    assert_eq!(drill.lost(), clients, "the other nodes' clients stay: {:?}", drill.endings());
    let (reports, stale) = drill.reports();
    assert!(
        reports > 50 && stale > 0,
        "pushes go on by the routes that are known: {reports} reports, {stale} stale"
    );
    assert!(drill.crowd.refused() > refused, "no join without a controller");
    controllers.for_each(|place| drill.cluster.restart(Part::Controller(place)));
    drill.all_are_back(Duration::from_secs(40)).await;
    drill.presence_is_right("after all controllers died", drill.since_fault() + LEASE_BOUND).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds { presence: Duration::from_secs(20), ..Bounds::announced(0.02) }).await
}

pub(crate) async fn rolling_restart() -> Figures {
    let mut drill = Drill::begin("everything in turn", DrillPlan::default()).await;
    drill.fault();
    let controllers = (0..drill.cluster.controllers.len()).map(Part::Controller);
    let managers = (0..drill.cluster.managers.len()).map(Part::Manager);
    let parts: Vec<Part> = controllers.chain(managers).collect();
    for part in parts {
        restarted(&mut drill, part).await;
    }
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    for place in 0..drill.cluster.nodes.len() {
        restarted(&mut drill, Part::Node(place)).await;
        drill.all_are_back(drill.since_fault() + Duration::from_secs(15)).await;
    }
    let endings = drill.endings();
    assert!(endings.keys().all(|ending| ending == "closed 1012"), "every client was told: {endings:?}");
    assert!(endings["closed 1012"] >= drill.crowd.clients.len(), "every node was stopped: {endings:?}");
    drill.end(Bounds::announced(0.01)).await
}

async fn restarted(drill: &mut Drill, part: Part) {
    let status = drill.cluster.terminate(part).await;
    assert_eq!(status.code(), Some(0), "{part:?}: {status}");
    drill.cluster.restart(part);
    drill.cluster.whole().await;
}

/// Scripts of Redis for each client that comes back, at most, and statements of MariaDB for each room.
const REDIS_SCRIPTS: u64 = 4;
const MARIA_STATEMENTS: u64 = 3;

/// How many scripts Redis has run so far, and how many statements MariaDB.
fn calls(drill: &mut Drill) -> (u64, u64) {
    let stats = drill.cluster.one_redis().command(&["info", "commandstats"]);
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let scripts = |line: &str| number(line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next()?);
    let redis = stats.lines().find_map(scripts);
    let status = drill.cluster.maria.sql("show global status like 'Questions'");
    let maria = status.split_whitespace().last().and_then(number);
    (redis.expect("what Redis has answered"), maria.expect("what MariaDB has answered"))
}

/// All clients are on one node, which dies.
pub(crate) async fn storm() -> Figures {
    const BACK: Duration = Duration::from_secs(15);
    let plan = DrillPlan { jitter: Duration::from_secs(5), begin_at: Some(0), ..DrillPlan::default() };
    let mut drill = Drill::begin("a storm of clients", plan).await;
    let clients = drill.crowd.clients.len();
    assert_eq!(drill.crowd.by_node()[0], clients, "all are on one node");
    let before = calls(&mut drill);
    drill.kill(Part::Node(0)).await;
    drill.all_are_back(BACK).await;
    let after = calls(&mut drill);
    let (redis, maria) = (after.0 - before.0, after.1 - before.1);
    println!("a storm of {clients} clients: {redis} scripts of Redis, {maria} statements of MariaDB");
    assert!(redis <= REDIS_SCRIPTS * clients as u64, "joins are told together: {redis} scripts");
    assert!(
        maria <= MARIA_STATEMENTS * drill.crowd.rooms() as u64,
        "a room is read once: {maria} statements"
    );
    let wave = drill.lost();
    drill.load_for(Duration::from_secs(8)).await;
    assert_eq!(drill.lost(), wave, "no second wave: {:?}", drill.endings());
    assert_eq!(wave, clients, "each was lost once: {:?}", drill.endings());
    drill.presence_is_right("after the storm", drill.since_fault() + LEASE_BOUND).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds::announced(0.02)).await
}
