//! Who is where: nodes, their sessions, the rooms and users that these make up, and the seats that users take.
//!
//! Owns: the decision whether a join gets a seat, made and carried out in one call; which routes a call changed.
//! Must not: know a socket, a store, a runtime or a clock; the time is passed in.
//! Talks to: `registry`, which calls it under its lock and sends the changes down the feed.
//!
//! A node is held under a [`NodeKey`] that is new for every incarnation, and every word of a node comes with the
//! [`LinkRef`] on which it arrived, so that a late word of a former incarnation, or of a link that was replaced,
//! finds nothing to change.

mod changes;
mod index;
mod membership;
#[cfg(test)]
mod model;
mod records;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use ahash::{AHashMap, RandomState};
use hashbrown::HashTable;
use ringcast_proto::pubsub::{NodeRoute, NodeState};
use ringcast_proto::{NodeId, RoomId, SessionId, UserId};

use index::User;
pub(crate) use index::{Member, NodeKey, Room, Session, SessionKey, SessionRef};
use slab::{Named, Slab};

use changes::Changes;

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
    /// The number of its latest link.
    link: u64,
    /// The stream of that link, while it is there.
    stream: Option<u64>,
    /// It has registered over a later link, whose snapshot is not whole yet.
    partial: bool,
    lost_at_ms: u64,
    /// Its sessions by their ids.
    sessions: HashTable<u32>,
    /// The sessions that the snapshot under way has named, a bit for each place.
    seen: Option<Seen>,
}

/// A set of places.
#[derive(Debug, Default)]
struct Seen(Vec<u64>);

impl Seen {
    fn insert(&mut self, place: u32) {
        let word = place as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place % 64);
    }

    fn contains(&self, place: u32) -> bool {
        self.0.get(place as usize / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }
}

impl Node {
    /// What it does with new clients.
    pub(crate) fn state(&self) -> NodeState {
        match (self.stream, self.draining) {
            (None, _) => NodeState::Lost,
            (_, true) => NodeState::Draining,
            _ => NodeState::Ready,
        }
    }

    /// The number of its latest link.
    pub(crate) fn link(&self) -> u64 {
        self.link
    }

    /// How many sessions are known of it.
    pub(crate) fn session_count(&self) -> u64 {
        self.sessions.len() as u64
    }

    /// Since when its link is lost, in monotonic milliseconds.
    pub(crate) fn lost_since(&self) -> Option<u64> {
        self.stream.is_none().then_some(self.lost_at_ms)
    }

    /// It is being stopped.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    fn route(&self) -> NodeRoute {
        let unlinked = self.stream.is_none();
        NodeRoute { link: self.link, partial: self.partial, unlinked, ..route_of(&self.card) }
    }
}

/// A session as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) session: SessionId,
    pub(crate) user: UserId,
    pub(crate) user_name: String,
    pub(crate) metadata: HashMap<String, String>,
    /// In seconds since the Unix epoch.
    pub(crate) connected_at: i64,
}

/// Why a node is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterRefusal {
    /// Another incarnation of it holds a live link.
    Live,
    /// A later incarnation is known, and its lease has not passed.
    Former,
    /// A later link of the same incarnation is known.
    Late,
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
    sessions: Slab<Session>,
    users: Named<User>,
    rooms: Named<Room>,
    hasher: RandomState,
    figures: Figures,
    next_key: u32,
    next_sequence: u64,
    changes: Changes,
    emptied: Vec<RoomId>,
}

/// Nodes and their links.
impl Presence {
    /// The former incarnation that a node of this card takes the place of: it is lost, and older.
    pub(crate) fn superseded_by(&self, card: &NodeCard) -> Option<NodeKey> {
        let key = *self.by_id.get(&card.id)?;
        let node = &self.nodes[&key];
        (node.stream.is_none() && node.card.incarnation < card.incarnation).then_some(key)
    }

    /// Whether a node may register, a former incarnation that is lost aside.
    pub(crate) fn may_register(&self, card: &NodeCard, link: u64) -> Result<(), RegisterRefusal> {
        let Some(node) = self.by_id.get(&card.id).and_then(|key| self.nodes.get(key)) else { return Ok(()) };
        match node.card.incarnation {
            known if known == card.incarnation && link < node.link => Err(RegisterRefusal::Late),
            known if known == card.incarnation => Ok(()),
            _ if node.stream.is_some() => Err(RegisterRefusal::Live),
            known if known > card.incarnation => Err(RegisterRefusal::Former),
            _ => Ok(()),
        }
    }

    /// Registers a node, or gives a known one its new link; its snapshot is to follow. The caller has asked
    /// [`may_register`](Self::may_register), and removed what [`superseded_by`](Self::superseded_by) named.
    pub(crate) fn register(&mut self, card: NodeCard, link: u64, generation: u64) -> LinkRef {
        if let Some(&key) = self.by_id.get(&card.id) {
            let node = self.nodes.get_mut(&key).expect("every id leads to a node");
            let changed = node.card.grpc_address != card.grpc_address || node.stream.is_none();
            node.card = card;
            node.stream = Some(generation);
            node.seen = Some(Seen::default());
            if link != node.link || changed {
                node.partial |= link != node.link;
                node.link = link;
                self.changes.nodes.push(node.route());
            }
            return LinkRef { node: key, generation };
        }
        let key = NodeKey(self.next_key);
        self.next_key += 1;
        self.by_id.insert(card.id.clone(), key);
        let node = Node {
            card,
            connections: 0,
            selected: 0,
            draining: false,
            link,
            stream: Some(generation),
            partial: true,
            lost_at_ms: 0,
            sessions: HashTable::new(),
            seen: Some(Seen::default()),
        };
        self.changes.nodes.push(node.route());
        self.nodes.insert(key, node);
        LinkRef { node: key, generation }
    }

    /// Whether this is still the node's link.
    pub(crate) fn is_current(&self, at: LinkRef) -> bool {
        self.nodes.get(&at.node).is_some_and(|node| node.stream == Some(at.generation))
    }

    fn linked(&mut self, at: LinkRef) -> Option<&mut Node> {
        self.nodes.get_mut(&at.node).filter(|node| node.stream == Some(at.generation))
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
            node.stream = None;
            node.seen = None;
            node.lost_at_ms = now.ms;
            let route = node.route();
            self.changes.nodes.push(route);
        }
    }

    /// The nodes whose link is lost and that are gone by this rule; the caller removes them.
    pub(crate) fn lost(&self, gone: impl Fn(&NodeCard, u64) -> bool) -> Vec<NodeKey> {
        let gone = |node: &Node| node.lost_since().is_some_and(|since_ms| gone(&node.card, since_ms));
        self.nodes.iter().filter(|(_, node)| gone(node)).map(|(key, _)| *key).collect()
    }

    /// Removes a node; its members leave, or, where it has `moved`, are another controller's to tell of.
    pub(crate) fn remove_node(&mut self, key: NodeKey, moved: bool) -> Option<NodeCard> {
        let node = self.nodes.remove(&key)?;
        self.by_id.remove(&node.card.id);
        self.changes.gone(NodeRoute { link: node.link, gone: true, moved, ..route_of(&node.card) });
        for place in node.sessions {
            self.detach(SessionKey(place));
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
            if self.linked(at).is_none_or(|node| node.seen.is_none()) {
                return false;
            }
            let key = self.take_in(at.node, arrival, &rooms);
            if let Some(seen) = self.linked(at).and_then(|node| node.seen.as_mut()) {
                seen.insert(key.0);
            }
            for room in &rooms {
                self.enter(key, room, now);
            }
        }
        let Some(node) = self.linked(at) else { return false };
        if !last || node.seen.is_none() {
            return false;
        }
        let seen = node.seen.take().unwrap_or_default();
        if std::mem::take(&mut node.partial) {
            let whole = node.route();
            self.changes.whole.push(whole);
        }
        let Some(node) = self.linked(at) else { return false };
        let left: Vec<u32> = node.sessions.iter().copied().filter(|place| !seen.contains(*place)).collect();
        for place in left {
            self.end_session(at.node, SessionKey(place));
        }
        true
    }

    /// The session of an arrival, without the rooms that it holds and that are not named.
    fn take_in(&mut self, node: NodeKey, arrival: Arrival, rooms: &[RoomId]) -> SessionKey {
        let Some(key) = self.find(node, arrival.session) else { return self.attach(node, arrival) };
        if !self.is_of(key, &arrival.user) {
            self.end_session(node, key);
            return self.attach(node, arrival);
        }
        let left: Vec<RoomId> = self.rooms_of(key).filter(|room| !rooms.contains(*room)).cloned().collect();
        for room in left {
            self.exit(key, &room);
        }
        key
    }

    /// Whether the link's snapshot is complete, so that events may follow.
    pub(crate) fn has_snapshot(&self, at: LinkRef) -> bool {
        self.is_current(at) && self.nodes[&at.node].seen.is_none()
    }

    /// Whether a user would get a seat: the room has one left, or he is in it already.
    pub(crate) fn has_seat(&self, room: &RoomId, user: &UserId, max_users: u32) -> bool {
        let Some(room) = self.room(room) else { return true };
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
        let known = self.find(at.node, arrival.session);
        if known.is_some_and(|key| !self.is_of(key, &arrival.user)) {
            return Seat::Conflict;
        }
        if !self.has_seat(room, &arrival.user, max_users) {
            return Seat::Full;
        }
        let key = known.unwrap_or_else(|| self.attach(at.node, arrival));
        self.enter(key, room, now);
        Seat::Taken
    }

    /// A session has ended.
    pub(crate) fn end(&mut self, at: LinkRef, id: SessionId) {
        if self.is_current(at)
            && let Some(key) = self.find(at.node, id)
        {
            self.end_session(at.node, key);
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
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeKey, &Node)> {
        self.nodes.iter().map(|(key, node)| (*key, node))
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
        self.room_named(id.as_str())
    }

    /// The same by the text of its id.
    pub(crate) fn room_named(&self, id: &str) -> Option<&Room> {
        self.rooms.get(self.rooms.find(id)?).filter(|room| !room.members.is_empty())
    }

    /// All rooms that have members.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = &RoomId> {
        self.rooms.iter().filter(|(_, room)| !room.members.is_empty()).map(|(_, room)| &room.id)
    }

    /// A user's live sessions, newest first.
    pub(crate) fn sessions_of(&self, user: &UserId) -> impl Iterator<Item = SessionRef> {
        let user = self.users.find(user.as_str()).and_then(|place| self.users.get(place));
        let sessions = user.map_or(&[][..], |user| user.sessions.as_slice());
        sessions.iter().rev().filter_map(|key| Some(self.sessions.get(key.0)?.reference()))
    }

    /// A user's live sessions in a room, newest first.
    pub(crate) fn sessions_in(&self, room: &RoomId, user: &UserId) -> impl Iterator<Item = SessionRef> {
        let room = self.rooms.find(room.as_str());
        self.sessions_of(user).filter(move |at| {
            let session = self.session(*at);
            session.is_some_and(|session| session.rooms.as_slice().iter().any(|key| Some(key.0) == room))
        })
    }

    /// A live session.
    pub(crate) fn session(&self, at: SessionRef) -> Option<&Session> {
        self.sessions.get(self.find(at.node, at.session)?.0)
    }

    /// The rooms that a session is in.
    pub(crate) fn rooms_in(&self, session: &Session) -> impl Iterator<Item = &RoomId> {
        session.rooms.as_slice().iter().filter_map(|key| Some(&self.rooms.get(key.0)?.id))
    }

    /// Counts.
    pub(crate) fn figures(&self) -> Figures {
        let count = |state| self.nodes.values().filter(|node| node.state() == state).count();
        Figures {
            ready: count(NodeState::Ready),
            draining: count(NodeState::Draining),
            lost: count(NodeState::Lost),
            ..self.figures
        }
    }

    /// The rooms whose last member has left since this was last asked; some may have members again.
    pub(crate) fn take_emptied(&mut self) -> Vec<RoomId> {
        std::mem::take(&mut self.emptied)
    }

    fn find(&self, node: NodeKey, id: SessionId) -> Option<SessionKey> {
        let sessions = &self.sessions;
        let same = |place: &u32| sessions.get(*place).is_some_and(|session| session.id == id);
        self.nodes.get(&node)?.sessions.find(self.hasher.hash_one(id), same).copied().map(SessionKey)
    }

    fn is_of(&self, key: SessionKey, user: &UserId) -> bool {
        let session = self.sessions.get(key.0);
        session.and_then(|session| self.users.get(session.user.0)).is_some_and(|of| of.id == *user)
    }

    fn rooms_of(&self, key: SessionKey) -> impl Iterator<Item = &RoomId> {
        self.sessions.get(key.0).into_iter().flat_map(|session| self.rooms_in(session))
    }
}

fn route_of(card: &NodeCard) -> NodeRoute {
    NodeRoute {
        node_id: card.id.to_string(),
        incarnation: card.incarnation,
        grpc_address: card.grpc_address.clone(),
        ..NodeRoute::default()
    }
}
