//! Sessions that come and go, and the rooms that they enter and leave.
//!
//! Owns: that the records of sessions, users and rooms name one another, and what each step changes of the routes.
//! Must not: decide who gets a seat beyond asking for it. Talks to: `changes`, which is told every change.

use std::collections::HashMap;

use ringcast_proto::{RoomId, SessionId, UserId};

use super::index::{Few, NodeCounts, NodeKey, Room, RoomKey, Session, SessionKey, SessionRef, User, UserKey};
use super::slab::Slab;
use super::{Arrival, Now, Presence};

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
    pub(crate) fn add_room(&mut self, node: NodeKey, id: SessionId, room: &RoomId, now: Now) -> bool {
        self.find(node, id).is_some_and(|key| self.enter(key, room, now))
    }

    /// Takes a room from a live session. Returns whether that changed anything.
    pub(crate) fn remove_room(&mut self, node: NodeKey, id: SessionId, room: &RoomId) -> bool {
        self.find(node, id).is_some_and(|key| self.exit(key, room))
    }

    /// Gives a session another name and metadata, where they are not empty.
    pub(crate) fn rename(&mut self, at: SessionRef, user_name: &str, metadata: &HashMap<String, String>) {
        if let Some(key) = self.find(at.node, at.session)
            && let Some(session) = self.sessions.get_mut(key.0)
        {
            session.describe(user_name, metadata.clone());
        }
    }

    pub(super) fn enter(&mut self, key: SessionKey, room: &RoomId, now: Now) -> bool {
        let Some(session) = self.sessions.get_mut(key.0) else { return false };
        let room = RoomKey(self.rooms.find_or_make(room.as_str(), || Room::new(room.clone())));
        if session.rooms.as_slice().contains(&room) {
            return false;
        }
        session.rooms.insert(session.rooms.as_slice().len(), room);
        let (Some(user), Some(entered)) = (self.users.get(session.user.0), self.rooms.get_mut(room.0)) else {
            return false;
        };
        self.figures.rooms += usize::from(entered.members.is_empty());
        entered.add(user.id.clone(), session.node, now.unix_s);
        self.changes.room(room, session.node);
        true
    }

    pub(super) fn exit(&mut self, key: SessionKey, room: &RoomId) -> bool {
        let Some(room) = self.rooms.find(room.as_str()).map(RoomKey) else { return false };
        let Some(session) = self.sessions.get_mut(key.0) else { return false };
        let Some(place) = session.rooms.as_slice().iter().position(|held| *held == room) else {
            return false;
        };
        session.rooms.remove(place);
        let (user, node) = (session.user, session.node);
        self.leave(room, user, node);
        true
    }

    fn leave(&mut self, key: RoomKey, user: UserKey, node: NodeKey) {
        let (Some(room), Some(user)) = (self.rooms.get_mut(key.0), self.users.get(user.0)) else { return };
        room.remove(&user.id, node);
        if room.members.is_empty() {
            self.figures.rooms -= 1;
            self.emptied.push(room.id.clone());
            self.changes.empty_rooms.push(key);
        }
        if self.nodes.contains_key(&node) {
            self.changes.room(key, node);
        }
    }
}

/// Sessions of nodes.
impl Presence {
    pub(super) fn attach(&mut self, node: NodeKey, arrival: Arrival) -> SessionKey {
        let Arrival { session: id, user, user_name, metadata, connected_at } = arrival;
        let make = || User { id: user.clone(), sessions: Few::None, on_nodes: NodeCounts::default() };
        let user_key = UserKey(self.users.find_or_make(user.as_str(), make));
        let mut session = Session {
            id,
            node,
            user: user_key,
            rooms: Few::None,
            connected_at,
            sequence: self.next_sequence,
            details: None,
        };
        session.describe(&user_name, metadata);
        self.next_sequence += 1;
        let key = SessionKey(self.sessions.add(session));
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        let hash_of = |place: &u32| sessions.get(*place).map_or(0, |session| hasher.hash_one(session.id));
        let owner = self.nodes.get_mut(&node).expect("the caller holds its link");
        owner.sessions.insert_unique(hasher.hash_one(id), key.0, hash_of);
        let user = self.users.get_mut(user_key.0).expect("it was found or made");
        self.figures.users += usize::from(user.sessions.is_empty());
        let place = place_by_age(sessions, user.sessions.as_slice(), key);
        user.sessions.insert(place, key);
        user.on_nodes.add(node);
        self.figures.sessions += 1;
        self.changes.user(user_key, node);
        key
    }

    pub(super) fn end_session(&mut self, node: NodeKey, key: SessionKey) {
        let hash = self.sessions.get(key.0).map_or(0, |session| self.hasher.hash_one(session.id));
        if let Some(node) = self.nodes.get_mut(&node)
            && let Ok(entry) = node.sessions.find_entry(hash, |other| *other == key.0)
        {
            entry.remove();
            self.detach(key);
        }
    }

    /// Takes a session, already out of its node's table, out of its rooms and from its user.
    pub(super) fn detach(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(key.0) else { return };
        let (user_key, node) = (session.user, session.node);
        for room in session.rooms.clone().as_slice() {
            self.leave(*room, user_key, node);
        }
        let user = self.users.get_mut(user_key.0).expect("a session's user is known");
        user.sessions.remove(place_by_age(&self.sessions, user.sessions.as_slice(), key));
        user.on_nodes.remove(node);
        if user.sessions.is_empty() {
            self.figures.users -= 1;
            self.changes.empty_users.push(user_key);
        }
        self.sessions.remove(key.0);
        self.figures.sessions -= 1;
        if self.nodes.contains_key(&node) {
            self.changes.user(user_key, node);
        }
    }
}

/// The place of a session among others, oldest first; a new one's is nearly always the end.
fn place_by_age(sessions: &Slab<Session>, among: &[SessionKey], key: SessionKey) -> usize {
    let age = |key: &SessionKey| sessions.get(key.0).map(Session::age);
    let own = age(&key);
    among.partition_point(|other| age(other) < own)
}
