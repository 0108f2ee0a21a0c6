//! The calls to the push manager.
//!
//! Owns: connecting, what is tried again, what an answer or error comes to. Must not: print.

use std::error::Error as _;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::DeliveryReport;
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::args::Push;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the push manager may be silent after the push's own deadline.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// The delays before further attempts where the connection was refused.
const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// What a push came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// From the time at which it was to be sent to the answer.
    pub(crate) elapsed: Duration,
    /// The answer, or why there is none.
    pub(crate) answer: Result<Answer, Failure>,
}

/// The push manager's answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    /// At least one session was written or queued.
    pub(crate) success: bool,
    /// Why `success` is false.
    pub(crate) message: String,
    /// The message's id.
    pub(crate) message_id: String,
    /// What became of it.
    pub(crate) report: DeliveryReport,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The push manager answered an error.
    Refused {
        /// The canonical code.
        code: Code,
        /// For programs; empty where the error has none.
        reason: String,
        /// For people.
        message: String,
    },
    /// No connection came to be: nothing was pushed.
    Unreachable(String),
    /// The connection was lost before the answer: it may have been pushed.
    Lost(String),
}

/// The push manager.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    client: PushManagerServiceClient<Channel>,
}

impl Client {
    /// For this address; connects at the first push. `None`: that is no address.
    pub(crate) fn new(uri: String) -> Option<Self> {
        let endpoint = Endpoint::from_shared(uri).ok()?.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        Some(Self { client: PushManagerServiceClient::new(endpoint.connect_lazy()) })
    }

    /// Pushes; `due` is when it was to be sent.
    pub(crate) async fn push(&mut self, push: Push, due: Instant) -> Outcome {
        let mut delays = RETRY_DELAYS.into_iter();
        loop {
            let answer = self.call(push.clone()).await;
            // Refused connections are the one failure after which nothing can have been pushed.
            let delay = match &answer {
                Err(Failure::Unreachable(_)) => delays.next(),
                _ => None,
            };
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Outcome { elapsed: due.elapsed(), answer },
            }
        }
    }

    async fn call(&mut self, push: Push) -> Result<Answer, Failure> {
        macro_rules! answer {
            ($response:expr) => {
                $response.await.map_err(failure).map(|response| {
                    let response = response.into_inner();
                    Answer {
                        success: response.success,
                        message: response.message,
                        message_id: response.message_id,
                        report: response.report.unwrap_or_default(),
                    }
                })
            };
        }
        match push {
            Push::Room(push) => answer!(self.client.push_to_room(request(push.deadline_ms, push))),
            Push::User(push) => answer!(self.client.push_to_user(request(push.deadline_ms, push))),
            Push::Broadcast(push) => answer!(self.client.broadcast_message(request(push.deadline_ms, push))),
        }
    }
}

fn request<T>(deadline_ms: u32, push: T) -> Request<T> {
    let deadline = Duration::from_millis(if deadline_ms == 0 { 1000 } else { deadline_ms.into() });
    let mut request = Request::new(push);
    request.set_timeout(deadline + ANSWER_MARGIN);
    request
}

/// An error that came by the wire was answered by the push manager; one that was made on this side has a source.
fn failure(status: Status) -> Failure {
    if status.source().is_none() {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        return Failure::Refused { code: status.code(), reason, message: status.message().to_owned() };
    }
    let causes = || std::iter::successors(status.source(), |&error| error.source());
    let refused = causes()
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == ErrorKind::ConnectionRefused);
    let text = causes().last().map(ToString::to_string).unwrap_or_default();
    if refused { Failure::Unreachable(text) } else { Failure::Lost(text) }
}
