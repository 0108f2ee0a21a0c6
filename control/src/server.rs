//! Boot order and planned stop: stores, listeners, the place among the others, registry, services, housekeeping.
//!
//! Owns: which servers there are and how they end. Must not: know rooms or nodes.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::registry::{Entry, Kind, Registration};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ringcast_proto::pubsub::controller_service_server::ControllerServiceServer;
use ringcast_proto::pubsub::node_link_service_server::NodeLinkServiceServer;
use ringcast_proto::pubsub::route_feed_service_server::RouteFeedServiceServer;
use ringcast_proto::{MAX_GRPC_MESSAGE_BYTES, limited_server, reflection};
use settings::SettingError;
use telemetry::Traces;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config::Settings;
use crate::feed_service::FeedService;
use crate::join_trace::JoinTraces;
use crate::membership::Membership;
use crate::metrics::Metrics;
use crate::node_service::NodeService;
use crate::refusal;
use crate::registry::{Registry, RegistryParts};
use crate::room_service::RoomService;
use crate::rooms::Rooms;
use crate::sharing::look_around;
use crate::store::Store;
use crate::stores::{expected_nodes, open_directory, open_rooms, open_sharing};

/// How long calls that are under way may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// How often rooms that have become empty are noted, and aged settings dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// What to do when another controller has the id.
const ID_TAKEN: &str = "another live controller has this id: stop it, or give this one another id";

/// The services' names in reflection and health.
const SERVICES: [&str; 3] = ["pubsub.ControllerService", "pubsub.NodeLinkService", "pubsub.RouteFeedService"];

/// A controller that serves.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC listens.
    pub grpc_addr: SocketAddr,
    /// Where `/metrics` is.
    pub metrics_addr: SocketAddr,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Waits until the controller has stopped, which it does when the token of [`start`] is cancelled.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.task.await?
    }
}

/// Starts a controller in the present runtime and returns when it serves. It stops when `stop` is cancelled.
pub async fn start(settings: Settings, stop: CancellationToken) -> anyhow::Result<Running> {
    let metrics = Arc::new(Metrics::new(settings.process_metrics)?);
    let store = Store::open(&settings.data_dir, settings.max_rooms, metrics.store_errors.clone()).await?;
    let over = CancellationToken::new();
    let sharing = open_sharing(&settings, &over).await?;
    let expected = expected_nodes(&settings, &store, sharing.as_deref()).await?;
    if !expected.is_empty() {
        tracing::info!(nodes = expected.len(), "waiting for known nodes before routes are published");
    }
    let rooms = open_rooms(&settings, &store, &metrics).await?;
    let traces = Traces::open(settings.traces, "controller-manager", &settings.id)?;
    traces.register(metrics.process_registry())?;
    let (in_rooms, in_presence) = (settings.mysql.is_some(), settings.redis.is_some());
    let join_traces = JoinTraces::new(
        traces.clone(),
        if in_rooms { "mysql" } else { "sqlite" },
        if in_presence { "redis" } else { "memory" },
    );
    let rooms = Rooms::new(rooms, settings.cache_ttl, settings.default_max_users);
    let grpc = listen(settings.grpc_addr, "gRPC").await?;
    let scrapes = listen(settings.metrics_addr, "metrics").await?;
    let (grpc_addr, metrics_addr) = (grpc.local_addr()?, scrapes.local_addr()?);
    let directory = open_directory(&settings, &over)?;
    let entry = entry(&settings, grpc_addr);
    let (membership, registration) = Membership::register(directory, entry, settings.discovery.id_patience());
    let registry = Registry::new(RegistryParts {
        controller_id: settings.id.as_str().into(),
        rooms,
        store,
        expected,
        sharing: sharing.clone(),
        membership,
        metrics,
        timing: settings.timing,
        traces: join_traces,
    });

    tokio::spawn(until(over.clone(), tick(registry.clone())));
    if let Some(sharing) = sharing {
        tokio::spawn(until(over.clone(), look_around(registry.clone(), sharing)));
    }
    tokio::spawn(until(over.clone(), keep_house(registry.clone(), settings.empty_room_ttl)));
    let pages =
        axum::serve(scrapes, pages(registry.clone())).with_graceful_shutdown(over.clone().cancelled_owned());
    tokio::spawn(async move { pages.await });
    let (health, health_service) = tonic_health::server::health_reporter();
    // The empty name is the whole server.
    for service in SERVICES.into_iter().chain([""]) {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
    let streams = CancellationToken::new();
    let served = serve(grpc, registry.clone(), streams.clone(), over.clone(), health_service)?;
    let running = run(registry, registration, health, served, stop, streams, over);
    let task = tokio::spawn(async move {
        let ended = running.await;
        // The last spans are those of the joins that were under way.
        let _ = tokio::task::spawn_blocking(move || traces.shut_down()).await;
        ended
    });
    Ok(Running { grpc_addr, metrics_addr, task })
}

/// What the controller says of itself to those who look for one.
fn entry(settings: &Settings, grpc: SocketAddr) -> Entry {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let reachable =
        if grpc.ip().is_unspecified() { format!("127.0.0.1:{}", grpc.port()) } else { grpc.to_string() };
    Entry {
        kind: Kind::Controller,
        id: settings.id.clone(),
        incarnation: u64::try_from(started.as_micros()).unwrap_or(u64::MAX),
        grpc_address: settings.addr.clone().unwrap_or(reachable),
        public_ws_url: String::new(),
    }
}

async fn listen(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("{what} cannot listen on {address}: {error}"))
}

type Served = JoinHandle<Result<(), tonic::transport::Error>>;

fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    streams: CancellationToken,
    over: CancellationToken,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
) -> anyhow::Result<Served> {
    let reflection = || reflection(&SERVICES);
    let nodes = NodeService { registry: registry.clone(), stop: streams.clone() };
    let feed = FeedService { registry: registry.clone(), stop: streams.clone() };
    let router = limited_server()
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            ControllerServiceServer::new(RoomService { registry })
                .max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES),
        )
        .add_service(NodeLinkServiceServer::new(nodes).max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES))
        .add_service(RouteFeedServiceServer::new(feed));
    let incoming =
        TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(Duration::from_secs(30)));
    Ok(tokio::spawn(
        async move { router.serve_with_incoming_shutdown(incoming, over.cancelled_owned()).await },
    ))
}

/// Waits for the stop, or for the loss of the id to another one, then ends things in their order: health first, then streams, then listeners.
async fn run(
    registry: Arc<Registry>,
    registration: Registration,
    health: HealthReporter,
    mut served: Served,
    stop: CancellationToken,
    streams: CancellationToken,
    over: CancellationToken,
) -> anyhow::Result<()> {
    let taken = tokio::select! {
        ended = &mut served => {
            over.cancel();
            ended??;
            anyhow::bail!("the gRPC server ended by itself");
        }
        () = stop.cancelled() => false,
        () = registry.membership.id_is_taken() => true,
    };
    tracing::info!("stopping");
    for service in SERVICES.into_iter().chain([""]) {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
    registry.end_feed(&refusal::stopping());
    streams.cancel();
    // Only now: who does not find this controller any more must have heard all that it confirmed.
    registration.revoke().await;
    over.cancel();
    match tokio::time::timeout(GRACE, &mut served).await {
        Ok(ended) => ended??,
        Err(_) => {
            tracing::warn!("calls were still under way at the end of the grace time");
            served.abort();
        }
    }
    let stored = async {
        registry.close_store().await;
        registry.rooms.close().await;
    };
    if tokio::time::timeout(GRACE, stored).await.is_err() {
        tracing::warn!("the store did not close in time");
    }
    if taken {
        return Err(SettingError::new("CONTROLLER_ID", &registry.controller_id, ID_TAKEN).into());
    }
    Ok(())
}

async fn until(over: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = over.cancelled() => {}
        () = work => {}
    }
}

async fn tick(registry: Arc<Registry>) {
    let mut ticks = tokio::time::interval(registry.timing.tick.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        registry.tick();
    }
}

async fn keep_house(registry: Arc<Registry>, empty_room_ttl: Duration) {
    let mut rounds = tokio::time::interval(HOUSEKEEPING.min(empty_room_ttl).max(Duration::from_millis(10)));
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        registry.keep_rooms(empty_room_ttl).await;
    }
}

fn pages(registry: Arc<Registry>) -> axum::Router {
    axum::Router::new().route("/metrics", get(scrape)).with_state(registry)
}

async fn scrape(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    match registry.metrics.text(&registry.reading()) {
        Ok(text) => (StatusCode::OK, kind, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, kind, error.to_string()),
    }
}
