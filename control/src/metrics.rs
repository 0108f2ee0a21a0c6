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
use crate::presence_store::Verdict;

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
    cluster: ClusterMetrics,
}

/// What only several controllers have.
#[derive(Debug)]
struct ClusterMetrics {
    held_joins: IntGauge,
    lanes: IntGaugeVec,
    lane_queue: IntGauge,
    verdicts: IntCounterVec,
    peer_calls: IntCounterVec,
    reaped_nodes: IntCounter,
}

impl ClusterMetrics {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        Ok(Self {
            held_joins: register(
                registry,
                IntGauge::new("held_joins", "Joins that wait until every push manager follows.")?,
            )?,
            lanes: register(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "lanes",
                        "Nodes whose presence is shared, by whether the store holds all of it.",
                    ),
                    &["state"],
                )?,
            )?,
            lane_queue: register(
                registry,
                IntGauge::new("lane_queue", "Changes that wait for the shared store of presence.")?,
            )?,
            verdicts: counter(
                "verdicts_total",
                "Changes by what the shared store of presence made of them.",
                &["verdict"],
            )?,
            peer_calls: counter(
                "peer_calls_total",
                "Calls that other controllers were asked to do their part of, by outcome.",
                &["method", "outcome"],
            )?,
            reaped_nodes: register(
                registry,
                IntCounter::new("reaped_nodes_total", "Nodes that were taken out since nobody had them.")?,
            )?,
        })
    }
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
    pub(crate) held_joins: usize,
    pub(crate) lanes: LaneFigures,
}

/// The lanes to the store of presence that controllers share.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LaneFigures {
    pub(crate) all: usize,
    pub(crate) dirty: usize,
    pub(crate) queued: usize,
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
                IntCounter::new("store_errors_total", "Calls and transactions of the stores that failed.")?,
            )?,
            cluster: ClusterMetrics::new(&registry)?,
            process: Registry::new(),
            registry,
        };
        if process {
            let collector = prometheus::process_collector::ProcessCollector::for_self();
            metrics.process.register(Box::new(collector))?;
        }
        Ok(metrics)
    }

    /// Where others put figures whose names are whole.
    pub(crate) fn process_registry(&self) -> &Registry {
        &self.process
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

    /// The shared store has carried changes out, or not.
    pub(crate) fn verdicts(&self, verdicts: &[Verdict]) {
        for (verdict, label) in
            [(Verdict::Done, "done"), (Verdict::Full, "full"), (Verdict::Fenced, "fenced")]
        {
            let count = verdicts.iter().filter(|other| **other == verdict).count() as u64;
            self.cluster.verdicts.with_label_values(&[label]).inc_by(count);
        }
    }

    /// Another controller was asked to do its part of a call.
    pub(crate) fn peer_asked(&self, method: &str, outcome: &str) {
        self.cluster.peer_calls.with_label_values(&[method, outcome]).inc();
    }

    /// A node that nobody had was taken out.
    pub(crate) fn node_reaped(&self) {
        self.cluster.reaped_nodes.inc();
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
        self.cluster.held_joins.set(whole(reading.held_joins));
        let lanes = reading.lanes;
        for (state, count) in [("clean", lanes.all - lanes.dirty), ("dirty", lanes.dirty)] {
            self.cluster.lanes.with_label_values(&[state]).set(whole(count));
        }
        self.cluster.lane_queue.set(whole(lanes.queued));
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
