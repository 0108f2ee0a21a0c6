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
}

impl Routes {
    /// Nothing changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.rooms.is_empty() && self.users.is_empty()
    }

    /// Cut into steps of at most [`MAX_STEP_ENTRIES`], nodes first; at least one, which may be empty. The caller
    /// numbers them.
    pub(crate) fn into_steps(self, kind: RouteUpdateKind) -> Vec<RouteUpdate> {
        let (mut nodes, mut rooms, mut users) =
            (self.nodes.into_iter(), self.rooms.into_iter(), self.users.into_iter());
        let mut steps = Vec::new();
        loop {
            let mut step = RouteUpdate { kind: kind.into(), ..RouteUpdate::default() };
            step.nodes.extend(nodes.by_ref().take(MAX_STEP_ENTRIES));
            step.rooms.extend(rooms.by_ref().take(MAX_STEP_ENTRIES - step.nodes.len()));
            step.users.extend(users.by_ref().take(MAX_STEP_ENTRIES - step.nodes.len() - step.rooms.len()));
            steps.push(step);
            if nodes.len() + rooms.len() + users.len() == 0 {
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
}
