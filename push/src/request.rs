//! What callers may ask: checks each push and turns it into the form in which it goes to the nodes.
//!
//! Owns: the bounds of a request, the refusals and their reasons. Must not: know routes or links.
//! Talks to: `push_service` and `push_stream`, which bring requests and hand out refusals.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, MessageContent, MessageType, PushToRoomRequest, PushToUserRequest, ReportMode,
    StreamedError, delivery, streamed_push,
};
use ringcast_proto::{IdError, check_id};
use telemetry::Span;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Users that one push can exclude.
pub(crate) const MAX_EXCLUDED: usize = 1024;

/// The longest message id, in bytes.
const MAX_MESSAGE_ID_BYTES: usize = 64;

/// Metadata entries of a message.
const MAX_METADATA_ENTRIES: usize = 64;

/// Bytes of keys and values in a message's metadata.
const MAX_METADATA_BYTES: usize = 8 * 1024;

/// How long a caller waits for the report where he says nothing.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);

/// The longest that a caller can ask to wait, in milliseconds.
const MAX_DEADLINE_MS: u32 = 60_000;

/// The domain of our ErrorInfo.
const ERROR_DOMAIN: &str = "ringcast";

/// Whom a push is for, as metrics and logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A room.
    Room,
    /// A user.
    User,
    /// Everyone.
    Broadcast,
}

impl Scope {
    /// All, in the order of their index.
    pub(crate) const ALL: [Self; 3] = [Self::Room, Self::User, Self::Broadcast];

    /// The label in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::User => "user",
            Self::Broadcast => "broadcast",
        }
    }
}

/// A push that has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    /// Whom it is for.
    pub(crate) target: delivery::Target,
    /// Users who are not to get it.
    pub(crate) exclude: Vec<String>,
    /// What to push; its timestamp is set.
    pub(crate) content: MessageContent,
    /// Its id.
    pub(crate) message_id: String,
    /// How long the caller waits at most.
    pub(crate) deadline: Duration,
    /// How much he wants to know.
    pub(crate) report_mode: ReportMode,
    /// Its step of the trace that it belongs to, where that is sampled.
    pub(crate) span: Option<Box<Span>>,
}

impl Push {
    /// Whom it is for.
    pub(crate) fn scope(&self) -> Scope {
        match self.target {
            delivery::Target::RoomId(_) => Scope::Room,
            delivery::Target::UserId(_) => Scope::User,
            delivery::Target::Broadcast(_) => Scope::Broadcast,
        }
    }

    /// How many bytes it takes in a queue, about.
    pub(crate) fn size(&self) -> usize {
        const OVERHEAD: usize = 256;
        let metadata: usize = self.content.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        let exclude: usize = self.exclude.iter().map(String::len).sum();
        OVERHEAD + self.content.data.len() + metadata + exclude
    }
}

/// Why a push is refused; nothing of it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The canonical code.
    pub(crate) code: Code,
    /// For programs.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
    /// The field that is wrong.
    pub(crate) field: Option<&'static str>,
    /// When to try again.
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    fn invalid(field: &'static str, reason: &'static str, what: impl std::fmt::Display) -> Self {
        let message = format!("{field} {what}");
        Self { code: Code::InvalidArgument, reason, message, field: Some(field), retry_after: None }
    }

    /// No snapshot of the routes has come yet.
    pub(crate) fn not_ready() -> Self {
        Self {
            code: Code::Unavailable,
            reason: "ROUTES_NOT_READY",
            message: "the routes have not come from the controller yet: try again".into(),
            field: None,
            retry_after: Some(Duration::from_millis(250)),
        }
    }

    /// Too many pushes are open.
    pub(crate) fn overloaded() -> Self {
        Self {
            code: Code::ResourceExhausted,
            reason: "TOO_MANY_OPEN_PUSHES",
            message: "too many pushes wait for their reports: try again later".into(),
            field: None,
            retry_after: Some(Duration::from_millis(100)),
        }
    }

    /// The service is being stopped.
    pub(crate) fn stopping() -> Self {
        Self {
            code: Code::Unavailable,
            reason: "STOPPING",
            message: "this push manager is being stopped: try again".into(),
            field: None,
            retry_after: Some(Duration::from_secs(1)),
        }
    }

    /// More pushes in one message of a stream than it may carry.
    pub(crate) fn too_many_in_one_message() -> Self {
        Self::invalid("pushes", "TOO_MANY_PUSHES", "holds more than 1024 pushes: split the message")
    }

    /// As the error of a call.
    pub(crate) fn into_status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, ERROR_DOMAIN, std::collections::HashMap::<String, String>::new());
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, self.message.as_str());
        }
        if let Some(retry_after) = self.retry_after {
            details.set_retry_info(Some(retry_after));
        }
        Status::with_error_details(self.code, self.message, details)
    }

    /// As the result of a push on a stream.
    pub(crate) fn into_streamed(self) -> StreamedError {
        StreamedError { code: self.code as i32, message: self.message, reason: self.reason.into() }
    }
}

/// Checks requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checker {
    /// The largest payload, in bytes.
    pub(crate) max_payload_bytes: usize,
}

impl Checker {
    /// Checks a push to a room.
    pub(crate) fn room(&self, request: PushToRoomRequest) -> Result<Push, Refusal> {
        check_id(&request.room_id).map_err(|error| Refusal::invalid("room_id", "ROOM_ID_INVALID", error))?;
        if request.exclude_user_ids.len() > MAX_EXCLUDED {
            let what = format!("holds {} users: give at most {MAX_EXCLUDED}", request.exclude_user_ids.len());
            return Err(Refusal::invalid("exclude_user_ids", "TOO_MANY_EXCLUSIONS", what));
        }
        for user in &request.exclude_user_ids {
            check_id(user).map_err(|error| Refusal::invalid("exclude_user_ids", "USER_ID_INVALID", error))?;
        }
        Ok(Push {
            target: delivery::Target::RoomId(request.room_id),
            exclude: request.exclude_user_ids,
            content: self.content(request.content)?,
            message_id: message_id(request.message_id)?,
            deadline: deadline(request.deadline_ms)?,
            report_mode: report_mode(request.report_mode)?,
            span: None,
        })
    }

    /// Checks a push to a user.
    pub(crate) fn user(&self, request: PushToUserRequest) -> Result<Push, Refusal> {
        check_id(&request.user_id).map_err(|error| Refusal::invalid("user_id", "USER_ID_INVALID", error))?;
        Ok(Push {
            target: delivery::Target::UserId(request.user_id),
            exclude: Vec::new(),
            content: self.content(request.content)?,
            message_id: message_id(request.message_id)?,
            deadline: deadline(request.deadline_ms)?,
            report_mode: report_mode(request.report_mode)?,
            span: None,
        })
    }

    /// Checks a push to everyone.
    pub(crate) fn broadcast(&self, request: BroadcastMessageRequest) -> Result<Push, Refusal> {
        Ok(Push {
            target: delivery::Target::Broadcast(true),
            exclude: Vec::new(),
            content: self.content(request.content)?,
            message_id: message_id(request.message_id)?,
            deadline: deadline(request.deadline_ms)?,
            report_mode: report_mode(request.report_mode)?,
            span: None,
        })
    }

    /// Checks a push of a stream.
    pub(crate) fn streamed(&self, push: Option<streamed_push::Push>) -> Result<Push, Refusal> {
        match push {
            Some(streamed_push::Push::Room(request)) => self.room(request),
            Some(streamed_push::Push::User(request)) => self.user(request),
            Some(streamed_push::Push::Broadcast(request)) => self.broadcast(request),
            None => Err(Refusal::invalid("push", "PUSH_MISSING", "is missing: give room, user or broadcast")),
        }
    }

    fn content(&self, content: Option<MessageContent>) -> Result<MessageContent, Refusal> {
        let Some(mut content) = content else {
            return Err(Refusal::invalid("content", "CONTENT_MISSING", "is missing"));
        };
        if MessageType::try_from(content.r#type).is_err() {
            let what = format!("is {}, which is no type of ours", content.r#type);
            return Err(Refusal::invalid("content.type", "MESSAGE_TYPE_INVALID", what));
        }
        if content.data.len() > self.max_payload_bytes {
            let what =
                format!("is {} bytes long: give at most {}", content.data.len(), self.max_payload_bytes);
            return Err(Refusal::invalid("content.data", "PAYLOAD_TOO_LARGE", what));
        }
        let bytes: usize = content.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
        if content.metadata.len() > MAX_METADATA_ENTRIES || bytes > MAX_METADATA_BYTES {
            let entries = content.metadata.len();
            let what = format!(
                "holds {entries} entries, {bytes} bytes: give at most {MAX_METADATA_ENTRIES} entries, \
                 {MAX_METADATA_BYTES} bytes"
            );
            return Err(Refusal::invalid("content.metadata", "METADATA_TOO_LARGE", what));
        }
        match content.timestamp {
            0 => content.timestamp = unix_ms(),
            1.. => {}
            _ => {
                let what = "is negative: give milliseconds since the Unix epoch, or 0 for now";
                return Err(Refusal::invalid("content.timestamp", "TIMESTAMP_INVALID", what));
            }
        }
        // The payload is a slice of the whole message that it came in, up to 16 MiB, which a waiting push would
        // keep alive unseen by the bounds of the queues.
        content.data = Bytes::copy_from_slice(&content.data);
        Ok(content)
    }
}

/// Shortens a push's deadline to what the call itself allows (`grpc-timeout`), less a margin for the answer's way.
pub(crate) fn keep_within_timeout(push: &mut Push, metadata: &MetadataMap) {
    let timeout = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    if let Some(timeout) = timeout {
        push.deadline = push.deadline.min(less_margin(timeout));
    }
}

/// A time less what an answer needs on its way back: a tenth, at least 5 ms, at most 50 ms; never under 1 ms.
pub(crate) fn less_margin(time: Duration) -> Duration {
    let margin = (time / 10).clamp(Duration::from_millis(5), Duration::from_millis(50));
    time.saturating_sub(margin).max(Duration::from_millis(1))
}

/// The header's form: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let number: u64 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn message_id(given: String) -> Result<String, Refusal> {
    if given.is_empty() {
        return Ok(new_message_id());
    }
    let error = if given.len() > MAX_MESSAGE_ID_BYTES {
        IdError::TooLong(given.len(), MAX_MESSAGE_ID_BYTES)
    } else if given.chars().any(char::is_control) {
        IdError::ControlCharacter
    } else {
        return Ok(given);
    };
    Err(Refusal::invalid("message_id", "MESSAGE_ID_INVALID", error))
}

/// A UUID of version 7. It has to be unique and need not be secret, so it is not worth a call to the kernel for every
/// push.
fn new_message_id() -> String {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let id = uuid::Builder::from_unix_timestamp_millis(unix_ms() as u64, &random).into_uuid();
    id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).to_owned()
}

fn deadline(ms: u32) -> Result<Duration, Refusal> {
    match ms {
        0 => Ok(DEFAULT_DEADLINE),
        1..=MAX_DEADLINE_MS => Ok(Duration::from_millis(u64::from(ms))),
        _ => {
            let what = format!("is {ms}: give at most {MAX_DEADLINE_MS}");
            Err(Refusal::invalid("deadline_ms", "DEADLINE_INVALID", what))
        }
    }
}

fn report_mode(mode: i32) -> Result<ReportMode, Refusal> {
    ReportMode::try_from(mode).map_err(|_| {
        Refusal::invalid("report_mode", "REPORT_MODE_INVALID", format!("is {mode}, which is no mode of ours"))
    })
}

fn unix_ms() -> i64 {
    // A clock before 1970 is answered with the least timestamp that is one.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_timeout_is_read_as_grpc_writes_it() {
        let read = |text| parse_timeout(text);
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "5", "5s", "-1S", "100000000n", "1.5S", "五S"] {
            assert_eq!(read(wrong), None, "{wrong:?} was read");
        }
    }

    #[test]
    fn ids_that_are_made_are_distinct_and_of_version_7() {
        let ids: std::collections::HashSet<String> = (0..10_000).map(|_| new_message_id()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id).is_ok_and(|id| id.get_version_num() == 7)));
    }

    #[test]
    fn the_margin_is_a_tenth_within_bounds() {
        let ms = Duration::from_millis;
        for (time, left) in [(60_000, 59_950), (1000, 950), (300, 270), (20, 15), (5, 1), (0, 1)] {
            assert_eq!(less_margin(ms(time)), ms(left), "of {time} ms");
        }
    }
}
