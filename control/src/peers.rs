//! The other controllers, asked to do their part of a call: each can command only the nodes that have their link to
//! it.
//!
//! Owns: the connections to them, and what their answers come to together. Must not: ask on another's behalf, which
//! would go round in circles (`local_only`). Talks to: `ControllerService` of the others.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ahash::AHashMap;
use futures_util::future::join_all;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::{JoinRoomRequest, LeaveRoomRequest};
use ringcast_proto::{GRPC_KEEPALIVE_INTERVAL, GRPC_KEEPALIVE_TIMEOUT};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::refusal;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What one controller did of a call.
#[derive(Debug)]
pub(crate) enum Part {
    /// So many sessions are as was asked, at least one.
    Done(u32),
    /// The room has no seat for the user.
    Full,
    /// None of the user's sessions was in the room.
    NotInRoom,
    /// The user holds no connection there.
    Offline,
    /// He does, but no session could do it.
    Refused(Status),
    /// What his sessions there did is not known, nor whether there are any.
    Unknown(Status),
}

impl Part {
    /// For counting.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Full => "full",
            Self::NotInRoom => "not_in_room",
            Self::Offline => "offline",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }

    /// What a status means.
    pub(crate) fn of_status(status: Status) -> Self {
        if status.code() != Code::FailedPrecondition {
            return Self::Unknown(status);
        }
        match status.get_details_error_info().is_some_and(|info| info.reason == refusal::USER_OFFLINE) {
            true => Self::Offline,
            false => Self::Refused(status),
        }
    }
}

/// What a call came to over all controllers, where it came to anything.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    /// So many sessions are as was asked, at least one.
    Done(u32),
    /// The room has no seat for the user.
    Full,
    /// None of the user's sessions was in the room.
    NotInRoom,
}

/// Adds up what controllers did. Where nothing was done, and one of them is silent, nobody knows.
pub(crate) fn sum(parts: Vec<Part>, user: &str) -> Result<Sum, Status> {
    let (mut done, mut full, mut not_in_room, mut refused, mut unknown) = (0, false, false, None, None);
    for part in parts {
        match part {
            Part::Done(sessions) => done += sessions,
            Part::Full => full = true,
            Part::NotInRoom => not_in_room = true,
            Part::Offline => {}
            Part::Refused(status) => refused = Some(status),
            Part::Unknown(status) => unknown = Some(status),
        }
    }
    match (done, full, unknown, refused, not_in_room) {
        (1.., ..) => Ok(Sum::Done(done)),
        // Seats are the same for all.
        (_, true, ..) => Ok(Sum::Full),
        (_, _, Some(status), ..) | (_, _, _, Some(status), _) => Err(status),
        (.., true) => Ok(Sum::NotInRoom),
        _ => Err(refusal::user_offline(user)),
    }
}

/// Connections to the other controllers, kept by their addresses.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    channels: Mutex<AHashMap<String, Channel>>,
}

impl Peers {
    /// Has the controllers at these addresses join their sessions of a user, at the same time and within the limit.
    pub(crate) async fn join_room(
        &self,
        addresses: &[String],
        request: &JoinRoomRequest,
        limit: Duration,
    ) -> Vec<Part> {
        let calls = self.clients(addresses).into_iter().map(|client| {
            let request = within(JoinRoomRequest { local_only: true, ..request.clone() }, limit);
            async move {
                let joined = client?.join_room(request).await?.into_inner();
                Ok(if joined.success { Part::Done(joined.sessions) } else { Part::Full })
            }
        });
        gather(calls, limit).await
    }

    /// The same for a leave.
    pub(crate) async fn leave_room(
        &self,
        addresses: &[String],
        request: &LeaveRoomRequest,
        limit: Duration,
    ) -> Vec<Part> {
        let calls = self.clients(addresses).into_iter().map(|client| {
            let request = within(LeaveRoomRequest { local_only: true, ..request.clone() }, limit);
            async move {
                let left = client?.leave_room(request).await?.into_inner();
                Ok(if left.success { Part::Done(left.sessions) } else { Part::NotInRoom })
            }
        });
        gather(calls, limit).await
    }

    /// A client for each address. Connections to others are let go.
    fn clients(&self, addresses: &[String]) -> Vec<Result<ControllerServiceClient<Channel>, Status>> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|address, _| addresses.contains(address));
        let client = |address: &String| {
            let channel = match channels.get(address) {
                Some(channel) => channel.clone(),
                None => {
                    let channel = channel(address)?;
                    channels.insert(address.clone(), channel.clone());
                    channel
                }
            };
            Ok(ControllerServiceClient::new(channel))
        };
        addresses.iter().map(client).collect()
    }
}

async fn gather(
    calls: impl Iterator<Item: Future<Output = Result<Part, Status>>>,
    limit: Duration,
) -> Vec<Part> {
    join_all(calls.map(|call| part(call, limit))).await
}

async fn part(call: impl Future<Output = Result<Part, Status>>, limit: Duration) -> Part {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(part)) => part,
        Ok(Err(status)) if status.code() == Code::FailedPrecondition => Part::of_status(status),
        Ok(Err(status)) => {
            tracing::debug!(%status, "a controller did not do its part of a call");
            Part::Unknown(refusal::controller_silent())
        }
        Err(_) => Part::Unknown(refusal::controller_silent()),
    }
}

fn channel(address: &str) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|error| Status::internal(format!("{address}: {error}")))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(GRPC_KEEPALIVE_INTERVAL)
        .keep_alive_timeout(GRPC_KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

fn within<T>(message: T, limit: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent() -> Part {
        Part::Unknown(refusal::controller_silent())
    }

    #[test]
    fn what_was_done_anywhere_is_done() {
        let parts = vec![Part::Offline, Part::Done(2), silent(), Part::Done(1), Part::Full];
        assert_eq!(sum(parts, "u").unwrap(), Sum::Done(3));
    }

    #[test]
    fn a_full_room_is_full_for_all() {
        assert_eq!(sum(vec![silent(), Part::Full, Part::Offline], "u").unwrap(), Sum::Full);
    }

    #[test]
    fn a_silent_controller_may_hold_the_user_where_nobody_else_does() {
        for other in [Part::Offline, Part::NotInRoom, Part::Refused(refusal::sessions_refused("u"))] {
            assert_eq!(sum(vec![other, silent()], "u").unwrap_err().code(), Code::Unavailable);
        }
    }

    #[test]
    fn a_user_is_offline_where_he_is_so_everywhere() {
        let offline = sum(vec![Part::Offline, Part::Offline], "u").unwrap_err();
        assert!(matches!(Part::of_status(offline), Part::Offline));
        assert_eq!(sum(vec![Part::Offline, Part::NotInRoom], "u").unwrap(), Sum::NotInRoom);
        let refused =
            sum(vec![Part::Offline, Part::Refused(refusal::sessions_refused("u"))], "u").unwrap_err();
        assert!(matches!(Part::of_status(refused), Part::Refused(_)));
    }

    #[tokio::test]
    async fn a_controller_that_cannot_be_reached_is_silent_within_the_limit() {
        let peers = Peers::default();
        let request = LeaveRoomRequest { user_id: "u".into(), room_id: "r".into(), local_only: false };
        // The port of TCP port service multiplexer, which nothing serves.
        let addresses = ["127.0.0.1:1".to_owned()];
        let parts = peers.leave_room(&addresses, &request, Duration::from_secs(5)).await;
        assert!(
            matches!(&parts[..], [Part::Unknown(status)] if status.code() == Code::Unavailable),
            "{parts:?}"
        );
    }
}
