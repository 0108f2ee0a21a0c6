//! The node's metrics: a registry a node, served on the metrics port.
//!
//! Owns: names, help texts, labels (never a room or a user), and what the bridge itself counts. Must not: make a
//! shard do anything for a scrape. Talks to: `shard_metrics` (the shards' counters), `push_intake` and
//! `control_link`, which count here.

use std::io;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use connect_core::Target;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Before every name.
pub(crate) const PREFIX: &str = "ringcast_node_";

/// Edges of the push histogram in seconds; the objectives of 10, 50 and 100 ms are edges.
const PUSH_EDGES: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// What the bridge counts. Copies count together.
#[derive(Debug, Clone)]
pub(crate) struct BridgeMetrics {
    /// From the receipt of a push to the last shard's report.
    pub(crate) push_seconds: Histogram,
    /// Pushes whose report is still to come.
    pub(crate) open_deliveries: IntGauge,
    /// Streams of push managers.
    pub(crate) deliver_streams: IntGauge,
    /// Streams that were cut.
    pub(crate) deliver_streams_cut: IntCounter,
    /// Pushes that were not valid.
    pub(crate) deliveries_invalid: IntCounter,
    /// Open deliveries whose stream went first.
    pub(crate) deliveries_forgotten: IntCounter,
    /// Whether the node is registered with a controller.
    pub(crate) link_up: IntGauge,
    /// Links that were lost after the registration.
    pub(crate) link_losses: IntCounter,
    /// Whether the node's id is its own by a lease that was renewed in time; 1 at fixed addresses.
    pub(crate) lease_held: IntGauge,
    /// Whether the node is fenced.
    pub(crate) fenced: IntGauge,
    /// Times that it was.
    pub(crate) fences: IntCounter,
    /// Questions for a room's members that too many others waited before.
    pub(crate) members_unanswered: IntCounter,
    to_room: IntCounter,
    to_user: IntCounter,
    to_all: IntCounter,
}

impl BridgeMetrics {
    /// Registers all of them.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(format!("{PREFIX}{name}"), help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let gauge = |name: &str, help: &str| -> prometheus::Result<IntGauge> {
            let gauge = IntGauge::new(format!("{PREFIX}{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let push_seconds = Histogram::with_opts(
            HistogramOpts::new(
                format!("{PREFIX}push_seconds"),
                "Time in the node from the receipt of a push to the report of its last shard.",
            )
            .buckets(PUSH_EDGES.to_vec()),
        )?;
        registry.register(Box::new(push_seconds.clone()))?;
        let deliveries = IntCounterVec::new(
            Opts::new(format!("{PREFIX}deliveries_total"), "Pushes taken from push managers."),
            &["target"],
        )?;
        registry.register(Box::new(deliveries.clone()))?;
        Ok(Self {
            push_seconds,
            open_deliveries: gauge("open_deliveries", "Pushes whose report is still to come.")?,
            deliver_streams: gauge("deliver_streams", "Streams of push managers that are open.")?,
            deliver_streams_cut: counter(
                "deliver_streams_cut_total",
                "Streams of push managers that were cut because they or a shard fell too far behind.",
            )?,
            deliveries_invalid: counter("deliveries_invalid_total", "Pushes that were not valid.")?,
            deliveries_forgotten: counter(
                "deliveries_forgotten_total",
                "Pushes whose stream was gone before their report.",
            )?,
            link_up: gauge("controller_link_up", "1 while the node is registered with a controller.")?,
            link_losses: counter("controller_link_losses_total", "Links to a controller that were lost.")?,
            lease_held: gauge(
                "lease_held",
                "1 while the node's registration is alive, or there is no registry.",
            )?,
            fenced: gauge("fenced", "1 while the node is cut off from all others and takes no clients.")?,
            fences: counter("fences_total", "Times that the node was cut off and closed its clients.")?,
            members_unanswered: counter(
                "members_unanswered_total",
                "Questions for the members of a room that were dropped because too many waited.",
            )?,
            to_room: deliveries.with_label_values(&["room"]),
            to_user: deliveries.with_label_values(&["user"]),
            to_all: deliveries.with_label_values(&["broadcast"]),
        })
    }

    /// Counts a push by whom it is for.
    pub(crate) fn count_delivery(&self, target: &Target) {
        match target {
            Target::Room(_) => self.to_room.inc(),
            Target::User(_) => self.to_user.inc(),
            Target::All => self.to_all.inc(),
        }
    }
}

/// Registers what never changes: build and driver; and, where asked for, what the process uses.
pub(crate) fn register_constants(registry: &Registry, driver: &str, process: bool) -> prometheus::Result<()> {
    let info = |name: &str, help: &str, label: &str, value: &str| -> prometheus::Result<()> {
        let gauge = IntGaugeVec::new(Opts::new(format!("{PREFIX}{name}"), help), &[label])?;
        gauge.with_label_values(&[value]).set(1);
        registry.register(Box::new(gauge))
    };
    info("build_info", "The build; always 1.", "version", env!("CARGO_PKG_VERSION"))?;
    info("driver_info", "How the node does its I/O; always 1.", "driver", driver)?;
    if process {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(collector))?;
    }
    Ok(())
}

/// Serves `/metrics` until the end.
pub(crate) async fn serve(
    listener: TcpListener,
    registry: Registry,
    end: CancellationToken,
) -> io::Result<()> {
    let router = Router::new().route("/metrics", get(move || async move { scrape(&registry) }));
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await
}

fn scrape(registry: &Registry) -> impl IntoResponse + use<> {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(CONTENT_TYPE, "text/plain; charset=utf-8")],
            error.to_string(),
        ),
    }
}
