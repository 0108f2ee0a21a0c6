//! The indexes by room and by user: who is in, oldest first, and how many sessions on which node.
//!
//! Owns: their order and counts. Must not: know nodes or sessions beyond their keys.

use std::collections::BTreeMap;

use ringcast_proto::{SessionId, UserId};

/// A node in one of its incarnations; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeKey(pub(super) u32);

/// A session, ordered by its age: oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionRef {
    connected_at: i64,
    sequence: u64,
    pub(crate) node: NodeKey,
    pub(crate) session: SessionId,
}

impl SessionRef {
    pub(super) fn new(connected_at: i64, sequence: u64, node: NodeKey, session: SessionId) -> Self {
        Self { connected_at, sequence, node, session }
    }
}

/// How many sessions are on which node. Few nodes hold a room or a user, so a list does.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct NodeCounts(Vec<(NodeKey, u32)>);

impl NodeCounts {
    pub(super) fn add(&mut self, node: NodeKey) {
        match self.0.iter_mut().find(|(key, _)| *key == node) {
            Some((_, count)) => *count += 1,
            None => {
                self.0.reserve_exact(1);
                self.0.push((node, 1));
            }
        }
    }

    pub(super) fn remove(&mut self, node: NodeKey) {
        let Some(place) = self.0.iter().position(|(key, _)| *key == node) else { return };
        self.0[place].1 -= 1;
        if self.0[place].1 == 0 {
            self.0.swap_remove(place);
        }
    }

    pub(super) fn get(&self, node: NodeKey) -> u32 {
        self.0.iter().find(|(key, _)| *key == node).map_or(0, |(_, count)| *count)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeKey, u32)> {
        self.0.iter().copied()
    }
}

/// A user who holds at least one connection.
#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) sessions: Vec<SessionRef>,
    pub(super) on_nodes: NodeCounts,
}

/// A room that has at least one member.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Its users by id; each takes one seat.
    pub(crate) members: BTreeMap<UserId, Member>,
    pub(super) on_nodes: NodeCounts,
}

/// A user in a room.
#[derive(Debug)]
pub(crate) struct Member {
    /// When his first live session joined, in seconds since the Unix epoch.
    pub(crate) joined_at: i64,
    /// His sessions in the room, oldest first.
    pub(crate) sessions: Vec<SessionRef>,
}

impl Room {
    pub(super) fn add(&mut self, user: UserId, at: SessionRef, unix_s: i64) {
        let member =
            self.members.entry(user).or_insert_with(|| Member { joined_at: unix_s, sessions: Vec::new() });
        insert_sorted(&mut member.sessions, at);
        self.on_nodes.add(at.node);
    }

    pub(super) fn remove(&mut self, user: &UserId, at: SessionRef) {
        let Some(member) = self.members.get_mut(user) else { return };
        if remove_sorted(&mut member.sessions, at) {
            self.on_nodes.remove(at.node);
        }
        if member.sessions.is_empty() {
            self.members.remove(user);
        }
    }
}

/// Puts a session at its place; nearly always that is the end.
pub(super) fn insert_sorted(sessions: &mut Vec<SessionRef>, at: SessionRef) {
    if let Err(place) = sessions.binary_search(&at) {
        if sessions.is_empty() {
            sessions.reserve_exact(1);
        }
        sessions.insert(place, at);
    }
}

/// Takes a session away. Returns whether it was there.
pub(super) fn remove_sorted(sessions: &mut Vec<SessionRef>, at: SessionRef) -> bool {
    let place = sessions.binary_search(&at);
    if let Ok(place) = place {
        sessions.remove(place);
    }
    place.is_ok()
}
