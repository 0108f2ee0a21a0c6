//! The shards' counters as metrics: read and summed when somebody scrapes, never before.
//!
//! Owns: which counter is told under which name. Must not: touch a shard. Talks to: `http` (the figures of all
//! shards), `metrics` (the registry).

use std::sync::Arc;

use connect_core::{CloseReason, DropReason, REFUSAL_STATUSES};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::http::NodeStatus;
use crate::metrics::PREFIX;
use crate::shard_stats::ShardFigures;

/// A metric of the shards.
struct Row {
    name: &'static str,
    help: &'static str,
    gauge: bool,
    value: Value,
}

/// Where its numbers come from.
enum Value {
    /// One number, summed over the shards.
    Sum(fn(&ShardFigures) -> u64),
    /// A number for each shard.
    ByShard(fn(&ShardFigures) -> u64),
    /// Summed, a number for each value of a label.
    ByLabel(&'static str, fn() -> Vec<String>, fn(&ShardFigures) -> Vec<u64>),
    /// Of the node as a whole.
    Node(fn(&NodeStatus) -> u64),
}

const fn gauge(name: &'static str, help: &'static str, value: Value) -> Row {
    Row { name, help, gauge: true, value }
}

const fn total(name: &'static str, help: &'static str, value: Value) -> Row {
    Row { name, help, gauge: false, value }
}

#[rustfmt::skip]
const ROWS: [Row; 38] = [
    gauge("connections", "Connections, by shard.", Value::ByShard(|f| f.core.connections)),
    gauge("sessions_joined", "Sessions that are live in the presence, by shard.", Value::ByShard(|f| f.core.joined)),
    gauge("sessions_echoing", "WebSockets on /echo.", Value::Sum(|f| f.core.echoing)),
    gauge("users", "Distinct users with a live session.", Value::Node(NodeStatus::users)),
    gauge("rooms", "Distinct rooms with a live session.", Value::Node(NodeStatus::rooms)),
    gauge("queued_frames", "Pushes that wait for a session, in sessions.", Value::Sum(|f| f.core.queued())),
    total("connections_accepted_total", "Connections taken.", Value::Sum(|f| f.core.accepted)),
    total("connections_refused_total", "Connections refused before anything was read.",
        Value::ByLabel("reason", || vec!["full".into(), "draining".into()], |f| vec![f.core.refused_full, f.core.refused_draining])),
    total("handshakes_refused_total", "Requests refused, by HTTP status.",
        Value::ByLabel("status", refusal_labels, refusals)),
    total("closes_total", "WebSockets ended, by reason.",
        Value::ByLabel("reason", || CloseReason::ALL.iter().map(|reason| reason.label().into()).collect(), |f| f.core.closes.to_vec())),
    total("joins_asked_total", "Joins asked of the controller.", Value::Sum(|f| f.core.joins_asked)),
    total("received_bytes_total", "Bytes read from clients.", Value::Sum(|f| f.core.bytes_read)),
    total("received_messages_total", "Messages of clients.", Value::Sum(|f| f.core.messages)),
    total("pings_sent_total", "WebSocket pings sent.", Value::Sum(|f| f.core.pings)),
    total("pongs_received_total", "WebSocket pongs received.", Value::Sum(|f| f.core.pongs)),
    total("deferred_timeouts_total", "Times that a client or the controller got longer because the shard was behind.",
        Value::Sum(|f| f.core.deferred)),
    total("push_members_total", "Sessions found for pushes; the outcomes and the queued frames add up to it.", Value::Sum(|f| f.core.members)),
    total("outcomes_total", "What became of pushes, in sessions.", Value::ByLabel("outcome", outcome_labels, outcomes)),
    total("late_outcomes_total", "Outcomes after the push was reported as queued, in sessions; contained in outcomes_total.",
        Value::ByLabel("outcome", outcome_labels, late_outcomes)),
    total("sent_frames_total", "Frames whose last byte the kernel took.", Value::Sum(|f| f.core.frames_written)),
    total("sent_bytes_total", "Bytes that the kernel took.", Value::Sum(|f| f.core.bytes_written)),
    total("writes_total", "Writes handed to the kernel.", Value::Sum(|f| f.core.writes)),
    total("coalesced_frames_total", "Frames that shared a write with another.", Value::Sum(|f| f.core.coalesced_frames)),
    total("stale_inputs_total", "Events for a session that was over.", Value::Sum(|f| f.core.stale)),
    total("commands_received_total", "Messages of clients that were commands.", Value::Sum(|f| f.core.commands)),
    gauge("bridge_backlog_items", "Words of shards for which the lane to the bridge has no room, by shard.",
        Value::ByShard(|f| f.driver.backlog)),
    total("joins_unavailable_total", "Joins answered 503 because no controller is there or the bridge is behind.",
        Value::Sum(|f| f.driver.joins_unavailable)),
    total("members_unasked_total", "Questions for the members of a room that were dropped because the bridge is behind.",
        Value::Sum(|f| f.driver.members_unasked)),
    total("accept_errors_total", "Accepts that failed for want of descriptors or memory.", Value::Sum(|f| f.driver.accept_errors)),
    total("loop_turns_total", "Turns of the shards' loops, by shard.", Value::ByShard(|f| f.driver.turns)),
    total("loop_sleeps_total", "Times that a shard's loop slept, by shard.", Value::ByShard(|f| f.driver.sleeps)),
    gauge("sockets", "Sockets that shards hold, from accept to close.", Value::Sum(|f| f.plane.sockets)),
    gauge("writes_in_flight", "Writes that the kernel is busy with.", Value::Sum(|f| f.plane.writes_in_flight)),
    total("ring_enters_total", "Calls that handed work to the kernel and fetched its answers.", Value::Sum(|f| f.plane.enters)),
    total("polls_rearmed_total", "Polls that the kernel ended and that were armed again.", Value::Sum(|f| f.plane.polls_rearmed)),
    total("completion_overflows_total", "Times that the completion queue was full.", Value::Sum(|f| f.plane.completion_overflows)),
    total("stale_completions_total", "Completions for a socket that was gone.", Value::Sum(|f| f.plane.stale)),
    total("pushes_total", "Pushes taken in by shards; one push counts once for each shard.", Value::Sum(|f| f.core.pushes)),
];

fn refusal_labels() -> Vec<String> {
    REFUSAL_STATUSES.iter().map(u16::to_string).chain(["other".to_owned()]).collect()
}

fn refusals(figures: &ShardFigures) -> Vec<u64> {
    figures.core.refused.iter().copied().chain([figures.core.refused_otherwise]).collect()
}

fn outcome_labels() -> Vec<String> {
    let dropped = DropReason::ALL.iter().map(|reason| format!("dropped_{}", reason.label()));
    std::iter::once("written".to_owned()).chain(dropped).collect()
}

fn outcomes(figures: &ShardFigures) -> Vec<u64> {
    std::iter::once(figures.core.written).chain(figures.core.dropped).collect()
}

fn late_outcomes(figures: &ShardFigures) -> Vec<u64> {
    std::iter::once(figures.core.late_written).chain(figures.core.late_dropped).collect()
}

/// Reads the shards at every scrape.
pub(crate) struct ShardCollector {
    status: Arc<NodeStatus>,
    descriptions: Vec<Desc>,
}

impl ShardCollector {
    /// Of this node's shards.
    pub(crate) fn new(status: Arc<NodeStatus>) -> prometheus::Result<Self> {
        let describe = |row: &Row| {
            let labels = match row.value {
                Value::Sum(_) | Value::Node(_) => Vec::new(),
                Value::ByShard(_) => vec!["shard".to_owned()],
                Value::ByLabel(label, ..) => vec![label.to_owned()],
            };
            Desc::new(full_name(row), row.help.to_owned(), labels, std::collections::HashMap::new())
        };
        Ok(Self { status, descriptions: ROWS.iter().map(describe).collect::<prometheus::Result<_>>()? })
    }
}

impl Collector for ShardCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shards: Vec<ShardFigures> = self.status.shards().iter().map(|shard| shard.read()).collect();
        ROWS.iter().map(|row| family(row, &shards, &self.status)).collect()
    }
}

fn full_name(row: &Row) -> String {
    format!("{PREFIX}{}", row.name)
}

fn family(row: &Row, shards: &[ShardFigures], status: &NodeStatus) -> MetricFamily {
    let metrics = match row.value {
        Value::Sum(read) => vec![metric(row.gauge, None, shards.iter().map(read).sum())],
        Value::Node(read) => vec![metric(row.gauge, None, read(status))],
        Value::ByShard(read) => {
            let each = shards.iter().enumerate();
            each.map(|(shard, figures)| metric(row.gauge, Some(("shard", shard.to_string())), read(figures)))
                .collect()
        }
        Value::ByLabel(label, values, read) => {
            let names = values();
            let mut sums = vec![0; names.len()];
            for figures in shards {
                sums.iter_mut().zip(read(figures)).for_each(|(sum, value)| *sum += value);
            }
            names
                .into_iter()
                .zip(sums)
                .map(|(name, sum)| metric(row.gauge, Some((label, name)), sum))
                .collect()
        }
    };
    let mut family = MetricFamily::default();
    family.set_name(full_name(row));
    family.set_help(row.help.to_owned());
    family.set_field_type(if row.gauge { MetricType::GAUGE } else { MetricType::COUNTER });
    family.set_metric(metrics);
    family
}

fn metric(is_gauge: bool, label: Option<(&str, String)>, value: u64) -> Metric {
    let labels = label.into_iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value);
        pair
    });
    let mut metric = Metric::from_label(labels.collect());
    if is_gauge {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        metric.set_gauge(gauge);
    } else {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
    }
    metric
}
