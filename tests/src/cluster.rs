//! A cluster under test: etcd, Redis and MariaDB, three controllers, three push managers and three nodes, each a
//! process of its own.
//!
//! Owns: what is started and how it is told of the stores, what is done to a process, when the whole is ready.
//! Must not: judge. Talks to: `test-servers` (the stores), `cluster/` for the rest:
//!
//! | file | what |
//! | --- | --- |
//! | `settings.rs` | the processes' configuration files |
//! | `namespace.rs`, `isolated.rs` | a node in a network of its own, whose every connection can be broken |
//! | `links.rs` | who is connected to whom, as the kernel has it |
//! | `crowd.rs` | the clients: they join, record, and come back |
//! | `pushers.rs` | the backends: they push, and keep what was said |
//! | `descriptors.rs` | what the services hold open |
//! | `presence.rs` | what controllers say of rooms, beside who is connected |
//! | `drill.rs`, `outcome.rs` | a scenario from start to verdict, and its measured times |
//! | `repeats.rs` | which scenarios run, how often and how large |

mod crowd;
mod descriptors;
mod drill;
mod isolated;
mod links;
mod namespace;
mod outcome;
mod presence;
mod pushers;
mod repeats;
mod settings;

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use ringcast_proto::pubsub::{ListNodesRequest, NodeState};
use tempfile::TempDir;
use test_servers::{Etcd, EtcdOptions, MariaDb, MariaDbPair, Redis, RedisCluster, RedisSentinel};

use crate::grpc::{Controller, Pusher};
use crate::system::{self, Service};
use crate::{eventually, http};

pub use crowd::Crowd;
pub use drill::{Drill, DrillPlan};
pub use isolated::{Isolated, Peers};
pub use outcome::{Bounds, Figures};
pub use pushers::{PushLoad, Pushers};
pub use repeats::{Times, scenario};

/// How long the whole may take to be ready, on two cores with everything on them.
const READY: Duration = Duration::from_secs(60);

/// How long a planned stop may take: the drain that the nodes are given, and 5 s.
const STOP: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// Controllers, push managers and nodes.
    pub controllers: usize,
    /// See there.
    pub managers: usize,
    /// See there.
    pub nodes: usize,
    /// How many Redis servers, and of which kind.
    pub redis: RedisPlan,
    /// How many bytes etcd may have before it raises its alarm.
    pub etcd_quota: Option<u64>,
    /// The place of a node in a network of its own.
    pub isolated: Option<usize>,
    /// More variables of all services.
    pub variables: Vec<(String, String)>,
}

impl Default for ClusterPlan {
    fn default() -> Self {
        Self {
            controllers: 3,
            managers: 3,
            nodes: 3,
            redis: RedisPlan::One,
            etcd_quota: None,
            isolated: None,
            variables: Vec::new(),
        }
    }
}

/// Which Redis to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisPlan {
    /// One server.
    One,
    /// A primary, a replica and sentinels.
    Sentinels,
    /// A Redis Cluster: three primaries, and a replica of each.
    Cluster,
}

/// The Redis of a cluster.
pub enum RedisServers {
    /// One server.
    One(Box<Redis>),
    /// A primary, a replica and sentinels.
    Sentinels(RedisSentinel),
    /// A Redis Cluster.
    Cluster(RedisCluster),
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A controller, by its place.
    Controller(usize),
    /// A push manager.
    Manager(usize),
    /// A node.
    Node(usize),
}

/// A running cluster.
pub struct Cluster {
    // Services end before the stores, and all before the folder is removed.
    /// The controllers.
    pub controllers: Vec<Service>,
    /// The push managers.
    pub managers: Vec<Service>,
    /// The nodes.
    pub nodes: Vec<Service>,
    /// The node in a network of its own, where there is one.
    pub isolated: Option<Isolated>,
    /// etcd, three members.
    pub etcd: Etcd,
    /// Redis.
    pub redis: RedisServers,
    /// MariaDB, primary and replica.
    pub maria: MariaDbPair,
    plan: ClusterPlan,
    database: String,
    folder: TempDir,
}

impl Cluster {
    /// Starts all of it, and waits until a client could join and a push be made.
    pub async fn start(plan: ClusterPlan) -> Self {
        // Servers end with the thread that starts them: that of the test.
        let etcd = Etcd::with(EtcdOptions { members: 3, quota: plan.etcd_quota, ..EtcdOptions::default() });
        let redis = match plan.redis {
            RedisPlan::One => RedisServers::One(Box::new(Redis::plain())),
            RedisPlan::Sentinels => RedisServers::Sentinels(Redis::sentinel()),
            RedisPlan::Cluster => RedisServers::Cluster(Redis::cluster()),
        };
        let maria = MariaDb::pair();
        let database = maria.fresh_database();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut cluster = Self {
            controllers: Vec::new(),
            managers: Vec::new(),
            nodes: Vec::new(),
            isolated: None,
            etcd,
            redis,
            maria,
            plan,
            database,
            folder,
        };
        cluster.launch_all().await;
        cluster.whole().await;
        cluster
    }

    async fn launch_all(&mut self) {
        for number in 1..=self.plan.controllers {
            let (config, ports) = settings::controller(self, number);
            let service = self.launch("control", &format!("controller-{number}"), &config, ports);
            self.controllers.push(service);
        }
        for number in 1..=self.plan.managers {
            let (config, ports) = settings::manager(self, number);
            let service = self.launch("push", &format!("push-manager-{number}"), &config, ports);
            self.managers.push(service);
        }
        for place in 0..self.plan.nodes {
            let (id, ports) = (format!("connect-node-{}", place + 1), system::free_ports());
            if self.plan.isolated == Some(place) {
                let isolated = Isolated::make(self, place, ports).await;
                let config = settings::node(self, &id, ports, Some(&isolated));
                let service = isolated.launch(self.folder.path(), &id, &config);
                self.isolated = Some(isolated);
                self.nodes.push(service);
            } else {
                let config = settings::node(self, &id, ports, None);
                let service = self.launch("connect-uring", &id, &config, ports);
                self.nodes.push(service);
            }
        }
    }

    fn launch(&self, binary: &'static str, id: &str, config: &str, ports: [u16; 3]) -> Service {
        Service::launch(self.folder.path(), binary, id, config, ports, |command| {
            command.envs(self.plan.variables.iter().cloned());
        })
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The nodes' ids, by their places.
    pub fn node_ids(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.id.clone()).collect()
    }

    /// A process.
    pub fn part(&mut self, part: Part) -> &mut Service {
        match part {
            Part::Controller(place) => &mut self.controllers[place],
            Part::Manager(place) => &mut self.managers[place],
            Part::Node(place) => &mut self.nodes[place],
        }
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self, part: Part) {
        self.part(part).process.kill();
    }

    /// Holds it (SIGSTOP): its connections stay, and nothing answers.
    pub fn stop(&mut self, part: Part) {
        self.part(part).process.signal(libc::SIGSTOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn cont(&mut self, part: Part) {
        self.part(part).process.signal(libc::SIGCONT);
    }

    /// A planned stop (SIGTERM), to its end.
    pub async fn terminate(&mut self, part: Part) -> ExitStatus {
        self.signal_and_wait(part, libc::SIGTERM).await
    }

    /// The same as by Ctrl+C.
    pub async fn interrupt(&mut self, part: Part) -> ExitStatus {
        self.signal_and_wait(part, libc::SIGINT).await
    }

    /// Planned stops that begin at once, each to its end.
    pub async fn terminate_together(&mut self, parts: &[Part]) -> Vec<ExitStatus> {
        parts.iter().for_each(|part| self.part(*part).process.signal(libc::SIGTERM));
        let mut ended = Vec::new();
        for part in parts {
            ended.push(self.end_of(*part).await);
        }
        ended
    }

    async fn signal_and_wait(&mut self, part: Part, signal: libc::c_int) -> ExitStatus {
        self.part(part).process.signal(signal);
        self.end_of(part).await
    }

    async fn end_of(&mut self, part: Part) -> ExitStatus {
        let service = self.part(part);
        eventually(&format!("{} has ended", service.id), STOP, async || {
            service.process.exited().ok_or("it runs")
        })
        .await
    }

    /// Starts it again, on its ports and with its folder.
    pub fn restart(&mut self, part: Part) {
        let (folder, isolated) = (self.folder.path().to_owned(), self.isolated.as_ref());
        let inside = isolated.filter(|isolated| part == Part::Node(isolated.place)).map(Isolated::entry);
        let variables = self.plan.variables.clone();
        let service = self.part(part);
        *service = service.again(&folder, |command| {
            command.envs(variables);
            if let Some(entry) = inside {
                entry.enter(command);
            }
        });
    }

    /// A client of a controller, as soon as that answers.
    pub async fn controller(&self, place: usize) -> Controller {
        let service = &self.controllers[place];
        eventually(&format!("{} answers", service.id), READY, async || {
            let controller = Controller::connect(service.grpc).await.map_err(|error| error.to_string())?;
            controller.sessions().await.map_err(|status| status.to_string())?;
            Ok::<_, String>(controller)
        })
        .await
    }

    /// A client of a push manager, as soon as that has fresh routes.
    pub async fn pusher(&self, place: usize) -> Pusher {
        let service = &self.managers[place];
        eventually(&format!("{} has fresh routes", service.id), READY, async || {
            let pusher = Pusher::connect(service.grpc).await.map_err(|error| error.to_string())?;
            let answer = pusher.user("nobody-is-called-so", b"?").await;
            let report = answer.map_err(|status| status.to_string())?.report.unwrap_or_default();
            if report.routes_stale_ms == 0 { Ok(pusher) } else { Err(format!("{report:?}")) }
        })
        .await
    }

    /// Waits until every service does its work: controllers know all nodes, push managers have fresh routes, nodes
    /// take clients.
    pub async fn whole(&self) {
        for place in 0..self.controllers.len() {
            let controller = self.controller(place).await;
            let what = format!("{} knows all nodes", self.controllers[place].id);
            eventually(&what, READY, async || {
                let nodes = controller.0.clone().list_nodes(ListNodesRequest {}).await;
                let nodes = nodes.map_err(|status| status.to_string())?.into_inner().nodes;
                let ready = nodes.iter().filter(|node| node.state() == NodeState::Ready).count();
                if ready == self.nodes.len() { Ok(()) } else { Err(format!("{nodes:?}")) }
            })
            .await;
        }
        for place in 0..self.managers.len() {
            self.pusher(place).await;
        }
        for node in &self.nodes {
            takes_clients(node).await;
        }
    }

    /// Whether a node's key is in etcd.
    pub fn is_registered(&self, node: usize) -> bool {
        self.etcd.get(&format!("/ringcast/nodes/{}", self.nodes[node].id)).is_some()
    }

    /// Which controllers a node has connections to.
    pub fn controllers_of(&self, node: usize) -> anyhow::Result<Vec<usize>> {
        let ports: Vec<u16> = self.controllers.iter().map(|controller| controller.grpc.port()).collect();
        links::connected_to(self.nodes[node].process.pid(), &ports)
    }

    /// The one Redis server; panics where the plan asks for others.
    pub fn one_redis(&mut self) -> &mut Redis {
        match &mut self.redis {
            RedisServers::One(redis) => redis,
            _ => panic!("the plan asks for {:?}", self.plan.redis),
        }
    }

    /// Redis with its sentinels; panics where the plan asks for others.
    pub fn redis_sentinels(&mut self) -> &mut RedisSentinel {
        match &mut self.redis {
            RedisServers::Sentinels(servers) => servers,
            _ => panic!("the plan asks for {:?}", self.plan.redis),
        }
    }

    /// The Redis Cluster; panics where the plan asks for others.
    pub fn redis_cluster(&mut self) -> &mut RedisCluster {
        match &mut self.redis {
            RedisServers::Cluster(servers) => servers,
            _ => panic!("the plan asks for {:?}", self.plan.redis),
        }
    }

    /// The keys in Redis that match a pattern, sorted.
    pub fn redis_keys(&self, pattern: &str) -> Vec<String> {
        match &self.redis {
            RedisServers::One(server) => server.keys(pattern),
            RedisServers::Sentinels(servers) => servers.keys(pattern),
            RedisServers::Cluster(servers) => servers.keys(pattern),
        }
    }
}

/// Waits until a node would take a client, whichever of its shards is asked.
async fn takes_clients(node: &Service) {
    const ASKED: usize = 8;
    eventually(&format!("{} takes clients", node.id), READY, async || {
        for _ in 0..ASKED {
            let answer = http::get(node.http, "/ws?user_id=probe&room_id=probe");
            let answer = answer.map_err(|error| error.to_string())?;
            // What a join would be told: 426, where it would be accepted.
            if answer.status != 426 {
                return Err(format!("{answer:?}"));
            }
        }
        Ok(())
    })
    .await;
}
