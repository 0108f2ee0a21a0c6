//! One process of each kind: `kill -9`, SIGSTOP for 3 s or for long, SIGTERM.

use std::time::Duration;

use ringcast_tests::cluster::{Bounds, Cluster, Drill, DrillPlan, Figures, Part};
use ringcast_tests::eventually;

/// What a link to another controller may take.
const MOVED: Duration = Duration::from_secs(15);

/// Held for so long, a process is late, and nothing more.
const SHORT_STOP: Duration = Duration::from_secs(3);

/// When a dead node is out of routing: promised is 2 s.
const OUT_OF_ROUTING: Duration = Duration::from_millis(2_500);

/// The lease, and what else it takes until a dead node's members have left.
const LEASE_BOUND: Duration = Duration::from_secs(15);

pub(crate) async fn controller() -> Figures {
    let mut drill = Drill::begin("one controller", DrillPlan::default()).await;

    let dead = linked(&drill.cluster);
    drill.kill(Part::Controller(dead)).await;
    links_have_left(&mut drill, dead).await;
    drill.some_join(Duration::from_secs(15)).await;
    drill.presence_is_right("after a controller died", LEASE_BOUND).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    assert!(drill.reports().0 > 50, "pushes go on: {:?}", drill.reports());
    drill.cluster.restart(Part::Controller(dead));
    drill.cluster.whole().await;

    let held = linked(&drill.cluster);
    held_for(&mut drill, Part::Controller(held), SHORT_STOP).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());

    let stopped = linked(&drill.cluster);
    drill.fault();
    let status = drill.cluster.terminate(Part::Controller(stopped)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    links_have_left(&mut drill, stopped).await;
    drill.some_join(Duration::from_secs(15)).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.restart(Part::Controller(stopped));
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn controller_for_long() -> Figures {
    let mut drill = Drill::begin("a controller held for long", DrillPlan::default()).await;
    let (held, long) = (linked(&drill.cluster), drill.times.long_stop);
    drill.fault();
    drill.cluster.stop(Part::Controller(held));
    links_have_left(&mut drill, held).await;
    drill.some_join(Duration::from_secs(20)).await;
    drill.load_for(long.saturating_sub(drill.since_fault())).await;
    drill.cluster.cont(Part::Controller(held));
    drill.load().await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn push_manager() -> Figures {
    let mut drill = Drill::begin("one push manager", DrillPlan::default()).await;

    drill.kill(Part::Manager(0)).await;
    drill.some_join(Duration::from_secs(10)).await;
    drill.load().await;
    assert!(drill.reports().0 > 50, "the others push on: {:?}", drill.reports());
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.restart(Part::Manager(0));
    drill.cluster.whole().await;

    held_for(&mut drill, Part::Manager(1), SHORT_STOP).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());

    drill.fault();
    let status = drill.cluster.terminate(Part::Manager(2)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    drill.some_join(Duration::from_secs(10)).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.restart(Part::Manager(2));
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn push_manager_for_long() -> Figures {
    let mut drill = Drill::begin("a push manager held for long", DrillPlan::default()).await;
    let long = drill.times.long_stop;
    drill.fault();
    drill.cluster.stop(Part::Manager(0));
    // A join waits for one that does not acknowledge until that is cut off.
    drill.some_join(Duration::from_secs(15)).await;
    drill.load_for(long.saturating_sub(drill.since_fault())).await;
    assert!(drill.reports().0 > 50, "the others push on: {:?}", drill.reports());
    drill.cluster.cont(Part::Manager(0));
    drill.load().await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.end(Bounds::announced(0.1)).await
}

pub(crate) async fn node() -> Figures {
    let mut drill = Drill::begin("one node", DrillPlan::default()).await;

    drill.kill(Part::Node(0)).await;
    drill.is_unrouted(0, OUT_OF_ROUTING).await;
    drill.all_are_back(Duration::from_secs(15)).await;
    drill.presence_is_right("after a node died", LEASE_BOUND).await;
    assert!(!drill.cluster.is_registered(0), "its lease is over");
    drill.cluster.restart(Part::Node(0));
    drill.cluster.whole().await;

    held_for(&mut drill, Part::Node(1), SHORT_STOP).await;
    assert_eq!(drill.lost(), 0, "nothing but late: {:?}", drill.endings());

    let clients = drill.crowd.by_node()[2];
    drill.fault();
    let status = drill.cluster.terminate(Part::Node(2)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    drill.has_bitten(clients, Duration::from_secs(2)).await;
    let endings: Vec<(String, usize)> = drill.endings().into_iter().collect();
    assert_eq!(endings, [("closed 1012".to_owned(), clients)]);
    drill.all_are_back(Duration::from_secs(15)).await;
    drill.presence_is_right("after a planned stop", drill.since_fault() + Duration::from_secs(5)).await;
    assert!(!drill.cluster.is_registered(2), "it gave its lease back");
    drill.cluster.restart(Part::Node(2));
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn node_for_long() -> Figures {
    let mut drill = Drill::begin("a node held for long", DrillPlan::default()).await;
    let (clients, long) = (drill.crowd.by_node()[0], drill.times.long_stop);
    drill.fault();
    drill.cluster.stop(Part::Node(0));
    drill.has_bitten(clients, Duration::from_secs(12)).await;
    drill.all_are_back(Duration::from_secs(30)).await;
    drill.load_for(long.saturating_sub(drill.since_fault())).await;
    drill.cluster.cont(Part::Node(0));
    drill.cluster.whole().await;
    drill.presence_is_right("after a node was held", drill.since_fault() + LEASE_BOUND).await;
    eventually("the node has let its lost clients go", Duration::from_secs(10), async || {
        let stats = drill.cluster.nodes[0].stats().map_err(|error| error.to_string())?;
        // Users, not connections, of which the question itself is one.
        if stats["users"] == 0 { Ok(()) } else { Err(stats.to_string()) }
    })
    .await;
    drill.end(Bounds::announced(0.2)).await
}

/// Holds a part, under load, and sees that all is there again.
async fn held_for(drill: &mut Drill, part: Part, time: Duration) {
    drill.fault();
    drill.cluster.stop(part);
    drill.load_for(time).await;
    drill.cluster.cont(part);
    drill.cluster.whole().await;
    drill.some_join(Duration::from_secs(10)).await;
    drill.load().await;
}

/// A controller to which a node has its link.
pub(crate) fn linked(cluster: &Cluster) -> usize {
    let controllers = cluster.controllers_of(0).expect("the node's connections");
    *controllers.first().expect("a node has its link to a controller")
}

/// Waits until no node has a link to this controller any more, and each has one to another.
pub(crate) async fn links_have_left(drill: &mut Drill, controller: usize) {
    eventually("the nodes have their links to other controllers", MOVED, async || {
        for node in 0..drill.cluster.nodes.len() {
            let linked = drill.cluster.controllers_of(node).map_err(|error| error.to_string())?;
            if linked.is_empty() || linked.contains(&controller) {
                return Err(format!("node {node}: {linked:?}"));
            }
        }
        Ok(())
    })
    .await;
    let took = drill.since_fault();
    drill.figures.note("links moved", took);
}
