//! Pushes through a push manager: a call each, or many on one PushStream.
//!
//! Owns: the calls and the stream. Must not: wait for an answer before the next push. Talks to: a push manager's
//! gRPC port, `books`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::streamed_push::Push;
use ringcast_proto::pubsub::streamed_result::Result as Streamed;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, MessageContent, PushStreamRequest, PushToRoomRequest, PushToUserRequest,
    StreamedPush, StreamedResult,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

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

/// Connects to a gRPC server.
pub(crate) async fn channel(addr: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?
        .connect_timeout(Duration::from_secs(5))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    endpoint.connect().await.with_context(|| format!("no gRPC server at {addr}"))
}

/// A call a push, to several push managers in turn.
pub(crate) struct UnaryLane {
    clients: Vec<PushManagerServiceClient<Channel>>,
    books: SharedBooks,
    next: usize,
    latest_ns: u64,
}

impl UnaryLane {
    pub(crate) async fn open(managers: &[String], books: &SharedBooks) -> anyhow::Result<Self> {
        anyhow::ensure!(!managers.is_empty(), "no push manager to push through");
        let mut clients = Vec::new();
        for manager in managers {
            clients.push(PushManagerServiceClient::new(channel(manager).await?));
        }
        Ok(Self { clients, books: books.clone(), next: 0, latest_ns: 0 })
    }

    pub(crate) fn call(&mut self, push: Leaving) {
        let id = push.id;
        self.latest_ns = self.latest_ns.max(lock(&self.books).left([id].into_iter()));
        let mut client = self.clients[self.next % self.clients.len()].clone();
        self.next += 1;
        let books = self.books.clone();
        tokio::spawn(async move {
            let result = call(&mut client, request(push)).await;
            lock(&books).answered(id, result, monotonic_ns());
        });
    }

    pub(crate) fn take_latest(&mut self) -> u64 {
        std::mem::take(&mut self.latest_ns)
    }
}

/// One PushStream.
pub(crate) struct StreamLane {
    sender: mpsc::Sender<PushStreamRequest>,
    queued: Vec<StreamedPush>,
    books: SharedBooks,
    number: u16,
}

impl StreamLane {
    pub(crate) async fn open(manager: &str, number: u16, books: &SharedBooks) -> anyhow::Result<Self> {
        let mut client = PushManagerServiceClient::new(channel(manager).await?);
        let (sender, requests) = mpsc::channel(MESSAGES_AHEAD);
        let answer = client.push_stream(ReceiverStream::new(requests)).await;
        let mut results = answer.with_context(|| format!("no PushStream at {manager}"))?.into_inner();
        let answers = books.clone();
        tokio::spawn(async move {
            let why = loop {
                match results.message().await {
                    Ok(Some(response)) => {
                        let (now, mut books) = (monotonic_ns(), lock(&answers));
                        for StreamedResult { push_id, result } in response.results {
                            books.answered(push_id, streamed(result), now);
                        }
                    }
                    Ok(None) => break (Code::Unavailable, "the push manager ended the stream".to_owned()),
                    Err(status) => break (status.code(), status.message().to_owned()),
                }
            };
            lock(&answers).lane_broke(number, why.0, &why.1);
        });
        Ok(Self { sender, queued: Vec::new(), books: books.clone(), number })
    }

    pub(crate) fn queue(&mut self, push: Leaving) {
        self.queued.push(StreamedPush { push_id: push.id, push: Some(request(push)) });
    }

    pub(crate) fn flush(&mut self) -> u64 {
        let mut latest = 0;
        while !self.queued.is_empty() {
            match self.sender.try_reserve() {
                Ok(place) => {
                    let rest = self.queued.split_off(self.queued.len().min(MAX_PER_MESSAGE));
                    let pushes = std::mem::replace(&mut self.queued, rest);
                    let ids = pushes.iter().map(|push| push.push_id);
                    latest = latest.max(lock(&self.books).left(ids));
                    place.send(PushStreamRequest { pushes });
                }
                Err(mpsc::error::TrySendError::Full(())) => break,
                Err(mpsc::error::TrySendError::Closed(())) => {
                    self.queued.clear();
                    lock(&self.books).lane_broke(self.number, Code::Unavailable, "the stream is broken");
                }
            }
        }
        latest
    }

    pub(crate) fn is_stuck(&self) -> bool {
        !self.queued.is_empty()
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
