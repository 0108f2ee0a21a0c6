//! Which routes have changed, and what they are now.
//!
//! Owns: the list of changes, and when a user or a room that nobody holds any more is forgotten: after his last
//! change has been told. Must not: know who is told. Talks to: `registry`, which asks after every turn.

use ringcast_proto::pubsub::{NodeRoute, RoomRoute, UserRoute};

use super::Presence;
use super::index::{NodeKey, RoomKey, UserKey};
use crate::routes::Routes;

/// What has changed since it was last told.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) nodes: Vec<NodeRoute>,
    /// Nodes whose snapshot is whole now, which is told after their routes.
    pub(super) whole: Vec<NodeRoute>,
    rooms: Vec<(RoomKey, NodeKey)>,
    users: Vec<(UserKey, NodeKey)>,
    /// Rooms that became empty; some may have members again.
    pub(super) empty_rooms: Vec<RoomKey>,
    /// Users who hold no session any more; some may hold one again.
    pub(super) empty_users: Vec<UserKey>,
}

impl Changes {
    /// A node is gone, whatever was to be told of it.
    pub(super) fn gone(&mut self, node: NodeRoute) {
        self.whole.retain(|whole| whole.node_id != node.node_id);
        self.nodes.push(node);
    }

    /// A room has changed on a node.
    pub(super) fn room(&mut self, room: RoomKey, node: NodeKey) {
        // Joins of one room come in runs.
        if self.rooms.last() != Some(&(room, node)) {
            self.rooms.push((room, node));
        }
    }

    /// A user has changed on a node.
    pub(super) fn user(&mut self, user: UserKey, node: NodeKey) {
        if self.users.last() != Some(&(user, node)) {
            self.users.push((user, node));
        }
    }
}

impl Presence {
    /// All routes, for a snapshot of the feed.
    pub(crate) fn routes(&self) -> Routes {
        let id = |key: NodeKey| self.nodes[&key].card.id.to_string();
        let rooms = self.rooms.iter().flat_map(|(_, room)| {
            room.on_nodes.iter().map(move |(key, sessions)| (room.id.to_string(), key, sessions))
        });
        let users = self.users.iter().flat_map(|(_, user)| {
            user.on_nodes.iter().map(move |(key, sessions)| (user.id.to_string(), key, sessions))
        });
        Routes {
            nodes: self.nodes.values().map(super::Node::route).collect(),
            whole: Vec::new(),
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
        let mut routes = Routes {
            nodes: std::mem::take(&mut self.changes.nodes),
            whole: std::mem::take(&mut self.changes.whole),
            ..Routes::default()
        };
        let rooms = once_each(&mut self.changes.rooms);
        routes.rooms.reserve_exact(rooms.len());
        for (key, node) in rooms.drain(..) {
            let (Some(node_id), Some(room)) = (id_of(&self.nodes, node), self.rooms.get(key.0)) else {
                continue;
            };
            let (room_id, sessions) = (room.id.to_string(), room.on_nodes.get(node));
            routes.rooms.push(RoomRoute { room_id, node_id, sessions });
        }
        let users = once_each(&mut self.changes.users);
        routes.users.reserve_exact(users.len());
        for (key, node) in users.drain(..) {
            let (Some(node_id), Some(user)) = (id_of(&self.nodes, node), self.users.get(key.0)) else {
                continue;
            };
            let (user_id, sessions) = (user.id.to_string(), user.on_nodes.get(node));
            routes.users.push(UserRoute { user_id, node_id, sessions });
        }
        self.forget_empty();
        routes
    }

    /// Lets changes go that nobody has to be told.
    pub(crate) fn drop_changes(&mut self) {
        self.changes.nodes.clear();
        self.changes.whole.clear();
        self.changes.rooms.clear();
        self.changes.users.clear();
        self.forget_empty();
    }

    fn forget_empty(&mut self) {
        for key in self.changes.empty_rooms.drain(..) {
            if self.rooms.get(key.0).is_some_and(|room| room.members.is_empty()) {
                self.rooms.remove(key.0);
            }
        }
        for key in self.changes.empty_users.drain(..) {
            if self.users.get(key.0).is_some_and(|user| user.sessions.is_empty()) {
                self.users.remove(key.0);
            }
        }
    }
}

fn id_of(nodes: &ahash::AHashMap<NodeKey, super::Node>, key: NodeKey) -> Option<String> {
    nodes.get(&key).map(|node| node.card.id.to_string())
}

fn once_each<T: Ord>(list: &mut Vec<T>) -> &mut Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}
