//! Pushes through a push manager: a call each, or many on one PushStream.
//!
//! Owns: the calls and the stream. Must not: wait for an answer before the next push. Talks to: a push manager's
//! gRPC port, `books`.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::streamed_push::Push;
use ringcast_proto::pubsub::streamed_result::Result as Streamed;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, MessageContent, PushStreamRequest, PushStreamResponse, PushToRoomRequest,
    PushToUserRequest, StreamedPush, StreamedResult,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status, Streaming};

use crate::books::Books;
use crate::clock::monotonic_ns;
use crate::lane::{Leaving, SharedBooks};
use crate::publisher::{PushResult, Target};

/// How many pushes one message carries at most.
const MAX_PER_MESSAGE: usize = 1024;

/// Messages that wait for the connection to take them.
const MESSAGES_AHEAD: usize = 64;

/// What a stream of answers may have under way, in bytes.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The books, whoever held them last.
pub(crate) fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a push manager that was lost is left out, and how often it is looked for after that.
const LEFT_OUT: Duration = Duration::from_secs(1);

/// Connects to a gRPC server.
pub(crate) async fn channel(addr: &str) -> anyhow::Result<Channel> {
    endpoint(addr)?.connect().await.with_context(|| format!("no gRPC server at {addr}"))
}

fn endpoint(addr: &str) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(Duration::from_secs(5))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

/// A call a push, to several push managers in turn.
pub(crate) struct UnaryLane {
    clients: Vec<Caller>,
    books: SharedBooks,
    next: usize,
    latest_ns: u64,
}

/// A push manager that is called.
struct Caller {
    client: PushManagerServiceClient<Channel>,
    /// Until when it is left out, in nanoseconds of CLOCK_MONOTONIC.
    left_out_ns: Arc<AtomicU64>,
}

impl UnaryLane {
    /// Connects to all; an error where none is there.
    pub(crate) async fn open(managers: &[String], books: &SharedBooks) -> anyhow::Result<Self> {
        let (mut clients, mut missing) = (Vec::new(), None);
        for manager in managers {
            let (channel, left_out_ns) = match channel(manager).await {
                Ok(channel) => (channel, 0),
                Err(error) => {
                    missing = Some(error);
                    (endpoint(manager)?.connect_lazy(), monotonic_ns() + LEFT_OUT.as_nanos() as u64)
                }
            };
            let client = PushManagerServiceClient::new(channel);
            clients.push(Caller { client, left_out_ns: Arc::new(AtomicU64::new(left_out_ns)) });
        }
        anyhow::ensure!(!clients.is_empty(), "no push manager to push through");
        match missing {
            Some(error) if clients.iter().all(|caller| caller.left_out_ns.load(Relaxed) > 0) => Err(error),
            _ => Ok(Self { clients, books: books.clone(), next: 0, latest_ns: 0 }),
        }
    }

    pub(crate) fn call(&mut self, push: Leaving) {
        let id = push.id;
        self.latest_ns = self.latest_ns.max(lock(&self.books).left([id].into_iter()));
        let caller = self.take_turn();
        let (mut client, left_out_ns) = (caller.client.clone(), caller.left_out_ns.clone());
        let books = self.books.clone();
        tokio::spawn(async move {
            let (result, lost) = call(&mut client, request(push)).await;
            if lost {
                left_out_ns.store(monotonic_ns() + LEFT_OUT.as_nanos() as u64, Relaxed);
            }
            lock(&books).answered(id, result, monotonic_ns());
        });
    }

    /// The next in turn that is not left out; where all are, the next.
    fn take_turn(&mut self) -> &Caller {
        let (now, count) = (monotonic_ns(), self.clients.len());
        let in_turn = (0..count).map(|ahead| (self.next + ahead) % count);
        let there = |at: &usize| self.clients[*at].left_out_ns.load(Relaxed) <= now;
        let at = in_turn.clone().find(there).unwrap_or(self.next % count);
        self.next = at + 1;
        &self.clients[at]
    }

    pub(crate) fn take_latest(&mut self) -> u64 {
        std::mem::take(&mut self.latest_ns)
    }
}

/// Where the messages of an open stream go; empty while nobody is there.
type Slot = Arc<Mutex<Option<mpsc::Sender<PushStreamRequest>>>>;

/// One PushStream; when it is lost, another is opened to the same push manager as soon as that is back.
pub(crate) struct StreamLane {
    slot: Slot,
    queued: Vec<StreamedPush>,
    books: SharedBooks,
}

/// An open stream: where requests go, and where results come from.
type OpenStream = (mpsc::Sender<PushStreamRequest>, Streaming<PushStreamResponse>);

impl StreamLane {
    /// One to each; an error where none is there.
    pub(crate) async fn open_all(managers: &[String], books: &SharedBooks) -> anyhow::Result<Vec<Self>> {
        let (mut lanes, mut missing) = (Vec::new(), None);
        for (number, manager) in managers.iter().enumerate() {
            let open = open_stream(manager).await.map_err(|error| missing = Some(error)).ok();
            lanes.push(Self::keep(manager.clone(), number as u16, books, open));
        }
        anyhow::ensure!(!lanes.is_empty(), "no push manager to push through");
        match missing {
            Some(error) if !lanes.iter().any(Self::is_open) => Err(error),
            _ => Ok(lanes),
        }
    }

    fn keep(manager: String, number: u16, books: &SharedBooks, open: Option<OpenStream>) -> Self {
        let (sender, mut results) = open.unzip();
        let slot: Slot = Arc::new(Mutex::new(sender));
        let (kept, answers) = (slot.clone(), books.clone());
        tokio::spawn(async move {
            loop {
                if let Some(results) = results.take() {
                    let (code, why) = follow(results, &answers).await;
                    set(&kept, None);
                    lock(&answers).lane_broke(number, code, &why);
                }
                tokio::time::sleep(LEFT_OUT).await;
                if let Ok((sender, again)) = open_stream(&manager).await {
                    set(&kept, Some(sender));
                    results = Some(again);
                }
            }
        });
        Self { slot, queued: Vec::new(), books: books.clone() }
    }

    /// Whether somebody is at the other end, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        self.sender().is_some_and(|sender| !sender.is_closed())
    }

    fn sender(&self) -> Option<mpsc::Sender<PushStreamRequest>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn queue(&mut self, push: Leaving) {
        self.queued.push(StreamedPush { push_id: push.id, push: Some(request(push)) });
    }

    pub(crate) fn flush(&mut self) -> u64 {
        let mut latest = 0;
        if self.queued.is_empty() {
            return latest;
        }
        let sender = self.sender();
        while !self.queued.is_empty() {
            match sender.as_ref().map(mpsc::Sender::try_reserve) {
                Some(Ok(place)) => {
                    let rest = self.queued.split_off(self.queued.len().min(MAX_PER_MESSAGE));
                    let pushes = std::mem::replace(&mut self.queued, rest);
                    let ids = pushes.iter().map(|push| push.push_id);
                    latest = latest.max(lock(&self.books).left(ids));
                    place.send(PushStreamRequest { pushes });
                }
                Some(Err(mpsc::error::TrySendError::Full(()))) => break,
                Some(Err(mpsc::error::TrySendError::Closed(()))) | None => {
                    let ids = self.queued.drain(..).map(|push| push.push_id);
                    lock(&self.books).nobody_there(ids, "the push manager is not there");
                }
            }
        }
        latest
    }

    pub(crate) fn is_stuck(&self) -> bool {
        !self.queued.is_empty()
    }
}

fn set(slot: &Slot, sender: Option<mpsc::Sender<PushStreamRequest>>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = sender;
}

async fn open_stream(manager: &str) -> anyhow::Result<OpenStream> {
    let mut client = PushManagerServiceClient::new(channel(manager).await?);
    let (sender, requests) = mpsc::channel(MESSAGES_AHEAD);
    let answer = client.push_stream(ReceiverStream::new(requests)).await;
    Ok((sender, answer.with_context(|| format!("no PushStream at {manager}"))?.into_inner()))
}

/// Takes the results in until the stream is over, and tells why it is.
async fn follow(mut results: Streaming<PushStreamResponse>, books: &SharedBooks) -> (Code, String) {
    loop {
        match results.message().await {
            Ok(Some(response)) => {
                let (now, mut books) = (monotonic_ns(), lock(books));
                for StreamedResult { push_id, result } in response.results {
                    books.answered(push_id, streamed(result), now);
                }
            }
            Ok(None) => return (Code::Unavailable, "the push manager ended the stream".to_owned()),
            Err(status) => return (status.code(), status.message().to_owned()),
        }
    }
}

fn request(push: Leaving) -> Push {
    let (deadline_ms, report_mode) = (push.deadline_ms, push.mode());
    let content = Some(MessageContent { data: push.data.into(), ..MessageContent::default() });
    match push.target {
        Target::Room { room, exclude } => Push::Room(PushToRoomRequest {
            room_id: room,
            content,
            exclude_user_ids: exclude,
            deadline_ms,
            report_mode,
            ..PushToRoomRequest::default()
        }),
        Target::User(user) => Push::User(PushToUserRequest {
            user_id: user,
            content,
            deadline_ms,
            report_mode,
            ..PushToUserRequest::default()
        }),
        Target::All => Push::Broadcast(BroadcastMessageRequest {
            content,
            deadline_ms,
            report_mode,
            ..BroadcastMessageRequest::default()
        }),
    }
}

/// Calls; the second: the push manager is lost.
async fn call(client: &mut PushManagerServiceClient<Channel>, push: Push) -> (PushResult, bool) {
    let answer = match push {
        Push::Room(request) => client.push_to_room(request).await.map(|answer| answer.into_inner().report),
        Push::User(request) => client.push_to_user(request).await.map(|answer| answer.into_inner().report),
        Push::Broadcast(request) => {
            client.broadcast_message(request).await.map(|answer| answer.into_inner().report)
        }
    };
    match answer {
        Ok(report) => (PushResult::Reported(report.unwrap_or_default()), false),
        Err(status) => {
            let (code, why) = (status.code().into(), status.message().to_owned());
            // An error that was made on this side has a source; where there was no connection, nothing has left.
            let lost = status.source().is_some();
            let left = lost && !causes(&status).any(|error| error.is::<ConnectError>());
            (if left { PushResult::Unknown(code, why) } else { PushResult::Refused(code, why) }, lost)
        }
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

fn streamed(result: Option<Streamed>) -> PushResult {
    let report = match result {
        Some(Streamed::Room(answer)) => answer.report,
        Some(Streamed::User(answer)) => answer.report,
        Some(Streamed::Broadcast(answer)) => answer.report,
        Some(Streamed::Error(error)) => return PushResult::Refused(error.code, error.message),
        None => return PushResult::Refused(Code::Internal.into(), "a result without content".into()),
    };
    PushResult::Reported(report.unwrap_or_default())
}
