//! Publishers that push over gRPC on a schedule and keep what the push manager answered.
//!
//! Owns: the schedule, the stamps, the answers. Must not: wait for an answer before the next push is due. Talks
//! to: a push manager's gRPC port.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::streamed_push::Push;
use ringcast_proto::pubsub::streamed_result;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, DeliveryReport, MessageContent, Outcomes, PushStreamRequest, PushToRoomRequest,
    PushToUserRequest, StreamedPush, StreamedResult,
};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::clock::monotonic_ns;
use crate::payload::Stamp;
use crate::report::Latency;

/// How long after the last push its answers may come, beyond the pushes' own deadline.
const ANSWER_GRACE: Duration = Duration::from_secs(10);

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A call each. Calls that overlap may be accepted in another order than they were made.
    Unary,
    /// One PushStream, accepted in order.
    Stream,
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
    /// How they are handed in.
    pub via: Via,
    /// The aim of each push, by its number.
    pub aim: Arc<dyn Fn(u64) -> Aim + Send + Sync>,
}

impl PublishPlan {
    /// `count` pushes of 128 bytes at `rate` a second to one target, as one stream of pushes.
    pub fn to(target: Target, stream: u32, count: u64, rate: f64) -> Self {
        let aim = move |number| Aim { target: target.clone(), stream, seq: number };
        Self { count, rate, payload_bytes: 128, deadline_ms: 0, via: Via::Stream, aim: Arc::new(aim) }
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
        Self { count, rate, payload_bytes: 128, deadline_ms: 0, via: Via::Unary, aim: Arc::new(aim) }
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
    /// It refused the push, or could not be reached, with this gRPC code.
    Refused(i32, String),
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
}

impl PublishReport {
    /// The sum of all reports.
    pub fn outcomes(&self) -> Outcomes {
        let mut sum = Outcomes::default();
        for result in self.results.values() {
            let PushResult::Reported(DeliveryReport { total: Some(total), .. }) = result else { continue };
            sum.members += total.members;
            sum.written += total.written;
            sum.queued += total.queued;
            sum.dropped_slow += total.dropped_slow;
            sum.dropped_closed += total.dropped_closed;
            sum.dropped_shed += total.dropped_shed;
            sum.offline += total.offline;
            sum.unknown += total.unknown;
        }
        sum
    }

    /// How many pushes were refused, or never answered.
    pub fn refused(&self) -> u64 {
        let reported = self.results.values().filter(|result| matches!(result, PushResult::Reported(_)));
        self.count - reported.count() as u64
    }
}

/// A connection to a push manager.
#[derive(Clone)]
pub struct Publisher {
    client: PushManagerServiceClient<Channel>,
}

impl Publisher {
    /// Connects to a push manager's gRPC address, such as `127.0.0.1:50053`.
    pub async fn connect(addr: &str) -> anyhow::Result<Self> {
        let endpoint =
            Endpoint::from_shared(format!("http://{addr}"))?.connect_timeout(Duration::from_secs(5));
        let channel = endpoint.connect().await.with_context(|| format!("no push manager at {addr}"))?;
        Ok(Self { client: PushManagerServiceClient::new(channel) })
    }

    /// Carries out a plan; returns when all pushes are answered, or were not in time.
    pub async fn publish(&self, plan: PublishPlan) -> anyhow::Result<PublishReport> {
        match plan.via {
            Via::Unary => self.publish_unary(plan).await,
            Via::Stream => self.publish_stream(plan).await,
        }
    }

    async fn publish_unary(&self, plan: PublishPlan) -> anyhow::Result<PublishReport> {
        let mut books = Books::new(&plan);
        let (answers, mut answered) = mpsc::unbounded_channel();
        let mut schedule = schedule(&plan);
        while let Some((number, due)) = schedule.recv().await {
            let mut client = self.client.clone();
            let answers = answers.clone();
            let push = push_for(&plan, number, due);
            books.left(number, due);
            tokio::spawn(async move {
                let result = call(&mut client, push).await;
                // The publisher may have given up.
                let _ = answers.send((number, result, monotonic_ns()));
            });
        }
        drop(answers);
        let gather = async {
            while let Some((number, result, at_ns)) = answered.recv().await {
                books.answered(number, result, at_ns);
            }
        };
        // What was not answered is missing in the report.
        let _ = tokio::time::timeout(grace(&plan), gather).await;
        Ok(books.report)
    }

    async fn publish_stream(&self, plan: PublishPlan) -> anyhow::Result<PublishReport> {
        let mut books = Books::new(&plan);
        let (pushes, requests) = mpsc::channel::<PushStreamRequest>(1024);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut results = self.client.clone().push_stream(requests).await?.into_inner();
        let (leaving, mut left) = mpsc::unbounded_channel();
        let sent = plan.clone();
        let mut schedule = schedule(&plan);
        let sender = tokio::spawn(async move {
            while let Some((number, due)) = schedule.recv().await {
                let push = StreamedPush { push_id: number, push: Some(push_for(&sent, number, due)) };
                if pushes.send(PushStreamRequest { pushes: vec![push] }).await.is_err() {
                    return;
                }
                let _ = leaving.send((number, due, monotonic_ns()));
            }
            // The stream's end would be read as the caller's; it is kept open until the answers are in.
            pushes.closed().await;
        });
        let run = Duration::from_secs_f64(plan.count as f64 / plan.rate) + grace(&plan);
        let gather = async {
            while (books.report.results.len() as u64) < plan.count {
                let Ok(Some(response)) = results.message().await else { return };
                let at_ns = monotonic_ns();
                while let Ok((number, due, at_ns)) = left.try_recv() {
                    books.left_at(number, due, at_ns);
                }
                for StreamedResult { push_id, result } in response.results {
                    books.answered(push_id, streamed(result), at_ns);
                }
            }
        };
        let _ = tokio::time::timeout(run, gather).await;
        sender.abort();
        Ok(books.report)
    }
}

/// What is known so far of a plan's pushes.
struct Books {
    report: PublishReport,
    due: HashMap<u64, u64>,
}

impl Books {
    fn new(plan: &PublishPlan) -> Self {
        let report = PublishReport {
            results: HashMap::new(),
            count: plan.count,
            lag: Latency::new(),
            answered: Latency::new(),
        };
        Self { report, due: HashMap::new() }
    }

    fn left(&mut self, number: u64, due_ns: u64) {
        self.left_at(number, due_ns, monotonic_ns());
    }

    fn left_at(&mut self, number: u64, due_ns: u64, at_ns: u64) {
        self.report.lag.record_ns(at_ns.saturating_sub(due_ns));
        self.due.insert(number, due_ns);
    }

    fn answered(&mut self, number: u64, result: PushResult, at_ns: u64) {
        if let Some(due_ns) = self.due.get(&number) {
            self.report.answered.record_ns(at_ns.saturating_sub(*due_ns));
        }
        self.report.results.insert(number, result);
    }
}

fn grace(plan: &PublishPlan) -> Duration {
    Duration::from_millis(u64::from(plan.deadline_ms.max(1000))) + ANSWER_GRACE
}

/// The schedule: each push's number and due time, in nanoseconds of CLOCK_MONOTONIC, given when it is due. A thread
/// keeps the time, because the runtime's timers are only good to a millisecond.
fn schedule(plan: &PublishPlan) -> mpsc::UnboundedReceiver<(u64, u64)> {
    let (due_now, schedule) = mpsc::unbounded_channel();
    let (count, rate) = (plan.count, plan.rate);
    let start = monotonic_ns();
    std::thread::spawn(move || {
        for number in 0..count {
            let due = start + (number as f64 * 1e9 / rate) as u64;
            std::thread::sleep(Duration::from_nanos(due.saturating_sub(monotonic_ns())));
            if due_now.send((number, due)).is_err() {
                return;
            }
        }
    });
    schedule
}

fn push_for(plan: &PublishPlan, number: u64, intended_ns: u64) -> Push {
    let Aim { target, stream, seq } = (plan.aim)(number);
    let data = Stamp { stream, seq, intended_ns }.payload(plan.payload_bytes);
    let content = Some(MessageContent { data: data.into(), ..MessageContent::default() });
    let deadline_ms = plan.deadline_ms;
    match target {
        Target::Room { room, exclude } => Push::Room(PushToRoomRequest {
            room_id: room,
            content,
            exclude_user_ids: exclude,
            deadline_ms,
            ..PushToRoomRequest::default()
        }),
        Target::User(user) => Push::User(PushToUserRequest {
            user_id: user,
            content,
            deadline_ms,
            ..PushToUserRequest::default()
        }),
        Target::All => Push::Broadcast(BroadcastMessageRequest {
            content,
            deadline_ms,
            ..BroadcastMessageRequest::default()
        }),
    }
}

async fn call(client: &mut PushManagerServiceClient<Channel>, push: Push) -> PushResult {
    let answer = match push {
        Push::Room(request) => client.push_to_room(request).await.map(|answer| answer.into_inner().report),
        Push::User(request) => client.push_to_user(request).await.map(|answer| answer.into_inner().report),
        Push::Broadcast(request) => {
            client.broadcast_message(request).await.map(|answer| answer.into_inner().report)
        }
    };
    match answer {
        Ok(report) => PushResult::Reported(report.unwrap_or_default()),
        Err(status) => PushResult::Refused(status.code().into(), status.message().to_owned()),
    }
}

fn streamed(result: Option<streamed_result::Result>) -> PushResult {
    let report = match result {
        Some(streamed_result::Result::Room(answer)) => answer.report,
        Some(streamed_result::Result::User(answer)) => answer.report,
        Some(streamed_result::Result::Broadcast(answer)) => answer.report,
        Some(streamed_result::Result::Error(error)) => return PushResult::Refused(error.code, error.message),
        None => return PushResult::Refused(tonic::Code::Internal.into(), "a result without content".into()),
    };
    PushResult::Reported(report.unwrap_or_default())
}
