//! Where rooms and users are: room → node → sessions, user → node → sessions, as the route feed told.
//!
//! Owns: the routes and the node indices in them. Pure: no lock, clock or task.
//! Must not: know links, pushes or the feed's numbers. Talks to: `dispatch`, which holds it under its lock.
//!
//! Everything under the lock is short, whatever the size of the system: the tables are cut into [`PARTS`] parts, so
//! that no growth of a table moves all its entries at once; and a node that goes is only marked, so that look-ups
//! pass over it at once, and swept from the tables part by part later. Its index is given out again only after that.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::hash_table::Entry as Slot;
use hashbrown::{HashMap, HashTable};
use ringcast_proto::pubsub::{NodeRoute, RoomRoute, UserRoute};
use smallvec::SmallVec;

/// Into how many parts a table is cut: a million users are 4,000 entries a part.
pub(crate) const PARTS: usize = 256;

/// How many rooms that have become empty are remembered, to tell "room empty" from "room unknown".
const MAX_EMPTY_ROOMS: usize = 65_536;

/// A node's place in the routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeIndex(pub(crate) u32);

/// What became of a node by a step of the feed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NodeChange {
    /// It is there now, with nothing on it.
    Came(NodeIndex),
    /// The same start of it is at another address; its routes stay.
    Moved(NodeIndex),
    /// It is gone, and every route to it.
    Gone(NodeIndex),
}

/// The feed names a node that it has not announced.
#[derive(Debug, thiserror::Error)]
#[error("the feed routes to a node that it has not announced: {0:?}")]
pub(crate) struct UnknownNode(String);

/// A node as the feed told it.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// Which start of it this is.
    pub(crate) incarnation: u64,
    /// Where its gRPC server is.
    pub(crate) address: String,
    /// How many sessions it holds.
    pub(crate) sessions: u64,
    state: NodeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeState {
    Live,
    /// Gone; entries may still name its index.
    Dead,
    /// Swept; the index may be given out again.
    Free,
}

/// The routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    nodes: Vec<Node>,
    /// The live nodes.
    by_id: HashMap<Arc<str>, NodeIndex, RandomState>,
    rooms: PlaceTable,
    users: PlaceTable,
    /// Rooms that have become empty, the oldest first; some may be gone or in use again.
    empty_rooms: VecDeque<Box<str>>,
    /// The next part to sweep, while a node is dead.
    sweep_at: Option<usize>,
}

impl Routes {
    /// The live node at an index.
    pub(crate) fn node(&self, index: NodeIndex) -> &Node {
        &self.nodes[index.0 as usize]
    }

    /// The live nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeIndex> + '_ {
        self.indices().filter(|&index| self.is_live(index.0))
    }

    /// How many rooms have a member.
    pub(crate) fn room_count(&self) -> usize {
        self.rooms.placed
    }

    /// How many users hold a connection.
    pub(crate) fn user_count(&self) -> usize {
        self.users.placed
    }

    /// The nodes that hold a member of a room, with the number of its sessions there.
    /// `None`: no such room is known; an empty iterator: the room is empty.
    pub(crate) fn room(&self, id: &str) -> Option<impl Iterator<Item = (NodeIndex, u32)> + '_> {
        self.rooms.get(id).map(|places| self.live(places))
    }

    /// The nodes that hold a connection of a user, with the number of his sessions there.
    pub(crate) fn user(&self, id: &str) -> impl Iterator<Item = (NodeIndex, u32)> + '_ {
        self.live(self.users.get(id).unwrap_or_default())
    }

    /// The nodes that hold any connection, with the number of sessions there.
    pub(crate) fn everyone(&self) -> impl Iterator<Item = (NodeIndex, u32)> + '_ {
        self.indices().filter_map(|index| {
            let node = self.node(index);
            let any = node.state == NodeState::Live && node.sessions > 0;
            any.then(|| (index, u32::try_from(node.sessions).unwrap_or(u32::MAX)))
        })
    }

    /// Takes a node from the feed; what changed is added to `changes`. A later start of a node that is known
    /// begins without routes: what was on the former start is gone with it.
    pub(crate) fn set_node(&mut self, route: NodeRoute, changes: &mut Vec<NodeChange>) {
        if let Some(&index) = self.by_id.get(&*route.node_id) {
            let node = &mut self.nodes[index.0 as usize];
            if !route.gone && node.incarnation == route.incarnation {
                if node.address != route.grpc_address {
                    node.address = route.grpc_address;
                    changes.push(NodeChange::Moved(index));
                }
                return;
            }
            node.state = NodeState::Dead;
            self.by_id.remove(&*route.node_id);
            self.sweep_at = Some(0);
            changes.push(NodeChange::Gone(index));
        }
        if !route.gone {
            changes.push(NodeChange::Came(self.add_node(route)));
        }
    }

    fn add_node(&mut self, route: NodeRoute) -> NodeIndex {
        let node = Node {
            id: Arc::from(route.node_id),
            incarnation: route.incarnation,
            address: route.grpc_address,
            sessions: 0,
            state: NodeState::Live,
        };
        let free = self.nodes.iter().position(|node| node.state == NodeState::Free);
        let at = free.unwrap_or(self.nodes.len());
        match free {
            Some(at) => self.nodes[at] = node,
            None => self.nodes.push(node),
        }
        let index = NodeIndex(at as u32);
        self.by_id.insert(self.nodes[at].id.clone(), index);
        index
    }

    /// Takes from the feed how many sessions of a room are on a node.
    pub(crate) fn set_room(&mut self, route: RoomRoute) -> Result<(), UnknownNode> {
        let Some(node) = self.index_for(route.node_id, route.sessions)? else { return Ok(()) };
        let nodes = &self.nodes;
        let left = self.rooms.set(&route.room_id, node, route.sessions, |node| is_live(nodes, node));
        if left.now_empty {
            self.remember_empty_room(Box::from(route.room_id));
        }
        Ok(())
    }

    /// Takes from the feed how many sessions of a user are on a node.
    pub(crate) fn set_user(&mut self, route: UserRoute) -> Result<(), UnknownNode> {
        let Some(node) = self.index_for(route.node_id, route.sessions)? else { return Ok(()) };
        let nodes = &self.nodes;
        let left = self.users.set(&route.user_id, node, route.sessions, |node| is_live(nodes, node));
        if left.now_empty {
            self.users.forget_if_empty(&route.user_id);
        }
        let total = &mut self.nodes[node as usize].sessions;
        *total = *total - u64::from(left.before) + u64::from(route.sessions);
        Ok(())
    }

    /// Sweeps one part of the tables of the nodes that are gone; whether more is to be swept.
    pub(crate) fn sweep(&mut self) -> bool {
        let Some(part) = self.sweep_at else { return false };
        let nodes = &self.nodes;
        let rooms = self.rooms.sweep(part, |node| is_live(nodes, node));
        let users = self.users.sweep(part, |node| is_live(nodes, node));
        rooms.into_iter().for_each(|room| self.remember_empty_room(room));
        users.iter().for_each(|user| self.users.forget_if_empty(user));
        if part + 1 < PARTS {
            self.sweep_at = Some(part + 1);
            return true;
        }
        for node in self.nodes.iter_mut().filter(|node| node.state == NodeState::Dead) {
            node.state = NodeState::Free;
        }
        self.sweep_at = None;
        false
    }

    fn index_for(&self, node_id: String, sessions: u32) -> Result<Option<u32>, UnknownNode> {
        match self.by_id.get(&*node_id) {
            Some(index) => Ok(Some(index.0)),
            // The last word on a node that has just gone.
            None if sessions == 0 => Ok(None),
            None => Err(UnknownNode(node_id)),
        }
    }

    fn remember_empty_room(&mut self, room: Box<str>) {
        self.empty_rooms.push_back(room);
        if self.empty_rooms.len() > MAX_EMPTY_ROOMS
            && let Some(oldest) = self.empty_rooms.pop_front()
        {
            self.rooms.forget_if_empty(&oldest);
        }
    }

    fn indices(&self) -> impl Iterator<Item = NodeIndex> + use<> {
        (0..self.nodes.len() as u32).map(NodeIndex)
    }

    fn is_live(&self, node: u32) -> bool {
        is_live(&self.nodes, node)
    }

    fn live<'a>(&'a self, places: &'a [Place]) -> impl Iterator<Item = (NodeIndex, u32)> + 'a {
        let live = places.iter().filter(|place| self.is_live(place.node));
        live.map(|place| (NodeIndex(place.node), place.sessions))
    }
}

fn is_live(nodes: &[Node], node: u32) -> bool {
    nodes[node as usize].state == NodeState::Live
}

#[derive(Debug, Clone, Copy)]
struct Place {
    node: u32,
    sessions: u32,
}

#[derive(Debug)]
struct Entry {
    key: Box<str>,
    /// Two fit without an allocation; most users are on one node.
    places: SmallVec<[Place; 2]>,
}

/// What a change left behind.
struct Left {
    before: u32,
    now_empty: bool,
}

/// key → node → sessions.
#[derive(Debug)]
struct PlaceTable {
    hasher: RandomState,
    parts: Vec<HashTable<Entry>>,
    /// Entries that are somewhere.
    placed: usize,
}

impl Default for PlaceTable {
    fn default() -> Self {
        let parts = std::iter::repeat_with(HashTable::new).take(PARTS).collect();
        Self { hasher: RandomState::new(), parts, placed: 0 }
    }
}

impl PlaceTable {
    fn get(&self, key: &str) -> Option<&[Place]> {
        let hash = self.hasher.hash_one(key);
        self.parts[part_of(hash)].find(hash, |entry| *entry.key == *key).map(|entry| entry.places.as_slice())
    }

    /// Sets the number of a key's sessions on a node; 0 takes the place away and leaves an empty entry.
    fn set(&mut self, key: &str, node: u32, sessions: u32, is_live: impl Fn(u32) -> bool) -> Left {
        let hash = self.hasher.hash_one(key);
        let hasher = &self.hasher;
        let slot = self.parts[part_of(hash)].entry(
            hash,
            |entry| *entry.key == *key,
            |entry| hasher.hash_one(&*entry.key),
        );
        let places = match slot {
            Slot::Occupied(slot) => &mut slot.into_mut().places,
            Slot::Vacant(_) if sessions == 0 => return Left { before: 0, now_empty: false },
            Slot::Vacant(slot) => {
                &mut slot.insert(Entry { key: Box::from(key), places: SmallVec::new() }).into_mut().places
            }
        };
        let was_placed = !places.is_empty();
        places.retain(|place| is_live(place.node));
        let at = places.iter().position(|place| place.node == node);
        let before = at.map_or(0, |at| places[at].sessions);
        match (at, sessions) {
            (Some(at), 0) => drop(places.swap_remove(at)),
            (Some(at), _) => places[at].sessions = sessions,
            (None, 0) => {}
            (None, _) => places.push(Place { node, sessions }),
        }
        let is_placed = !places.is_empty();
        self.placed = self.placed + usize::from(is_placed) - usize::from(was_placed);
        Left { before, now_empty: was_placed && !is_placed }
    }

    fn forget_if_empty(&mut self, key: &str) {
        let hash = self.hasher.hash_one(key);
        let found = self.parts[part_of(hash)].find_entry(hash, |entry| *entry.key == *key);
        if let Ok(entry) = found
            && entry.get().places.is_empty()
        {
            entry.remove();
        }
    }

    /// Takes dead nodes out of one part; the keys that are nowhere now.
    fn sweep(&mut self, part: usize, is_live: impl Fn(u32) -> bool) -> Vec<Box<str>> {
        let mut emptied = Vec::new();
        for entry in self.parts[part].iter_mut().filter(|entry| !entry.places.is_empty()) {
            entry.places.retain(|place| is_live(place.node));
            if entry.places.is_empty() {
                emptied.push(entry.key.clone());
            }
        }
        self.placed -= emptied.len();
        emptied
    }
}

/// The part of a hash: bits that the table itself does not choose its buckets by.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, incarnation: u64, gone: bool) -> NodeRoute {
        NodeRoute { node_id: id.into(), incarnation, grpc_address: format!("{id}:1"), gone }
    }

    fn room(id: &str, node: &str, sessions: u32) -> RoomRoute {
        RoomRoute { room_id: id.into(), node_id: node.into(), sessions }
    }

    fn user(id: &str, node: &str, sessions: u32) -> UserRoute {
        UserRoute { user_id: id.into(), node_id: node.into(), sessions }
    }

    fn routes(nodes: &[&str]) -> Routes {
        let mut routes = Routes::default();
        for id in nodes {
            routes.set_node(node(id, 1, false), &mut Vec::new());
        }
        routes
    }

    fn sweep_all(routes: &mut Routes) {
        while routes.sweep() {}
    }

    fn of_room(routes: &Routes, id: &str) -> Option<Vec<(String, u32)>> {
        let mut all: Vec<_> =
            routes.room(id)?.map(|(index, n)| (routes.node(index).id.to_string(), n)).collect();
        all.sort();
        Some(all)
    }

    #[test]
    fn counts_follow_the_feed() {
        let mut routes = routes(&["a", "b", "c"]);
        routes.set_room(room("r", "a", 2)).unwrap();
        routes.set_room(room("r", "b", 1)).unwrap();
        routes.set_room(room("r", "c", 5)).unwrap();
        routes.set_room(room("r", "a", 3)).unwrap();
        routes.set_room(room("r", "b", 0)).unwrap();
        assert_eq!(of_room(&routes, "r"), Some(vec![("a".into(), 3), ("c".into(), 5)]));
        routes.set_user(user("u", "a", 2)).unwrap();
        routes.set_user(user("v", "a", 1)).unwrap();
        routes.set_user(user("u", "a", 1)).unwrap();
        assert_eq!(routes.everyone().collect::<Vec<_>>(), [(NodeIndex(0), 2)]);
        assert_eq!((routes.room_count(), routes.user_count()), (1, 2));
        routes.set_user(user("u", "a", 0)).unwrap();
        assert_eq!(routes.user("u").count(), 0);
        assert_eq!(
            (routes.everyone().collect::<Vec<_>>(), routes.user_count()),
            (vec![(NodeIndex(0), 1)], 1)
        );
    }

    #[test]
    fn an_empty_room_is_told_from_an_unknown_one() {
        let mut routes = routes(&["a"]);
        routes.set_room(room("r", "a", 1)).unwrap();
        routes.set_room(room("r", "a", 0)).unwrap();
        assert_eq!(of_room(&routes, "r"), Some(vec![]));
        assert_eq!(of_room(&routes, "s"), None);
        assert_eq!(routes.room_count(), 0);
        for n in 0..MAX_EMPTY_ROOMS {
            routes.set_room(room(&n.to_string(), "a", 1)).unwrap();
            routes.set_room(room(&n.to_string(), "a", 0)).unwrap();
        }
        assert_eq!(of_room(&routes, "r"), None, "what is remembered has a bound");
        assert_eq!(of_room(&routes, "0"), Some(vec![]));
    }

    #[test]
    fn a_lost_node_is_passed_over_at_once_and_its_index_waits_for_the_sweep() {
        let mut routes = routes(&["a", "b"]);
        for n in 0..2_000 {
            routes.set_room(room(&n.to_string(), "a", 1)).unwrap();
            routes.set_user(user(&n.to_string(), "a", 1)).unwrap();
        }
        routes.set_room(room("7", "b", 4)).unwrap();
        let mut changes = Vec::new();
        routes.set_node(node("a", 1, true), &mut changes);
        assert_eq!(changes, [NodeChange::Gone(NodeIndex(0))]);
        assert_eq!(of_room(&routes, "7"), Some(vec![("b".into(), 4)]));
        assert_eq!((routes.user("7").count(), routes.everyone().count()), (0, 0));

        changes.clear();
        routes.set_node(node("c", 1, false), &mut changes);
        assert_eq!(changes, [NodeChange::Came(NodeIndex(2))], "index 0 is still named by entries");
        sweep_all(&mut routes);
        assert_eq!((routes.room_count(), routes.user_count()), (1, 0));
        assert_eq!(of_room(&routes, "8"), Some(vec![]));
        changes.clear();
        routes.set_node(node("d", 1, false), &mut changes);
        assert_eq!(changes, [NodeChange::Came(NodeIndex(0))]);
        assert_eq!(of_room(&routes, "8"), Some(vec![]), "the new node has no room of the old one");
    }

    #[test]
    fn a_later_start_begins_without_routes_and_a_new_address_keeps_them() {
        let mut routes = routes(&["a"]);
        routes.set_room(room("r", "a", 2)).unwrap();
        let mut changes = Vec::new();
        let moved = NodeRoute { grpc_address: "elsewhere:1".into(), ..node("a", 1, false) };
        routes.set_node(moved.clone(), &mut changes);
        routes.set_node(moved, &mut changes);
        assert_eq!(changes, [NodeChange::Moved(NodeIndex(0))]);
        assert_eq!(of_room(&routes, "r"), Some(vec![("a".into(), 2)]));
        changes.clear();
        routes.set_node(node("a", 2, false), &mut changes);
        assert_eq!(changes, [NodeChange::Gone(NodeIndex(0)), NodeChange::Came(NodeIndex(1))]);
        assert_eq!(of_room(&routes, "r"), Some(vec![]));
    }

    #[test]
    fn a_route_to_a_node_that_was_not_announced_is_refused() {
        let mut routes = routes(&["a"]);
        assert!(routes.set_room(room("r", "z", 1)).is_err());
        assert!(routes.set_user(user("u", "z", 1)).is_err());
        assert!(routes.set_room(room("r", "z", 0)).is_ok(), "a last word on a node that has gone");
    }
}
