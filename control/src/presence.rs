//! Who is where: nodes, their sessions, the rooms and users that these make up, and the seats that users take.
//!
//! Owns: the decision whether a join gets a seat, made and carried out in one call; which routes a call changed.
//! Must not: know a socket, a store, a runtime or a clock; the time is passed in.
//! Talks to: `registry`, which calls it under its lock and sends the changes down the feed.
//!
//! A node is held under a [`NodeKey`] that is new for every incarnation, and every word of a node comes with the
//! [`LinkRef`] on which it arrived, so that a late word of a former incarnation, or of a link that was replaced,
//! finds nothing to change.

mod index;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use ahash::{AHashMap, AHashSet};
use ringcast_proto::pubsub::{NodeRoute, NodeState, RoomRoute, UserRoute};
use ringcast_proto::{NodeId, RoomId, SessionId, UserId};

pub(crate) use index::{Member, NodeKey, Room, SessionRef};
use index::{User, insert_sorted, remove_sorted};

use crate::routes::Routes;

/// The time, as the caller tells it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    /// Milliseconds of a monotonic clock.
    pub(crate) ms: u64,
    /// Seconds since the Unix epoch.
    pub(crate) unix_s: i64,
}

/// A node's link: which node, in which of its incarnations, over which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LinkRef {
    /// The node in its incarnation.
    pub(crate) node: NodeKey,
    /// The stream's number, unique in this controller.
    pub(crate) generation: u64,
}

/// What a node says of itself when it registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeCard {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) grpc_address: String,
    pub(crate) public_ws_url: String,
    pub(crate) capacity: u64,
    pub(crate) version: String,
    pub(crate) driver: String,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) card: NodeCard,
    /// As of its last heartbeat.
    pub(crate) connections: u64,
    /// Clients sent to it since its last heartbeat.
    pub(crate) selected: u64,
    draining: bool,
    link: Option<u64>,
    lost_at_ms: u64,
    sessions: AHashMap<SessionId, Session>,
    /// The sessions that the snapshot under way has named.
    seen: Option<AHashSet<SessionId>>,
}

impl Node {
    /// What it does with new clients.
    pub(crate) fn state(&self) -> NodeState {
        match (self.link, self.draining) {
            (None, _) => NodeState::Lost,
            (_, true) => NodeState::Draining,
            _ => NodeState::Ready,
        }
    }

    /// A session, where it is live.
    pub(crate) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }
}

/// A session as it is announced.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) user_name: String,
    pub(crate) metadata: HashMap<String, String>,
    /// In seconds since the Unix epoch.
    pub(crate) connected_at: i64,
}

/// A live session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) user: UserId,
    pub(crate) user_name: String,
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) rooms: Vec<RoomId>,
    pub(crate) connected_at: i64,
    sequence: u64,
}

/// Why a node is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterRefusal {
    /// Another incarnation of it holds a live link.
    Live,
    /// A later incarnation is known, and its lease has not passed.
    Former,
}

/// What became of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    /// The session is in the room.
    Taken,
    /// No seat is left.
    Full,
    /// The session's id belongs to another user's live session.
    Conflict,
    /// The link is not the node's link any more; nothing changed.
    Stale,
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) rooms: usize,
    pub(crate) users: usize,
    pub(crate) sessions: usize,
    pub(crate) ready: usize,
    pub(crate) draining: usize,
    pub(crate) lost: usize,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    nodes: AHashMap<NodeKey, Node>,
    by_id: AHashMap<NodeId, NodeKey>,
    rooms: AHashMap<RoomId, Room>,
    users: AHashMap<UserId, User>,
    sessions: usize,
    next_key: u32,
    next_sequence: u64,
    dirty_nodes: Vec<NodeRoute>,
    dirty_rooms: AHashSet<(RoomId, NodeKey)>,
    dirty_users: AHashSet<(UserId, NodeKey)>,
    emptied: Vec<RoomId>,
}

/// Nodes and their links.
impl Presence {
    /// The former incarnation that a node of this card takes the place of: it is lost, and older.
    pub(crate) fn superseded_by(&self, card: &NodeCard) -> Option<NodeKey> {
        let key = *self.by_id.get(&card.id)?;
        let node = &self.nodes[&key];
        (node.link.is_none() && node.card.incarnation < card.incarnation).then_some(key)
    }

    /// Registers a node, or gives a known one its new link; its snapshot is to follow. The caller has removed
    /// what [`superseded_by`](Self::superseded_by) named.
    pub(crate) fn register(&mut self, card: NodeCard, generation: u64) -> Result<LinkRef, RegisterRefusal> {
        if let Some(&key) = self.by_id.get(&card.id) {
            let node = self.nodes.get_mut(&key).expect("every id leads to a node");
            if node.card.incarnation != card.incarnation {
                let live = node.link.is_some();
                return Err(if live { RegisterRefusal::Live } else { RegisterRefusal::Former });
            }
            if node.card.grpc_address != card.grpc_address {
                self.dirty_nodes.push(route_of(&card, false));
            }
            node.card = card;
            node.link = Some(generation);
            node.seen = Some(AHashSet::new());
            return Ok(LinkRef { node: key, generation });
        }
        let key = NodeKey(self.next_key);
        self.next_key += 1;
        self.dirty_nodes.push(route_of(&card, false));
        self.by_id.insert(card.id.clone(), key);
        let node = Node {
            card,
            connections: 0,
            selected: 0,
            draining: false,
            link: Some(generation),
            lost_at_ms: 0,
            sessions: AHashMap::new(),
            seen: Some(AHashSet::new()),
        };
        self.nodes.insert(key, node);
        Ok(LinkRef { node: key, generation })
    }

    /// Whether this is still the node's link.
    pub(crate) fn is_current(&self, at: LinkRef) -> bool {
        self.nodes.get(&at.node).is_some_and(|node| node.link == Some(at.generation))
    }

    fn linked(&mut self, at: LinkRef) -> Option<&mut Node> {
        self.nodes.get_mut(&at.node).filter(|node| node.link == Some(at.generation))
    }

    /// Takes the node's word for its load.
    pub(crate) fn heartbeat(&mut self, at: LinkRef, connections: u64, draining: bool) {
        if let Some(node) = self.linked(at) {
            node.connections = connections;
            node.draining = draining;
            node.selected = 0;
        }
    }

    /// The link is gone; the node and its sessions stay until [`expire`](Self::expire).
    pub(crate) fn lose_link(&mut self, at: LinkRef, now: Now) {
        if let Some(node) = self.linked(at) {
            node.link = None;
            node.seen = None;
            node.lost_at_ms = now.ms;
        }
    }

    /// The nodes whose link has been lost for the lease's time; the caller removes them.
    pub(crate) fn expired(&self, now: Now, lease_ms: u64) -> Vec<NodeKey> {
        let expired = |node: &Node| node.link.is_none() && now.ms >= node.lost_at_ms + lease_ms;
        self.nodes.iter().filter(|(_, node)| expired(node)).map(|(key, _)| *key).collect()
    }

    /// Removes a node; its members leave.
    pub(crate) fn remove_node(&mut self, key: NodeKey) -> Option<NodeCard> {
        let node = self.nodes.remove(&key)?;
        self.by_id.remove(&node.card.id);
        self.dirty_nodes.push(route_of(&node.card, true));
        for (id, session) in node.sessions {
            self.detach(key, id, session);
        }
        Some(node.card)
    }
}

/// Sessions, as nodes tell of them.
impl Presence {
    /// Takes a part of a snapshot in: sessions that are new come to be, without a question of seats, since they
    /// are live; those that are known get the rooms that are named. The last part takes away what no part named.
    /// Returns whether the snapshot is now complete.
    pub(crate) fn snapshot_part(
        &mut self,
        at: LinkRef,
        sessions: Vec<(Arrival, Vec<RoomId>)>,
        last: bool,
        now: Now,
    ) -> bool {
        for (arrival, rooms) in sessions {
            let Some(node) = self.linked(at) else { return false };
            let Some(seen) = node.seen.as_mut() else { return false };
            seen.insert(arrival.session);
            let id = arrival.session;
            let known = node.sessions.get(&id).map(|session| (session.user.clone(), session.rooms.clone()));
            match known {
                Some((user, held)) if user == arrival.user => {
                    for room in held.iter().filter(|room| !rooms.contains(room)) {
                        self.remove_room(at.node, id, room);
                    }
                }
                Some(_) => {
                    self.end_session(at.node, id);
                    self.attach(at.node, arrival);
                }
                None => self.attach(at.node, arrival),
            }
            for room in &rooms {
                self.add_room(at.node, id, room, now);
            }
        }
        let Some(node) = self.linked(at) else { return false };
        if !last || node.seen.is_none() {
            return false;
        }
        let seen = node.seen.take().unwrap_or_default();
        let left: Vec<SessionId> = node.sessions.keys().filter(|id| !seen.contains(id)).copied().collect();
        for id in left {
            self.end_session(at.node, id);
        }
        true
    }

    /// Whether the link's snapshot is complete, so that events may follow.
    pub(crate) fn has_snapshot(&self, at: LinkRef) -> bool {
        self.is_current(at) && self.nodes[&at.node].seen.is_none()
    }

    /// Whether a user would get a seat: the room has one left, or he is in it already.
    pub(crate) fn has_seat(&self, room: &RoomId, user: &UserId, max_users: u32) -> bool {
        let Some(room) = self.rooms.get(room) else { return true };
        max_users == 0 || room.members.len() < max_users as usize || room.members.contains_key(user)
    }

    /// A new session joins its first room, if there is a seat.
    pub(crate) fn join(
        &mut self,
        at: LinkRef,
        arrival: Arrival,
        room: &RoomId,
        max_users: u32,
        now: Now,
    ) -> Seat {
        if !self.is_current(at) {
            return Seat::Stale;
        }
        let id = arrival.session;
        let known = self.nodes[&at.node].sessions.get(&id);
        if known.is_some_and(|session| session.user != arrival.user) {
            return Seat::Conflict;
        }
        let known = known.is_some();
        if !self.has_seat(room, &arrival.user, max_users) {
            return Seat::Full;
        }
        if !known {
            self.attach(at.node, arrival);
        }
        self.add_room(at.node, id, room, now);
        Seat::Taken
    }

    /// A session has ended.
    pub(crate) fn end(&mut self, at: LinkRef, id: SessionId) {
        if self.is_current(at) {
            self.end_session(at.node, id);
        }
    }

    fn end_session(&mut self, key: NodeKey, id: SessionId) {
        let Some(session) = self.nodes.get_mut(&key).and_then(|node| node.sessions.remove(&id)) else {
            return;
        };
        self.detach(key, id, session);
    }
}

/// Rooms of live sessions.
impl Presence {
    /// Takes one seat for the user of these sessions and adds the room to them all; `None` where the room is
    /// full. Returns the sessions that were not in the room before.
    pub(crate) fn take_seat(
        &mut self,
        user: &UserId,
        sessions: &[SessionRef],
        room: &RoomId,
        max_users: u32,
        now: Now,
    ) -> Option<Vec<SessionRef>> {
        if !self.has_seat(room, user, max_users) {
            return None;
        }
        let added = sessions.iter().filter(|at| self.add_room(at.node, at.session, room, now));
        Some(added.copied().collect())
    }

    /// Adds a room to a live session. Returns whether that changed anything.
    pub(crate) fn add_room(&mut self, key: NodeKey, id: SessionId, room: &RoomId, now: Now) -> bool {
        let Some(session) = self.nodes.get_mut(&key).and_then(|node| node.sessions.get_mut(&id)) else {
            return false;
        };
        if session.rooms.contains(room) {
            return false;
        }
        // One allocation of the id for all who hold it.
        let room = self.rooms.get_key_value(room).map_or(room, |(shared, _)| shared).clone();
        session.rooms.push(room.clone());
        let at = SessionRef::new(session.connected_at, session.sequence, key, id);
        let user = session.user.clone();
        self.rooms.entry(room.clone()).or_default().add(user, at, now.unix_s);
        self.dirty_rooms.insert((room, key));
        true
    }

    /// Takes a room from a live session. Returns whether that changed anything.
    pub(crate) fn remove_room(&mut self, key: NodeKey, id: SessionId, room: &RoomId) -> bool {
        let Some(session) = self.nodes.get_mut(&key).and_then(|node| node.sessions.get_mut(&id)) else {
            return false;
        };
        let Some(place) = session.rooms.iter().position(|held| held == room) else { return false };
        let room = session.rooms.swap_remove(place);
        let at = SessionRef::new(session.connected_at, session.sequence, key, id);
        let user = session.user.clone();
        self.leave(&room, &user, at);
        true
    }

    fn leave(&mut self, room: &RoomId, user: &UserId, at: SessionRef) {
        let Some(members) = self.rooms.get_mut(room) else { return };
        members.remove(user, at);
        if members.members.is_empty() {
            self.rooms.remove(room);
            self.emptied.push(room.clone());
        }
        if self.nodes.contains_key(&at.node) {
            self.dirty_rooms.insert((room.clone(), at.node));
        }
    }

    fn attach(&mut self, key: NodeKey, arrival: Arrival) {
        let Arrival { session: id, user, user_name, metadata, connected_at } = arrival;
        let user = self.users.get_key_value(&user).map_or(&user, |(shared, _)| shared).clone();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let at = SessionRef::new(connected_at, sequence, key, id);
        let entry = self.users.entry(user.clone()).or_default();
        insert_sorted(&mut entry.sessions, at);
        entry.on_nodes.add(key);
        self.dirty_users.insert((user.clone(), key));
        let session = Session { user, user_name, metadata, rooms: Vec::new(), connected_at, sequence };
        self.nodes.get_mut(&key).expect("the caller holds its link").sessions.insert(id, session);
        self.sessions += 1;
    }

    /// Takes a session, already out of its node's table, out of its rooms and from its user.
    fn detach(&mut self, key: NodeKey, id: SessionId, session: Session) {
        let at = SessionRef::new(session.connected_at, session.sequence, key, id);
        for room in &session.rooms {
            self.leave(room, &session.user, at);
        }
        let user = self.users.get_mut(&session.user).expect("a session's user is known");
        remove_sorted(&mut user.sessions, at);
        user.on_nodes.remove(key);
        if user.sessions.is_empty() {
            self.users.remove(&session.user);
        }
        self.sessions -= 1;
        if self.nodes.contains_key(&key) {
            self.dirty_users.insert((session.user, key));
        }
    }

    /// Gives a session another name and metadata, where they are not empty.
    pub(crate) fn rename(&mut self, at: SessionRef, user_name: &str, metadata: &HashMap<String, String>) {
        let session = self.nodes.get_mut(&at.node).and_then(|node| node.sessions.get_mut(&at.session));
        let Some(session) = session else { return };
        if !user_name.is_empty() {
            user_name.clone_into(&mut session.user_name);
        }
        if !metadata.is_empty() {
            session.metadata.clone_from(metadata);
        }
    }
}

/// What there is.
impl Presence {
    /// A node, by its id.
    pub(crate) fn node_by_id(&self, id: &NodeId) -> Option<NodeKey> {
        self.by_id.get(id).copied()
    }

    /// A node.
    pub(crate) fn node(&self, key: NodeKey) -> Option<&Node> {
        self.nodes.get(&key)
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The node that a new client should go to, counted as sent there: the least loaded that takes clients.
    pub(crate) fn select(&mut self) -> Option<&Node> {
        let load = |node: &Node| node.connections.max(node.sessions.len() as u64) + node.selected;
        let free = |node: &&mut Node| node.state() == NodeState::Ready && load(node) < node.card.capacity;
        let node = self.nodes.values_mut().filter(free).min_by(|a, b| {
            // a/b < c/d without dividing; ids make the choice the same for equal loads.
            let left = u128::from(load(a)) * u128::from(b.card.capacity);
            let right = u128::from(load(b)) * u128::from(a.card.capacity);
            left.cmp(&right).then_with(|| a.card.id.cmp(&b.card.id))
        })?;
        node.selected += 1;
        Some(node)
    }

    /// A room that has members.
    pub(crate) fn room(&self, id: &RoomId) -> Option<&Room> {
        self.rooms.get(id)
    }

    /// The same by the text of its id.
    pub(crate) fn room_named(&self, id: &str) -> Option<&Room> {
        self.rooms.get(id)
    }

    /// A user's live sessions, newest first.
    pub(crate) fn sessions_of(&self, user: &UserId) -> impl Iterator<Item = SessionRef> {
        self.users.get(user).into_iter().flat_map(|user| user.sessions.iter().rev().copied())
    }

    /// A live session.
    pub(crate) fn session(&self, at: SessionRef) -> Option<&Session> {
        self.nodes.get(&at.node)?.session(at.session)
    }

    /// Counts.
    pub(crate) fn figures(&self) -> Figures {
        let count = |state| self.nodes.values().filter(|node| node.state() == state).count();
        Figures {
            rooms: self.rooms.len(),
            users: self.users.len(),
            sessions: self.sessions,
            ready: count(NodeState::Ready),
            draining: count(NodeState::Draining),
            lost: count(NodeState::Lost),
        }
    }

    /// All routes, for a snapshot of the feed.
    pub(crate) fn routes(&self) -> Routes {
        let id = |key: NodeKey| self.nodes[&key].card.id.to_string();
        let rooms = self.rooms.iter().flat_map(|(room, state)| {
            state.on_nodes.iter().map(move |(key, sessions)| (room.to_string(), key, sessions))
        });
        let users = self.users.iter().flat_map(|(user, state)| {
            state.on_nodes.iter().map(move |(key, sessions)| (user.to_string(), key, sessions))
        });
        Routes {
            nodes: self.nodes.values().map(|node| route_of(&node.card, false)).collect(),
            rooms: rooms
                .map(|(room_id, key, sessions)| RoomRoute { room_id, node_id: id(key), sessions })
                .collect(),
            users: users
                .map(|(user_id, key, sessions)| UserRoute { user_id, node_id: id(key), sessions })
                .collect(),
        }
    }

    /// The routes that changed since this was last asked, as they are now. A node that is gone stands for all
    /// routes to it.
    pub(crate) fn take_changes(&mut self) -> Routes {
        let mut changes = Routes { nodes: std::mem::take(&mut self.dirty_nodes), ..Routes::default() };
        for (room, key) in self.dirty_rooms.drain() {
            let Some(node) = self.nodes.get(&key) else { continue };
            let sessions = self.rooms.get(&room).map_or(0, |room| room.on_nodes.get(key));
            let node_id = node.card.id.to_string();
            changes.rooms.push(RoomRoute { room_id: room.to_string(), node_id, sessions });
        }
        for (user, key) in self.dirty_users.drain() {
            let Some(node) = self.nodes.get(&key) else { continue };
            let sessions = self.users.get(&user).map_or(0, |user| user.on_nodes.get(key));
            let node_id = node.card.id.to_string();
            changes.users.push(UserRoute { user_id: user.to_string(), node_id, sessions });
        }
        changes
    }

    /// The rooms whose last member has left since this was last asked; some may have members again.
    pub(crate) fn take_emptied(&mut self) -> Vec<RoomId> {
        std::mem::take(&mut self.emptied)
    }
}

fn route_of(card: &NodeCard, gone: bool) -> NodeRoute {
    NodeRoute {
        node_id: card.id.to_string(),
        incarnation: card.incarnation,
        grpc_address: card.grpc_address.clone(),
        gone,
    }
}
