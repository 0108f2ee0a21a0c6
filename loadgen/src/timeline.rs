//! A run over time, one entry about each second.
//!
//! Owns: the entries. Must not: decide anything by them. Talks to: `run_clients`, the presses' live figures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::clock::monotonic_ns;
use crate::press::PressLive;
use crate::report::Latency;
use crate::result::Moment;
use crate::run_clients::Clients;
use crate::system::SystemUnderTest;

/// Between two entries.
const EVERY_NS: u64 = 1_000_000_000;

/// The entries so far, and what the next one is reckoned from.
pub(crate) struct Timeline {
    start_ns: u64,
    last_ns: u64,
    joined: u64,
    sent: u64,
    received: u64,
    events: Vec<String>,
    presses: Vec<Arc<PressLive>>,
    pub(crate) moments: Vec<Moment>,
}

impl Timeline {
    /// From now on.
    pub(crate) fn new() -> Self {
        let now = monotonic_ns();
        Self {
            start_ns: now,
            last_ns: now,
            joined: 0,
            sent: 0,
            received: 0,
            events: Vec::new(),
            presses: Vec::new(),
            moments: Vec::new(),
        }
    }

    /// A press whose figures are told too.
    pub(crate) fn watch(&mut self, press: Arc<PressLive>) {
        self.presses.push(press);
    }

    /// Something happened; the next entry tells it.
    pub(crate) fn event(&mut self, what: impl Into<String>) {
        self.events.push(what.into());
    }

    /// Seconds since the start.
    pub(crate) fn at_s(&self) -> f64 {
        (monotonic_ns() - self.start_ns) as f64 / 1e9
    }

    /// Makes an entry where one is due, or when something is to be told at the end.
    pub(crate) fn tick(
        &mut self,
        clients: &Clients,
        system: &SystemUnderTest,
        on_moment: &mut impl FnMut(&Moment),
        last: bool,
    ) -> anyhow::Result<()> {
        let now = monotonic_ns();
        if now < self.last_ns + EVERY_NS && (!last || self.events.is_empty()) {
            return Ok(());
        }
        let seconds = (now - self.last_ns) as f64 / 1e9;
        let totals = clients.totals();
        let mut recent = Latency::coarse();
        for fleet in clients.fleets() {
            recent.merge(&fleet.recent()?);
        }
        let sent: u64 = self.presses.iter().map(|press| press.sent.load(Relaxed)).sum();
        let latest: u64 =
            self.presses.iter().map(|press| press.latest_ns.swap(0, Relaxed)).max().unwrap_or(0);
        let names = system.nodes.iter().map(|node| node.name.clone());
        let live_by_node: BTreeMap<String, u64> =
            names.zip(clients.live_by_node(system.nodes.len())).collect();
        let rate = |count: u64, before: u64| count.saturating_sub(before) as f64 / seconds;
        let moment = Moment {
            at_s: self.at_s(),
            live: totals.live as u64,
            joins_per_s: rate(totals.joined as u64, self.joined),
            pushes_per_s: rate(sent, self.sent),
            deliveries_per_s: rate(totals.received, self.received),
            p50_ms: (recent.count() > 0).then(|| recent.percentile_ms(50.0)),
            p99_ms: (recent.count() > 0).then(|| recent.percentile_ms(99.0)),
            lag_ms: (latest > 0).then_some(latest as f64 / 1e6),
            live_by_node,
            event: std::mem::take(&mut self.events).join("; "),
        };
        (self.last_ns, self.sent) = (now, sent);
        (self.joined, self.received) = (totals.joined as u64, totals.received);
        on_moment(&moment);
        self.moments.push(moment);
        Ok(())
    }
}
