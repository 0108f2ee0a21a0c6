//! The push manager: takes pushes by gRPC, routes them by the controllers' feeds, hands them to the nodes that hold
//! a member, and reports what became of each.
//!
//! A push: `push_service` (or `push_stream`) → `request` → `dispatch` (`board`: `routing`, `receipts`,
//! `node_queue`) → `node_link` ⇒ the node; its outcomes: `node_link` → `dispatch` → `answer`. Routes come by
//! `feed_follower`, one for each controller that `route_watch` finds listed; `feeds` holds what all of them tell.
//!
//! Owns: the order of start and stop. Must not: call anyone for a push: all that routing needs is here already.

mod answer;
mod board;
#[cfg(test)]
mod board_tests;
mod config;
mod dispatch;
mod feed_follower;
mod feeds;
#[cfg(test)]
mod feeds_simulation;
#[cfg(test)]
mod feeds_tests;
mod front;
mod links;
mod listing;
mod metrics;
mod node_link;
mod node_queue;
mod places;
mod push_log;
mod push_service;
mod push_stream;
mod push_trace;
mod receipts;
mod request;
mod route_watch;
mod routing;
#[cfg(test)]
mod routing_tests;
mod staleness;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
#[cfg(feature = "cluster")]
use registry::RegistryError;
use registry::{Directory, Entry, Kind, Lease, Registration};
use ringcast_proto::pubsub::push_manager_service_server::PushManagerServiceServer;
use ringcast_proto::{MAX_GRPC_MESSAGE_BYTES, limited_server, reflection};
use settings::SettingError;
use telemetry::Traces;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use crate::config::{Args, Settings};
use crate::dispatch::Dispatch;
use crate::front::Front;
use crate::metrics::Metrics;
use crate::node_link::NodeLinks;
use crate::push_service::PushService;
use crate::push_stream::Intake;
use crate::request::Checker;
use crate::route_watch::{Following, RouteWatch};

/// The service's name in reflection and health.
const SERVICE: &str = "pubsub.PushManagerService";

/// How long open pushes and their callers have to end when the service is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a caller's idle connection is pinged. Callers are slower to judge than links: nobody is routed by them, and
/// with a connection its open pushes lose their answers.
const CALLER_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long such a ping may stay unanswered; gRPC's own default. A caller that collects garbage, or whose machine is full,
/// answers late.
const CALLER_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A push manager that serves.
#[derive(Debug)]
pub struct Running {
    /// Where the push API listens.
    pub grpc_addr: SocketAddr,
    /// Where /metrics listens.
    pub metrics_addr: SocketAddr,
    done: JoinHandle<()>,
}

impl Running {
    /// Waits until it has been stopped and all is over.
    pub async fn stopped(self) {
        if let Err(error) = self.done.await {
            tracing::error!(%error, "the push manager ended badly");
        }
    }
}

/// Starts a push manager; it serves when this returns, and answers UNAVAILABLE until the first routes are there. With
/// etcd it returns once the push manager is registered there; it answers before that, too.
/// `stop` ends it: no new pushes, the open ones are answered, at most 5 s.
///
/// # Errors
/// A [`settings::SettingError`] where a port cannot be had, or another one has its id.
pub async fn start(settings: Settings, stop: CancellationToken) -> anyhow::Result<Running> {
    let grpc = bind("GRPC_PORT", SocketAddr::new(settings.bind, settings.grpc_port)).await?;
    let scrapes = bind("METRICS_PORT", SocketAddr::new(settings.bind, settings.metrics_port)).await?;
    settings::warn_if_open(settings.bind);
    let (grpc_addr, metrics_addr) = (grpc.local_addr()?, scrapes.local_addr()?);

    let metrics = Arc::new(Metrics::new(settings.process_metrics)?);
    let traces = Traces::open(settings.traces, "push-manager", &settings.manager_id)?;
    traces.register(metrics.registry())?;
    let dispatch = Arc::new(Dispatch::new(metrics.clone(), traces.clone()));
    // What is to go on until the last open push is answered ends by `over`.
    let over = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (deadlines, end_deadlines) = (dispatch.clone(), over.clone());
    tasks.spawn(async move { deadlines.run_deadlines(end_deadlines).await });
    let router = metrics::router(metrics.clone(), dispatch.clone());
    let scraping = axum::serve(scrapes, router).with_graceful_shutdown(over.clone().cancelled_owned());
    tasks.spawn(async move { scraping.await.map_or_else(|error| tracing::error!(%error, "/metrics"), drop) });
    let directory = directory(&settings, &over)?;
    let entry = entry(&settings, grpc_addr);
    let registration = directory.register(entry.clone());
    let lease = registration.watch();
    let is_ready = follow_routes(directory, entry, &dispatch, &metrics, &over, &tasks);

    let (health, health_service) = tonic_health::server::health_reporter();
    set_health(&health, ServingStatus::NotServing).await;
    tasks.spawn(follow_readiness(health, is_ready, stop.clone()));
    let intake = Intake {
        dispatch: dispatch.clone(),
        checker: Checker { max_payload_bytes: settings.push_payload_bytes },
        metrics,
        traces: traces.clone(),
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    let service = PushManagerServiceServer::new(PushService::new(intake))
        .max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_GRPC_MESSAGE_BYTES);
    let others = Routes::new(health_service)
        .add_service(reflection(&[SERVICE]).build_v1()?)
        .add_service(reflection(&[SERVICE]).build_v1alpha()?);
    let front = Front { push: service, others: others.prepare() };
    let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
    let stopped = stop.clone().cancelled_owned();
    let server = limited_server()
        .http2_keepalive_interval(Some(CALLER_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(CALLER_KEEPALIVE_TIMEOUT));
    let serving = tokio::spawn(server.serve_with_incoming_shutdown(front, incoming, stopped));
    let ending = end(stop.clone(), serving, dispatch, registration, over, tasks);
    let done = tokio::spawn(async move {
        ending.await;
        // The last spans are those of the pushes that have just been answered.
        let _ = tokio::task::spawn_blocking(move || traces.shut_down()).await;
    });
    let running = Running { grpc_addr, metrics_addr, done };
    // At fixed addresses nobody has it.
    let patience = settings.etcd.as_ref().map(settings::EtcdStore::id_patience).unwrap_or_default();
    if let Some(Err(error)) = stop.run_until_cancelled(claim(lease, &settings.manager_id, patience)).await {
        stop.cancel();
        running.stopped().await;
        return Err(error.into());
    }
    tracing::info!(grpc = %grpc_addr, metrics = %metrics_addr, "the push manager serves");
    Ok(running)
}

/// Who is there: by etcd where it is set, else at fixed addresses.
fn directory(settings: &Settings, over: &CancellationToken) -> anyhow::Result<Directory> {
    #[cfg(feature = "cluster")]
    if let Some(etcd) = &settings.etcd {
        let opened = Directory::etcd(etcd, over.clone()).map_err(|RegistryError::Setting(error)| error)?;
        return Ok(opened);
    }
    let _ = over;
    Ok(Directory::fixed(settings.controller_address.clone()))
}

/// How the push manager is told of.
fn entry(settings: &Settings, mut listens: SocketAddr) -> Entry {
    if listens.ip().is_unspecified() {
        listens.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    // A clock before 1970 makes this start older than any other.
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Entry {
        kind: Kind::PushManager,
        id: settings.manager_id.clone(),
        incarnation: started.as_micros() as u64,
        grpc_address: settings.manager_addr.clone().unwrap_or_else(|| listens.to_string()),
        public_ws_url: String::new(),
    }
}

/// Waits until the id is ours; another one may have it for so long. While the registry cannot be reached nobody has it,
/// and it is waited for.
async fn claim(
    mut lease: watch::Receiver<Lease>,
    manager_id: &str,
    patience: Duration,
) -> Result<(), SettingError> {
    let mut taken_until = None;
    loop {
        let now = *lease.borrow_and_update();
        let until = match now {
            Lease::Fixed | Lease::Held { .. } | Lease::Lost { .. } => return Ok(()),
            Lease::Taken => Some(*taken_until.get_or_insert_with(|| tokio::time::Instant::now() + patience)),
            Lease::Waiting => None,
        };
        let over = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = lease.changed() => {}
            () = over => {
                let remedy = "another push manager that is alive has this id: give each its own";
                return Err(SettingError::new("MANAGER_ID", manager_id, remedy));
            }
            else => return Ok(()),
        }
    }
}

/// Follows the controllers; whether pushes can be routed.
fn follow_routes(
    directory: Directory,
    us: Entry,
    dispatch: &Arc<Dispatch>,
    metrics: &Arc<Metrics>,
    over: &CancellationToken,
    tasks: &TaskTracker,
) -> watch::Receiver<bool> {
    let (ready, is_ready) = watch::channel(false);
    let links = NodeLinks::new(dispatch.clone(), metrics.clone(), us.id.clone(), over.clone(), tasks.clone());
    let (dispatch, metrics, to_sweep) = (dispatch.clone(), metrics.clone(), Notify::new());
    let following = Arc::new(Following { dispatch, links, metrics, us, ready, to_sweep });
    tasks.spawn(over.clone().run_until_cancelled_owned(following.clone().run_sweeps()));
    let watch = RouteWatch { following, directory, tasks: tasks.clone() };
    tasks.spawn(over.clone().run_until_cancelled_owned(watch.run()));
    is_ready
}

/// Awaits the stop, lets what is open end, then ends all else.
async fn end(
    stop: CancellationToken,
    mut serving: JoinHandle<Result<(), tonic::transport::Error>>,
    dispatch: Arc<Dispatch>,
    registration: Registration,
    over: CancellationToken,
    tasks: TaskTracker,
) {
    // The server ends before the stop only where its listener fails: nothing can be pushed then, so all ends.
    let early = tokio::select! {
        () = stop.cancelled() => None,
        ended = &mut serving => Some(ended),
    };
    dispatch.stop_accepting();
    // No push is accepted any more, so no controller need wait for us.
    let revoking = tokio::spawn(registration.revoke());
    let ended = match early {
        Some(ended) => Ok(ended),
        None => tokio::time::timeout(STOP_TIMEOUT, &mut serving).await,
    };
    match ended {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(%error, "the push API ended"),
        Ok(Err(error)) => tracing::error!(%error, "the push API ended badly"),
        Err(_) => {
            tracing::warn!("callers are still there after {STOP_TIMEOUT:?}: their calls are cut off");
            serving.abort();
        }
    }
    stop.cancel();
    let _ = revoking.await;
    over.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("tasks are still running after {STOP_TIMEOUT:?}");
    }
}

async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    settings::check_port_free(key, address)?;
    TcpListener::bind(address).await.with_context(|| format!("{key}: cannot listen on {address}"))
}

/// Health follows the routes: a push manager that has none refuses every push.
async fn follow_readiness(
    health: HealthReporter,
    mut is_ready: watch::Receiver<bool>,
    stop: CancellationToken,
) {
    let ready =
        stop.run_until_cancelled(is_ready.wait_for(|ready| *ready)).await.is_some_and(|it| it.is_ok());
    if ready {
        set_health(&health, ServingStatus::Serving).await;
        stop.cancelled().await;
        set_health(&health, ServingStatus::NotServing).await;
    }
}

async fn set_health(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status(SERVICE, status).await;
    health.set_service_status("", status).await;
}
