//! Pushes by one stream that stays open, with many in flight.
//!
//! Owns: what was handed over and is not answered for. Must not: hand over without bound, or twice.
//! Talks to: `push_managers`, whose turns and rules hold here too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use ringcast_proto::pubsub::{PushStreamRequest, PushStreamResponse, StreamedPush};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::push_managers::{Attempt, Outcome, Push, PushManagers, explain, streamed, with_retries};

/// Pushes that wait for their results. A push manager reads on at 4096 only when results are taken.
const IN_FLIGHT: usize = 256;

/// One PushStream, opened at the first push and held open; `push` may be called by many tasks at once.
///
/// Pushes are accepted in the order of the calls. Results come in the order in which they become known.
#[derive(Debug)]
pub(crate) struct PushStream {
    managers: Arc<PushManagers>,
    room: Semaphore,
    /// Held while one is handed over, so that their order is that of the calls.
    stream: Mutex<Option<Stream>>,
}

/// What waits for results, by `push_id`; `None`: the stream is over.
type Open = Arc<StdMutex<Option<HashMap<u64, oneshot::Sender<Attempt>>>>>;

#[derive(Debug)]
struct Stream {
    pushes: mpsc::Sender<PushStreamRequest>,
    open: Open,
    last_id: u64,
}

impl PushStream {
    /// To these push managers.
    pub(crate) fn new(managers: Arc<PushManagers>) -> Self {
        Self { managers, room: Semaphore::new(IN_FLIGHT), stream: Mutex::new(None) }
    }

    /// Pushes, and waits for the result. A push that has to be sent again comes after those sent meanwhile.
    pub(crate) async fn push(&self, push: &Push) -> Outcome {
        with_retries(|| self.send(push)).await
    }

    async fn send(&self, push: &Push) -> Attempt {
        // The semaphore is never closed.
        let _place = self.room.acquire().await;
        let (settle, result) = oneshot::channel();
        {
            let mut slot = self.stream.lock().await;
            if slot.as_ref().is_none_or(Stream::is_over) {
                *slot = match self.open().await {
                    Ok(stream) => Some(stream),
                    Err(attempt) => return attempt,
                };
            }
            if let Some(stream) = slot.as_mut() {
                stream.hand_over(push.clone(), settle).await;
            }
        }
        result.await.unwrap_or_else(|_| Attempt::unreachable())
    }

    /// Opens a stream to the next in turn that takes one. Whatever fails, nothing has been pushed yet.
    async fn open(&self) -> Result<Stream, Attempt> {
        let mut last = Attempt::unreachable();
        for mut client in self.managers.in_turn() {
            let (pushes, taken) = mpsc::channel(IN_FLIGHT);
            match client.push_stream(ReceiverStream::new(taken)).await {
                Ok(results) => {
                    let open = Open::new(StdMutex::new(Some(HashMap::new())));
                    tokio::spawn(read(results.into_inner(), open.clone()));
                    return Ok(Stream { pushes, open, last_id: 0 });
                }
                Err(status) => last = explain(&status),
            }
        }
        Err(match last {
            Attempt::Over(Outcome::Unknown(_)) => Attempt::unreachable(),
            told => told,
        })
    }
}

impl Stream {
    fn is_over(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    async fn hand_over(&mut self, push: Push, settle: oneshot::Sender<Attempt>) {
        self.last_id += 1;
        let push_id = self.last_id;
        match self.open.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(open) => drop(open.insert(push_id, settle)),
            // It has ended just now. Without `settle` the push is known not to have been handed over.
            None => return,
        }
        let request = PushStreamRequest { pushes: vec![StreamedPush { push_id, push: Some(push) }] };
        // Where the stream has ended, its reader knows why, and tells all pushes that are open.
        let _ = self.pushes.send(request).await;
    }
}

async fn read(mut results: Streaming<PushStreamResponse>, open: Open) {
    let end = loop {
        match results.message().await {
            Ok(Some(response)) => {
                let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(open) = open.as_mut() else { return };
                for result in response.results {
                    if let Some(settle) = open.remove(&result.push_id) {
                        // A caller that has given up wants to know nothing.
                        let _ = settle.send(streamed(result));
                    }
                }
            }
            Ok(None) => break Attempt::Over(Outcome::Unknown("the stream ended before the result".into())),
            // A push manager that ends a stream itself has answered all that it took, and says so by its reason.
            Err(status) => break explain(&status),
        }
    };
    let left = open.lock().unwrap_or_else(PoisonError::into_inner).take();
    for settle in left.unwrap_or_default().into_values() {
        let _ = settle.send(end.clone());
    }
}
