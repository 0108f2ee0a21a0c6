//! Presence as controllers share it: what a store of it takes in and tells.
//!
//! Owns: the trait and what goes over it. A store is written by whoever has a node's link, in the order of that
//! node's words; a word of a former incarnation or of an earlier link is refused and changes nothing. Everything in
//! it can be made anew from the nodes' links, so a call that fails promises nothing: it may have been carried out, in
//! part or whole, or be so yet. The caller begins and syncs the node then, and what comes late changes nothing after.
//! Must not: decide who may join beside the question of seats.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::fmt::Debug;

use ringcast_proto::{NodeId, RoomId, SessionId, UserId};

use crate::presence::{Arrival, NodeCard};

/// A node in one of its incarnations, over one of its links.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct NodeAt {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) link: u64,
}

/// A node, as controllers tell one another of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRecord {
    /// What it says of itself.
    pub(crate) card: NodeCard,
    /// Its latest link.
    pub(crate) link: u64,
    /// The controller that has, or had, this link.
    pub(crate) controller: String,
    /// Its snapshot has been taken in over this link.
    pub(crate) whole: bool,
    /// The link is there.
    pub(crate) linked: bool,
    /// It is being stopped.
    pub(crate) draining: bool,
    /// How many connections it holds.
    pub(crate) connections: u64,
    /// How many sessions the controller knows of it.
    pub(crate) sessions: u64,
}

impl NodeRecord {
    /// The node at its latest link.
    pub(crate) fn at(&self) -> NodeAt {
        NodeAt { id: self.card.id.clone(), incarnation: self.card.incarnation, link: self.link }
    }
}

/// One change of a node's sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// A session, which may be new, joins a room.
    Enter {
        arrival: Arrival,
        room: RoomId,
        /// How many users the room takes, 0 = no limit; `None`: the session is live, and seats are no question.
        max_users: Option<u32>,
    },
    /// A session leaves a room and lives on.
    Exit { session: SessionId, user: UserId, room: RoomId },
    /// A session has ended. All rooms that it may be in.
    End { session: SessionId, user: UserId, rooms: Vec<RoomId> },
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is carried out.
    Done,
    /// No seat is left; nothing changed.
    Full,
    /// A later link or incarnation has the node; nothing changed.
    Fenced,
}

/// A session as a store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionRecord {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) session: SessionId,
    pub(crate) rooms: Vec<RoomId>,
    /// In seconds since the Unix epoch.
    pub(crate) connected_at: i64,
}

/// A user in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberRecord {
    pub(crate) user: UserId,
    /// Of the newest session.
    pub(crate) user_name: String,
    /// Of the newest session.
    pub(crate) metadata: HashMap<String, String>,
    /// Of the newest session.
    pub(crate) node: NodeId,
    /// When the first of the sessions joined, in seconds since the Unix epoch.
    pub(crate) joined_at: i64,
    /// How many sessions of the user are in the room.
    pub(crate) sessions: u32,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) users: u64,
    pub(crate) sessions: u64,
}

/// The store cannot be reached, or refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store of presence: {0}")]
pub(crate) struct PresenceError(pub(crate) String);

/// A store that controllers share. A call is one round trip or few, but for `sync` and `remove`, which go on in parts.
#[async_trait::async_trait]
pub(crate) trait PresenceStore: Debug + Send + Sync {
    /// A node has a link to this controller. Refused where a later link, or incarnation, is known.
    async fn begin(&self, record: &NodeRecord) -> Result<Verdict, PresenceError>;

    /// Carries changes of a node out, in their order; a verdict for each. An error where the node is not known, which
    /// means that the store lost it, or that another controller removed it.
    async fn apply(
        &self,
        at: &NodeAt,
        changes: &[Change],
        now_unix_s: i64,
    ) -> Result<Vec<Verdict>, PresenceError>;

    /// Makes the store's sessions of a node these, with their rooms, without a question of seats, and the record whole.
    async fn sync(
        &self,
        at: &NodeAt,
        sessions: Vec<(Arrival, Vec<RoomId>)>,
        now_unix_s: i64,
    ) -> Result<Verdict, PresenceError>;

    /// Writes the load and state of nodes, each at its link. A record that was lost is made again. Also says whether
    /// the store is the one that it was at the last call: `false`: it has lost what it held, or may have.
    async fn beat(&self, records: &[NodeRecord]) -> Result<(Vec<Verdict>, bool), PresenceError>;

    /// Takes out what a node has told over this link and before; all of it, unless it has told more since over a later
    /// link, or in a later incarnation.
    async fn remove(&self, at: &NodeAt) -> Result<(), PresenceError>;

    /// All nodes, in the order of their ids.
    async fn nodes(&self) -> Result<Vec<NodeRecord>, PresenceError>;

    /// Whether each of these users would get a seat in a room that takes so many.
    async fn have_seats(&self, asked: &[(RoomId, UserId, u32)]) -> Result<Vec<bool>, PresenceError>;

    /// A page of a room's users, in the order of their ids, those after `after`; and how many there are in all.
    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<(Vec<MemberRecord>, u32), PresenceError>;

    /// A user's sessions, newest first.
    async fn sessions_of(&self, user: &UserId) -> Result<Vec<SessionRecord>, PresenceError>;

    /// How many users are in each of these rooms.
    async fn counts(&self, rooms: &[RoomId]) -> Result<Vec<u32>, PresenceError>;

    /// Over everything.
    async fn totals(&self) -> Result<Totals, PresenceError>;
}
