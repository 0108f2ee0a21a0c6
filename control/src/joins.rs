//! Joins that cannot be decided yet: the room's settings are being read, or the controller waits for its nodes or
//! for push managers.
//!
//! Owns: which joins are open. A join is taken out once: by its answer, or withdrawn by its session's end.
//! Must not: decide.

use std::collections::hash_map::Entry;
use std::time::Instant;

use ahash::{AHashMap, AHashSet};
use ringcast_proto::{RoomId, SessionId};

use crate::presence::{Arrival, LinkRef};

/// The most joins that wait; more are answered with "try again later".
const MAX_WAITING: usize = 256 * 1024;

/// A session asks to join a room.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) at: LinkRef,
    pub(crate) arrival: Arrival,
    pub(crate) room: RoomId,
    /// Only asks.
    pub(crate) probe: bool,
    /// When it came.
    pub(crate) since: Instant,
}

/// What an asking waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The nodes that were known before the restart.
    Recovery,
    /// The push managers that do not follow yet.
    Gate,
    /// The settings of its room.
    Settings,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct WaitingJoins {
    open: AHashSet<(LinkRef, SessionId)>,
    for_recovery: Vec<Asking>,
    for_gate: Vec<Asking>,
    for_settings: AHashMap<RoomId, Vec<Asking>>,
}

impl WaitingJoins {
    /// No more joins can be held.
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() >= MAX_WAITING
    }

    /// Holds a join. True where it is the first that waits for its room, so that the settings are to be read.
    pub(crate) fn hold(&mut self, asking: Asking, wait: Wait) -> bool {
        self.open.insert((asking.at, asking.arrival.session));
        match wait {
            Wait::Recovery => {
                self.for_recovery.push(asking);
                return false;
            }
            Wait::Gate => {
                self.for_gate.push(asking);
                return false;
            }
            Wait::Settings => {}
        }
        match self.for_settings.entry(asking.room.clone()) {
            Entry::Vacant(room) => {
                room.insert(vec![asking]);
                true
            }
            Entry::Occupied(mut room) => {
                room.get_mut().push(asking);
                false
            }
        }
    }

    /// The session has ended.
    pub(crate) fn withdraw(&mut self, at: LinkRef, session: SessionId) {
        self.open.remove(&(at, session));
    }

    /// The joins that waited for the nodes.
    pub(crate) fn take_recovered(&mut self) -> Vec<Asking> {
        let waiting = std::mem::take(&mut self.for_recovery);
        self.still_open(waiting)
    }

    /// The joins that waited for push managers.
    pub(crate) fn take_gated(&mut self) -> Vec<Asking> {
        let waiting = std::mem::take(&mut self.for_gate);
        self.still_open(waiting)
    }

    /// How many wait for push managers.
    pub(crate) fn gated(&self) -> usize {
        self.for_gate.len()
    }

    /// The joins that waited for a room's settings.
    pub(crate) fn take_room(&mut self, room: &RoomId) -> Vec<Asking> {
        let waiting = self.for_settings.remove(room).unwrap_or_default();
        self.still_open(waiting)
    }

    /// The joins that came before then and still wait; they are out of the waiting lists' sight from now on.
    pub(crate) fn take_overdue(&mut self, before: Instant) -> Vec<Asking> {
        let mut overdue: Vec<Asking> = self.for_recovery.extract_if(.., |join| join.since < before).collect();
        overdue.extend(self.for_gate.extract_if(.., |join| join.since < before));
        // A room's entry stays while its settings are being read, even without a join.
        for waiting in self.for_settings.values_mut() {
            overdue.extend(waiting.extract_if(.., |join| join.since < before));
        }
        self.still_open(overdue)
    }

    fn still_open(&mut self, waiting: Vec<Asking>) -> Vec<Asking> {
        let open = &mut self.open;
        waiting.into_iter().filter(|join| open.remove(&(join.at, join.arrival.session))).collect()
    }
}
