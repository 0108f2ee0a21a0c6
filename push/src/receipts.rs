//! The pushes whose fate is not known yet: what each node has said, and what is to be answered when all have, or at
//! the deadline.
//!
//! Owns: the table of open pushes, the sums, the deadlines. Pure: no lock, clock or task; time is handed in.
//! Must not: know links beyond their number. Talks to: `dispatch`, which holds it under its lock.
//!
//! An id is the push's place in the order of acceptance (44 bits) above its slot in the table (20 bits): it
//! increases, as the contract with the nodes asks, and a late answer finds its slot without a hash, or finds the
//! slot used by a later push and changes nothing. Deadlines are gathered by the millisecond in one ordered map, for
//! one timer. A millisecond whose pushes have all been answered leaves the map, so that the timer, which is set for
//! the earliest deadline that was known when it was set, wakes nobody for a push that was answered in time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{NodeOutcomes, Outcomes};
use smallvec::SmallVec;

use crate::answer::{Finished, Nobody, Waiter};
use crate::push_trace::PushTrace;
use crate::request::Scope;

/// How many pushes may be open; beyond, new ones are refused.
pub(crate) const MAX_OPEN: usize = 131_072;

const SLOT_BITS: u32 = 20;

/// The slot of ids that are never looked up: of pushes without a report.
const NO_SLOT: u64 = (1 << SLOT_BITS) - 1;

/// A link to a node, as long as the table knows a part on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkId(pub(crate) u32);

/// What is known of a push on one node.
#[derive(Debug)]
pub(crate) struct Part {
    /// The link to the node.
    pub(crate) link: LinkId,
    /// The node.
    pub(crate) node: Arc<str>,
    /// How many sessions the routes counted there at acceptance.
    pub(crate) routed: u32,
    /// How far it is.
    pub(crate) state: PartState,
}

/// How far a push is on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PartState {
    /// In the node's queue.
    Waiting,
    /// Handed over to the node's stream.
    Handed,
    /// All is known.
    Known(Outcomes),
}

impl Part {
    /// The queue to the node was full, or it could not be handed over in time.
    pub(crate) fn shed(&mut self) {
        let routed = u64::from(self.routed);
        self.state =
            PartState::Known(Outcomes { members: routed, dropped_shed: routed, ..Default::default() });
    }

    /// The link to the node has been down for too long: its sessions are as good as closed.
    pub(crate) fn close(&mut self) {
        let routed = u64::from(self.routed);
        self.state =
            PartState::Known(Outcomes { members: routed, dropped_closed: routed, ..Default::default() });
    }

    /// The caller asked for no report.
    pub(crate) fn leave_queued(&mut self) {
        let routed = u64::from(self.routed);
        self.state = PartState::Known(Outcomes { members: routed, queued: routed, ..Default::default() });
    }

    fn lose(&mut self) {
        let routed = u64::from(self.routed);
        self.state = PartState::Known(Outcomes { members: routed, unknown: routed, ..Default::default() });
    }

    /// Ends what is not known: what was handed over may have arrived, the rest is not sent any more.
    fn give_up(&mut self) {
        match self.state {
            PartState::Waiting => self.shed(),
            PartState::Handed => self.lose(),
            PartState::Known(_) => {}
        }
    }
}

/// A push that was accepted.
#[derive(Debug)]
pub(crate) struct OpenPush {
    /// Whom it is for.
    pub(crate) scope: Scope,
    /// Its id, for the answer.
    pub(crate) message_id: String,
    /// When it was accepted.
    pub(crate) accepted: Instant,
    /// How long the routes had been stale then, in milliseconds.
    pub(crate) routes_stale_ms: u32,
    /// What to say where no session was found.
    pub(crate) nobody: Nobody,
    /// Whether the answer lists the nodes.
    pub(crate) by_node: bool,
    /// The nodes.
    pub(crate) parts: SmallVec<[Part; 1]>,
    /// Who waits for the answer.
    pub(crate) waiter: Waiter,
    /// Its trace, where that is sampled.
    pub(crate) trace: Option<Box<PushTrace>>,
}

impl OpenPush {
    /// Nothing is left to be known.
    pub(crate) fn is_known(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.state, PartState::Known(_)))
    }

    /// The answer, for the one who waits for it. What is not known is given up.
    pub(crate) fn finish(mut self, now: Instant) -> (Waiter, Finished) {
        let mut total = Outcomes::default();
        let mut nodes = Vec::with_capacity(if self.by_node { self.parts.len() } else { 0 });
        for (number, part) in self.parts.iter_mut().enumerate() {
            part.give_up();
            let PartState::Known(outcomes) = part.state else { continue };
            total += &outcomes;
            if let Some(trace) = &mut self.trace {
                trace.node(number, &part.node, &outcomes);
            }
            if self.by_node && outcomes.members > 0 {
                nodes.push(NodeOutcomes { node_id: part.node.to_string(), outcomes: Some(outcomes) });
            }
        }
        if total.members == 0 && self.scope == Scope::User {
            total.members = 1;
            total.offline = 1;
        }
        let finished = Finished {
            scope: self.scope,
            message_id: self.message_id,
            total,
            nodes,
            routes_stale_ms: self.routes_stale_ms,
            elapsed: now.saturating_duration_since(self.accepted),
            nobody: self.nobody,
            trace: self.trace,
        };
        (self.waiter, finished)
    }
}

#[derive(Debug, Default)]
struct Slot {
    id: u64,
    /// The millisecond of its deadline.
    due: u64,
    push: Option<OpenPush>,
}

/// The pushes that end at one millisecond.
#[derive(Debug, Default)]
struct DueThen {
    ids: Vec<u64>,
    /// How many of them are open.
    open: usize,
}

/// The millisecond of a timer that is not set.
const NEVER: u64 = u64::MAX;

/// The open pushes.
#[derive(Debug)]
pub(crate) struct OpenPushes {
    slots: Vec<Slot>,
    free: Vec<u32>,
    accepted: u64,
    start: Instant,
    /// Millisecond since `start` → pushes that end then.
    due: BTreeMap<u64, DueThen>,
    /// The millisecond that the timer is set for.
    timer: u64,
}

impl OpenPushes {
    /// An empty table; no deadline lies before `start`.
    pub(crate) fn new(start: Instant) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), accepted: 0, start, due: BTreeMap::new(), timer: NEVER }
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The id of a push that nothing will be heard of.
    pub(crate) fn next_unheard_id(&mut self) -> u64 {
        self.accepted += 1;
        self.accepted << SLOT_BITS | NO_SLOT
    }

    /// The id of a push that [`open`](Self::open) is to take next.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.accepted += 1;
        let slot = self.free.last().map_or(self.slots.len(), |&slot| slot as usize);
        self.accepted << SLOT_BITS | slot as u64
    }

    /// Takes a push under the id that [`next_id`](Self::next_id) just gave; whether its deadline is before the one
    /// that the timer is set for.
    pub(crate) fn open(&mut self, id: u64, push: OpenPush, deadline: Instant) -> bool {
        let slot = slot_of(id);
        match self.free.pop() {
            Some(free) => assert_eq!(free as usize, slot, "the slot was promised to this push"),
            None => self.slots.push(Slot::default()),
        }
        let due = self.millisecond(deadline);
        self.slots[slot] = Slot { id, due, push: Some(push) };
        let then = self.due.entry(due).or_default();
        then.ids.push(id);
        then.open += 1;
        due < self.timer
    }

    /// A push is handed over to a node's stream now; false: it was answered already, do not send it.
    pub(crate) fn hand_over(&mut self, id: u64, part: u32) -> bool {
        let Some(part) = self.get(id).and_then(|push| push.parts.get_mut(part as usize)) else {
            return false;
        };
        part.state = PartState::Handed;
        true
    }

    /// A node has answered now. Its members are the sum of its outcomes, whatever it says they are. Where it was the
    /// last one, the push is added to `ended`. False: the push was answered already, and nothing changes.
    pub(crate) fn answer(
        &mut self,
        id: u64,
        link: LinkId,
        mut outcomes: Outcomes,
        now: Instant,
        ended: &mut Vec<OpenPush>,
    ) -> bool {
        let Some(push) = self.get(id) else { return false };
        let handed = |part: &Part| part.link == link && part.state == PartState::Handed;
        let parts = push.parts.iter_mut().enumerate();
        let Some((number, part)) = parts.into_iter().find(|(_, part)| handed(part)) else { return false };
        outcomes.members = sum(&outcomes);
        part.state = PartState::Known(outcomes);
        if let Some(trace) = &mut push.trace {
            trace.answered(number, now);
        }
        if push.is_known() {
            ended.extend(self.take(id));
        }
        true
    }

    /// A node's stream broke: what was handed over to it is unknown. Those that end by it are added to `ended`.
    pub(crate) fn lose_handed(&mut self, link: LinkId, ended: &mut Vec<OpenPush>) {
        self.end_parts(ended, |part| {
            if part.link == link && part.state == PartState::Handed {
                part.lose();
            }
        });
    }

    /// A link is no more: nothing will be heard or sent on it. Those that end by it are added to `ended`.
    pub(crate) fn remove_link(&mut self, link: LinkId, ended: &mut Vec<OpenPush>) {
        self.end_parts(ended, |part| {
            if part.link == link {
                part.give_up();
            }
        });
    }

    /// Whether anything is to be heard on a link yet. Looks at every open push.
    pub(crate) fn awaits(&self, link: LinkId) -> bool {
        let parts = self.slots.iter().filter_map(|slot| slot.push.as_ref()).flat_map(|push| &push.parts);
        parts.into_iter().any(|part| part.link == link && part.state == PartState::Handed)
    }

    /// What the timer is to be set for: the earliest deadline.
    pub(crate) fn set_timer(&mut self) -> Option<Instant> {
        let first = self.due.keys().next().copied();
        self.timer = first.unwrap_or(NEVER);
        first.map(|ms| self.start + Duration::from_millis(ms))
    }

    /// Ends the pushes whose deadline has come; they are added to `ended`.
    pub(crate) fn expire(&mut self, now: Instant, ended: &mut Vec<OpenPush>) {
        let now = self.millisecond(now);
        while let Some(first) = self.due.first_entry()
            && *first.key() <= now
        {
            for id in first.remove().ids {
                ended.extend(self.take(id));
            }
        }
    }

    fn end_parts(&mut self, ended: &mut Vec<OpenPush>, mut end: impl FnMut(&mut Part)) {
        for slot in 0..self.slots.len() {
            let Some(push) = self.slots[slot].push.as_mut() else { continue };
            push.parts.iter_mut().for_each(&mut end);
            if push.is_known() {
                ended.extend(self.take(self.slots[slot].id));
            }
        }
    }

    fn get(&mut self, id: u64) -> Option<&mut OpenPush> {
        let slot = self.slots.get_mut(slot_of(id)).filter(|slot| slot.id == id)?;
        slot.push.as_mut()
    }

    fn take(&mut self, id: u64) -> Option<OpenPush> {
        let slot = slot_of(id);
        let found = self.slots.get_mut(slot).filter(|slot| slot.id == id)?;
        let push = found.push.take()?;
        self.free.push(slot as u32);
        // Where its deadline has come, its millisecond is no longer there.
        if let Entry::Occupied(mut then) = self.due.entry(found.due) {
            then.get_mut().open -= 1;
            if then.get().open == 0 {
                then.remove();
            }
        }
        Some(push)
    }

    /// Rounded down, so that an answer is rather early than late.
    fn millisecond(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }
}

fn slot_of(id: u64) -> usize {
    (id & NO_SLOT) as usize
}

/// All outcomes but the members.
fn sum(of: &Outcomes) -> u64 {
    let all =
        [of.written, of.queued, of.dropped_slow, of.dropped_closed, of.dropped_shed, of.offline, of.unknown];
    all.into_iter().fold(0, u64::saturating_add)
}
