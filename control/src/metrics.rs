//! What the controller tells Prometheus.
//!
//! Owns: names, labels and bucket edges. Must not: use a room or a user as a label.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tonic::Code;

use crate::presence::Figures;

/// Upper edges in seconds; the objectives are at 10, 50 and 100 ms.
const EDGES: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// All metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// The process's own figures, whose names carry no prefix.
    process: Registry,
    rooms: IntGauge,
    rooms_stored: IntGauge,
    users: IntGauge,
    sessions: IntGauge,
    nodes: IntGaugeVec,
    joins: IntCounterVec,
    /// One of `joins`: there are many of these.
    joins_accepted: IntCounter,
    confirm_seconds: Histogram,
    feed_number: IntGauge,
    followers: IntGauge,
    cut_offs: IntCounter,
    recovering: IntGauge,
    grpc: IntCounterVec,
    pub(crate) store_errors: IntCounter,
}

/// What is read at a scrape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) presence: Figures,
    pub(crate) rooms_stored: u64,
    pub(crate) feed_number: u64,
    pub(crate) followers: usize,
    pub(crate) cut_offs: u64,
    pub(crate) recovering: bool,
}

impl Metrics {
    /// A registry with all of them; `process`: also the process's own figures.
    pub(crate) fn new(process: bool) -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("ringcast_controller".into()), None)?;
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            register(&registry, IntGauge::new(name, help)?)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let confirm = HistogramOpts::new(
            "join_confirm_seconds",
            "From a join's arrival to its confirmation, the wait for all push managers included.",
        );
        let joins = counter("joins_total", "Joins by what was decided.", &["decision"])?;
        let metrics = Self {
            rooms: gauge("rooms", "Rooms that have members.")?,
            rooms_stored: gauge("rooms_stored", "Rooms in the store, empty ones too.")?,
            users: gauge("users", "Users who hold a connection.")?,
            sessions: gauge("sessions", "Live sessions on all nodes.")?,
            nodes: register(
                &registry,
                IntGaugeVec::new(Opts::new("nodes", "Connect nodes by state."), &["state"])?,
            )?,
            joins_accepted: joins.with_label_values(&["accepted"]),
            joins,
            confirm_seconds: register(&registry, Histogram::with_opts(confirm.buckets(EDGES.to_vec()))?)?,
            feed_number: gauge("feed_number", "Number of the route feed's last step.")?,
            followers: gauge("feed_followers", "Push managers that follow the route feed.")?,
            cut_offs: register(
                &registry,
                IntCounter::new("feed_cut_offs_total", "Followers cut off from the route feed.")?,
            )?,
            recovering: gauge("recovering", "1 while a restarted controller waits for its nodes.")?,
            grpc: counter(
                "grpc_handled_total",
                "Finished gRPC calls by method and code.",
                &["method", "code"],
            )?,
            store_errors: register(
                &registry,
                IntCounter::new("store_errors_total", "Transactions of the store that failed.")?,
            )?,
            process: Registry::new(),
            registry,
        };
        if process {
            let collector = prometheus::process_collector::ProcessCollector::for_self();
            metrics.process.register(Box::new(collector))?;
        }
        Ok(metrics)
    }

    /// A join was decided.
    pub(crate) fn joined(&self, decision: &str) {
        self.joins.with_label_values(&[decision]).inc();
    }

    /// A join was accepted.
    pub(crate) fn join_accepted(&self) {
        self.joins_accepted.inc();
    }

    /// A join was confirmed, this long after it came.
    pub(crate) fn confirmed(&self, after: Duration) {
        self.confirm_seconds.observe(after.as_secs_f64());
    }

    /// A call has ended.
    pub(crate) fn handled(&self, method: &str, code: Code) {
        self.grpc.with_label_values(&[method, &format!("{code:?}")]).inc();
    }

    /// The exposition text.
    pub(crate) fn text(&self, reading: &Reading) -> Result<String, prometheus::Error> {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let presence = &reading.presence;
        self.rooms.set(whole(presence.rooms));
        self.users.set(whole(presence.users));
        self.sessions.set(whole(presence.sessions));
        let states = [("ready", presence.ready), ("draining", presence.draining), ("lost", presence.lost)];
        for (state, count) in states {
            self.nodes.with_label_values(&[state]).set(whole(count));
        }
        self.rooms_stored.set(i64::try_from(reading.rooms_stored).unwrap_or(i64::MAX));
        self.feed_number.set(i64::try_from(reading.feed_number).unwrap_or(i64::MAX));
        self.followers.set(whole(reading.followers));
        self.cut_offs.inc_by(reading.cut_offs.saturating_sub(self.cut_offs.get()));
        self.recovering.set(i64::from(reading.recovering));
        let mut text = Vec::new();
        let mut families = self.registry.gather();
        families.extend(self.process.gather());
        TextEncoder::new().encode(&families, &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
