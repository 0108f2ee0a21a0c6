//! Promise: whatever befalls etcd, Redis or MariaDB, connections and pushes go on by what is known; joins that need a
//! store are told to come back; when the store is back, all is as it was, also where it has lost its data.
#![cfg(feature = "cluster")]

#[path = "cluster_stores/etcd.rs"]
mod etcd;
#[path = "cluster_stores/mariadb.rs"]
mod mariadb;
#[path = "cluster_stores/redis.rs"]
mod redis;

use ringcast_tests::scenarios;

scenarios! {
    etcd_loses_its_leader = etcd::leader_dies;
    etcd_is_down = etcd::all_down;
    etcd_is_wiped = etcd::wiped;
    redis_comes_back_empty = redis::killed_empty;
    redis_fails_over = redis::fails_over;
    mariadb_dies = mariadb::dies;
    mariadb_is_promoted = mariadb::promoted;
    #[ignore = "nightly: a rarer fault"]
    etcds_leader_is_held = etcd::leader_is_held;
    #[ignore = "nightly: a rarer fault"]
    mariadb_is_held = mariadb::held;
    #[ignore = "nightly: a rarer fault"]
    etcd_is_compacted = etcd::compacted;
    #[ignore = "nightly: a rarer fault"]
    etcd_is_out_of_space = etcd::out_of_space;
    #[ignore = "nightly: a rarer fault"]
    redis_is_paused = redis::paused;
    #[ignore = "nightly: it takes six servers"]
    a_part_of_a_redis_cluster_fails_over = redis::a_part_of_a_cluster_fails_over;
    #[ignore = "nightly: a rarer fault"]
    mariadb_is_read_only = mariadb::read_only;
}
