//! The clients of a run: a fleet for each group.
//!
//! Owns: what of a scenario becomes which fleet. Must not: publish. Talks to: `fleet`.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::Fleet;
use crate::plan::{FleetPlan, InRun, Manner, Reconnect};
use crate::report::Totals;
use crate::run_loads::{RunLoads, room_name, user_name};
use crate::scenario::{Group, Scenario};
use crate::spans::SpanBook;
use crate::system::SystemUnderTest;

/// The fleets of a run, by group; those that have not begun are missing.
pub(crate) struct Clients {
    fleets: Vec<Option<Fleet>>,
    asked: u64,
}

impl Clients {
    /// None yet.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self { fleets: scenario.clients.iter().map(|_| None).collect(), asked: 0 }
    }

    /// A group begins to connect.
    pub(crate) fn begin(
        &mut self,
        scenario: &Scenario,
        system: &SystemUnderTest,
        loads: &RunLoads,
        spans: &Arc<SpanBook>,
        at: usize,
    ) -> anyhow::Result<()> {
        let plan = plan(scenario, system, loads, spans, at);
        self.asked += plan.count as u64;
        self.fleets[at] = Some(Fleet::connect(plan)?);
        Ok(())
    }

    /// The fleets that have begun.
    pub(crate) fn fleets(&self) -> impl Iterator<Item = &Fleet> {
        self.fleets.iter().flatten()
    }

    /// The fleet of a group.
    pub(crate) fn fleet(&self, group: usize) -> Option<&Fleet> {
        self.fleets[group].as_ref()
    }

    /// How many clients there are to be by now.
    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }

    /// The totals of all fleets.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        self.fleets().for_each(|fleet| totals.add(&fleet.totals()));
        totals
    }

    /// Joined clients by node.
    pub(crate) fn live_by_node(&self, nodes: usize) -> Vec<u64> {
        let mut live = vec![0; nodes];
        for fleet in self.fleets() {
            fleet.live_by_node().into_iter().enumerate().for_each(|(node, more)| live[node] += more);
        }
        live
    }

    /// Whether every client that was to connect by now has an answer, whatever it was.
    pub(crate) fn have_arrived(&self) -> bool {
        let totals = self.totals();
        (totals.begun - totals.reconnects) as u64 >= self.asked && totals.joining == 0
    }
}

fn plan(
    scenario: &Scenario,
    system: &SystemUnderTest,
    loads: &RunLoads,
    spans: &Arc<SpanBook>,
    at: usize,
) -> FleetPlan {
    let group = scenario.clients[at].clone();
    let (members, named, housed, mannered) = (group.members(), group.clone(), group.clone(), group.clone());
    let prompt = group.deaf == 0.0 && group.slow == 0.0;
    FleetPlan {
        addrs: system.nodes.iter().map(|node| node.http).collect(),
        begin_at: None,
        count: group.count,
        rate: scenario.ramp.rate,
        user: Arc::new(move |number| user_name(&named, number)),
        room: Arc::new(move |number| room_name(&housed, number / members)),
        path: scenario.path.clone(),
        query: String::new(),
        max_open: scenario.ramp.open,
        leave_when_joined: None,
        receive_buffer: (group.receive_buffer > 0).then_some(group.receive_buffer),
        connect_timeout: Duration::from_secs_f64(scenario.ramp.timeout),
        threads: scenario.threads,
        reconnect: group.reconnect.map(|jitter| Reconnect {
            min: Duration::from_secs_f64(jitter.min),
            max: Duration::from_secs_f64(jitter.max),
        }),
        heartbeat: None,
        journal: false,
        manner: if prompt { None } else { Some(Arc::new(move |number| manner(&mannered, number))) },
        handicap: Duration::from_micros(scenario.handicap.frame_us),
        run: Some(InRun {
            group: at as u16,
            room_of: Arc::new(move |number| (number / members) as u32),
            streams: loads.streams.clone(),
            spans: spans.clone(),
            loads: loads.scopes.len(),
        }),
    }
}

/// How a client reads: those that read badly are spread evenly over the group.
fn manner(group: &Group, number: usize) -> Manner {
    let falls_on = |share: f64| ((number + 1) as f64 * share).floor() > (number as f64 * share).floor();
    if falls_on(group.deaf) {
        Manner::Deaf
    } else if group.slow > 0.0 && falls_on((group.deaf + group.slow).min(1.0)) {
        Manner::Slow(group.slow_bytes)
    } else {
        Manner::Prompt
    }
}
