//! The backends of a scenario: one pushes through each push manager on a schedule, and keeps what was said.
//!
//! Owns: the pushes and their records. Must not: send a push twice, or wait for one before the next. Talks to: the
//! push managers' PushStream.
//!
//! Each stream to a push manager is a lane of its own: pushes of one lane are accepted in their order. When a stream is
//! lost, what was on it and not answered stays unknown, and the next stream is another lane.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use loadgen::{Stamp, monotonic_ns};
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::streamed_push::Push as Content;
use ringcast_proto::pubsub::streamed_result::Result as Streamed;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, PushStreamRequest, PushStreamResponse, PushToRoomRequest, PushToUserRequest,
    StreamedPush, StreamedResult,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::crowd::room;
use crate::grpc::text;
use crate::oracle::{Audience, Push, PushId, Said};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after a loss a stream is opened again.
const RETRY: Duration = Duration::from_millis(100);

/// A stream on which nothing was answered for so long, although something was open, is given up: pushes have a
/// deadline of 1 s.
const GIVE_UP: Duration = Duration::from_secs(4);

/// How long the last answers are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(4);

/// Pushes that may wait for a stream to take them.
const AHEAD: usize = 64;

/// Bytes of a push.
const PAYLOAD: usize = 96;

/// What is pushed.
#[derive(Debug, Clone)]
pub struct PushLoad {
    /// Pushes a second through each push manager.
    pub rate: f64,
    /// How many rooms there are.
    pub rooms: usize,
    /// The users.
    pub users: Vec<String>,
}

/// The backends at work.
pub struct Pushers {
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Push>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Pushers {
    /// One for each of these push managers.
    pub fn start(managers: &[SocketAddr], load: &PushLoad) -> Self {
        let (stop, records) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<Push>>>::default());
        let lanes = Arc::new(AtomicU32::new(1));
        let tasks = managers.iter().enumerate().map(|(place, manager)| {
            let backend = Backend {
                manager: *manager,
                load: load.clone(),
                // They do not push to the same rooms at the same time.
                number: place * 7,
                stop: stop.clone(),
                records: records.clone(),
                lanes: lanes.clone(),
            };
            tokio::spawn(backend.work())
        });
        let tasks = tasks.collect();
        Self { stop, records, tasks }
    }

    /// What was said so far.
    pub fn so_far(&self) -> Vec<Push> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops them, waits for the last answers, and gives all records.
    pub async fn stop(self) -> Vec<Push> {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await.unwrap_or_else(|error| panic!("a backend: {error}"));
        }
        std::mem::take(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One backend.
struct Backend {
    manager: SocketAddr,
    load: PushLoad,
    /// How many pushes it has made.
    number: usize,
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Push>>>,
    lanes: Arc<AtomicU32>,
}

/// A stream and what is open on it.
struct Lane {
    number: u32,
    next: u64,
    requests: mpsc::Sender<PushStreamRequest>,
    results: Streaming<PushStreamResponse>,
    open: HashMap<u64, (Audience, u64)>,
    /// When a result came last, or nothing was open.
    heard: Instant,
}

impl Backend {
    async fn work(mut self) {
        while !self.stop.load(Relaxed) {
            match self.open().await {
                Some(lane) => self.push_on(lane).await,
                None => sleep(RETRY).await,
            }
        }
    }

    async fn open(&self) -> Option<Lane> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.manager)).ok()?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.ok()?;
        let (requests, taken) = mpsc::channel(AHEAD);
        let mut client = PushManagerServiceClient::new(channel);
        let answer = timeout(GIVE_UP, client.push_stream(ReceiverStream::new(taken))).await.ok()?;
        let number = self.lanes.fetch_add(1, Relaxed);
        let results = answer.ok()?.into_inner();
        Some(Lane { number, next: 0, requests, results, open: HashMap::new(), heard: Instant::now() })
    }

    /// Pushes on one stream until it is lost, or all is over.
    async fn push_on(&mut self, mut lane: Lane) {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / self.load.rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let why = loop {
            if self.stop.load(Relaxed) {
                break self.last_answers(&mut lane).await;
            }
            tokio::select! {
                _ = ticks.tick() => {
                    self.push(&mut lane);
                    if lane.heard.elapsed() > GIVE_UP {
                        break Said::Nothing("no answer came any more".into());
                    }
                }
                results = lane.results.message() => match results {
                    Ok(Some(results)) => self.take(&mut lane, results),
                    Ok(None) => break Said::Nothing("the stream was ended".into()),
                    Err(status) => break Said::Nothing(format!("{:?}: {}", status.code(), status.message())),
                },
            }
        };
        let (number, now) = (lane.number, monotonic_ns());
        for (seq, (audience, sent_ns)) in lane.open.drain() {
            let (id, said) = (PushId { lane: number, seq }, why.clone());
            self.keep(Push { id, audience, sent_ns, answered_ns: now, said });
        }
    }

    /// One more push, unless the stream takes none: then nothing was pushed.
    fn push(&mut self, lane: &mut Lane) {
        let Ok(place) = lane.requests.try_reserve() else { return };
        let (audience, seq, sent_ns) = (self.next_audience(), lane.next, monotonic_ns());
        lane.next += 1;
        let content = text(&Stamp { stream: lane.number, seq, intended_ns: sent_ns }.payload(PAYLOAD));
        let push = match audience.clone() {
            Audience::Room(room_id) => {
                Content::Room(PushToRoomRequest { room_id, content, ..PushToRoomRequest::default() })
            }
            Audience::User(user_id) => {
                Content::User(PushToUserRequest { user_id, content, ..PushToUserRequest::default() })
            }
            Audience::All => {
                Content::Broadcast(BroadcastMessageRequest { content, ..BroadcastMessageRequest::default() })
            }
        };
        if lane.open.is_empty() {
            lane.heard = Instant::now();
        }
        lane.open.insert(seq, (audience, sent_ns));
        place.send(PushStreamRequest { pushes: vec![StreamedPush { push_id: seq, push: Some(push) }] });
    }

    /// Rooms and users in turn, now and then everyone.
    fn next_audience(&mut self) -> Audience {
        let number = self.number;
        self.number += 1;
        match number % 60 {
            30 => Audience::All,
            other if other % 4 == 3 => {
                Audience::User(self.load.users[number % self.load.users.len()].clone())
            }
            _ => Audience::Room(room(number % self.load.rooms)),
        }
    }

    fn take(&self, lane: &mut Lane, results: PushStreamResponse) {
        let now = monotonic_ns();
        lane.heard = Instant::now();
        for StreamedResult { push_id, result } in results.results {
            let Some((audience, sent_ns)) = lane.open.remove(&push_id) else { continue };
            let id = PushId { lane: lane.number, seq: push_id };
            self.keep(Push { id, audience, sent_ns, answered_ns: now, said: said(result) });
        }
    }

    /// Waits for what is open; what is said of the rest.
    async fn last_answers(&self, lane: &mut Lane) -> Said {
        let deadline = Instant::now() + LAST_ANSWERS;
        while !lane.open.is_empty() {
            match tokio::time::timeout_at(deadline, lane.results.message()).await {
                Ok(Ok(Some(results))) => self.take(lane, results),
                Ok(Ok(None)) => return Said::Nothing("the stream was ended".into()),
                Ok(Err(status)) => return Said::Nothing(status.message().into()),
                Err(_) => return Said::Forgotten("the last answers did not come".into()),
            }
        }
        Said::Nothing(String::new())
    }

    fn keep(&self, push: Push) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(push);
    }
}

fn said(result: Option<Streamed>) -> Said {
    let report = match result {
        Some(Streamed::Room(answer)) => answer.report,
        Some(Streamed::User(answer)) => answer.report,
        Some(Streamed::Broadcast(answer)) => answer.report,
        Some(Streamed::Error(error)) => return Said::Refused(format!("{} {}", error.code, error.reason)),
        None => None,
    };
    report.map_or_else(|| Said::Forgotten("a result without a report".into()), Said::Report)
}
