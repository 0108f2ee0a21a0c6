//! The figures of the push manager, and the HTTP port that Prometheus reads them from.
//!
//! Owns: names, labels, buckets. Must not: carry a room or a user as a label.
//! Talks to: `dispatch`, which counts what ends and tells at the scrape how all is doing.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use ringcast_proto::pubsub::Outcomes;

use crate::answer::{Ending, Finished};
use crate::board::Figures;
use crate::dispatch::Dispatch;
use crate::request::{Refusal, Scope};

/// Seconds; edges at the objectives of 10, 50 and 100 ms.
const DURATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

const OUTCOMES: [&str; 7] =
    ["written", "queued", "dropped_slow", "dropped_closed", "dropped_shed", "offline", "unknown"];

const ENDINGS: [Ending; 4] = [Ending::Delivered, Ending::Unknown, Ending::Dropped, Ending::Nobody];

/// The counters, each with its children at hand.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    duration: [Histogram; 3],
    pushes: [[IntCounter; ENDINGS.len()]; 3],
    outcomes: [IntCounter; OUTCOMES.len()],
    refused: IntCounterVec,
    late_reports: IntCounter,
    withdrawn: IntCounter,
    /// Streams of pushes that callers hold open.
    pub(crate) streams: IntGauge,
    /// Times that a feed was lost.
    pub(crate) feed_losses: IntCounter,
    /// Times that a stream to a node broke.
    pub(crate) link_breaks: IntCounter,
    /// Set at the scrape, by one at a time.
    scraped: Mutex<Scraped>,
}

#[derive(Debug)]
struct Scraped {
    open: IntGauge,
    rooms: IntGauge,
    users: IntGauge,
    nodes: IntGauge,
    set_aside: IntGauge,
    feeds: IntGaugeVec,
    feed_number: IntGaugeVec,
    stale_seconds: prometheus::Gauge,
    stale: IntGaugeVec,
    links: IntGaugeVec,
    queue_length: IntGaugeVec,
    queue_bytes: IntGaugeVec,
}

impl Metrics {
    /// In a registry of their own; `process_metrics`: with the figures of the process.
    pub(crate) fn new(process_metrics: bool) -> prometheus::Result<Self> {
        let registry = Registry::new();
        if process_metrics {
            registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        }
        let counter = |name, help| register(&registry, IntCounter::new(name, help)?);
        let options = HistogramOpts::new("ringcast_push_duration_seconds", "From acceptance to the answer.")
            .buckets(DURATION_BUCKETS.to_vec());
        let duration = register(&registry, HistogramVec::new(options, &["scope"])?)?;
        let pushes = counters(
            &registry,
            "ringcast_push_pushes_total",
            "Pushes answered, by what they came to.",
            &["scope", "result"],
        )?;
        let outcomes = counters(
            &registry,
            "ringcast_push_outcomes_total",
            "What reports said of sessions. Sessions told as queued end in the node's own figures.",
            &["outcome"],
        )?;
        Ok(Self {
            duration: Scope::ALL.map(|scope| duration.with_label_values(&[scope.label()])),
            pushes: Scope::ALL.map(|scope| {
                ENDINGS.map(|ending| pushes.with_label_values(&[scope.label(), ending.label()]))
            }),
            outcomes: OUTCOMES.map(|outcome| outcomes.with_label_values(&[outcome])),
            refused: counters(&registry, "ringcast_push_refused_total", "Pushes refused.", &["reason"])?,
            late_reports: counter(
                "ringcast_push_late_reports_total",
                "Answers of nodes that came after the push had been answered as unknown.",
            )?,
            withdrawn: counter(
                "ringcast_push_withdrawn_sessions_total",
                "Sessions told as queued, without a report, whose push was too late to be sent to their node.",
            )?,
            streams: register(&registry, IntGauge::new("ringcast_push_streams", "PushStream calls open.")?)?,
            feed_losses: counter("ringcast_push_feed_losses_total", "Times a route feed was lost.")?,
            link_breaks: counter("ringcast_push_link_breaks_total", "Times a stream to a node broke.")?,
            scraped: Mutex::new(Scraped::new(&registry)?),
            registry,
        })
    }

    /// Where others put their figures, too.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A push was answered.
    pub(crate) fn finished(&self, push: &Finished) {
        let scope = push.scope as usize;
        self.duration[scope].observe(push.elapsed.as_secs_f64());
        self.pushes[scope][push.ending() as usize].inc();
        for (counter, sessions) in self.outcomes.iter().zip(in_order(&push.total)) {
            if sessions > 0 {
                counter.inc_by(sessions);
            }
        }
    }

    /// A push was refused.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.refused.with_label_values(&[refusal.reason]).inc();
    }

    /// So many answers of nodes came too late.
    pub(crate) fn late_reports(&self, reports: usize) {
        if reports > 0 {
            self.late_reports.inc_by(reports as u64);
        }
    }

    /// So many sessions that were told as queued will not get their push.
    pub(crate) fn withdrawn(&self, sessions: u64) {
        if sessions > 0 {
            self.withdrawn.inc_by(sessions);
        }
    }

    /// All as Prometheus reads it.
    fn text(&self, figures: &Figures) -> prometheus::Result<Vec<u8>> {
        let scraped = self.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        scraped.set(figures);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Scraped {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        let labelled =
            |name, help, label| register(registry, IntGaugeVec::new(Opts::new(name, help), &[label])?);
        Ok(Self {
            open: gauge("ringcast_push_open", "Pushes that wait for their report.")?,
            rooms: gauge(
                "ringcast_push_routes_rooms",
                "Rooms with a member, once for each controller that tells of one.",
            )?,
            users: gauge(
                "ringcast_push_routes_users",
                "Users with a connection, once for each controller that tells of one.",
            )?,
            nodes: gauge("ringcast_push_routes_nodes", "Nodes that are routed to.")?,
            set_aside: gauge(
                "ringcast_push_routes_set_aside",
                "Nodes whose former routes hold until a controller has told the whole of them.",
            )?,
            feeds: labelled("ringcast_push_feeds", "Route feeds, one for each controller.", "state")?,
            feed_number: labelled(
                "ringcast_push_feed_number",
                "The last number of a route feed, while it is followed.",
                "controller",
            )?,
            stale_seconds: register(
                registry,
                prometheus::Gauge::new(
                    "ringcast_push_routes_stale_seconds",
                    "For how long the routes may have lacked what a controller confirmed; 0 while they lack nothing.",
                )?,
            )?,
            stale: labelled(
                "ringcast_push_routes_stale",
                "1 for each reason for which the routes may lack what a controller confirmed.",
                "reason",
            )?,
            links: labelled("ringcast_push_node_links", "Links to nodes.", "state")?,
            queue_length: labelled("ringcast_push_queue_length", "Pushes that wait for a node.", "node")?,
            queue_bytes: labelled(
                "ringcast_push_queue_bytes",
                "Bytes of pushes that wait for a node.",
                "node",
            )?,
        })
    }

    fn set(&self, figures: &Figures) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.open.set(count(figures.open));
        self.rooms.set(count(figures.rooms));
        self.users.set(count(figures.users));
        self.nodes.set(count(figures.nodes));
        self.set_aside.set(count(figures.set_aside));
        self.set_feeds(figures);
        let up = figures.links.iter().filter(|link| link.up).count();
        self.links.with_label_values(&["up"]).set(count(up));
        self.links.with_label_values(&["down"]).set(count(figures.links.len() - up));
        // Nodes that have gone are not told of any more. A node that came back has two links for a while.
        self.queue_length.reset();
        self.queue_bytes.reset();
        for link in &figures.links {
            self.queue_length.with_label_values(&[&*link.node]).add(count(link.queued));
            self.queue_bytes.with_label_values(&[&*link.node]).add(count(link.bytes));
        }
    }

    fn set_feeds(&self, figures: &Figures) {
        // Controllers that have gone are not told of any more.
        self.feed_number.reset();
        let mut followed = 0;
        for feed in &figures.feeds {
            if let Some(number) = feed.number {
                followed += 1;
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                self.feed_number.with_label_values(&[&*feed.controller]).set(number);
            }
        }
        self.feeds.with_label_values(&["followed"]).set(followed);
        self.feeds.with_label_values(&["lost"]).set(figures.feeds.len() as i64 - followed);
        self.stale_seconds.set(figures.stale.as_secs_f64());
        let reasons = &figures.staleness;
        for (reason, since) in [
            ("feed_lost", reasons.lost),
            ("feed_silent", reasons.silent),
            ("list_old", reasons.old_list),
            ("not_listed", reasons.unlisted),
        ] {
            self.stale.with_label_values(&[reason]).set(since.is_some().into());
        }
    }
}

/// The HTTP side: `GET /metrics`.
pub(crate) fn router(metrics: Arc<Metrics>, dispatch: Arc<Dispatch>) -> Router {
    let scrape = move || async move {
        match metrics.text(&dispatch.figures()) {
            Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be told");
                axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    };
    Router::new().route("/metrics", get(scrape))
}

fn in_order(of: &Outcomes) -> [u64; OUTCOMES.len()] {
    [of.written, of.queued, of.dropped_slow, of.dropped_closed, of.dropped_shed, of.offline, of.unknown]
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
