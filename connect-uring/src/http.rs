//! What a node answers to plain HTTP requests on its client port, and the few figures that this takes.
//!
//! Owns: `/health`, `/stats`, `/nodes` and the page. Must not: parse or write HTTP (the core does). Talks to: `shard_loop`,
//! which asks from the shards' threads, `hub` and `node_list`, which keep what is told true.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use connect_core::{HttpAnswer, HttpRequest};
use serde::Serialize;

use crate::acceptor::Listening;
use crate::shard_stats::ShardStats;

/// The page; self-contained, so that it also works from a file. `web/build.mjs` makes it.
const PAGE: &str = include_str!("../../web/client.html");

/// What the node's threads know of the node as a whole. All figures are a moment old.
#[derive(Debug)]
pub(crate) struct NodeStatus {
    node_id: String,
    incarnation: u64,
    started: Instant,
    shards: Vec<Arc<ShardStats>>,
    drivers: Vec<OnceLock<&'static str>>,
    users: AtomicU64,
    rooms: AtomicU64,
    starting: AtomicBool,
    fenced: AtomicBool,
    draining: AtomicBool,
    /// The bodies of `/nodes`, which take turns; empty until a controller has told of them.
    nodes: RwLock<Vec<Bytes>>,
    /// How many clients have chosen by the present ones.
    nodes_chosen: AtomicUsize,
    /// Somebody asked for them since the list was last brought up to date.
    nodes_asked: AtomicBool,
    listening: Arc<Listening>,
}

impl NodeStatus {
    /// Of a node that starts now.
    pub(crate) fn new(node_id: String, incarnation: u64, shards: Vec<Arc<ShardStats>>) -> Self {
        Self {
            node_id,
            incarnation,
            started: Instant::now(),
            drivers: shards.iter().map(|_| OnceLock::new()).collect(),
            shards,
            users: AtomicU64::new(0),
            rooms: AtomicU64::new(0),
            starting: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            nodes: RwLock::default(),
            nodes_chosen: AtomicUsize::new(0),
            nodes_asked: AtomicBool::new(false),
            listening: Arc::default(),
        }
    }

    /// The figures of every shard.
    pub(crate) fn shards(&self) -> &[Arc<ShardStats>] {
        &self.shards
    }

    /// What the shards' listeners know of one another.
    pub(crate) fn listening(&self) -> &Arc<Listening> {
        &self.listening
    }

    /// Connections, over all shards.
    pub(crate) fn connections(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read().core.connections).sum()
    }

    /// Distinct users with a live session.
    pub(crate) fn users(&self) -> u64 {
        self.users.load(Relaxed)
    }

    /// Distinct rooms with a live session.
    pub(crate) fn rooms(&self) -> u64 {
        self.rooms.load(Relaxed)
    }

    /// Sets both figures.
    pub(crate) fn set_census(&self, users: usize, rooms: usize) {
        self.users.store(users as u64, Relaxed);
        self.rooms.store(rooms as u64, Relaxed);
    }

    /// Whether the node still waits for its id to be its own.
    pub(crate) fn set_starting(&self, starting: bool) {
        self.starting.store(starting, Relaxed);
    }

    /// Whether the node still waits for its id.
    pub(crate) fn is_starting(&self) -> bool {
        self.starting.load(Relaxed)
    }

    /// Whether the node is cut off from all others.
    pub(crate) fn set_fenced(&self, fenced: bool) {
        self.fenced.store(fenced, Relaxed);
    }

    /// How many clients have chosen by the present answers; from now on others are counted.
    pub(crate) fn take_nodes_chosen(&self) -> usize {
        self.nodes_chosen.swap(0, Relaxed)
    }

    /// What `/nodes` answers from now on.
    pub(crate) fn set_nodes(&self, bodies: Vec<Bytes>) {
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let former = std::mem::replace(&mut *nodes, bodies);
        // The former ones are dropped when nobody waits for the lock any more.
        drop(nodes);
        drop(former);
    }

    /// Whether anybody asked for `/nodes` since this was last asked.
    pub(crate) fn take_nodes_asked(&self) -> bool {
        self.nodes_asked.swap(false, Relaxed)
    }

    /// The planned stop has begun.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether the planned stop has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// How a shard that has started does its I/O.
    pub(crate) fn set_driver(&self, shard: usize, driver: &'static str) {
        // A second word about the same shard would say the same.
        let _ = self.drivers[shard].set(driver);
    }

    fn shard_drivers(&self) -> impl Iterator<Item = &'static str> {
        self.drivers.iter().map(|driver| driver.get().copied().unwrap_or("starting"))
    }

    /// How the node does its I/O: the shards' driver, or `mixed`.
    pub(crate) fn driver(&self) -> &'static str {
        let mut drivers = self.shard_drivers();
        let first = drivers.next().unwrap_or("none");
        if drivers.all(|driver| driver == first) { first } else { "mixed" }
    }

    /// Answers a request.
    pub(crate) fn answer(&self, request: HttpRequest) -> HttpAnswer {
        match request {
            HttpRequest::Health => self.health(),
            HttpRequest::Stats => json(200, self.stats()),
            HttpRequest::Nodes { choosing } => self.nodes(choosing),
            HttpRequest::Page => HttpAnswer {
                status: 200,
                content_type: "text/html; charset=utf-8",
                body: Bytes::from_static(PAGE.as_bytes()),
            },
        }
    }

    fn health(&self) -> HttpAnswer {
        if self.is_draining() {
            json(503, r#"{"status":"draining"}"#.into())
        } else if self.fenced.load(Relaxed) {
            json(503, r#"{"status":"fenced"}"#.into())
        } else if self.starting.load(Relaxed) {
            json(503, r#"{"status":"starting"}"#.into())
        } else {
            json(200, r#"{"status":"ok"}"#.into())
        }
    }

    fn nodes(&self, choosing: bool) -> HttpAnswer {
        self.nodes_asked.store(true, Relaxed);
        // A shard waits for nobody: where the list is just being replaced, it says "ask again" like before the first.
        let turn = self.nodes_chosen.fetch_add(usize::from(choosing), Relaxed);
        let body = |nodes: &Vec<Bytes>| nodes.get(turn % nodes.len().max(1)).cloned();
        match self.nodes.try_read().ok().and_then(|nodes| body(&nodes)) {
            Some(body) => json(200, body),
            None => {
                json(503, r#"{"error":"no_list","message":"no controller has told of the nodes yet"}"#.into())
            }
        }
    }

    fn stats(&self) -> Bytes {
        let stats = Stats {
            node_id: &self.node_id,
            incarnation: self.incarnation,
            driver: self.driver(),
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
            draining: self.is_draining(),
            connections: self.connections(),
            users: self.users(),
            rooms: self.rooms(),
            shards: self
                .shards
                .iter()
                .zip(self.shard_drivers())
                .map(|(shard, driver)| ShardLine { connections: shard.read().core.connections, driver })
                .collect(),
        };
        serde_json::to_vec(&stats).unwrap_or_default().into()
    }
}

fn json(status: u16, body: Bytes) -> HttpAnswer {
    HttpAnswer { status, content_type: "application/json", body }
}

#[derive(Serialize)]
struct Stats<'a> {
    node_id: &'a str,
    incarnation: u64,
    driver: &'a str,
    version: &'a str,
    uptime_seconds: u64,
    draining: bool,
    connections: u64,
    users: u64,
    rooms: u64,
    shards: Vec<ShardLine>,
}

#[derive(Serialize)]
struct ShardLine {
    connections: u64,
    driver: &'static str,
}
