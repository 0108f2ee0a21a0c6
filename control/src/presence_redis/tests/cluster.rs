//! A Redis Cluster: keys in many slots, and a master that is lost.

use test_servers::RedisCluster;

use super::faults::{again, tell_again};
use super::*;

/// One scenario after the other, each on an empty store.
macro_rules! in_turn {
    ($cluster:expr, $store:expr; $($module:ident: $($scenario:ident)*;)*) => {
        $($(
            println!("{}", stringify!($scenario));
            $module::$scenario($store).await;
            empty($cluster);
        )*)*
    };
}

async fn connected_to(cluster: &RedisCluster) -> PresenceRedis {
    let settings = RedisStore { cluster: true, ..settings(&cluster.addresses()) };
    PresenceRedis::connect(&settings).await.unwrap()
}

fn empty(cluster: &mut RedisCluster) {
    for primary in cluster.primaries() {
        cluster.servers()[primary].command(&["flushall"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_does_what_one_server_does() {
    let mut cluster = Redis::cluster();
    let store = connected_to(&cluster).await;
    again(async || store.nodes().await).await;
    all_scenarios!(in_turn!(&mut cluster, &store));
    model::play(&store, 7, 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_master_is_lost_works_again() {
    let mut cluster = Redis::cluster();
    let store = connected_to(&cluster).await;
    let a = at("a", 1, 1);
    let rooms: Vec<RoomId> = (0..60).map(|number| room(&format!("r{number}"))).collect();
    let session = |(number, room): (usize, &RoomId)| {
        (arrival(number as u64, &format!("u{number}")), vec![room.clone()])
    };
    let sessions: Vec<(Arrival, Vec<RoomId>)> = rooms.iter().enumerate().map(session).collect();
    tell_again(&store, &a, &sessions).await;
    cluster.failover("ringcast:{r:r1}:users");
    tell_again(&store, &a, &sessions).await;
    assert_eq!(again(async || store.counts(&rooms).await).await, vec![1; 60]);
    assert_eq!(again(async || store.totals().await).await, Totals { users: 60, sessions: 60 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_master_of_a_cluster_is_replaced() {
    let mut cluster = Redis::cluster();
    let store = connected_to(&cluster).await;
    let a = at("a", 1, 1);
    tell_again(&store, &a, &[]).await;
    let held = cluster.primary_of("ringcast:{n:a}:link");
    // Its connections stay: only deadlines tell.
    cluster.servers()[held].stop();
    tell_again(&store, &a, &[(arrival(1, "u"), vec![room("r")])]).await;
    assert_eq!(again(async || store.counts(&[room("r")]).await).await, [1]);
    cluster.servers()[held].cont();
}
