//! Redis: killed and started again empty, failed over by its sentinels, paused.

use std::time::Duration;

use ringcast_tests::cluster::{Bounds, ClusterPlan, Drill, DrillPlan, Figures, Part, RedisPlan};

/// Until presence is right where the store had lost it.
const REBUILT: Duration = Duration::from_secs(15);

pub(crate) async fn killed_empty() -> Figures {
    let mut drill = Drill::begin("Redis comes back empty", DrillPlan::default()).await;
    drill.fault();
    drill.cluster.one_redis().kill();
    drill.load_for(drill.times.store_down).await;
    assert!(drill.reports().0 > 50, "pushes go on: {:?}", drill.reports());
    // A node dies while nobody can write down that its members have left.
    let refused = drill.crowd.refused();
    drill.kill(Part::Node(0)).await;
    drill.load().await;
    assert!(drill.crowd.refused() > refused, "no join without Redis");
    drill.cluster.one_redis().start_again_empty();
    drill.fault();
    drill.all_are_back(Duration::from_secs(25)).await;
    drill.presence_is_right("after Redis came back empty", drill.since_fault() + REBUILT).await;
    drill.some_join(Duration::from_secs(10)).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn fails_over() -> Figures {
    let cluster = ClusterPlan { redis: RedisPlan::Sentinels, ..ClusterPlan::default() };
    let mut drill = Drill::begin("Redis fails over", DrillPlan { cluster, ..DrillPlan::default() }).await;
    let before = drill.cluster.redis_sentinels().primary();
    drill.fault();
    let now = drill.cluster.redis_sentinels().failover();
    assert_ne!(now, before, "another one is the primary");
    let took = drill.since_fault();
    drill.figures.note("another primary", took);
    drill.some_join(Duration::from_secs(20)).await;
    drill.presence_is_right("after the failover", drill.since_fault() + REBUILT).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.redis_sentinels().servers()[before].start_again();
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn a_part_of_a_cluster_fails_over() -> Figures {
    let cluster = ClusterPlan { redis: RedisPlan::Cluster, ..ClusterPlan::default() };
    let plan = DrillPlan { cluster, ..DrillPlan::default() };
    let mut drill = Drill::begin("a part of a Redis Cluster fails over", plan).await;
    drill.fault();
    // The part that has the list of nodes.
    let ended = drill.cluster.redis_cluster().failover("ringcast:nodes");
    let took = drill.since_fault();
    drill.figures.note("a replica stands in", took);
    drill.some_join(Duration::from_secs(20)).await;
    drill.presence_is_right("after a part failed over", drill.since_fault() + REBUILT).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.cluster.redis_cluster().servers()[ended].start_again();
    drill.kill(Part::Node(0)).await;
    drill.all_are_back(Duration::from_secs(15)).await;
    drill.presence_is_right("after a node died", REBUILT).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds::announced(0.02)).await
}

pub(crate) async fn paused() -> Figures {
    let mut drill = Drill::begin("Redis is paused", DrillPlan::default()).await;
    let down = drill.times.store_down;
    drill.fault();
    drill.cluster.one_redis().pause(down.as_millis() as u64);
    drill.some_join(down + Duration::from_secs(15)).await;
    assert!(drill.since_fault() + Duration::from_millis(500) >= down, "nobody joined while it was paused");
    drill.pushes_went_on(0.8);
    drill.load_for(down.saturating_sub(drill.since_fault())).await;
    drill.presence_is_right("after a pause", down + REBUILT).await;
    // The same where not even the connection answers.
    drill.fault();
    drill.cluster.one_redis().stop();
    drill.load_for(down).await;
    drill.pushes_went_on(0.8);
    drill.cluster.one_redis().cont();
    drill.some_join(Duration::from_secs(15)).await;
    drill.presence_is_right("after a stop", down + 2 * REBUILT).await;
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
    drill.end(Bounds::announced(0.01)).await
}
