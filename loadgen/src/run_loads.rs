//! The loads of a run: their names, their streams, their presses.
//!
//! Owns: what of a scenario becomes which stream and which publisher. Must not: wait. Talks to: `streams`, `press`.

use std::sync::Arc;
use std::time::Duration;

use crate::lane::Doors;
use crate::press::{Aims, PressPlan};
use crate::publisher::{Target, Via};
use crate::scenario::{Group, Load, Scenario, Stage, To};
use crate::schedule::{End, Schedule};
use crate::streams::{Audience, Streams};
use crate::system::SystemUnderTest;

/// How long after the last push its answer may come, beyond its deadline.
const GRACE: Duration = Duration::from_secs(2);

/// What is measured together: loads of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scope {
    /// `room_push(100)`, `user_push`, `broadcast(1000)`.
    pub(crate) name: String,
    /// How many clients a push reaches.
    pub(crate) members: u64,
    pub(crate) audience: Audience,
}

/// One load of a stage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadPlace {
    pub(crate) stage: usize,
    pub(crate) load: usize,
    /// What it is measured with.
    pub(crate) scope: usize,
    /// Its ranges of streams: pushes that warm up, pushes that are measured.
    pub(crate) ranges: (usize, usize),
}

/// All loads of a run.
#[derive(Debug)]
pub(crate) struct RunLoads {
    pub(crate) streams: Arc<Streams>,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) places: Vec<LoadPlace>,
}

/// The user of a client.
pub(crate) fn user_name(group: &Group, number: usize) -> String {
    format!("{}{number:07}", group.name)
}

/// A room of a group.
pub(crate) fn room_name(group: &Group, room: usize) -> String {
    format!("{}r{room:06}", group.name)
}

impl RunLoads {
    /// The loads of a scenario whose push managers are so many.
    pub(crate) fn new(scenario: &Scenario) -> anyhow::Result<Self> {
        let (mut streams, mut scopes, mut places) = (Streams::default(), Vec::<Scope>::new(), Vec::new());
        for (stage_at, stage) in scenario.stages.iter().enumerate() {
            for (load_at, load) in stage.loads.iter().enumerate() {
                let group_at = scenario.group(load.group.as_deref())?;
                let scope = scope(scenario, stage_at, load, &scenario.clients[group_at]);
                let scope_at =
                    scopes.iter().position(|known| known.name == scope.name).unwrap_or_else(|| {
                        scopes.push(scope.clone());
                        scopes.len() - 1
                    });
                let count = target_count(load, &scenario.clients[group_at]) as u32;
                let mut range = |measured| {
                    let ordered = load.via != Via::Unary;
                    streams.add(scope.audience, group_at as u16, count, scope_at, measured, ordered)
                };
                let ranges = (range(false), range(true));
                places.push(LoadPlace { stage: stage_at, load: load_at, scope: scope_at, ranges });
            }
        }
        Ok(Self { streams: Arc::new(streams), scopes, places })
    }

    /// What the press of a load is to do.
    pub(crate) fn press(&self, scenario: &Scenario, system: &SystemUnderTest, place: LoadPlace) -> PressPlan {
        let stage = &scenario.stages[place.stage];
        let load = &stage.loads[place.load];
        let group = &scenario.clients[scenario.group(load.group.as_deref()).unwrap_or(0)];
        let all_ns = ((stage.warm_up + stage.seconds) * 1e9) as u64;
        let seed = scenario.seed.wrapping_mul(1_000_003) + place.ranges.1 as u64;
        PressPlan {
            name: format!("publish-{}", place.ranges.1 / 2),
            schedule: Schedule::new(load.rate, load.arrival, load.burst, seed, End::Time(all_ns)),
            rate: load.rate,
            via: load.via,
            doors: doors(scenario, system),
            payload_bytes: load.bytes,
            deadline_ms: load.deadline_ms,
            reported: load.reported,
            outstanding: load.outstanding,
            aims: Aims::InTurn {
                streams: self.streams.clone(),
                ranges: place.ranges,
                targets: targets(load, group),
            },
            warm_up_ns: (stage.warm_up * 1e9) as u64,
            grace: Duration::from_millis(u64::from(load.deadline_ms.max(1000))) + GRACE,
            handicap: Duration::from_micros(scenario.handicap.push_us),
            keep_results: false,
        }
    }

    /// What a stream is, for people.
    pub(crate) fn name(&self, scenario: &Scenario, stream: u32) -> String {
        let Some(range) = self.streams.range_of(stream) else { return format!("stream {stream}") };
        let at = (stream - range.first) as usize;
        let group = &scenario.clients[usize::from(range.group)];
        match range.audience {
            Audience::Room => format!("room {}", room_name(group, at)),
            Audience::User => format!("user {}", user_name(group, at)),
            Audience::All => "broadcast".into(),
        }
    }

    /// The stage of each load.
    pub(crate) fn of_stage(&self, stage: usize) -> Vec<LoadPlace> {
        self.places.iter().copied().filter(|place| place.stage == stage).collect()
    }
}

/// Whether a group is there in a stage.
pub(crate) fn is_there(scenario: &Scenario, group: &Group, stage: usize) -> bool {
    let joins = group.joins_before.as_deref();
    joins.is_none_or(|name| scenario.stages.iter().take(stage + 1).any(|known| known.name == name))
}

/// Whether a group connects right before a stage.
pub(crate) fn joins_before(group: &Group, stages: &[Stage], stage: usize) -> bool {
    match &group.joins_before {
        Some(name) => stages[stage].name == *name,
        None => stage == 0,
    }
}

fn scope(scenario: &Scenario, stage: usize, load: &Load, group: &Group) -> Scope {
    match load.to {
        To::User => Scope { name: "user_push".into(), members: 1, audience: Audience::User },
        To::Room => {
            let members = group.members().min(group.count) as u64;
            Scope { name: format!("room_push({members})"), members, audience: Audience::Room }
        }
        To::All => {
            let there = scenario.clients.iter().filter(|group| is_there(scenario, group, stage));
            let members = there.map(|group| group.count as u64).sum();
            Scope { name: format!("broadcast({members})"), members, audience: Audience::All }
        }
    }
}

fn target_count(load: &Load, group: &Group) -> usize {
    let most = match load.to {
        To::All => 1,
        To::Room => group.rooms(),
        To::User => group.count.max(1),
    };
    if load.targets == 0 { most } else { load.targets.min(most) }
}

fn targets(load: &Load, group: &Group) -> Vec<Target> {
    let target = |at: usize| match load.to {
        To::All => Target::All,
        To::Room => Target::Room { room: room_name(group, at), exclude: Vec::new() },
        To::User => Target::User(user_name(group, at)),
    };
    (0..target_count(load, group)).map(target).collect()
}

fn doors(scenario: &Scenario, system: &SystemUnderTest) -> Doors {
    Doors {
        managers: system.managers.iter().map(|manager| manager.grpc.clone()).collect(),
        nodes: system.nodes.iter().filter_map(|node| node.grpc.clone()).collect(),
        socket: system.nodes.first().map(|node| (node.http, scenario.publisher_path.clone())),
    }
}
