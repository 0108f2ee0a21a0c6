//! A Redis Cluster of three primaries with a replica each.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::folder::Folder;
use crate::ports::Port;
use crate::redis::{READY, Redis};
use crate::server::said_by;
use crate::wait;

const PRIMARIES: usize = 3;

/// The slots of a cluster.
const SLOTS: usize = 16_384;

/// After how long without an answer a server is held for lost, in ms.
const NODE_TIMEOUT_MS: u32 = 2_000;

/// How long a replica may take to stand in for its primary.
const FAILOVER: Duration = Duration::from_secs(30);

/// Running servers.
#[derive(Debug)]
pub struct RedisCluster {
    /// First the primaries, then a replica of each, as they were at the start.
    servers: Vec<Redis>,
    /// On which ports the servers talk to one another.
    buses: Vec<Port>,
}

impl RedisCluster {
    #[track_caller]
    pub(crate) fn start() -> Self {
        let made = Self::prepare();
        let mut own = made.unwrap_or_else(|error| panic!("redis: {error:#}"));
        for server in &own.servers {
            server.await_answer();
        }
        if let Err(error) = own.form() {
            panic!("redis: {error:#}\n{}", own.said());
        }
        own
    }

    fn prepare() -> Result<Self> {
        let folder = Arc::new(Folder::make()?);
        let (mut servers, mut buses) = (Vec::new(), Vec::new());
        for i in 0..2 * PRIMARIES {
            let mut server = Redis::in_folder(&folder, &format!("redis-{i}"), "redis-server")?;
            let bus = Port::claim();
            let (bus_number, timeout) = (bus.number().to_string(), NODE_TIMEOUT_MS.to_string());
            let mut args = vec!["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"];
            args.extend(["--cluster-port", &bus_number, "--cluster-node-timeout", &timeout]);
            // A replica stands in however old its data is: otherwise one that is killed early is never replaced.
            args.extend(["--cluster-replica-validity-factor", "0"]);
            server.set_args(&args);
            server.launch()?;
            servers.push(server);
            buses.push(bus);
        }
        Ok(Self { servers, buses })
    }

    /// Makes one cluster of the servers: by hand, for `redis-cli --cluster create` takes the buses' ports for
    /// granted.
    fn form(&mut self) -> Result<()> {
        for (i, server) in self.servers.iter().enumerate() {
            // Before they meet, or they would have to settle whose epoch is whose.
            server.try_command(&["cluster", "set-config-epoch", &(i + 1).to_string()])?;
            if i < PRIMARIES {
                let (first, end) = (SLOTS * i / PRIMARIES, SLOTS * (i + 1) / PRIMARIES);
                let (first, last) = (first.to_string(), (end - 1).to_string());
                server.try_command(&["cluster", "addslotsrange", &first, &last])?;
            }
        }
        for (server, bus) in self.servers.iter().zip(&self.buses).skip(1) {
            let (port, bus) = (server.port().to_string(), bus.number().to_string());
            self.servers[0].try_command(&["cluster", "meet", "127.0.0.1", &port, &bus])?;
        }
        let count = self.servers.len();
        let met = |server: &Redis| {
            let nodes = server.try_command(&["cluster", "nodes"]).unwrap_or_default();
            nodes.lines().filter(|line| line.contains(" connected")).count() == count
                && !nodes.contains("handshake")
        };
        wait::until_so(READY, || self.servers.iter().all(met)).then_some(()).context("they do not meet")?;
        for i in 0..PRIMARIES {
            let primary = self.servers[i].try_command(&["cluster", "myid"])?;
            self.servers[PRIMARIES + i].try_command(&["cluster", "replicate", &primary])?;
        }
        let replicates =
            |server: &Redis| server.info("replication", "master_link_status").as_deref() == Some("up");
        let whole = || {
            self.servers[PRIMARIES..].iter().all(replicates)
                && self.servers.iter().all(|server| is_ok(server) && replicas(server) == PRIMARIES)
        };
        wait::until_so(READY, whole).then_some(()).context("it does not become whole")
    }

    /// Where the servers are: `127.0.0.1:port`.
    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(Redis::address).collect()
    }

    /// The servers: three primaries and then a replica of each, as it was at the start.
    pub fn servers(&mut self) -> &mut [Redis] {
        &mut self.servers
    }

    /// Which live servers are primaries.
    pub fn primaries(&self) -> Vec<usize> {
        let live: Vec<usize> = (0..self.servers.len()).filter(|i| self.servers[*i].is_live()).collect();
        let role = |i: &usize| self.servers[*i].info("replication", "role");
        live.into_iter().filter(|i| role(i).as_deref() == Some("master")).collect()
    }

    /// Which server has a key's slot.
    #[track_caller]
    pub fn primary_of(&self, key: &str) -> usize {
        let found = wait::until(FAILOVER, || {
            let primaries = self.primaries();
            // Whoever has the slot answers; the others say who has it.
            primaries.into_iter().find(|i| self.servers[*i].try_command(&["exists", key]).is_ok())
        });
        found.unwrap_or_else(|| panic!("nobody has the slot of {key}\n{}", self.said()))
    }

    /// Ends the primary of a key's slot as `kill -9` does, and waits until its replica stands in and all slots are
    /// served; gives which was ended.
    #[track_caller]
    pub fn failover(&mut self, key: &str) -> usize {
        let old = self.primary_of(key);
        self.servers[old].kill();
        let over = wait::until_so(FAILOVER, || self.primaries().len() == PRIMARIES && self.live_are_ok());
        assert!(over, "no replica stands in\n{}", self.said());
        old
    }

    /// Runs a command at whoever has its key, and gives what `redis-cli` prints for the answer.
    #[track_caller]
    pub fn command(&self, args: &[&str]) -> String {
        let printed = match (0..self.servers.len()).find(|i| self.servers[*i].is_live()) {
            Some(live) => self.servers[live].try_command_with(&["-c"], args),
            None => Err(anyhow::anyhow!("no server of the cluster runs")),
        };
        printed.unwrap_or_else(|error| panic!("redis: {error:#}\n{}", self.said()))
    }

    /// All primaries' keys that match a pattern, sorted.
    #[track_caller]
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for primary in self.primaries() {
            keys.extend(self.servers[primary].keys(pattern));
        }
        keys.sort();
        keys
    }

    fn live_are_ok(&self) -> bool {
        self.servers.iter().all(|server| !server.is_live() || is_ok(server))
    }

    fn said(&self) -> String {
        said_by(self.servers.iter().map(Redis::server))
    }
}

/// Whether a server sees all slots served.
fn is_ok(server: &Redis) -> bool {
    let info = server.try_command(&["cluster", "info"]).unwrap_or_default();
    info.contains("cluster_state:ok")
}

/// How many replicas a server sees.
fn replicas(server: &Redis) -> usize {
    let nodes = server.try_command(&["cluster", "nodes"]).unwrap_or_default();
    nodes.lines().filter(|line| line.contains("slave")).count()
}
