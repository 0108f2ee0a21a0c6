//! `ControllerService`: rooms, users and nodes, as callers ask for them.
//!
//! Owns: validation, pages, what messages look like. Must not: keep or decide anything.
//! Talks to: `registry` and its `presence`, `rooms`.

use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use ringcast_proto::pubsub::controller_service_server::ControllerService;
use ringcast_proto::pubsub::{
    GetRoomInfoRequest, GetRoomInfoResponse, GetRoomStatsRequest, GetRoomStatsResponse, GetUserNodeRequest,
    GetUserNodeResponse, JoinRoomRequest, JoinRoomResponse, LeaveRoomRequest, LeaveRoomResponse,
    ListNodesRequest, ListNodesResponse, NodeInfo, RoomInfo, RoomMetadata, RoomStats,
    SelectConnectNodeRequest, SelectConnectNodeResponse, SetRoomRequest, SetRoomResponse, UserInfo,
    UserSession,
};
use ringcast_proto::{NodeId, RoomId, UserId, check_user_name};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::commands::{JoinWish, refused_by_store};
use crate::presence::{Member, Node, Presence, SessionRef};
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
        self.call("JoinRoom", request, async |request| {
            let wish = join_wish(request)?;
            let Some(sessions) = self.registry.join_room(&wish).await? else {
                let message = "room full".to_owned();
                return Ok(JoinRoomResponse { message, ..JoinRoomResponse::default() });
            };
            let (room_info, _) = self.room_info(&wish.room, None, MAX_PAGE).await?;
            let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
            Ok(JoinRoomResponse {
                success: true,
                message: String::new(),
                room_info: Some(room_info),
                sessions,
            })
        })
        .await
    }

    async fn leave_room(
        &self,
        request: Request<LeaveRoomRequest>,
    ) -> Result<Response<LeaveRoomResponse>, Status> {
        self.call("LeaveRoom", request, async |request| {
            let user = valid("user_id", UserId::new(&request.user_id))?;
            let room = valid("room_id", RoomId::new(&request.room_id))?;
            let sessions = self.registry.leave_room(&user, &room).await?;
            let success = sessions > 0;
            Ok(LeaveRoomResponse {
                success,
                message: if success { String::new() } else { "not in room".to_owned() },
                sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
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
            self.complete().await?;
            let sessions = self.registry.read(|state| user_sessions(&state.presence, &user));
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
            self.complete().await?;
            let page = self.registry.rooms.page(&request.page_token, size).await;
            let page = page.map_err(refused_by_store)?;
            let full = page.len() == size as usize;
            let next_page_token = page.last().filter(|_| full).map(|(id, _)| id.clone()).unwrap_or_default();
            Ok(self.registry.read(|state| {
                let users = |room: &str| state.presence.room_named(room).map_or(0, |room| room.members.len());
                let figures = state.presence.figures();
                let stored = usize::try_from(self.registry.rooms.count()).unwrap_or(usize::MAX);
                let rooms = page.into_iter().map(|(room_id, created_at)| {
                    let user_count = whole(users(&room_id));
                    RoomStats { room_id, user_count, created_at }
                });
                GetRoomStatsResponse {
                    total_rooms: whole(stored.max(figures.rooms)),
                    total_users: whole(figures.users),
                    rooms: rooms.collect(),
                    next_page_token,
                    total_sessions: figures.sessions as u64,
                }
            }))
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
            room_info.user_count = self.registry.read(|state| user_count(&state.presence, &room));
            Ok(SetRoomResponse { room_info: Some(room_info) })
        })
        .await
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        self.call("ListNodes", request, async |_| {
            let nodes = self.registry.read(|state| state.presence.nodes().map(node_info).collect());
            let mut nodes: Vec<NodeInfo> = nodes;
            nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
            Ok(ListNodesResponse { nodes })
        })
        .await
    }

    async fn select_connect_node(
        &self,
        request: Request<SelectConnectNodeRequest>,
    ) -> Result<Response<SelectConnectNodeResponse>, Status> {
        self.call("SelectConnectNode", request, async |_| {
            let node = self.registry.turn(|state, _| state.presence.select().map(node_info));
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
        let limit = limit(request.metadata(), self.registry.timing.call);
        let served = within(limit, serve(request.into_inner())).await;
        let code = served.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.registry.metrics.handled(method, code);
        served.map(Response::new)
    }

    /// What is read of presence is complete.
    async fn complete(&self) -> Result<(), Status> {
        if self.registry.recovered().await { Ok(()) } else { Err(refusal::recovering()) }
    }

    /// A room with a page of its users, and the token of the next page.
    async fn room_info(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<(RoomInfo, String), Status> {
        self.complete().await?;
        let stored = self.registry.rooms.get(room, false, self.registry.now()).await;
        let occupied = self.registry.read(|state| state.presence.room(room).is_some());
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
        let mut next = String::new();
        self.registry.read(|state| {
            let presence = &state.presence;
            let Some(members) = presence.room(room).map(|room| &room.members) else { return };
            info.user_count = user_count_of(members.len());
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut users = members.range::<UserId, _>((from, Bound::Unbounded));
            let page = users.by_ref().take(size as usize);
            info.users.extend(page.map(|(id, user)| user_info(presence, room, id, user)));
            if users.next().is_some() {
                next = info.users.last().map(|user| user.user_id.clone()).unwrap_or_default();
            }
        });
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

fn join_wish(request: JoinRoomRequest) -> Result<JoinWish, Status> {
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
        user_name: request.user_name,
        node,
        metadata: request.metadata,
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

fn whole(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn user_count_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn user_count(presence: &Presence, room: &RoomId) -> u32 {
    user_count_of(presence.room(room).map_or(0, |room| room.members.len()))
}

fn user_info(presence: &Presence, room: &RoomId, id: &UserId, member: &Member) -> UserInfo {
    let newest = presence.sessions_in(room, id).next();
    let session = newest.and_then(|at| presence.session(at));
    let node = newest.and_then(|at| presence.node(at.node));
    UserInfo {
        user_id: id.to_string(),
        user_name: session.map(|session| session.user_name().to_owned()).unwrap_or_default(),
        node_id: node.map(|node| node.card.id.to_string()).unwrap_or_default(),
        metadata: session.map(|session| session.metadata()).unwrap_or_default(),
        joined_at: member.joined_at(),
        sessions: member.sessions,
    }
}

fn user_sessions(presence: &Presence, user: &UserId) -> Vec<UserSession> {
    let session = |at: SessionRef| {
        let (node, session) = (presence.node(at.node)?, presence.session(at)?);
        Some(UserSession {
            node_id: node.card.id.to_string(),
            node_address: node.card.grpc_address.clone(),
            session_id: at.session.as_u64(),
            room_ids: presence.rooms_in(session).map(ToString::to_string).collect(),
            connected_at: session.connected_at,
        })
    };
    presence.sessions_of(user).filter_map(session).collect()
}

fn node_info(node: &Node) -> NodeInfo {
    let card = &node.card;
    NodeInfo {
        node_id: card.id.to_string(),
        incarnation: card.incarnation,
        grpc_address: card.grpc_address.clone(),
        public_ws_url: card.public_ws_url.clone(),
        connections: node.connections,
        capacity: card.capacity,
        state: node.state().into(),
        version: card.version.clone(),
        driver: card.driver.clone(),
    }
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
