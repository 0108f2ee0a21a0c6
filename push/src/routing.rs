//! Where rooms and users are by one controller's feed: room → node → sessions, user → node → sessions.
//!
//! Owns: one feed's routes and the node indices in them. Pure: no lock, clock or task.
//! Must not: know other feeds, pushes or the feed's numbers, or judge who is routed to: `feeds` does, and writes the
//! link down at the node.
//!
//! A node stands here as told, which means that the feed's steps change what is on it, or as set aside: the feed does
//! not tell of it any more, and what it told last still holds until somebody else has told the whole of it. A set-aside
//! node has an index of its own, so that its places stay where they are.
//!
//! Everything under the lock is short, whatever the size of the system: the tables are cut into parts, and a node that
//! goes is only marked, so that look-ups pass over it at once, and swept from the tables part by part later. Its index
//! is given out again only after that.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashMap;
use ringcast_proto::pubsub::{NodeRoute, RoomRoute, UserRoute};
use smallvec::SmallVec;

use crate::places::{PARTS, Place, PlaceTable};
use crate::receipts::LinkId;

/// How many rooms that have become empty are remembered, to tell "room empty" from "room unknown".
pub(crate) const MAX_EMPTY_ROOMS: usize = 65_536;

/// How often one node may be set aside in one table. One that comes and goes more often without ever being told whole
/// has the feed opened anew, which brings what was set aside together.
pub(crate) const MAX_SET_ASIDE: usize = 8;

/// The feed names a node that it has not announced.
#[derive(Debug, thiserror::Error)]
#[error("the feed routes to a node that it has not announced: {0:?}")]
pub(crate) struct UnknownNode(String);

/// A node as the feed tells it, or told it last.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its id.
    pub(crate) id: Arc<str>,
    /// Which start of it this is.
    pub(crate) incarnation: u64,
    /// Where its gRPC server is.
    pub(crate) address: String,
    /// Which of its links to controllers the feed tells of.
    pub(crate) told_by: u64,
    /// The feed has not told all that is on it.
    pub(crate) partial: bool,
    /// The controller has lost its link.
    pub(crate) unlinked: bool,
    /// How many sessions it holds.
    sessions: u64,
    state: NodeState,
    /// Our link to it, where it is routed to by this table.
    route: Option<LinkId>,
}

impl Node {
    fn is_held(&self) -> bool {
        matches!(self.state, NodeState::Told | NodeState::SetAside)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NodeState {
    Told,
    SetAside,
    /// Gone; entries may still name its index.
    Dead,
    /// Swept; the index may be given out again.
    Free,
}

/// Where a push goes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routed<'a> {
    /// The node.
    pub(crate) node: &'a Arc<str>,
    /// Our link to it.
    pub(crate) link: LinkId,
    /// Sessions there.
    pub(crate) sessions: u32,
}

/// The nodes of one id.
#[derive(Debug, Default)]
struct Held {
    told: Option<u32>,
    set_aside: SmallVec<[u32; 1]>,
}

/// Nodes whose places are to be copied from a table into the one that takes its place, by their index there and here.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    nodes: Vec<KeptNode>,
    /// Former index → new one, or none.
    renamed: Vec<Option<u32>>,
}

impl Kept {
    /// Nothing is to be copied.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// A node that is kept beside a new snapshot.
#[derive(Debug)]
struct KeptNode {
    index: u32,
    id: Arc<str>,
    incarnation: u64,
    address: String,
    told_by: u64,
}

/// One part's places on the nodes that are kept.
#[derive(Debug)]
pub(crate) struct Copied {
    rooms: Vec<(Box<str>, Place)>,
    users: Vec<(Box<str>, Place)>,
}

/// The routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    nodes: Vec<Node>,
    by_id: HashMap<Arc<str>, Held, RandomState>,
    rooms: PlaceTable,
    users: PlaceTable,
    /// How many nodes are set aside.
    set_aside: usize,
    /// Rooms that have become empty, the oldest first; some may be gone or in use again.
    empty_rooms: VecDeque<Box<str>>,
    /// The next part to sweep, while a node is dead.
    sweep_at: Option<usize>,
}

impl Routes {
    /// No node is told or set aside.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The ids of all that are told or set aside, in the order of their indices; one may come more than once.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.iter().filter(|node| node.is_held()).map(|node| &node.id)
    }

    /// How many rooms have a member.
    pub(crate) fn room_count(&self) -> usize {
        self.rooms.placed()
    }

    /// How many users hold a connection.
    pub(crate) fn user_count(&self) -> usize {
        self.users.placed()
    }

    /// How many nodes are set aside.
    pub(crate) fn set_aside_count(&self) -> usize {
        self.set_aside
    }

    /// The node of an id, where the feed tells of it.
    pub(crate) fn told(&self, id: &str) -> Option<&Node> {
        self.by_id.get(id)?.told.map(|at| &self.nodes[at as usize])
    }

    /// The nodes of an id: as it is told, and as it was set aside.
    pub(crate) fn all(&self, id: &str) -> impl Iterator<Item = &Node> {
        let held = self.by_id.get(id).into_iter();
        held.flat_map(|held| held.told.iter().chain(&held.set_aside)).map(|&at| &self.nodes[at as usize])
    }

    /// The nodes that hold a member of a room and are routed to.
    /// `None`: no such room is known; an empty iterator: the room is empty.
    pub(crate) fn room(&self, id: &str) -> Option<impl Iterator<Item = Routed<'_>>> {
        self.rooms.get(id).map(|places| self.routed(places))
    }

    /// The nodes that hold a connection of a user and are routed to.
    pub(crate) fn user(&self, id: &str) -> impl Iterator<Item = Routed<'_>> {
        self.routed(self.users.get(id).unwrap_or_default())
    }

    /// The nodes that hold any connection and are routed to.
    pub(crate) fn everyone(&self) -> impl Iterator<Item = Routed<'_>> {
        self.nodes.iter().filter(|node| node.sessions > 0).filter_map(|node| {
            let sessions = u32::try_from(node.sessions).unwrap_or(u32::MAX);
            Some(Routed { node: &node.id, link: node.route?, sessions })
        })
    }

    fn routed<'a>(&'a self, places: &'a [Place]) -> impl Iterator<Item = Routed<'a>> {
        places.iter().filter_map(|place| {
            let node = &self.nodes[place.node as usize];
            Some(Routed { node: &node.id, link: node.route?, sessions: place.sessions })
        })
    }

    // Nodes.

    /// The feed tells of a node. Another start of one that is told begins without routes: what was on the former
    /// start is gone with it.
    pub(crate) fn tell(&mut self, route: NodeRoute) {
        if let Some(at) = self.by_id.get(&*route.node_id).and_then(|held| held.told) {
            let node = &mut self.nodes[at as usize];
            if node.incarnation == route.incarnation {
                node.address = route.grpc_address;
                node.told_by = route.link;
                node.partial = route.partial;
                node.unlinked = route.unlinked;
                return;
            }
            self.forget(&route.node_id);
        }
        let id = Arc::from(route.node_id);
        let at = self.add(Node {
            id: Arc::clone(&id),
            incarnation: route.incarnation,
            address: route.grpc_address,
            told_by: route.link,
            partial: route.partial,
            unlinked: route.unlinked,
            sessions: 0,
            state: NodeState::Told,
            route: None,
        });
        self.by_id.entry(id).or_default().told = Some(at);
    }

    /// What the feed told of a node does not hold any more.
    pub(crate) fn forget(&mut self, id: &str) {
        let Some(held) = self.by_id.get_mut(id) else { return };
        if let Some(at) = held.told.take() {
            if held.set_aside.is_empty() {
                self.by_id.remove(id);
            }
            self.bury(at);
        }
    }

    /// The feed does not tell of a node any more, and what it told still holds.
    pub(crate) fn set_aside(&mut self, id: &str) {
        let Some(held) = self.by_id.get_mut(id) else { return };
        if let Some(at) = held.told.take() {
            held.set_aside.push(at);
            self.nodes[at as usize].state = NodeState::SetAside;
            self.set_aside += 1;
        }
    }

    /// A node has been set aside too often.
    pub(crate) fn is_crowded(&self) -> bool {
        self.set_aside > MAX_SET_ASIDE && self.by_id.values().any(|held| held.set_aside.len() > MAX_SET_ASIDE)
    }

    /// Forgets those that were set aside under an id and that `ended` picks.
    pub(crate) fn drop_set_aside(&mut self, id: &str, ended: impl Fn(&Node) -> bool) {
        let Some(held) = self.by_id.get_mut(id) else { return };
        let nodes = &self.nodes;
        let over: SmallVec<[u32; 1]> =
            held.set_aside.iter().copied().filter(|&at| ended(&nodes[at as usize])).collect();
        held.set_aside.retain(|at| !over.contains(at));
        if held.told.is_none() && held.set_aside.is_empty() {
            self.by_id.remove(id);
        }
        self.set_aside -= over.len();
        over.into_iter().for_each(|at| self.bury(at));
    }

    /// Says by which link the nodes of an id are routed to; `None`: not at all, by this table.
    pub(crate) fn aim(&mut self, id: &str, link: impl Fn(&Node) -> Option<LinkId>) {
        let Some(held) = self.by_id.get(id) else { return };
        for &at in held.told.iter().chain(&held.set_aside) {
            let node = &mut self.nodes[at as usize];
            node.route = link(node);
        }
    }

    fn bury(&mut self, at: u32) {
        let node = &mut self.nodes[at as usize];
        (node.state, node.route) = (NodeState::Dead, None);
        self.sweep_at = Some(0);
    }

    fn add(&mut self, node: Node) -> u32 {
        match self.nodes.iter().position(|node| node.state == NodeState::Free) {
            Some(at) => {
                self.nodes[at] = node;
                at as u32
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    // Places.

    /// Takes from the feed how many sessions of a room are on a node.
    pub(crate) fn set_room(&mut self, route: RoomRoute) -> Result<(), UnknownNode> {
        if let Some(node) = self.index_for(route.node_id, route.sessions)? {
            self.place_room(&route.room_id, Place { node, sessions: route.sessions });
        }
        Ok(())
    }

    /// Takes from the feed how many sessions of a user are on a node.
    pub(crate) fn set_user(&mut self, route: UserRoute) -> Result<(), UnknownNode> {
        if let Some(node) = self.index_for(route.node_id, route.sessions)? {
            self.place_user(&route.user_id, Place { node, sessions: route.sessions });
        }
        Ok(())
    }

    fn index_for(&self, node_id: String, sessions: u32) -> Result<Option<u32>, UnknownNode> {
        match self.by_id.get(&*node_id).and_then(|held| held.told) {
            Some(at) => Ok(Some(at)),
            // The last word on a node that has just gone.
            None if sessions == 0 => Ok(None),
            None => Err(UnknownNode(node_id)),
        }
    }

    fn place_room(&mut self, id: &str, place: Place) {
        let nodes = &self.nodes;
        let left = self.rooms.set(id, place.node, place.sessions, |node| is_held(nodes, node));
        if left.now_empty {
            self.remember_empty_room(Box::from(id));
        }
    }

    fn place_user(&mut self, id: &str, place: Place) {
        let nodes = &self.nodes;
        let left = self.users.set(id, place.node, place.sessions, |node| is_held(nodes, node));
        if left.now_empty {
            self.users.forget_if_empty(id);
        }
        let total = &mut self.nodes[place.node as usize].sessions;
        *total = *total - u64::from(left.before) + u64::from(place.sessions);
    }

    fn remember_empty_room(&mut self, room: Box<str>) {
        self.empty_rooms.push_back(room);
        if self.empty_rooms.len() > MAX_EMPTY_ROOMS
            && let Some(oldest) = self.empty_rooms.pop_front()
        {
            self.rooms.forget_if_empty(&oldest);
        }
    }

    /// Whether a node that is gone is still to be swept.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep_at.is_some()
    }

    /// Sweeps one part of the tables of the nodes that are gone.
    pub(crate) fn sweep(&mut self) {
        let Some(part) = self.sweep_at else { return };
        let nodes = &self.nodes;
        let rooms = self.rooms.sweep(part, |node| is_held(nodes, node));
        let users = self.users.sweep(part, |node| is_held(nodes, node));
        rooms.into_iter().for_each(|room| self.remember_empty_room(room));
        users.iter().for_each(|user| self.users.forget_if_empty(user));
        self.sweep_at = (part + 1 < PARTS).then_some(part + 1);
        if self.sweep_at.is_none() {
            for node in self.nodes.iter_mut().filter(|node| node.state == NodeState::Dead) {
                node.state = NodeState::Free;
            }
        }
    }

    // What is kept when a snapshot takes the place of a table.

    /// The nodes that `still_holds` picks, to be kept in the table that takes this one's place.
    pub(crate) fn keep(&self, still_holds: impl Fn(&Node) -> bool) -> Kept {
        let held = self.nodes.iter().enumerate().filter(|(_, node)| node.is_held() && still_holds(node));
        let nodes = held.map(|(at, node)| KeptNode {
            index: at as u32,
            id: node.id.clone(),
            incarnation: node.incarnation,
            address: node.address.clone(),
            told_by: node.told_by,
        });
        Kept { nodes: nodes.collect(), renamed: Vec::new() }
    }

    /// Sets nodes of a former table aside in this one, with nothing on them yet. Those of one start of one node become
    /// one.
    pub(crate) fn adopt(&mut self, kept: &mut Kept) {
        let last = kept.nodes.iter().map(|node| node.index as usize + 1).max().unwrap_or(0);
        kept.renamed = vec![None; last];
        for node in kept.nodes.drain(..) {
            let same = self.by_id.get(&*node.id).and_then(|held| {
                let same = |&&at: &&u32| self.nodes[at as usize].incarnation == node.incarnation;
                held.set_aside.iter().find(same).copied()
            });
            let at = same.unwrap_or_else(|| self.add_set_aside(&node));
            let told_by = &mut self.nodes[at as usize].told_by;
            *told_by = node.told_by.max(*told_by);
            kept.renamed[node.index as usize] = Some(at);
        }
    }

    fn add_set_aside(&mut self, node: &KeptNode) -> u32 {
        let at = self.add(Node {
            id: node.id.clone(),
            incarnation: node.incarnation,
            address: node.address.clone(),
            told_by: node.told_by,
            partial: true,
            unlinked: false,
            sessions: 0,
            state: NodeState::SetAside,
            route: None,
        });
        self.set_aside += 1;
        self.by_id.entry(node.id.clone()).or_default().set_aside.push(at);
        at
    }

    /// Copies one part's places on the nodes that are kept.
    pub(crate) fn copy(&self, part: usize, kept: &Kept) -> Copied {
        let renamed = |node: u32| kept.renamed.get(node as usize).copied().flatten();
        Copied { rooms: self.rooms.copy(part, renamed), users: self.users.copy(part, renamed) }
    }

    /// Takes in what was copied. Where two former nodes have become one, the larger number of sessions holds.
    pub(crate) fn paste(&mut self, copied: Copied) {
        let larger = |table: &PlaceTable, key: &str, place: Place| {
            let there = table.get(key).unwrap_or_default().iter().find(|there| there.node == place.node);
            there.is_none_or(|there| there.sessions < place.sessions)
        };
        for (room, place) in copied.rooms {
            if larger(&self.rooms, &room, place) {
                self.place_room(&room, place);
            }
        }
        for (user, place) in copied.users {
            if larger(&self.users, &user, place) {
                self.place_user(&user, place);
            }
        }
    }
}

fn is_held(nodes: &[Node], node: u32) -> bool {
    nodes[node as usize].is_held()
}
