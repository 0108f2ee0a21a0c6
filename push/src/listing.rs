//! The directory's list as routing needs it: which controllers are to be followed, and whether a node is there.
//!
//! Owns: what the list says of a node, and when it can be believed. Pure: time is handed in.
//! Must not: look anything up. Talks to: `route_watch`, which makes it of the directory's view; `feeds`.

use std::time::Instant;

use ahash::RandomState;
use hashbrown::HashMap;
use registry::{Entry, Kind, View};

use crate::staleness::OLD_AFTER;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The controllers.
    pub(crate) controllers: Vec<Entry>,
    /// Node → which start of it.
    nodes: HashMap<String, u64, RandomState>,
    /// When the list was last known to be true; `None`: it was never read, or is fixed.
    pub(crate) as_of: Option<Instant>,
    /// It is a setting, and says nothing of nodes.
    pub(crate) fixed: bool,
    /// This push manager is in it.
    pub(crate) has_us: bool,
}

impl Listing {
    /// What a view says to a push manager.
    pub(crate) fn of(view: &View, us: &Entry) -> Self {
        Self {
            controllers: view.of(Kind::Controller).cloned().collect(),
            nodes: view.of(Kind::Node).map(|node| (node.id.clone(), node.incarnation)).collect(),
            as_of: view.as_of,
            fixed: view.fixed,
            has_us: view.fixed
                || view.of(us.kind).any(|entry| entry.id == us.id && entry.incarnation == us.incarnation),
        }
    }

    /// The list is fixed and holds one controller.
    pub(crate) fn is_one_fixed(&self) -> bool {
        self.fixed && self.controllers.len() == 1
    }

    /// A node that has been known since a time is not there: the list is young enough to be believed, younger than that
    /// time, and lacks this start of it.
    pub(crate) fn lacks(&self, id: &str, incarnation: u64, known_since: Instant, now: Instant) -> bool {
        let believed = self
            .as_of
            .is_some_and(|as_of| as_of > known_since && now.saturating_duration_since(as_of) <= OLD_AFTER);
        !self.fixed && believed && self.nodes.get(id) != Some(&incarnation)
    }
}
