//! What callers read of presence: from the store where controllers share one, which knows the nodes of all of them,
//! else from memory.
//!
//! Owns: where an answer comes from, and what it looks like. Must not: answer in part: what the store does not tell
//! is not there to be told. Talks to: `registry`, `sharing`.

use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;

use ringcast_proto::pubsub::{NodeInfo, UserInfo, UserSession};
use ringcast_proto::{NodeId, RoomId, UserId};
use tonic::Status;

use crate::node_list::node_info;
use crate::presence::{Member, Presence, SessionRef};
use crate::presence_store::{MemberRecord, PresenceError, SessionRecord};
use crate::refusal;
use crate::registry::{Registry, State};
use crate::sharing::Sharing;

/// A page of a room's users.
#[derive(Debug, Default)]
pub(crate) struct MembersPage {
    /// In the order of their ids.
    pub(crate) users: Vec<UserInfo>,
    /// How many there are, whatever the page.
    pub(crate) user_count: u32,
    /// Some follow.
    pub(crate) more: bool,
}

impl Registry {
    /// What is read of presence is complete, or will be soon.
    pub(crate) async fn complete(&self) -> Result<(), Status> {
        // What controllers share was there before this one, and is there while it waits for its nodes.
        if self.sharing.is_some() || self.recovered().await { Ok(()) } else { Err(refusal::recovering()) }
    }

    /// A page of a room's users: those after `after`.
    pub(crate) async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<MembersPage, Status> {
        let Some(sharing) = &self.sharing else {
            return Ok(self.read(|state| members(&state.presence, room, after, size)));
        };
        // One more than is asked for tells whether some follow.
        let page = sharing.store.members(room, after, size.saturating_add(1));
        let (mut members, user_count) = shared(sharing, page).await?;
        let more = members.len() > size as usize;
        members.truncate(size as usize);
        Ok(MembersPage { users: members.into_iter().map(member_info).collect(), user_count, more })
    }

    /// A user's sessions, newest first.
    pub(crate) async fn user_sessions(&self, user: &UserId) -> Result<Vec<UserSession>, Status> {
        let Some(sharing) = &self.sharing else {
            return Ok(self.read(|state| user_sessions(&state.presence, user)));
        };
        let sessions = shared(sharing, sharing.store.sessions_of(user)).await?;
        let told = sharing.told();
        Ok(self.read(|state| {
            let address = |node: &NodeId| {
                let own = state.presence.node_by_id(node).and_then(|key| state.presence.node(key));
                let told = || told.records().iter().find(|record| record.card.id == *node);
                own.map(|node| &node.card).or_else(|| told().map(|record| &record.card))
            };
            let address = |node: &NodeId| address(node).map(|card| card.grpc_address.clone());
            sessions
                .into_iter()
                .map(|session| {
                    let node_address = address(&session.node).unwrap_or_default();
                    session_info(session, node_address)
                })
                .collect()
        }))
    }

    /// How many users are in each of these rooms.
    pub(crate) async fn user_counts(&self, rooms: &[RoomId]) -> Result<Vec<u32>, Status> {
        match &self.sharing {
            Some(sharing) => shared(sharing, sharing.store.counts(rooms)).await,
            None => {
                Ok(self.read(|state| rooms.iter().map(|room| user_count(&state.presence, room)).collect()))
            }
        }
    }

    /// How many users hold a connection, and how many connections they hold.
    pub(crate) async fn totals(&self) -> Result<(u64, u64), Status> {
        match &self.sharing {
            Some(sharing) => {
                let totals = shared(sharing, sharing.store.totals()).await?;
                Ok((totals.users, totals.sessions))
            }
            None => {
                let figures = self.read(|state| state.presence.figures());
                Ok((figures.users as u64, figures.sessions as u64))
            }
        }
    }

    /// All nodes, in the order of their ids.
    pub(crate) fn list_nodes(&self) -> Vec<NodeInfo> {
        if let Some(sharing) = &self.sharing {
            let (told, view) = (sharing.told(), self.membership.fresh_view());
            return self.read(|state| told.list(&state.presence, view.as_deref()));
        }
        let nodes = |state: &State| state.presence.nodes().map(|(_, node)| node_info(node)).collect();
        let mut nodes: Vec<NodeInfo> = self.read(nodes);
        nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        nodes
    }

    /// The node that a new client should go to.
    pub(crate) fn select_node(self: &Arc<Self>) -> Option<NodeInfo> {
        match &self.sharing {
            Some(sharing) => {
                let (mut told, view) = (sharing.told(), self.membership.fresh_view());
                self.read(|state| told.select(&state.presence, view.as_deref()))
            }
            None => self.turn(|state, _| state.presence.select().map(node_info)),
        }
    }
}

async fn shared<T>(
    sharing: &Sharing,
    call: impl Future<Output = Result<T, PresenceError>>,
) -> Result<T, Status> {
    sharing.ask(call).await.map_err(|error| {
        if let Some(left_out) = sharing.gate.open() {
            tracing::warn!(%error, left_out, "presence cannot be read");
        }
        refusal::presence_away()
    })
}

/// How many there are, as a page tells it.
fn whole(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn user_count(presence: &Presence, room: &RoomId) -> u32 {
    whole(presence.room(room).map_or(0, |room| room.members.len()))
}

fn members(presence: &Presence, room: &RoomId, after: Option<&UserId>, size: u32) -> MembersPage {
    let Some(members) = presence.room(room).map(|room| &room.members) else { return MembersPage::default() };
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut page = members.range::<UserId, _>((from, Bound::Unbounded));
    let users = page.by_ref().take(size as usize);
    let users = users.map(|(id, user)| user_info(presence, room, id, user)).collect();
    MembersPage { users, user_count: whole(members.len()), more: page.next().is_some() }
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

fn member_info(member: MemberRecord) -> UserInfo {
    UserInfo {
        user_id: member.user.to_string(),
        user_name: member.user_name,
        node_id: member.node.to_string(),
        metadata: member.metadata,
        joined_at: member.joined_at,
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

fn session_info(session: SessionRecord, node_address: String) -> UserSession {
    UserSession {
        node_id: session.node.to_string(),
        node_address,
        session_id: session.session.as_u64(),
        room_ids: session.rooms.iter().map(ToString::to_string).collect(),
        connected_at: session.connected_at,
    }
}
