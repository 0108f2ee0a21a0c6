//! The bridge's thread: one tokio runtime with the gRPC server, the link to a controller, the metrics server, the
//! fence's watch, and the reading ends of all lanes.
//!
//! Owns: what runs on that thread, from its listeners to its last task. Must not: touch a socket of a client.
//! Talks to: `node`, which starts it and asks it to stop.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use prometheus::Registry;
#[cfg(feature = "cluster")]
use registry::RegistryError;
use registry::{Directory, Entry, Kind, Registration};
use ringcast_proto::pubsub::connect_node_service_server::ConnectNodeServiceServer;
use ringcast_proto::pubsub::{DeliverWelcome, NodeRegister};
use ringcast_proto::{MAX_GRPC_MESSAGE_BYTES, limited_server, reflection};
use settings::SettingError;
use telemetry::Traces;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::bridge::{AsyncBridgeEnd, ShardHandle, ToShard, ToShardLane};
use crate::clock::Clock;
use crate::config::Settings;
use crate::control_link::{ControlLink, LinkParts};
use crate::delivery_log::DeliveryLog;
use crate::drain::{Drain, ShardThreads};
use crate::fence::Signs;
use crate::fence_watch::{self, FenceWatch};
use crate::http::NodeStatus;
use crate::hub::Hub;
use crate::interest::Interest;
use crate::members::{self, Question};
use crate::metrics::{self, BridgeMetrics};
use crate::push_intake::{IntakeParts, PushIntake};
use crate::shard_metrics::ShardCollector;
use crate::{node_lease, node_list};

/// What the thread is started with.
pub(crate) struct BridgeParts {
    /// The node's settings.
    pub(crate) settings: Settings,
    /// Which start of the node this is.
    pub(crate) incarnation: u64,
    /// The clock that the shards go by, too.
    pub(crate) clock: Clock,
    /// The node as a whole.
    pub(crate) status: Arc<NodeStatus>,
    /// Where clients connect.
    pub(crate) http: SocketAddr,
    /// The lanes of all shards.
    pub(crate) shards: Vec<ShardHandle>,
    /// Their threads.
    pub(crate) threads: ShardThreads,
    /// Asks for the planned stop.
    pub(crate) stop: CancellationToken,
}

/// Where the bridge listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BridgeAddresses {
    /// For push managers.
    pub(crate) grpc: SocketAddr,
    /// For `/metrics`.
    pub(crate) metrics: SocketAddr,
}

/// The service's name in reflection and health.
pub(crate) const SERVICE: &str = "pubsub.ConnectNodeService";

/// How long the servers may take to send their last bytes.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Runs the bridge until the node has stopped; `ready` is called once it serves. However it ends, the shards have
/// ended too.
pub(crate) fn run(mut parts: BridgeParts, ready: impl FnOnce(BridgeAddresses)) -> anyhow::Result<()> {
    let lanes: Vec<Arc<ToShardLane>> = parts.shards.iter().map(|shard| Arc::clone(&shard.to_shard)).collect();
    let mut threads = std::mem::take(&mut parts.threads);
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the bridge's runtime")
        .and_then(|runtime| {
            let result = runtime.block_on(serve(parts, &mut threads, ready));
            // A shard that did not end in time is not waited for again.
            runtime.shutdown_background();
            result
        });
    // Where the start failed, nobody has stopped the shards yet.
    for lane in &lanes {
        let taken = lane.push(ToShard::Stop);
        debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
    }
    for thread in threads {
        let _ = thread.join();
    }
    result
}

/// Serves until a stop is asked for or something ends that must not.
async fn serve(
    parts: BridgeParts,
    threads: &mut ShardThreads,
    ready: impl FnOnce(BridgeAddresses),
) -> anyhow::Result<()> {
    let settings = &parts.settings;
    let grpc = listen("GRPC_PORT", settings, settings.grpc_port).await?;
    let metrics_port = listen("METRICS_PORT", settings, settings.metrics_port).await?;
    let addresses = BridgeAddresses { grpc: grpc.local_addr()?, metrics: metrics_port.local_addr()? };

    let prometheus = Registry::new();
    let counts = BridgeMetrics::register(&prometheus)?;
    prometheus.register(Box::new(ShardCollector::new(Arc::clone(&parts.status))?))?;
    // Only now: its thread shares the table of descriptors, which shards had to find empty.
    let traces = Traces::open(settings.traces, "connect-node", settings.node_id.as_str())?;
    traces.register(&prometheus)?;
    metrics::register_constants(&prometheus, parts.status.driver(), settings.process_metrics)?;

    let (lanes, ends) = split(parts.shards)?;
    let end = CancellationToken::new();
    let directory = directory(settings, end.clone())?;
    let card = card(settings, parts.incarnation, (addresses.grpc, parts.http), parts.status.driver());
    let unanswered = counts.members_unanswered.clone();
    let talks =
        Talks::begin(settings, directory, card, parts.clock, &parts.status, lanes, counts, traces.clone());
    let Talks { intake, link, hub, fence, registration, questions } = talks;
    let (lanes, drained) = (fence.shards.clone(), hub.drained());

    let mut servers = JoinSet::new();
    let health = serve_grpc(&mut servers, grpc, intake.clone(), end.clone())?;
    health.set_service_status(SERVICE, ServingStatus::Serving).await;
    let serving = metrics::serve(metrics_port, prometheus, end.clone());
    servers.spawn(async { serving.await.context("the metrics server") });
    let mut listening = JoinSet::new();
    for (shard, lane) in ends.into_iter().enumerate() {
        listening.spawn(hub.clone().listen(shard, lane));
    }
    let mut link_task = tokio::spawn(link.clone().run());
    let mut watches = JoinSet::new();
    watches.spawn(fence.run());
    watches.spawn(members::answer(questions, link.linked(), lanes.clone(), unanswered));
    watches.spawn(node_list::keep(link.linked(), Arc::clone(&parts.status)));
    ready(addresses);

    let registration = Some(registration);
    let drain =
        Drain { shards: lanes.clone(), drained, status: parts.status, health, link, intake, registration };
    let result = tokio::select! {
        () = parts.stop.cancelled() => {
            drain.run(settings.drain, std::mem::take(threads)).await;
            Ok(())
        }
        linked = &mut link_task => {
            // Another node has the id: clients are to go, with a word.
            fence_watch::set(&lanes, true);
            drain.end(std::mem::take(threads)).await;
            linked.context("the controller's link")?.map_err(anyhow::Error::from)
        }
        Some(ended) = servers.join_next() => {
            drain.end(std::mem::take(threads)).await;
            ended.context("a server of the bridge")?.and_then(|()| Err(anyhow!("a server ended by itself")))
        }
        Some(ended) = listening.join_next() => {
            drain.end(std::mem::take(threads)).await;
            ended.context("the lane of a shard")?.map_err(anyhow::Error::from)
        }
    };
    // The last spans are those of the pushes that were under way.
    let _ = tokio::task::spawn_blocking(move || traces.shut_down()).await;
    end.cancel();
    let ended = async { while servers.join_next().await.is_some() {} };
    if timeout(LAST_BYTES, ended).await.is_err() {
        tracing::debug!("a connection to the node's servers was cut");
    }
    result
}

/// All that talks with others, not running yet.
struct Talks {
    intake: PushIntake,
    link: ControlLink,
    hub: Hub,
    fence: FenceWatch,
    registration: Registration,
    questions: mpsc::Receiver<Question>,
}

impl Talks {
    /// Registers the node where services find one another.
    #[expect(clippy::too_many_arguments, reason = "each is one of the parts that it is made of")]
    fn begin(
        settings: &Settings,
        directory: Directory,
        register: NodeRegister,
        clock: Clock,
        status: &Arc<NodeStatus>,
        shards: Vec<Arc<ToShardLane>>,
        metrics: BridgeMetrics,
        traces: Traces,
    ) -> Self {
        let registration = directory.register(Entry {
            kind: Kind::Node,
            id: register.node_id.clone(),
            incarnation: register.incarnation,
            grpc_address: register.grpc_address.clone(),
            public_ws_url: register.public_ws_url.clone(),
        });
        let (signs, interest) = (Signs::default(), Interest::new(shards.len()));
        let intake = PushIntake::new(IntakeParts {
            welcome: DeliverWelcome { node_id: register.node_id.clone(), incarnation: register.incarnation },
            max_payload_bytes: settings.push_payload_bytes,
            shards: shards.clone(),
            interest: interest.clone(),
            clock,
            signs: signs.clone(),
            metrics: metrics.clone(),
            traces: traces.clone(),
            log: DeliveryLog::new(),
        });
        let link = ControlLink::new(LinkParts {
            register,
            directory,
            lease: registration.watch(),
            patience: node_lease::patience(settings.etcd.as_ref()),
            shards: shards.clone(),
            interest: interest.clone(),
            status: Arc::clone(status),
            signs: signs.clone(),
            metrics: metrics.clone(),
            traces,
        });
        let (asked, questions) = members::questions(metrics.members_unanswered.clone());
        let hub = Hub::new(intake.clone(), link.clone(), Arc::clone(status), interest, asked);
        let fence =
            FenceWatch { signs, lease: registration.watch(), shards, status: Arc::clone(status), metrics };
        Self { intake, link, hub, fence, registration, questions }
    }
}

/// Where services find one another: etcd where it is set, else the list of controllers.
#[cfg_attr(not(feature = "cluster"), expect(clippy::unnecessary_wraps, unused_variables, reason = "of etcd"))]
fn directory(settings: &Settings, stop: CancellationToken) -> Result<Directory, SettingError> {
    #[cfg(feature = "cluster")]
    if let Some(etcd) = &settings.etcd {
        return Directory::etcd(etcd, stop).map_err(|RegistryError::Setting(error)| error);
    }
    Ok(Directory::fixed(settings.controller_address.clone()))
}

/// The lanes to the shards, and the reading ends from them.
fn split(shards: Vec<ShardHandle>) -> std::io::Result<(Vec<Arc<ToShardLane>>, Vec<AsyncBridgeEnd>)> {
    let mut lanes = Vec::with_capacity(shards.len());
    let mut ends = Vec::with_capacity(shards.len());
    for shard in shards {
        lanes.push(shard.to_shard);
        ends.push(shard.from_shard.into_async()?);
    }
    Ok((lanes, ends))
}

async fn listen(key: &str, settings: &Settings, port: u16) -> Result<TcpListener, SettingError> {
    let address = SocketAddr::new(settings.bind, port);
    TcpListener::bind(address)
        .await
        .map_err(|error| SettingError::new(key, port, format!("cannot listen on {address}: {error}")))
}

/// What the node says of itself to the controller.
fn card(
    settings: &Settings,
    incarnation: u64,
    (grpc, http): (SocketAddr, SocketAddr),
    driver: &str,
) -> NodeRegister {
    let reachable =
        if grpc.ip().is_unspecified() { format!("127.0.0.1:{}", grpc.port()) } else { grpc.to_string() };
    let grpc_address = settings.node_addr.clone().unwrap_or(reachable);
    let public_ws_url = match &settings.public_ws_url[..] {
        "" if is_this_machine(&grpc_address) => format!("ws://localhost:{}/ws", http.port()),
        told => told.to_owned(),
    };
    NodeRegister {
        node_id: settings.node_id.as_str().to_owned(),
        incarnation,
        grpc_address,
        public_ws_url,
        capacity: u64::from(settings.max_connections),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        driver: driver.to_owned(),
        // Each link has its own.
        link: 0,
    }
}

/// Whether an address, host:port, is one that only this machine reaches: then all of the system is on it.
fn is_this_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

/// Serves Deliver, health and reflection; gives the handle that says whether the node is healthy.
fn serve_grpc(
    servers: &mut JoinSet<anyhow::Result<()>>,
    listener: TcpListener,
    intake: PushIntake,
    end: CancellationToken,
) -> anyhow::Result<HealthReporter> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let deliver = ConnectNodeServiceServer::new(intake)
        .max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_GRPC_MESSAGE_BYTES);
    let reflection = || reflection(&[SERVICE]);
    let server = limited_server()
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(deliver);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    servers.spawn(async move {
        server.serve_with_incoming_shutdown(incoming, end.cancelled_owned()).await.context("the gRPC server")
    });
    Ok(reporter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_of_this_machine_only_where_push_managers_are() {
        let told = |node_addr: Option<&str>, public: &str| {
            let settings = Settings {
                node_addr: node_addr.map(str::to_owned),
                public_ws_url: public.to_owned(),
                ..Settings::default()
            };
            let (grpc, http) = ("0.0.0.0:50052".parse().unwrap(), "[::]:8081".parse().unwrap());
            card(&settings, 1, (grpc, http), "epoll").public_ws_url
        };
        for here in [None, Some("localhost:50052"), Some("127.0.0.1:50052"), Some("[::1]:50052")] {
            assert_eq!(told(here, ""), "ws://localhost:8081/ws", "{here:?}");
        }
        for elsewhere in ["10.0.0.5:50052", "node-1.nodes:50052"] {
            assert_eq!(told(Some(elsewhere), ""), "", "{elsewhere}");
        }
        assert_eq!(told(None, "wss://push.example.org/ws"), "wss://push.example.org/ws");
    }
}
