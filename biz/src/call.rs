//! The calls to the push managers.
//!
//! Owns: connecting, what is tried elsewhere, what an answer or error comes to. Must not: print.
//! Talks to: `turns`, which says who is asked next.
//!
//! Nothing is pushed twice: a push is tried elsewhere only where it surely was not taken.

use std::error::Error as _;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringcast_proto::GRPC_KEEPALIVE_INTERVAL;
use ringcast_proto::pubsub::DeliveryReport;
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use telemetry::{Kind, Span, TRACEPARENT, Traces};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Request, Status};
use tonic_types::StatusExt as _;

use crate::args::Push;
use crate::turns::Turns;

/// How long a connection may take where there is one address, and where there are others to try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(1);

/// How long the push managers may be silent after the push's own deadline; the call's deadline in all.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// How long a ping on a connection with open pushes may stay unanswered; gRPC's own default. One that was held up for
/// shorter answers yet, and an answer is better than `unknown`.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The waits before all are asked once more, where none could be reached or took the push.
const RETRY_DELAYS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(600)];

/// The domain of the errors that push managers answer.
const ERROR_DOMAIN: &str = "ringcast";

/// UNAVAILABLE for one of these reasons was answered before anything was pushed.
const NOT_TAKEN: [&str; 2] = ["ROUTES_NOT_READY", "STOPPING"];

/// What a push came to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// From the time at which it was to be sent to the answer.
    pub(crate) elapsed: Duration,
    /// The answer, or why there is none.
    pub(crate) answer: Result<Answer, Failure>,
    /// The number of its trace, where it is traced.
    pub(crate) trace_id: Option<String>,
}

/// A push manager's answer.
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
    /// Which push manager answered, as its address was given.
    pub(crate) address: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A push manager answered an error: nothing was pushed.
    Refused {
        /// The canonical code.
        code: Code,
        /// For programs; empty where the error has none.
        reason: String,
        /// For people.
        message: String,
    },
    /// None could be reached: nothing was pushed. Each address with its reason.
    Unreachable(Vec<(String, String)>),
    /// The push was handed over and never answered for: it may have arrived, and was not sent again.
    Unknown {
        /// Which push manager had it.
        address: String,
        /// What was seen instead of an answer.
        why: String,
    },
}

/// What came of asking one push manager.
enum Asked {
    /// This is how the push ends.
    Over(Result<Answer, Failure>),
    /// It could not be reached.
    Unreachable(String),
    /// It surely did not take the push; it may take it after this time.
    NotTaken(Failure, Duration),
}

/// A push manager.
#[derive(Debug)]
struct Manager {
    address: String,
    client: PushManagerServiceClient<Channel>,
}

/// The push managers.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    managers: Arc<[Manager]>,
    turns: Arc<Mutex<Turns>>,
    traces: Tracing,
}

/// Which pushes are traced.
#[derive(Debug, Clone)]
pub(crate) enum Tracing {
    /// As many as are sampled.
    Sampled(Traces),
    /// Each.
    All(Traces),
}

impl Tracing {
    fn begin(&self) -> Option<Span> {
        match self {
            Self::Sampled(traces) => traces.begin("push", Kind::Client, None),
            Self::All(traces) => traces.begin_kept("push", Kind::Client),
        }
    }

    /// Ends a push's span with what came of it; the number of its trace.
    fn end(&self, span: Option<Span>, answer: &Result<Answer, Failure>) -> Option<String> {
        let mut span = span?;
        match answer {
            Ok(answer) => {
                span.set("messaging.message.id", answer.message_id.clone());
                span.set("server.address", answer.address.clone());
            }
            Err(Failure::Refused { .. }) => span.fail("refused"),
            Err(Failure::Unreachable(_)) => span.fail("unreachable"),
            Err(Failure::Unknown { .. }) => span.fail("unknown"),
        }
        let id = span.trace_id();
        let (Self::Sampled(traces) | Self::All(traces)) = self;
        traces.end(span);
        Some(id)
    }
}

impl Client {
    /// For these addresses; connects at the first push. The error is the address that is none.
    pub(crate) fn new(addresses: &[String], traces: Tracing) -> Result<Self, String> {
        let timeout = if addresses.len() > 1 { CONNECT_TIMEOUT_OF_SEVERAL } else { CONNECT_TIMEOUT };
        let manager = |address: &String| {
            let uri = if address.contains("://") { address.clone() } else { format!("http://{address}") };
            let endpoint = Endpoint::from_shared(uri).map_err(|_| address.clone())?;
            let channel = endpoint
                .connect_timeout(timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(GRPC_KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .connect_lazy();
            Ok(Manager { address: address.clone(), client: PushManagerServiceClient::new(channel) })
        };
        let managers: Vec<Manager> = addresses.iter().map(manager).collect::<Result<_, String>>()?;
        let turns = Turns::new(managers.len(), fastrand::usize(..managers.len().max(1)));
        Ok(Self { managers: managers.into(), turns: Arc::new(Mutex::new(turns)), traces })
    }

    /// Pushes; `due` is when it was to be sent.
    pub(crate) async fn push(&self, push: Push, due: Instant) -> Outcome {
        let span = self.traces.begin();
        let parent = span.as_ref().map(|span| span.parent_for_others().header());
        let answer = self.push_in_turn(&push, parent.as_deref()).await;
        let trace_id = self.traces.end(span, &answer);
        Outcome { elapsed: due.elapsed(), answer, trace_id }
    }

    /// Asks all until one takes the push, several times.
    async fn push_in_turn(&self, push: &Push, traceparent: Option<&str>) -> Result<Answer, Failure> {
        let deadline = Instant::now() + Duration::from_millis(push.deadline_ms().into()) + ANSWER_MARGIN;
        let mut delays = RETRY_DELAYS.into_iter();
        loop {
            let (failure, wait) = match self.ask_all(push, traceparent, deadline).await {
                Ok(answer) => return answer,
                Err(not_taken) => not_taken,
            };
            match delays.next().map(|delay| delay.max(wait)) {
                Some(delay) if Instant::now() + delay < deadline => tokio::time::sleep(delay).await,
                _ => return Err(failure),
            }
        }
    }

    /// Asks one after the other until one takes the push; else why none did, and when one may.
    async fn ask_all(
        &self,
        push: &Push,
        traceparent: Option<&str>,
        deadline: Instant,
    ) -> Result<Result<Answer, Failure>, (Failure, Duration)> {
        let (mut asked, mut unreachable) = (Vec::new(), Vec::new());
        let mut not_taken: Option<(Failure, Duration)> = None;
        loop {
            let now = Instant::now();
            let next = self.turns().take(&asked, now).filter(|_| asked.is_empty() || now < deadline);
            let Some(place) = next else { break };
            asked.push(place);
            let manager = &self.managers[place];
            let time = deadline.saturating_duration_since(now);
            match manager.ask(push.clone(), traceparent, time).await {
                Asked::Over(answer) => {
                    match answer {
                        // It may be held up, or cut off: others are asked first for a while.
                        Err(Failure::Unknown { .. }) => self.turns().leave_out(place, Instant::now()),
                        _ => self.turns().take_in(place),
                    }
                    return Ok(answer);
                }
                Asked::Unreachable(why) => unreachable.push((manager.address.clone(), why)),
                Asked::NotTaken(failure, wait) => {
                    let wait = not_taken.take().map_or(wait, |(_, other)| other.min(wait));
                    not_taken = Some((failure, wait));
                }
            }
            self.turns().leave_out(place, Instant::now());
        }
        Err(not_taken.unwrap_or((Failure::Unreachable(unreachable), Duration::ZERO)))
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manager {
    async fn ask(&self, push: Push, traceparent: Option<&str>, time: Duration) -> Asked {
        let mut client = self.client.clone();
        macro_rules! answer {
            ($response:expr) => {
                $response.await.map(|response| {
                    let response = response.into_inner();
                    Answer {
                        success: response.success,
                        message: response.message,
                        message_id: response.message_id,
                        report: response.report.unwrap_or_default(),
                        address: self.address.clone(),
                    }
                })
            };
        }
        let answer = match push {
            Push::Room(push) => answer!(client.push_to_room(request(push, traceparent, time))),
            Push::User(push) => answer!(client.push_to_user(request(push, traceparent, time))),
            Push::Broadcast(push) => answer!(client.broadcast_message(request(push, traceparent, time))),
        };
        match answer {
            Ok(answer) => Asked::Over(Ok(answer)),
            Err(status) => self.failed(status),
        }
    }

    /// What an error says of the push: not taken, refused, or not known.
    fn failed(&self, status: Status) -> Asked {
        if status.source().is_none() {
            return self.answered_an_error(&status);
        }
        let causes = || std::iter::successors(status.source(), |&error| error.source());
        let text = causes().last().map(ToString::to_string).unwrap_or_default();
        let unconnected = causes().any(|error| {
            let io = error.downcast_ref::<std::io::Error>();
            error.is::<ConnectError>() || io.is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused)
        });
        let untouched = causes().filter_map(|error| error.downcast_ref::<h2::Error>()).any(was_untouched);
        if unconnected || untouched { Asked::Unreachable(text) } else { self.unknown(text) }
    }

    /// An error that came by the wire. Push managers name their domain; what something between here and there says
    /// may have been said after the push was handed on.
    fn answered_an_error(&self, status: &Status) -> Asked {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let before_processing = matches!(
            status.code(),
            Code::InvalidArgument
                | Code::Unimplemented
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::NotFound
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::ResourceExhausted
        );
        if info.is_none() && !before_processing {
            return self.unknown(format!("{:?}: {}", status.code(), status.message()));
        }
        let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
        let not_taken = status.code() == Code::Unavailable && NOT_TAKEN.contains(&reason.as_str());
        let failure = Failure::Refused { code: status.code(), reason, message: status.message().to_owned() };
        match details.retry_info().filter(|_| not_taken) {
            Some(retry) => Asked::NotTaken(failure, retry.retry_delay.unwrap_or_default()),
            None => Asked::Over(Err(failure)),
        }
    }

    fn unknown(&self, why: String) -> Asked {
        Asked::Over(Err(Failure::Unknown { address: self.address.clone(), why }))
    }
}

/// The peer said that it did not begin with the stream: REFUSED_STREAM, or a GOAWAY whose last stream is an earlier one
/// (h2 ends only the streams above it with the peer's GOAWAY; the others go on, or end with their own error).
fn was_untouched(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    let above = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (refused || above)
}

fn request<T>(push: T, traceparent: Option<&str>, time: Duration) -> Request<T> {
    let mut request = Request::new(push);
    if let Some(value) = traceparent.and_then(|header| header.parse().ok()) {
        request.metadata_mut().insert(TRACEPARENT, value);
    }
    request.set_timeout(time);
    request
}
