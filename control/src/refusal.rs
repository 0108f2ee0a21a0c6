//! What is answered where something cannot be done: canonical codes, with details that a program can read.
//!
//! Owns: the reasons and their codes; the ErrorInfo domain is "ringcast". Must not: decide.

use std::collections::HashMap;
use std::time::Duration;

use ringcast_proto::IdError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const DOMAIN: &str = "ringcast";

/// The reason of [`user_offline`], which controllers tell one another by.
pub(crate) const USER_OFFLINE: &str = "USER_OFFLINE";

/// After what time a caller may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

fn status(code: Code, message: impl Into<String>, reason: &str, mut details: ErrorDetails) -> Status {
    details.set_error_info(reason, DOMAIN, HashMap::new());
    Status::with_error_details(code, message, details)
}

fn unavailable(message: impl Into<String>, reason: &str) -> Status {
    status(Code::Unavailable, message, reason, ErrorDetails::with_retry_info(Some(RETRY_AFTER)))
}

/// A field of a request breaks its rules; the reason is the field's name and `_INVALID`.
pub(crate) fn invalid(field: &str, what: impl std::fmt::Display) -> Status {
    let reason = format!("{}_INVALID", field.to_uppercase());
    let details = ErrorDetails::with_bad_request_violation(field, what.to_string());
    status(Code::InvalidArgument, format!("{field} {what}"), &reason, details)
}

/// Reads an id of a request.
pub(crate) fn valid<T>(field: &str, id: Result<T, IdError>) -> Result<T, Status> {
    id.map_err(|error| invalid(field, error))
}

/// There is no such room.
pub(crate) fn room_unknown(room: &str) -> Status {
    let details =
        ErrorDetails::with_resource_info("room", room, "", "nobody has joined it, and it was not set");
    status(Code::NotFound, "no such room", "ROOM_NOT_FOUND", details)
}

/// The user holds no connection.
pub(crate) fn user_offline(user: &str) -> Status {
    let details = ErrorDetails::with_precondition_failure_violation("CONNECTION", user, "connect first");
    status(Code::FailedPrecondition, "the user holds no connection", USER_OFFLINE, details)
}

/// The user's sessions are in as many rooms as they may be.
pub(crate) fn sessions_refused(user: &str) -> Status {
    let details =
        ErrorDetails::with_precondition_failure_violation("SESSION", user, "leave another room first");
    status(
        Code::FailedPrecondition,
        "no session took the room: each has ended or is in too many rooms",
        "SESSIONS_REFUSED",
        details,
    )
}

/// The nodes that hold the user's sessions did not answer.
pub(crate) fn nodes_silent() -> Status {
    unavailable("the node that holds the user's sessions did not answer", "NODE_LINK_LOST")
}

/// No node takes clients.
pub(crate) fn no_node() -> Status {
    unavailable("no connect node takes clients", "NO_NODE")
}

/// The controller has restarted and waits for its nodes.
pub(crate) fn recovering() -> Status {
    unavailable("the controller has restarted and waits for its nodes", "RECOVERING")
}

/// The rooms' store does not answer.
pub(crate) fn store_away() -> Status {
    unavailable("the store of rooms cannot be reached", "STORE_UNAVAILABLE")
}

/// The store of presence that controllers share does not answer.
pub(crate) fn presence_away() -> Status {
    unavailable("the store of presence cannot be reached", "PRESENCE_UNAVAILABLE")
}

/// Another controller, which may hold what is asked for, does not answer.
pub(crate) fn controller_silent() -> Status {
    unavailable("a controller that may hold the user's sessions did not answer", "CONTROLLER_UNREACHABLE")
}

/// The controller is not known to every push manager, so nobody can join by it.
pub(crate) fn not_registered() -> Status {
    unavailable("the controller is not registered, or not every push manager follows it", "NOT_REGISTERED")
}

/// There are as many rooms as there may be.
pub(crate) fn too_many_rooms() -> Status {
    unavailable("there are as many rooms as there may be", "TOO_MANY_ROOMS")
}

/// The controller is being stopped.
pub(crate) fn stopping() -> Status {
    unavailable("the controller is being stopped", "STOPPING")
}

/// A stream whose messages are not what was agreed.
pub(crate) fn protocol(what: &str) -> Status {
    status(Code::InvalidArgument, what, "PROTOCOL", ErrorDetails::new())
}

/// A link that its node's later stream has replaced, or that is out of step.
pub(crate) fn link_cut(why: &str) -> Status {
    status(Code::Aborted, why, "LINK_CUT", ErrorDetails::new())
}

/// Another incarnation of the node is registered.
pub(crate) fn node_exists(node: &str) -> Status {
    let details = ErrorDetails::with_resource_info("node", node, "", "another node with this id is running");
    status(Code::AlreadyExists, "another node with this id is registered", "NODE_EXISTS", details)
}

/// A follower that did not keep up; it may follow anew.
pub(crate) fn follower_cut_off(why: &str) -> Status {
    status(Code::DeadlineExceeded, format!("cut off: {why}"), "CUT_OFF", ErrorDetails::new())
}

/// A call that took too long.
pub(crate) fn too_late(limit: Duration) -> Status {
    let message = format!("not done within {} ms", limit.as_millis());
    status(Code::DeadlineExceeded, message, "DEADLINE", ErrorDetails::new())
}
