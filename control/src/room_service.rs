//! `ControllerService`: rooms, users and nodes, as callers ask for them.
//!
//! Owns: validation, pages, what messages look like, which controllers take part in a call. Must not: keep or decide
//! anything. Talks to: `registry` with its `reads` and `commands`, `rooms`, `peers`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ringcast_proto::pubsub::controller_service_server::ControllerService;
use ringcast_proto::pubsub::{
    GetRoomInfoRequest, GetRoomInfoResponse, GetRoomStatsRequest, GetRoomStatsResponse, GetUserNodeRequest,
    GetUserNodeResponse, JoinRoomRequest, JoinRoomResponse, LeaveRoomRequest, LeaveRoomResponse,
    ListNodesRequest, ListNodesResponse, RoomInfo, RoomMetadata, RoomStats, SelectConnectNodeRequest,
    SelectConnectNodeResponse, SetRoomRequest, SetRoomResponse,
};
use ringcast_proto::{NodeId, RoomId, UserId, check_user_name};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::commands::{JoinWish, refused_by_store};
use crate::peers::{Part, Sum, sum};
use crate::refusal::{self, invalid, valid};
use crate::registry::Registry;
use crate::store::{RoomPatch, StoredRoom};

/// Entries on the largest page.
const MAX_PAGE: u32 = 1000;
/// Rooms on a page where the caller does not say.
const ROOMS_PAGE: u32 = 100;
const MAX_ROOM_NAME_BYTES: usize = 128;
const MAX_DESCRIPTION_BYTES: usize = 4096;
const MAX_METADATA_ENTRIES: usize = 64;
const MAX_METADATA_BYTES: usize = 8 * 1024;

/// The service.
#[derive(Debug)]
pub(crate) struct RoomService {
    pub(crate) registry: Arc<Registry>,
}

#[tonic::async_trait]
impl ControllerService for RoomService {
    async fn join_room(
        &self,
        request: Request<JoinRoomRequest>,
    ) -> Result<Response<JoinRoomResponse>, Status> {
        let limit = self.limit(&request);
        self.call("JoinRoom", request, async |request| {
            let wish = join_wish(&request)?;
            let room = wish.room.clone();
            let Sum::Done(sessions) = self.join_everywhere(wish, &request, limit).await? else {
                let message = "room full".to_owned();
                return Ok(JoinRoomResponse { message, ..JoinRoomResponse::default() });
            };
            // The controller that asks for our part reads the room itself.
            let room_info = match request.local_only {
                true => None,
                false => Some(self.room_info(&room, None, MAX_PAGE).await?.0),
            };
            Ok(JoinRoomResponse { success: true, message: String::new(), room_info, sessions })
        })
        .await
    }

    async fn leave_room(
        &self,
        request: Request<LeaveRoomRequest>,
    ) -> Result<Response<LeaveRoomResponse>, Status> {
        let limit = self.limit(&request);
        self.call("LeaveRoom", request, async |request| {
            Ok(match self.leave_everywhere(&request, limit).await? {
                Sum::Done(sessions) => LeaveRoomResponse { success: true, message: String::new(), sessions },
                Sum::Full | Sum::NotInRoom => {
                    let message = "not in room".to_owned();
                    LeaveRoomResponse { message, ..LeaveRoomResponse::default() }
                }
            })
        })
        .await
    }

    async fn get_room_info(
        &self,
        request: Request<GetRoomInfoRequest>,
    ) -> Result<Response<GetRoomInfoResponse>, Status> {
        self.call("GetRoomInfo", request, async |request| {
            let room = valid("room_id", RoomId::new(&request.room_id))?;
            let size = page_size(request.page_size, MAX_PAGE)?;
            let after = match request.page_token.as_str() {
                "" => None,
                token => Some(valid("page_token", UserId::new(token))?),
            };
            let (room_info, next_page_token) = self.room_info(&room, after.as_ref(), size).await?;
            Ok(GetRoomInfoResponse { room_info: Some(room_info), next_page_token })
        })
        .await
    }

    async fn get_user_node(
        &self,
        request: Request<GetUserNodeRequest>,
    ) -> Result<Response<GetUserNodeResponse>, Status> {
        self.call("GetUserNode", request, async |request| {
            let user = valid("user_id", UserId::new(&request.user_id))?;
            self.registry.complete().await?;
            let sessions = self.registry.user_sessions(&user).await?;
            let newest = sessions.first().cloned().unwrap_or_default();
            Ok(GetUserNodeResponse {
                found: !sessions.is_empty(),
                room_id: newest.room_ids.into_iter().next().unwrap_or_default(),
                node_id: newest.node_id,
                node_address: newest.node_address,
                sessions,
            })
        })
        .await
    }

    async fn get_room_stats(
        &self,
        request: Request<GetRoomStatsRequest>,
    ) -> Result<Response<GetRoomStatsResponse>, Status> {
        self.call("GetRoomStats", request, async |request| {
            let size = page_size(request.page_size, ROOMS_PAGE)?;
            if !request.page_token.is_empty() {
                valid("page_token", RoomId::new(&request.page_token))?;
            }
            self.registry.complete().await?;
            let page = self.registry.rooms.page(&request.page_token, size).await;
            let page = page.map_err(refused_by_store)?;
            let full = page.len() == size as usize;
            let next_page_token = page.last().filter(|_| full).map(|(id, _)| id.clone()).unwrap_or_default();
            // What is stored was an id once.
            let known =
                page.into_iter().filter_map(|(id, created_at)| Some((RoomId::new(&id).ok()?, created_at)));
            let (rooms, created): (Vec<RoomId>, Vec<i64>) = known.unzip();
            let counts = self.registry.user_counts(&rooms).await?;
            let (total_users, total_sessions) = self.registry.totals().await?;
            let occupied = self.registry.read(|state| state.presence.figures().rooms as u64);
            let rooms = rooms.into_iter().zip(created).zip(counts).map(|((room, created_at), users)| {
                let (room_id, user_count) = (room.to_string(), whole(u64::from(users)));
                RoomStats { room_id, user_count, created_at }
            });
            Ok(GetRoomStatsResponse {
                total_rooms: whole(self.registry.rooms.count().max(occupied)),
                total_users: whole(total_users),
                rooms: rooms.collect(),
                next_page_token,
                total_sessions,
            })
        })
        .await
    }

    async fn set_room(&self, request: Request<SetRoomRequest>) -> Result<Response<SetRoomResponse>, Status> {
        self.call("SetRoom", request, async |request| {
            let room = valid("room_id", RoomId::new(&request.room_id))?;
            let patch = RoomPatch {
                name: text("name", request.name, MAX_ROOM_NAME_BYTES)?,
                description: text("description", request.description, MAX_DESCRIPTION_BYTES)?,
                max_users: match request.max_users {
                    None => None,
                    Some(max) => Some(
                        u32::try_from(max)
                            .map_err(|_| invalid("max_users", "is negative: give 0 or more"))?,
                    ),
                },
            };
            let set = self.registry.rooms.set(&room, patch, self.registry.now()).await;
            let stored = set.map_err(refused_by_store)?;
            let mut room_info = self.settings_of(&room, Some(&stored));
            let counts = self.registry.user_counts(std::slice::from_ref(&room)).await?;
            room_info.user_count = counts.first().copied().unwrap_or(0);
            Ok(SetRoomResponse { room_info: Some(room_info) })
        })
        .await
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        self.call("ListNodes", request, async |_| Ok(ListNodesResponse { nodes: self.registry.list_nodes() }))
            .await
    }

    async fn select_connect_node(
        &self,
        request: Request<SelectConnectNodeRequest>,
    ) -> Result<Response<SelectConnectNodeResponse>, Status> {
        self.call("SelectConnectNode", request, async |_| {
            let node = self.registry.select_node();
            Ok(SelectConnectNodeResponse { node: Some(node.ok_or_else(refusal::no_node)?) })
        })
        .await
    }
}

impl RoomService {
    /// Runs a call within its time, which is the caller's or ours, and counts it.
    async fn call<Q, A>(
        &self,
        method: &str,
        request: Request<Q>,
        serve: impl AsyncFnOnce(Q) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        let limit = self.limit(&request);
        let served = within(limit, serve(request.into_inner())).await;
        let code = served.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.registry.metrics.handled(method, code);
        served.map(Response::new)
    }

    fn limit<Q>(&self, request: &Request<Q>) -> Duration {
        limit(request.metadata(), self.registry.timing.call)
    }

    /// Has all controllers join their sessions of a user.
    async fn join_everywhere(
        &self,
        wish: JoinWish,
        request: &JoinRoomRequest,
        limit: Duration,
    ) -> Result<Sum, Status> {
        let user = wish.user.clone();
        let here = async {
            match self.registry.join_room(wish).await {
                Ok(Some(sessions)) => Part::Done(u32::try_from(sessions).unwrap_or(u32::MAX)),
                Ok(None) => Part::Full,
                Err(status) => Part::of_status(status),
            }
        };
        let others = self.others(request.local_only);
        let there = self.registry.peers.join_room(&others, request, for_others(limit));
        self.add_up("JoinRoom", here, there, &user).await
    }

    /// Has all controllers take their sessions of a user out of a room.
    async fn leave_everywhere(&self, request: &LeaveRoomRequest, limit: Duration) -> Result<Sum, Status> {
        let user = valid("user_id", UserId::new(&request.user_id))?;
        let room = valid("room_id", RoomId::new(&request.room_id))?;
        let here = async {
            match self.registry.leave_room(&user, &room).await {
                Ok(0) => Part::NotInRoom,
                Ok(sessions) => Part::Done(u32::try_from(sessions).unwrap_or(u32::MAX)),
                Err(status) => Part::of_status(status),
            }
        };
        let others = self.others(request.local_only);
        let there = self.registry.peers.leave_room(&others, request, for_others(limit));
        self.add_up("LeaveRoom", here, there, &user).await
    }

    fn others(&self, local_only: bool) -> Vec<String> {
        if local_only { Vec::new() } else { self.registry.membership.peers() }
    }

    async fn add_up(
        &self,
        method: &str,
        here: impl Future<Output = Part>,
        there: impl Future<Output = Vec<Part>>,
        user: &UserId,
    ) -> Result<Sum, Status> {
        let (here, mut parts) = tokio::join!(here, there);
        for part in &parts {
            self.registry.metrics.peer_asked(method, part.label());
        }
        parts.push(here);
        sum(parts, user.as_str())
    }

    /// A room with a page of its users, and the token of the next page.
    async fn room_info(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<(RoomInfo, String), Status> {
        self.registry.complete().await?;
        let stored = self.registry.rooms.get(room, false, self.registry.now()).await;
        let page = self.registry.members(room, after, size).await?;
        let occupied = page.user_count > 0;
        let stored = match stored {
            Ok(stored) => stored,
            // Its members are known without the store.
            Err(_) if occupied => None,
            Err(error) => return Err(refused_by_store(error)),
        };
        if stored.is_none() && !occupied {
            return Err(refusal::room_unknown(room.as_str()));
        }
        let mut info = self.settings_of(room, stored.as_deref());
        let last = page.users.last().filter(|_| page.more);
        let next = last.map(|user| user.user_id.clone()).unwrap_or_default();
        (info.user_count, info.users) = (page.user_count, page.users);
        Ok((info, next))
    }

    fn settings_of(&self, room: &RoomId, stored: Option<&StoredRoom>) -> RoomInfo {
        let rooms = &self.registry.rooms;
        let max_users = stored.map_or(rooms.default_max_users(), |stored| rooms.max_users(stored));
        let name = stored.map(|stored| stored.name.clone()).filter(|name| !name.is_empty());
        RoomInfo {
            room_id: room.to_string(),
            users: Vec::new(),
            metadata: Some(RoomMetadata {
                name: name.unwrap_or_else(|| room.to_string()),
                description: stored.map(|stored| stored.description.clone()).unwrap_or_default(),
                max_users: i32::try_from(max_users).unwrap_or(i32::MAX),
            }),
            created_at: stored.map_or(0, |stored| stored.created_at),
            updated_at: stored.map_or(0, |stored| stored.updated_at),
            user_count: 0,
        }
    }
}

fn join_wish(request: &JoinRoomRequest) -> Result<JoinWish, Status> {
    check_user_name(&request.user_name).map_err(|error| invalid("user_name", error))?;
    let bytes: usize = request.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if request.metadata.len() > MAX_METADATA_ENTRIES || bytes > MAX_METADATA_BYTES {
        let what =
            format!("is too large: give at most {MAX_METADATA_ENTRIES} entries, {MAX_METADATA_BYTES} bytes");
        return Err(invalid("metadata", what));
    }
    let node = match request.node_id.as_str() {
        "" => None,
        id => Some(valid("node_id", NodeId::new(id))?),
    };
    Ok(JoinWish {
        user: valid("user_id", UserId::new(&request.user_id))?,
        room: valid("room_id", RoomId::new(&request.room_id))?,
        user_name: request.user_name.clone(),
        node,
        metadata: request.metadata.clone(),
    })
}

fn page_size(asked: u32, default: u32) -> Result<u32, Status> {
    match asked {
        0 => Ok(default),
        1..=MAX_PAGE => Ok(asked),
        _ => Err(invalid("page_size", format!("is {asked}: give 1 to {MAX_PAGE}, or 0 for {default}"))),
    }
}

fn text(field: &str, text: Option<String>, max: usize) -> Result<Option<String>, Status> {
    match text {
        Some(text) if text.len() > max => {
            Err(invalid(field, format!("is {} bytes long: give at most {max}", text.len())))
        }
        text => Ok(text),
    }
}

fn whole(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The time that other controllers have for their part: what they did is still to be told.
fn for_others(limit: Duration) -> Duration {
    limit - limit / 5
}

/// The time that a call has. Where the caller gave one it is cut short by a little, so that the answer is ours:
/// the transport would end the call as CANCELLED.
fn limit(metadata: &MetadataMap, ours: Duration) -> Duration {
    let callers = metadata.get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    callers.map_or(ours, |callers| ours.min(callers - (callers / 10).min(Duration::from_millis(5))))
}

/// Reads the value of `grpc-timeout`: up to eight digits and a unit.
fn timeout(value: &str) -> Option<Duration> {
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

async fn within<A>(limit: Duration, call: impl Future<Output = Result<A, Status>>) -> Result<A, Status> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(refusal::too_late(limit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_time_is_read() {
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
        for bad in ["", "m", "5", "5x", "123456789m", "-1S", "5秒"] {
            assert_eq!(timeout(bad), None, "{bad:?}");
        }
        let mut metadata = MetadataMap::new();
        assert_eq!(limit(&metadata, Duration::from_secs(5)), Duration::from_secs(5));
        metadata.insert("grpc-timeout", "100m".parse().unwrap());
        assert_eq!(limit(&metadata, Duration::from_secs(5)), Duration::from_millis(95));
        metadata.insert("grpc-timeout", "9S".parse().unwrap());
        assert_eq!(limit(&metadata, Duration::from_secs(5)), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_is_told_so() {
        let late = within(Duration::from_millis(1), std::future::pending::<Result<(), Status>>()).await;
        assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    }
}
