//! Answers: from the counts of a push to the messages that callers get.
//!
//! Owns: what `success` and `message` say. Must not: know links or routes. Talks to: `receipts`, which makes the
//! counts; `push_service` and `push_stream`, whose callers wait.

use std::time::Duration;

use ringcast_proto::pubsub::{
    BroadcastMessageResponse, DeliveryReport, NodeOutcomes, Outcomes, PushToRoomResponse, PushToUserResponse,
    StreamedResult, streamed_result,
};
use tokio::sync::{mpsc, oneshot};

/// How many results are handed to a stream's caller together at most.
pub(crate) const MAX_TOGETHER: usize = 64;

use crate::push_trace::PushTrace;
use crate::request::{Refusal, Scope};

/// What a push comes to.
pub(crate) type Answer = Result<Finished, Refusal>;

/// Who waits for an answer. An answer that nobody waits for any more is dropped.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A call.
    Call(oneshot::Sender<Answer>),
    /// A stream, under the caller's number.
    Stream(u64, StreamResults),
}

/// Where the results of a stream go, some at a time, [`MAX_TOGETHER`] at most. What is in flight on a stream is
/// bounded, and so is the channel.
pub(crate) type StreamResults = mpsc::UnboundedSender<Vec<StreamedResult>>;

/// Hands out answers. Those to one stream that follow one another are handed over together: a channel costs as much
/// for one as for many.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    together: Option<(StreamResults, Vec<StreamedResult>)>,
}

impl Answers {
    /// Hands over an answer, at the latest when this is dropped.
    pub(crate) fn give(&mut self, waiter: Waiter, answer: Answer) {
        match waiter {
            Waiter::Call(call) => drop(call.send(answer)),
            Waiter::Stream(push_id, stream) => {
                let result = match answer {
                    Ok(finished) => finished.into_streamed(),
                    Err(refusal) => streamed_result::Result::Error(refusal.into_streamed()),
                };
                self.gather(stream, StreamedResult { push_id, result: Some(result) });
            }
        }
    }

    fn gather(&mut self, stream: StreamResults, result: StreamedResult) {
        match &mut self.together {
            Some((same, results)) if results.len() < MAX_TOGETHER && same.same_channel(&stream) => {
                results.push(result);
            }
            _ => {
                self.hand_over();
                self.together = Some((stream, vec![result]));
            }
        }
    }

    fn hand_over(&mut self) {
        if let Some((stream, results)) = self.together.take() {
            // The caller may be gone.
            let _ = stream.send(results);
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.hand_over();
    }
}

/// What it means for a push that no session was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nobody {
    /// The routes know no such room.
    RoomUnknown,
    /// Nobody is in the room.
    RoomEmpty,
    /// The room has members by the routes, and the push excludes users.
    AllExcluded,
    /// The user holds no connection.
    UserOffline,
    /// There is no connection at all.
    NoConnection,
}

impl Nobody {
    fn text(self) -> &'static str {
        match self {
            Self::RoomUnknown => "room unknown",
            Self::RoomEmpty => "room empty",
            Self::AllExcluded => "all excluded",
            Self::UserOffline => "user offline",
            Self::NoConnection => "nobody connected",
        }
    }
}

/// How a push ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At least one session was written or queued.
    Delivered,
    /// It is not known whether anything arrived.
    Unknown,
    /// There were sessions, and all were dropped.
    Dropped,
    /// There was no session.
    Nobody,
}

impl Ending {
    /// The label in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Unknown => "unknown",
            Self::Dropped => "dropped",
            Self::Nobody => "nobody",
        }
    }
}

/// What became of a push.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Whom it was for.
    pub(crate) scope: Scope,
    /// Its id.
    pub(crate) message_id: String,
    /// Over all nodes.
    pub(crate) total: Outcomes,
    /// By node.
    pub(crate) nodes: Vec<NodeOutcomes>,
    /// How long the routes had been stale at acceptance, in milliseconds.
    pub(crate) routes_stale_ms: u32,
    /// From acceptance to the answer.
    pub(crate) elapsed: Duration,
    /// What it means where no session was found.
    pub(crate) nobody: Nobody,
    /// Its trace, where that is sampled.
    pub(crate) trace: Option<Box<PushTrace>>,
}

impl Finished {
    /// How it ended.
    pub(crate) fn ending(&self) -> Ending {
        let total = &self.total;
        if total.written + total.queued > 0 {
            Ending::Delivered
        } else if total.unknown > 0 {
            Ending::Unknown
        } else if total.dropped_slow + total.dropped_closed + total.dropped_shed > 0 {
            Ending::Dropped
        } else {
            Ending::Nobody
        }
    }

    /// `success`, the sessions written, and why not where `success` is false.
    fn verdict(&self) -> (bool, i32, String) {
        let message = match self.ending() {
            Ending::Delivered => "",
            Ending::Unknown => "unknown",
            Ending::Dropped => "all dropped",
            Ending::Nobody => self.nobody.text(),
        };
        (message.is_empty(), i32::try_from(self.total.written).unwrap_or(i32::MAX), message.to_owned())
    }

    fn into_report(self) -> (String, DeliveryReport) {
        let report = DeliveryReport {
            total: Some(self.total),
            nodes: self.nodes,
            routes_stale_ms: self.routes_stale_ms,
            elapsed_us: self.elapsed.as_micros() as u64,
        };
        (self.message_id, report)
    }

    /// As the answer to PushToRoom.
    pub(crate) fn into_room(self) -> PushToRoomResponse {
        let (success, delivered_count, message) = self.verdict();
        let (message_id, report) = self.into_report();
        PushToRoomResponse { success, delivered_count, message, message_id, report: Some(report) }
    }

    /// As the answer to PushToUser.
    pub(crate) fn into_user(self) -> PushToUserResponse {
        let (success, _, message) = self.verdict();
        let (message_id, report) = self.into_report();
        PushToUserResponse { success, message, message_id, report: Some(report) }
    }

    /// As the answer to BroadcastMessage.
    pub(crate) fn into_broadcast(self) -> BroadcastMessageResponse {
        let (success, total_delivered, message) = self.verdict();
        let (message_id, report) = self.into_report();
        BroadcastMessageResponse { success, total_delivered, message, message_id, report: Some(report) }
    }

    fn into_streamed(self) -> streamed_result::Result {
        match self.scope {
            Scope::Room => streamed_result::Result::Room(self.into_room()),
            Scope::User => streamed_result::Result::User(self.into_user()),
            Scope::Broadcast => streamed_result::Result::Broadcast(self.into_broadcast()),
        }
    }
}
