//! What there is once a session, a user, a room: small records that name one another by their places.
//!
//! Owns: their shape, their order and counts. Must not: know nodes beyond their keys.

use std::collections::{BTreeMap, HashMap};

use ringcast_proto::{RoomId, SessionId, UserId};

use super::slab::Name;

/// A node in one of its incarnations; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeKey(pub(super) u32);

/// A user's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UserKey(pub(super) u32);

/// A room's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoomKey(pub(super) u32);

/// A session's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey(pub(super) u32);

/// A session as others name it, ordered by its age: oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionRef {
    pub(super) connected_at: i64,
    pub(super) sequence: u64,
    pub(crate) node: NodeKey,
    pub(crate) session: SessionId,
}

/// Nothing, one, or several, in their order. One, the usual case, stands here without an allocation.
// Boxed: a vector would make every record larger.
#[allow(clippy::box_collection)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(Box<Vec<T>>),
}

impl<T: Copy> Few<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::None => &mut [],
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Puts a value at its place, which is at most the length.
    pub(super) fn insert(&mut self, place: usize, value: T) {
        match self {
            Self::None => *self = Self::One(value),
            Self::One(one) => {
                let mut many = vec![*one];
                many.insert(place, value);
                *self = Self::Many(Box::new(many));
            }
            Self::Many(many) => many.insert(place, value),
        }
    }

    /// Takes the value at a place away.
    pub(super) fn remove(&mut self, place: usize) {
        match self {
            Self::None => {}
            Self::One(_) => *self = Self::None,
            Self::Many(many) => {
                many.remove(place);
                if let [last] = many[..] {
                    *self = Self::One(last);
                }
            }
        }
    }
}

/// How many sessions are on which node. Few nodes hold a room or a user, so a list does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodeCounts(Few<(NodeKey, u32)>);

impl NodeCounts {
    pub(super) fn add(&mut self, node: NodeKey) {
        match self.0.as_mut_slice().iter_mut().find(|(key, _)| *key == node) {
            Some((_, count)) => *count += 1,
            None => self.0.insert(self.0.as_slice().len(), (node, 1)),
        }
    }

    pub(super) fn remove(&mut self, node: NodeKey) {
        let counts = self.0.as_mut_slice();
        let Some(place) = counts.iter().position(|(key, _)| *key == node) else { return };
        counts[place].1 -= 1;
        if counts[place].1 == 0 {
            self.0.remove(place);
        }
    }

    pub(super) fn get(&self, node: NodeKey) -> u32 {
        self.0.as_slice().iter().find(|(key, _)| *key == node).map_or(0, |(_, count)| *count)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeKey, u32)> {
        self.0.as_slice().iter().copied()
    }
}

/// A live session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) id: SessionId,
    pub(super) node: NodeKey,
    pub(super) user: UserKey,
    pub(super) rooms: Few<RoomKey>,
    pub(crate) connected_at: i64,
    pub(super) sequence: u64,
    pub(super) details: Option<Box<Details>>,
}

/// What a session brought along for others to read; most bring little or nothing.
// Boxed: a map would make it three times as large for all who bring a name only.
#[allow(clippy::box_collection)]
#[derive(Debug, Default)]
pub(super) struct Details {
    user_name: Box<str>,
    metadata: Option<Box<HashMap<String, String>>>,
}

// Of the bound of 300 bytes a session these are what can be seen in types.
const _: () = assert!(size_of::<Option<Session>>() <= 56 && size_of::<Option<User>>() <= 48);
const _: () = assert!(size_of::<Details>() <= 24 && size_of::<(UserId, Member)>() <= 24);

impl Session {
    /// As others name it.
    pub(super) fn reference(&self) -> SessionRef {
        SessionRef {
            connected_at: self.connected_at,
            sequence: self.sequence,
            node: self.node,
            session: self.id,
        }
    }

    pub(super) fn age(&self) -> (i64, u64) {
        (self.connected_at, self.sequence)
    }

    /// Its user's name.
    pub(crate) fn user_name(&self) -> &str {
        self.details.as_ref().map_or("", |details| &details.user_name)
    }

    /// What it gave beside its name.
    pub(crate) fn metadata(&self) -> HashMap<String, String> {
        let metadata = self.details.as_ref().and_then(|details| details.metadata.as_deref());
        metadata.cloned().unwrap_or_default()
    }

    /// Gives it another name and metadata, where they are not empty.
    pub(super) fn describe(&mut self, user_name: &str, metadata: HashMap<String, String>) {
        if user_name.is_empty() && metadata.is_empty() {
            return;
        }
        let details = self.details.get_or_insert_default();
        if !user_name.is_empty() {
            details.user_name = Box::from(user_name);
        }
        if !metadata.is_empty() {
            details.metadata = Some(Box::new(metadata));
        }
    }
}

/// A user who holds a connection; without one he stays until his last change has been told.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: UserId,
    /// Oldest first.
    pub(super) sessions: Few<SessionKey>,
    pub(super) on_nodes: NodeCounts,
}

impl Name for User {
    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// A room; without a member it stays until its last change has been told.
#[derive(Debug)]
pub(crate) struct Room {
    pub(super) id: RoomId,
    /// Its users by id; each takes one seat.
    pub(crate) members: BTreeMap<UserId, Member>,
    pub(super) on_nodes: NodeCounts,
}

impl Name for Room {
    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// A user in a room.
#[derive(Debug)]
pub(crate) struct Member {
    /// When his first live session joined, in seconds since the Unix epoch; 32 bits, for there are many.
    joined_at: u32,
    /// How many of his sessions are in the room.
    pub(crate) sessions: u32,
}

impl Member {
    /// When his first live session joined, in seconds since the Unix epoch.
    pub(crate) fn joined_at(&self) -> i64 {
        i64::from(self.joined_at)
    }
}

impl Room {
    pub(super) fn new(id: RoomId) -> Self {
        Self { id, members: BTreeMap::new(), on_nodes: NodeCounts::default() }
    }

    /// A session that was not in the room comes in.
    pub(super) fn add(&mut self, user: UserId, node: NodeKey, unix_s: i64) {
        let joined_at = u32::try_from(unix_s.max(0)).unwrap_or(u32::MAX);
        self.members.entry(user).or_insert(Member { joined_at, sessions: 0 }).sessions += 1;
        self.on_nodes.add(node);
    }

    /// A session that was in the room goes.
    pub(super) fn remove(&mut self, user: &UserId, node: NodeKey) {
        let Some(member) = self.members.get_mut(user) else { return };
        member.sessions -= 1;
        if member.sessions == 0 {
            self.members.remove(user);
        }
        self.on_nodes.remove(node);
    }
}
