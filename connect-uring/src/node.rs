//! Starting nodes and stopping them, in the one order that is safe.
//!
//! Owns: that order. Shards unshare their tables of descriptors, so whatever both sides of a lane need is made
//! before the first shard starts, and whatever a shard must not hold (above all listeners) after the last.
//! Must not: be called when a runtime or another thread already runs in the process.
//! Talks to: `bridge` (lanes), `shard_loop` (shards), `bridge_runtime` (the tokio thread).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use anyhow::Context as _;
use ringcast_proto::ShardId;
use settings::{SettingError, check_port_free, warn_if_open};
use tokio_util::sync::CancellationToken;

use crate::bridge::{self, ShardEnd, ShardHandle, ToShard, ToShardLane};
use crate::bridge_runtime::{self, BridgeAddresses, BridgeParts};
use crate::clock::{Clock, unix_micros};
use crate::config::{DriverChoice, Settings};
use crate::drain::ShardThreads;
use crate::http::NodeStatus;
use crate::kernel_check;
use crate::pulse::Pulse;
use crate::shard_loop::{ShardSetup, start_shard};
use crate::shard_stats::ShardStats;
use crate::signals;

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    /// Where clients connect.
    pub http_addr: SocketAddr,
    /// Where push managers connect.
    pub grpc_addr: SocketAddr,
    /// Where `/metrics` is.
    pub metrics_addr: SocketAddr,
    stop: CancellationToken,
    /// The shards.
    pulses: Vec<(Arc<ShardStats>, Arc<ToShardLane>)>,
    status: Arc<NodeStatus>,
    bridge: JoinHandle<anyhow::Result<()>>,
}

/// Begins the planned stop of a node; can be given to other threads.
#[derive(Debug, Clone)]
pub struct Drainer(CancellationToken);

impl Drainer {
    /// No new clients, sessions closed over the time that is set, then the end. A second call changes nothing.
    pub fn drain(&self) {
        self.0.cancel();
    }
}

impl Node {
    /// Begins the planned stop.
    pub fn drain(&self) {
        self.drainer().drain();
    }

    /// What begins the planned stop from elsewhere.
    pub fn drainer(&self) -> Drainer {
        Drainer(self.stop.clone())
    }

    /// What looks after its shards.
    pub fn pulse(&self) -> Pulse {
        Pulse::new(self.pulses.clone(), Arc::clone(&self.status))
    }

    /// Waits until the node has stopped. An error where it did not stop as planned: a [`SettingError`] where
    /// another live node has its id.
    pub fn wait(self) -> anyhow::Result<()> {
        self.bridge.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the bridge ended in a panic")))
    }
}

/// A node that is not started yet.
struct Prepared {
    settings: Settings,
    incarnation: u64,
    clock: Clock,
    status: Arc<NodeStatus>,
    handles: Vec<ShardHandle>,
    ends: Vec<ShardEnd>,
}

/// A node whose shards run.
struct Running {
    prepared: Prepared,
    http_addr: SocketAddr,
    threads: ShardThreads,
}

/// Starts nodes, each with shards, ports and a registry of its own. An error is a [`SettingError`] where a setting
/// is the reason; nothing runs then.
///
/// To be called before any runtime or other thread exists in the process: each shard keeps a copy of the table of
/// descriptors that it finds.
pub fn start(mut all: Vec<Settings>) -> anyhow::Result<Vec<Node>> {
    let open_files = kernel_check::raise_open_files().context("raising the limit of open files")?;
    let http_ip = all_interfaces();
    for settings in &all {
        warn_if_open(settings.bind);
    }
    check_ports(&all, http_ip)?;
    for settings in &mut all {
        settings.fit_open_files(open_files)?;
    }
    // The lanes of all nodes before the first shard.
    let mut prepared = all.into_iter().map(prepare).collect::<anyhow::Result<Vec<_>>>()?;
    let shards: usize = prepared.iter().map(|node| node.ends.len()).sum();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let crowded = shards > cores;
    // Two pinned threads on one core would only wait for each other.
    let mut cores = (!crowded).then_some(0..);
    let mut running = Vec::with_capacity(prepared.len());
    for node in prepared.drain(..) {
        match start_shards(node, http_ip, &mut cores) {
            Ok(node) => running.push(node),
            Err(error) => {
                stop_all(running);
                return Err(error);
            }
        }
    }
    let mut nodes: Vec<Node> = Vec::with_capacity(running.len());
    let mut running = running.into_iter();
    while let Some(node) = running.next() {
        match start_bridge(node, crowded) {
            Ok(node) => nodes.push(node),
            Err(error) => {
                nodes.iter().for_each(Node::drain);
                stop_all(running);
                return Err(error);
            }
        }
    }
    Ok(nodes)
}

/// Both families where the machine has both.
fn all_interfaces() -> IpAddr {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Err(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// Every port is free, and nobody asked for one twice. With SO_REUSEPORT alone a second node would silently share
/// the clients' port of a first.
fn check_ports(all: &[Settings], http_ip: IpAddr) -> Result<(), SettingError> {
    let mut taken = HashSet::new();
    for settings in all {
        let ports = [
            ("HTTP_PORT", http_ip, settings.http_port),
            ("GRPC_PORT", settings.bind, settings.grpc_port),
            ("METRICS_PORT", settings.bind, settings.metrics_port),
        ];
        for (key, ip, port) in ports {
            check_port_free(key, SocketAddr::new(ip, port))?;
            if port != 0 && !taken.insert(port) {
                return Err(SettingError::new(key, port, "another setting has this port: give each its own"));
            }
        }
    }
    Ok(())
}

fn prepare(settings: Settings) -> anyhow::Result<Prepared> {
    let lanes = (0..settings.shards).map(|shard| bridge::connect(ShardId(shard)));
    let (handles, ends): (Vec<_>, Vec<_>) = lanes
        .collect::<std::io::Result<Vec<_>>>()
        .context("making the lanes of the shards")?
        .into_iter()
        .unzip();
    let incarnation = unix_micros() as u64;
    let stats = handles.iter().map(|handle| Arc::clone(&handle.stats)).collect();
    let status = Arc::new(NodeStatus::new(settings.node_id.to_string(), incarnation, stats));
    // Until it is registered. The shards answer before the bridge is there.
    status.set_starting(settings.etcd.is_some());
    Ok(Prepared { settings, incarnation, clock: Clock::start(), status, handles, ends })
}

fn start_shards(
    mut node: Prepared,
    http_ip: IpAddr,
    cores: &mut Option<std::ops::RangeFrom<usize>>,
) -> anyhow::Result<Running> {
    let mut http_addr = SocketAddr::new(http_ip, node.settings.http_port);
    let mut threads = Vec::with_capacity(node.ends.len());
    for (shard, end) in std::mem::take(&mut node.ends).into_iter().enumerate() {
        let setup = ShardSetup {
            end,
            listen: http_addr,
            limits: node.settings.limits.clone(),
            driver: node.settings.driver,
            core: cores.as_mut().and_then(Iterator::next),
            clock: node.clock,
            status: Arc::clone(&node.status),
        };
        // A handler of a signal may write to a descriptor's number, which in a shard's own table may be a
        // client's socket: shards take no signals. A thread has the mask of the one that starts it.
        match signals::blocked(|| start_shard(setup)) {
            Ok(started) => {
                // Port 0: the first shard had one chosen, the others share it.
                http_addr = started.listening;
                node.status.set_driver(shard, started.driver.label());
                threads.push(started.thread);
            }
            Err(error) => {
                let error = explain(&node.settings, error);
                stop_all([Running { prepared: node, http_addr, threads }]);
                return Err(error);
            }
        }
    }
    Ok(Running { prepared: node, http_addr, threads })
}

/// What is wrong with a shard that did not start, where a setting can mend it.
fn explain(settings: &Settings, error: anyhow::Error) -> anyhow::Error {
    let taken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::AddrInUse;
    if error.downcast_ref().is_some_and(taken) {
        let remedy = "the port was taken meanwhile: set another port";
        return SettingError::new("HTTP_PORT", settings.http_port, remedy).into();
    }
    if settings.driver == DriverChoice::IoUring {
        return SettingError::new("DRIVER", "io_uring", format!("{error:#}")).into();
    }
    error
}

/// Stops shards that no bridge has taken over.
fn stop_all(running: impl IntoIterator<Item = Running>) {
    for node in running {
        for shard in &node.prepared.handles {
            // Never refused: only deliveries are.
            let _ = shard.to_shard.push(ToShard::Stop);
        }
        for thread in node.threads {
            let _ = thread.join();
        }
    }
}

/// `crowded`: there are more shards than cores.
fn start_bridge(node: Running, crowded: bool) -> anyhow::Result<Node> {
    let Running { prepared, http_addr, threads } = node;
    let pulse = |shard: &ShardHandle| (Arc::clone(&shard.stats), Arc::clone(&shard.to_shard));
    let pulses = prepared.handles.iter().map(pulse).collect();
    let status = Arc::clone(&prepared.status);
    let stop = CancellationToken::new();
    let parts = BridgeParts {
        settings: prepared.settings,
        incarnation: prepared.incarnation,
        clock: prepared.clock,
        status: prepared.status,
        http: http_addr,
        shards: prepared.handles,
        threads,
        stop: stop.clone(),
    };
    let (ready, is_ready) = mpsc::channel();
    let bridge = std::thread::Builder::new().name("bridge".to_owned()).spawn(move || {
        if crowded {
            kernel_check::put_thread_first();
        }
        bridge_runtime::run(parts, |addresses| {
            // Whoever starts the node waits for this.
            let _ = ready.send(addresses);
        })
    })?;
    match is_ready.recv() {
        Ok(addresses) => {
            let BridgeAddresses { grpc, metrics } = addresses;
            Ok(Node { http_addr, grpc_addr: grpc, metrics_addr: metrics, stop, pulses, status, bridge })
        }
        // It ended before it served.
        Err(_) => {
            let ended = bridge.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the bridge ended in a panic")));
            Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("the bridge ended at once")))
        }
    }
}
