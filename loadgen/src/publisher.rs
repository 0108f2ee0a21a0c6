//! Publishers that push on a schedule and keep what was answered.
//!
//! Owns: the plan of a publisher, its report. Must not: keep the schedule itself. Talks to: `press`, which does.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ringcast_proto::pubsub::{DeliveryReport, Outcomes};
use serde::{Deserialize, Serialize};

use crate::lane::Doors;
use crate::lane_grpc::channel;
use crate::press::{Aims, Press, PressPlan};
use crate::report::Latency;
use crate::schedule::{Arrival, End, Schedule};

/// How long after the last push its answers may come, beyond the pushes' own deadline.
const ANSWER_GRACE: Duration = Duration::from_secs(10);

/// Pushes of a plan that may be in flight; what is due beyond is dropped and counted.
const OUTSTANDING: usize = 100_000;

/// Whom a push is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A room, without these users.
    Room {
        /// The room.
        room: String,
        /// Users who are not to get it.
        exclude: Vec<String>,
    },
    /// A user.
    User(String),
    /// Everyone.
    All,
}

/// One push of a plan: whom it is for, and its place in a stream of pushes to the same sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aim {
    /// Whom it is for.
    pub target: Target,
    /// The stream in its stamp.
    pub stream: u32,
    /// Its number in that stream.
    pub seq: u64,
}

/// How pushes are handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// A call each. Calls that overlap may be accepted in another order than they were made.
    Unary,
    /// One PushStream for each push manager, accepted in order.
    #[default]
    Stream,
    /// One Deliver stream to each node, past the push manager: what a node costs by itself.
    Deliver,
    /// A WebSocket for each room on which every message is a push to the room, as small servers have it. Nothing is
    /// answered.
    WebSocket,
}

/// What a publisher is to do.
#[derive(Clone)]
pub struct PublishPlan {
    /// Pushes in all.
    pub count: u64,
    /// Pushes a second, on a fixed schedule.
    pub rate: f64,
    /// Payload bytes of a push.
    pub payload_bytes: usize,
    /// The deadline of a push, in milliseconds; 0: the push manager's default.
    pub deadline_ms: u32,
    /// Whether a report is asked for with each.
    pub reported: bool,
    /// How they are handed in.
    pub via: Via,
    /// The aim of each push, by its number.
    pub aim: Arc<dyn Fn(u64) -> Aim + Send + Sync>,
}

impl PublishPlan {
    /// `count` pushes of 128 bytes at `rate` a second to one target, as one stream of pushes.
    pub fn to(target: Target, stream: u32, count: u64, rate: f64) -> Self {
        let aim = move |number| Aim { target: target.clone(), stream, seq: number };
        Self::with(count, rate, Via::Stream, aim)
    }

    /// Pushes to users in turn, each user with a stream of its own from `first_stream` on.
    pub fn to_users(users: Vec<String>, first_stream: u32, count: u64, rate: f64) -> Self {
        let aim = move |number: u64| {
            let user = (number % users.len() as u64) as usize;
            Aim {
                target: Target::User(users[user].clone()),
                stream: first_stream + user as u32,
                seq: number / users.len() as u64,
            }
        };
        Self::with(count, rate, Via::Unary, aim)
    }

    fn with(count: u64, rate: f64, via: Via, aim: impl Fn(u64) -> Aim + Send + Sync + 'static) -> Self {
        Self { count, rate, payload_bytes: 128, deadline_ms: 0, reported: true, via, aim: Arc::new(aim) }
    }

    /// The deadline of each push, in milliseconds.
    pub fn deadline_ms(mut self, deadline_ms: u32) -> Self {
        self.deadline_ms = deadline_ms;
        self
    }

    /// Payload bytes of a push.
    pub fn payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes;
        self
    }

    /// How they are handed in.
    pub fn via(mut self, via: Via) -> Self {
        self.via = via;
        self
    }
}

/// What became of one push.
#[derive(Debug, Clone)]
pub enum PushResult {
    /// The push manager reported.
    Reported(DeliveryReport),
    /// It refused the push, or could not be reached, with this gRPC code: nothing was pushed.
    Refused(i32, String),
    /// It had the push, and the connection was lost before the answer, with this gRPC code: it may have arrived.
    Unknown(i32, String),
}

/// What a publisher was told.
#[derive(Debug)]
pub struct PublishReport {
    /// The answer to each push, by its number; one that was never answered has none.
    pub results: HashMap<u64, PushResult>,
    /// Pushes in all.
    pub count: u64,
    /// How late pushes left, against the schedule: the generator's own lag.
    pub lag: Latency,
    /// From the intended time to the answer.
    pub answered: Latency,
    /// Pushes that were due and never left, because too many were in flight.
    pub dropped: u64,
}

impl PublishReport {
    /// The sum of all reports.
    pub fn outcomes(&self) -> Outcomes {
        let mut sum = Outcomes::default();
        for result in self.results.values() {
            let PushResult::Reported(DeliveryReport { total: Some(total), .. }) = result else { continue };
            sum += total;
        }
        sum
    }

    /// How many pushes were refused, are unknown, or were never answered.
    pub fn refused(&self) -> u64 {
        let reported = self.results.values().filter(|result| matches!(result, PushResult::Reported(_)));
        self.count - reported.count() as u64
    }
}

/// Where plans are carried out: a push manager, several in turn, nodes themselves, or a server with WebSocket
/// publishers.
#[derive(Debug, Clone, Default)]
pub struct Publisher {
    doors: Doors,
}

impl Publisher {
    /// Of a push manager's gRPC address, such as `127.0.0.1:50053`; an error where nobody is there.
    pub async fn connect(addr: &str) -> anyhow::Result<Self> {
        channel(addr).await?;
        Ok(Self::through(Doors { managers: vec![addr.to_owned()], ..Doors::default() }))
    }

    /// Through these doors. Who is not there is told when a plan is carried out.
    pub fn through(doors: Doors) -> Self {
        Self { doors }
    }

    /// Carries out a plan on a thread of its own; returns when all pushes are answered, or were not in time.
    pub async fn publish(&self, plan: PublishPlan) -> anyhow::Result<PublishReport> {
        let deadline = Duration::from_millis(u64::from(plan.deadline_ms.max(1000)));
        let press = Press::start(PressPlan {
            name: "publisher".into(),
            schedule: Schedule::new(plan.rate, Arrival::Constant, 1, 0, End::Count(plan.count)),
            rate: plan.rate,
            via: plan.via,
            doors: self.doors.clone(),
            payload_bytes: plan.payload_bytes,
            deadline_ms: plan.deadline_ms,
            reported: f64::from(u8::from(plan.reported)),
            outstanding: OUTSTANDING,
            aims: Aims::Given(plan.aim),
            warm_up_ns: 0,
            grace: deadline + ANSWER_GRACE,
            handicap: Duration::ZERO,
            keep_results: true,
        })?;
        let report = press.report().await?;
        Ok(PublishReport {
            results: report.results,
            count: plan.count,
            lag: report.lag,
            answered: report.answered,
            dropped: report.dropped,
        })
    }
}
