//! etcd: its leader killed, all of it down, wiped, compacted, out of space.

use std::time::Duration;

use ringcast_tests::cluster::{Bounds, ClusterPlan, Drill, DrillPlan, Figures, Part};
use ringcast_tests::eventually;

/// Until everyone is registered again where keys were lost.
const REGISTERED: Duration = Duration::from_secs(20);

/// Routes are told to be stale when the list of services has been old for 3 s.
const STALE_AFTER: Duration = Duration::from_secs(10);

pub(crate) async fn leader_dies() -> Figures {
    let mut drill = Drill::begin("etcd's leader dies", DrillPlan::default()).await;
    let leader = drill.cluster.etcd.leader();
    drill.fault();
    drill.cluster.etcd.kill(leader);
    assert_ne!(drill.cluster.etcd.leader(), leader, "another one leads");
    let took = drill.since_fault();
    drill.figures.note("another leader", took);
    drill.some_join(Duration::from_secs(15)).await;
    // Longer than a lease lives that nobody could renew.
    drill.load_for(Duration::from_secs(12)).await;
    all_are_registered(&drill, Duration::from_secs(5)).await;
    drill.pushes_went_on(0.8);
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.etcd.start_again(leader);
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn leader_is_held() -> Figures {
    let mut drill = Drill::begin("etcd's leader is held", DrillPlan::default()).await;
    let leader = drill.cluster.etcd.leader();
    drill.fault();
    // Its connections stay, and nothing answers.
    drill.cluster.etcd.stop(leader);
    drill.some_join(Duration::from_secs(15)).await;
    drill.load_for(drill.times.long_stop.saturating_sub(drill.since_fault())).await;
    all_are_registered(&drill, Duration::from_secs(5)).await;
    drill.pushes_went_on(0.8);
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.etcd.cont(leader);
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn all_down() -> Figures {
    let mut drill = Drill::begin("etcd is down", DrillPlan::default()).await;
    let down = drill.times.etcd_down;
    drill.fault();
    (0..3).for_each(|member| drill.cluster.etcd.kill(member));
    eventually("reports say that routes may be stale", STALE_AFTER, async || {
        let (reports, stale) = drill.reports();
        if stale > 0 { Ok(()) } else { Err(reports) }
    })
    .await;
    drill.load_for(down.saturating_sub(drill.since_fault())).await;
    assert_eq!(drill.lost(), 0, "leases ran out, and nobody was closed for it: {:?}", drill.endings());
    drill.some_join(Duration::from_secs(15)).await;
    drill.pushes_went_on(0.8);
    (0..3).for_each(|member| drill.cluster.etcd.start_again(member));
    all_are_registered(&drill, REGISTERED).await;
    let took = drill.since_fault();
    drill.figures.note("all registered again, from the fault", took);
    assert_eq!(drill.lost(), 0, "nor when it came back: {:?}", drill.endings());
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn wiped() -> Figures {
    let mut drill = Drill::begin("etcd is wiped", DrillPlan::default()).await;
    drill.fault();
    drill.cluster.etcd.wipe();
    all_are_registered(&drill, REGISTERED).await;
    let took = drill.since_fault();
    drill.figures.note("all registered again", took);
    drill.some_join(Duration::from_secs(15)).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn compacted() -> Figures {
    let mut drill = Drill::begin("etcd is compacted", DrillPlan::default()).await;
    drill.fault();
    // Those who watch are cut off with the members, and what they would go on from is gone.
    for member in 0..3 {
        drill.cluster.etcd.kill(member);
        drill.cluster.etcd.leader();
        drill.cluster.etcd.put("/elsewhere", &format!("before {member} is back"));
        drill.cluster.etcd.compact();
        drill.cluster.etcd.start_again(member);
    }
    // What changes after it is seen: a node goes, and another start of it comes.
    drill.kill(Part::Node(0)).await;
    drill.is_unrouted(0, Duration::from_millis(2_500)).await;
    drill.all_are_back(Duration::from_secs(15)).await;
    drill.presence_is_right("after the compaction", Duration::from_secs(15)).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn out_of_space() -> Figures {
    let cluster = ClusterPlan { etcd_quota: Some(16 * 1024 * 1024), ..ClusterPlan::default() };
    let mut drill = Drill::begin("etcd is out of space", DrillPlan { cluster, ..DrillPlan::default() }).await;
    drill.fault();
    drill.cluster.etcd.fill();
    assert!(drill.cluster.etcd.try_put("/elsewhere", "one more").is_err(), "it takes nothing");
    // Leases that are there are renewed all the same.
    drill.load_for(Duration::from_secs(12)).await;
    all_are_registered(&drill, Duration::from_secs(2)).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    // Who comes now is not registered until there is space again.
    drill.kill(Part::Node(0)).await;
    drill.all_are_back(drill.since_fault() + Duration::from_secs(15)).await;
    eventually("the dead node's lease is over", Duration::from_secs(15), async || {
        if drill.cluster.is_registered(0) { Err("its key is there") } else { Ok(()) }
    })
    .await;
    drill.cluster.restart(Part::Node(0));
    drill.load().await;
    assert!(!drill.cluster.is_registered(0), "there is no space for its key");
    drill.cluster.etcd.disarm();
    all_are_registered(&drill, REGISTERED).await;
    drill.end(Bounds::announced(0.02)).await
}

async fn all_are_registered(drill: &Drill, within: Duration) {
    eventually("every service is registered", within, async || {
        let kinds = [
            ("controllers", &drill.cluster.controllers),
            ("push-managers", &drill.cluster.managers),
            ("nodes", &drill.cluster.nodes),
        ];
        for (kind, services) in kinds {
            let keys = drill.cluster.etcd.get_prefix(&format!("/ringcast/{kind}/"));
            if keys.len() != services.len() {
                return Err(format!("{kind}: {:?}", keys.iter().map(|(key, _)| key).collect::<Vec<_>>()));
            }
        }
        Ok(())
    })
    .await;
}
