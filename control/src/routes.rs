//! What push managers route by, as it goes over the wire: absolute session counts, so that hearing one twice does
//! no harm.
//!
//! Owns: the size of a feed step. Must not: know who is where (`presence` does) or who listens (`feed` does).

use ringcast_proto::pubsub::{NodeRoute, RoomRoute, RouteUpdate, RouteUpdateKind, UserRoute};

/// The most entries that one step of the feed carries: about half a megabyte with the longest ids.
pub(crate) const MAX_STEP_ENTRIES: usize = 4096;

/// Changes of one processing turn, or all routes there are.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Routes {
    /// Nodes that came, changed or went.
    pub(crate) nodes: Vec<NodeRoute>,
    /// Rooms on nodes.
    pub(crate) rooms: Vec<RoomRoute>,
    /// Users on nodes.
    pub(crate) users: Vec<UserRoute>,
    /// Nodes whose snapshot is whole with these routes.
    pub(crate) whole: Vec<NodeRoute>,
}

impl Routes {
    /// Nothing changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.rooms.is_empty() && self.users.is_empty() && self.whole.is_empty()
    }

    /// Cut into steps of at most [`MAX_STEP_ENTRIES`], nodes first, those that are whole last; at least one, which
    /// may be empty. The caller numbers them.
    pub(crate) fn into_steps(self, kind: RouteUpdateKind) -> Vec<RouteUpdate> {
        let (mut nodes, mut rooms, mut users, mut whole) =
            (self.nodes.into_iter(), self.rooms.into_iter(), self.users.into_iter(), self.whole.into_iter());
        let mut steps = Vec::new();
        loop {
            let mut step = RouteUpdate { kind: kind.into(), ..RouteUpdate::default() };
            step.nodes.extend(nodes.by_ref().take(MAX_STEP_ENTRIES));
            step.rooms.extend(rooms.by_ref().take(MAX_STEP_ENTRIES - step.nodes.len()));
            step.users.extend(users.by_ref().take(MAX_STEP_ENTRIES - step.nodes.len() - step.rooms.len()));
            let room = MAX_STEP_ENTRIES - entries(&step);
            step.nodes.extend(whole.by_ref().take(room));
            steps.push(step);
            if nodes.len() + rooms.len() + users.len() + whole.len() == 0 {
                return steps;
            }
        }
    }
}

/// How many entries a step carries.
pub(crate) fn entries(step: &RouteUpdate) -> usize {
    step.nodes.len() + step.rooms.len() + step.users.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_their_bound_and_lose_nothing() {
        for (nodes, rooms, users) in [(0, 0, 0), (3, 4093, 0), (3, 4094, 1), (5000, 5000, 5000)] {
            let routes = Routes {
                whole: Vec::new(),
                nodes: vec![NodeRoute::default(); nodes],
                rooms: vec![RoomRoute::default(); rooms],
                users: vec![UserRoute::default(); users],
            };
            let steps = routes.into_steps(RouteUpdateKind::Change);
            assert_eq!(steps.len(), (nodes + rooms + users).div_ceil(MAX_STEP_ENTRIES).max(1));
            assert!(steps.iter().all(|step| entries(step) <= MAX_STEP_ENTRIES));
            let sum = |count: fn(&RouteUpdate) -> usize| steps.iter().map(count).sum::<usize>();
            assert_eq!(
                (sum(|s| s.nodes.len()), sum(|s| s.rooms.len()), sum(|s| s.users.len())),
                (nodes, rooms, users)
            );
        }
    }

    #[test]
    fn a_node_is_told_whole_with_or_after_the_last_of_its_routes() {
        let node = |partial| NodeRoute { partial, ..NodeRoute::default() };
        for rooms in [0, 10, MAX_STEP_ENTRIES - 1, MAX_STEP_ENTRIES] {
            let rooms = vec![RoomRoute::default(); rooms];
            let routes =
                Routes { nodes: vec![node(true)], rooms, whole: vec![node(false)], users: Vec::new() };
            let steps = routes.into_steps(RouteUpdateKind::Change);
            let whole = |step: &RouteUpdate| step.nodes.iter().any(|node| !node.partial);
            let at = steps.iter().position(whole).unwrap();
            assert!(steps[at + 1..].iter().all(|step| step.rooms.is_empty()), "routes come after it");
            assert!(steps[0].nodes[0].partial);
        }
    }
}
