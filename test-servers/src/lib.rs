//! Real etcd, Redis and MariaDB for tests: started on free ports below the ephemeral range, in temporary folders,
//! ended with the test, also with one that was killed.
//!
//! Owns: the servers' start commands, and the ways in which a test breaks them. Must not: know of Ringcast. Talks
//! to: the programs of Debian's packages, which `cargo xtask setup` installs.
//!
//! What a test asks for either comes about or ends the test with a panic, which shows what the servers logged.
//! Calls named `try_...` give an error instead: for servers that are down on purpose.

#[cfg(not(target_os = "linux"))]
compile_error!("the servers are Debian's, and end by what only Linux has");

mod certificates;
mod client;
mod etcd;
mod folder;
mod forwarder;
mod forwarder_loop;
mod mariadb;
mod mariadb_pair;
mod mariadb_template;
mod ports;
mod redis;
mod redis_cluster;
mod redis_sentinel;
mod server;
mod wait;

pub use certificates::Certificates;
pub use etcd::{Etcd, EtcdOptions};
pub use forwarder::{Direction, Forwarder};
pub use mariadb::{MariaDb, MariaDbOptions};
pub use mariadb_pair::MariaDbPair;
pub use redis::{Redis, RedisOptions};
pub use redis_cluster::RedisCluster;
pub use redis_sentinel::RedisSentinel;
