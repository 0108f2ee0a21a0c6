//! Pushes to Ringcast by single calls.
//!
//! Owns: the turns of the push managers, what is tried again. Must not: push anything twice. A push is tried again, at
//! the next push manager, only where it surely was not taken: no connection came about, or a push manager said so.
//! What was handed over and never answered for is [`Outcome::Unknown`]; whoever sends it again may deliver it twice.

use std::error::Error as _;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::{DeliveryReport, StreamedResult, streamed_push, streamed_result};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};
use tonic_types::StatusExt as _;

/// Answers with one of these reasons were given before anything was pushed.
const TRY_AGAIN: [&str; 3] = ["ROUTES_NOT_READY", "STOPPING", "TOO_MANY_OPEN_PUSHES"];

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The waits between attempts.
const WAITS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// What a call may take beyond the push's own deadline. A call that ends before the report is there leaves its caller
/// without knowing.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// A connection that a firewall has forgotten is noticed by these, rather than waited for.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A push: to a room, to a user, or to everyone.
pub(crate) type Push = streamed_push::Push;

/// What a push came to.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// It was taken.
    Answer {
        /// At least one session was written or queued.
        success: bool,
        /// Where `success` is false, why.
        message: String,
        /// What became of it, in sessions.
        report: DeliveryReport,
    },
    /// Nothing was pushed.
    Refused {
        /// The canonical code.
        code: Code,
        /// For programs, such as ROOM_ID_INVALID.
        reason: String,
        /// For people; it names the field.
        message: String,
    },
    /// Nothing was pushed: no push manager could be reached.
    Unreachable,
    /// It may have been pushed, and is not sent again.
    Unknown(String),
}

/// What came of one attempt.
#[derive(Debug, Clone)]
pub(crate) enum Attempt {
    /// The push ends so.
    Over(Outcome),
    /// It surely was not taken, and may be tried again after this time.
    Again(Outcome, Duration),
}

impl Attempt {
    /// No connection, or not yet a stream: nothing can have been handed over.
    pub(crate) fn unreachable() -> Self {
        Self::Again(Outcome::Unreachable, Duration::ZERO)
    }

    fn is_unreachable(&self) -> bool {
        matches!(self, Self::Again(Outcome::Unreachable, _))
    }
}

/// Some push managers, which take turns.
#[derive(Debug)]
pub(crate) struct PushManagers {
    clients: Vec<PushManagerServiceClient<Channel>>,
    next: AtomicUsize,
}

impl PushManagers {
    /// At these addresses, host:port each; connects at the first push.
    pub(crate) fn new(addresses: &[String]) -> Result<Self, tonic::transport::Error> {
        let client = |address: &String| {
            let channel = Endpoint::from_shared(format!("http://{address}"))?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .connect_lazy();
            Ok(PushManagerServiceClient::new(channel))
        };
        let clients = addresses.iter().map(client).collect::<Result<Vec<_>, _>>()?;
        // By chance, so that many short-lived callers spread too.
        let next = AtomicUsize::new(fastrand::usize(..clients.len().max(1)));
        Ok(Self { clients, next })
    }

    /// Pushes, and waits for the report.
    pub(crate) async fn push(&self, push: &Push) -> Outcome {
        with_retries(|| self.ask(push)).await
    }

    async fn ask(&self, push: &Push) -> Attempt {
        for mut client in self.in_turn() {
            let attempt = match ask_one(&mut client, push.clone()).await {
                Ok(result) => answered(result),
                Err(status) => explain(&status),
            };
            if !attempt.is_unreachable() {
                return attempt;
            }
        }
        Attempt::unreachable()
    }

    /// All clients, the next in turn first.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = PushManagerServiceClient<Channel>> {
        let first = self.next.fetch_add(1, Relaxed);
        let count = self.clients.len();
        (0..count).map(move |ahead| self.clients[first.wrapping_add(ahead) % count].clone())
    }
}

async fn ask_one(
    client: &mut PushManagerServiceClient<Channel>,
    push: Push,
) -> Result<streamed_result::Result, Status> {
    Ok(match push {
        Push::Room(push) => {
            let deadline_ms = push.deadline_ms;
            streamed_result::Result::Room(client.push_to_room(timed(push, deadline_ms)).await?.into_inner())
        }
        Push::User(push) => {
            let deadline_ms = push.deadline_ms;
            streamed_result::Result::User(client.push_to_user(timed(push, deadline_ms)).await?.into_inner())
        }
        Push::Broadcast(push) => {
            let deadline_ms = push.deadline_ms;
            let answer = client.broadcast_message(timed(push, deadline_ms)).await?;
            streamed_result::Result::Broadcast(answer.into_inner())
        }
    })
}

fn timed<T>(push: T, deadline_ms: u32) -> Request<T> {
    let mut request = Request::new(push);
    request.set_timeout(Duration::from_millis(deadline_ms.into()) + ANSWER_MARGIN);
    request
}

/// Repeats an attempt for as long as the push surely was not taken.
pub(crate) async fn with_retries<F: Future<Output = Attempt>>(attempt: impl Fn() -> F) -> Outcome {
    for least in WAITS {
        match attempt().await {
            Attempt::Over(outcome) => return outcome,
            Attempt::Again(_, wait) => tokio::time::sleep(wait.max(least)).await,
        }
    }
    match attempt().await {
        Attempt::Over(outcome) | Attempt::Again(outcome, _) => outcome,
    }
}

/// What a result of a stream says; a call's answer is one, too.
pub(crate) fn streamed(result: StreamedResult) -> Attempt {
    match result.result {
        Some(result) => answered(result),
        None => Attempt::Over(Outcome::Unknown("a result without content".into())),
    }
}

fn answered(result: streamed_result::Result) -> Attempt {
    use streamed_result::Result;
    let (success, message, report) = match result {
        Result::Room(answer) => (answer.success, answer.message, answer.report),
        Result::User(answer) => (answer.success, answer.message, answer.report),
        Result::Broadcast(answer) => (answer.success, answer.message, answer.report),
        Result::Error(error) => {
            let again = TRY_AGAIN.contains(&error.reason.as_str());
            let (code, reason, message) = (Code::from_i32(error.code), error.reason, error.message);
            let refused = Outcome::Refused { code, reason, message };
            let wait = Duration::from_millis(250);
            return if again { Attempt::Again(refused, wait) } else { Attempt::Over(refused) };
        }
    };
    Attempt::Over(Outcome::Answer { success, message, report: report.unwrap_or_default() })
}

/// What an error says of a push.
pub(crate) fn explain(status: &Status) -> Attempt {
    let mut causes = std::iter::successors(status.source(), |&error| error.source());
    if causes.any(|error| error.is::<ConnectError>()) {
        return Attempt::unreachable();
    }
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == "ringcast");
    let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
    // These say by themselves that a call never began, whoever on the way to the push manager answered them.
    let never_began = matches!(
        status.code(),
        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
    );
    if reason.is_empty() && !never_began {
        return Attempt::Over(Outcome::Unknown(format!("{:?}: {}", status.code(), status.message())));
    }
    let again = TRY_AGAIN.contains(&reason.as_str());
    let refused = Outcome::Refused { code: status.code(), reason, message: status.message().to_owned() };
    let wait = details.retry_info().and_then(|retry| retry.retry_delay).unwrap_or_default();
    if again { Attempt::Again(refused, wait) } else { Attempt::Over(refused) }
}
