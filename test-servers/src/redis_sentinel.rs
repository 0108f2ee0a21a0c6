//! A Redis primary and its replica, watched by three sentinels.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::folder::Folder;
use crate::redis::{READY, Redis};
use crate::server::said_by;
use crate::wait;

/// How the sentinels call the primary.
const MASTER: &str = "ringcast";

/// After how long without an answer a sentinel holds the primary for lost, in ms. Much shorter, and a machine that
/// compiles meanwhile would lose it by itself.
const DOWN_AFTER_MS: u32 = 2_000;

/// How long a failover may take: two rounds of votes, should the sentinels not agree in the first.
const FAILOVER: Duration = Duration::from_secs(40);

/// Running servers and sentinels.
#[derive(Debug)]
pub struct RedisSentinel {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl RedisSentinel {
    #[track_caller]
    pub(crate) fn start() -> Self {
        let made = Self::prepare();
        let mut own = made.unwrap_or_else(|error| panic!("redis: {error:#}"));
        for server in &own.servers {
            server.await_answer();
        }
        // Sentinels ask the primary at once for its replicas, and then only every ten seconds.
        let online = || {
            let replica = own.servers[0].info("replication", "slave0");
            replica.is_some_and(|replica| replica.contains("state=online"))
        };
        assert!(wait::until_so(READY, online), "the replica is not there\n{}", own.said());
        for i in 0..own.sentinels.len() {
            own.start_sentinel(i);
        }
        let agreed = || {
            own.sentinels.iter().all(|sentinel| {
                let text = sentinel.try_command(&["sentinel", "master", MASTER]).unwrap_or_default();
                field(&text, "num-other-sentinels") == Some("2") && field(&text, "num-slaves") == Some("1")
            })
        };
        assert!(wait::until_so(READY, agreed), "the sentinels do not see all\n{}", own.said());
        own
    }

    fn prepare() -> Result<Self> {
        let folder = Arc::new(Folder::make()?);
        let mut servers = Vec::new();
        for name in ["redis-0", "redis-1"] {
            servers.push(Redis::in_folder(&folder, name, "redis-server")?);
        }
        let primary = servers[0].port().to_string();
        servers[0].set_args(&[]);
        servers[1].set_args(&["--replicaof", "127.0.0.1", &primary]);
        for server in &mut servers {
            server.launch()?;
        }
        let mut sentinels = Vec::new();
        for i in 0..3 {
            let mut sentinel = Redis::in_folder(&folder, &format!("sentinel-{i}"), "redis-sentinel")?;
            let file = sentinel.data_folder().join("sentinel.conf");
            let text = format!(
                "port {}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n\
                 sentinel failover-timeout {MASTER} 4000\n",
                sentinel.port()
            );
            std::fs::write(&file, text)?;
            sentinel.set_only_arg(&file);
            sentinels.push(sentinel);
        }
        Ok(Self { servers, sentinels })
    }

    /// Where the sentinels are: `127.0.0.1:port`.
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(Redis::address).collect()
    }

    /// How the sentinels call the primary.
    pub fn master_name(&self) -> &'static str {
        MASTER
    }

    /// The servers, in their order: the first was the primary at the start.
    pub fn servers(&mut self) -> &mut [Redis] {
        &mut self.servers
    }

    /// Which server is the primary, by what a majority of sentinels say; it runs, and says so itself.
    #[track_caller]
    pub fn primary(&self) -> usize {
        match wait::until(FAILOVER, || self.primary_now()) {
            Some(primary) => primary,
            None => panic!("the sentinels know no live primary\n{}", self.said()),
        }
    }

    /// Ends the primary as `kill -9` does and waits for the new one; gives which.
    #[track_caller]
    pub fn failover(&mut self) -> usize {
        let old = self.primary();
        self.servers[old].kill();
        self.primary()
    }

    /// Ends a sentinel as `kill -9` does.
    pub fn kill_sentinel(&mut self, i: usize) {
        self.sentinels[i].kill();
    }

    /// Starts a sentinel with what it knew.
    #[track_caller]
    pub fn start_sentinel(&mut self, i: usize) {
        self.sentinels[i].start_again();
    }

    /// Runs a command at the primary and gives what `redis-cli` prints for its answer.
    #[track_caller]
    pub fn command(&self, args: &[&str]) -> String {
        let primary = self.primary();
        self.servers[primary].command(args)
    }

    /// The primary's keys that match a pattern, sorted.
    #[track_caller]
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        let primary = self.primary();
        self.servers[primary].keys(pattern)
    }

    fn primary_now(&self) -> Option<usize> {
        let live: Vec<usize> = (0..self.servers.len()).filter(|i| self.servers[*i].is_live()).collect();
        live.into_iter().find(|i| {
            let port = self.servers[*i].port().to_string();
            let named_by = |sentinel: &&Redis| {
                let asked = ["sentinel", "get-master-addr-by-name", MASTER];
                sentinel.try_command(&asked).is_ok_and(|text| text.lines().nth(1) == Some(port.as_str()))
            };
            self.sentinels.iter().filter(named_by).count() >= 2
                && self.servers[*i].info("replication", "role").as_deref() == Some("master")
        })
    }

    fn said(&self) -> String {
        said_by(self.servers.iter().chain(&self.sentinels).map(Redis::server))
    }
}

/// The value after the line `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find(|line| *line == name)?;
    lines.next()
}
