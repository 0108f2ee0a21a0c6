//! A node's lane to the store that controllers share: what is to be carried out there, in the order of the node's
//! words, and what waits for it.
//!
//! Owns: when the store knows the link, when it holds what memory holds, which joins wait for a verdict.
//! Must not: call the store (`lane_task` does), know a clock, or decide who is where (`presence` does).
//!
//! A lane belongs to one link of a node. Whatever goes wrong makes it dirty: what waited is let go, and before
//! anything else is carried out the store is told of the link again, and made equal to memory.

use std::collections::VecDeque;
use std::time::Instant;

use ahash::AHashMap;
use ringcast_proto::{RoomId, SessionId, UserId};
use tokio::sync::oneshot;

use crate::presence::Arrival;
use crate::presence_store::{Change, NodeAt, NodeRecord, Verdict};

/// The most changes that may wait, joins up to half of it. Too small makes lanes dirty in a storm, too large lets a
/// slow store hold memory.
pub(crate) const MAX_QUEUED: usize = 64 * 1024;

/// The most changes in one call.
pub(crate) const MAX_BATCH: usize = 500;

/// How far the store has come with this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It is not known to know the link, nor what it holds.
    Dirty,
    /// It knows the link.
    Begun,
    /// It is being made equal to memory.
    Syncing,
    /// It holds what memory holds, but for what waits here.
    Clean,
    /// A later link, or incarnation, has the node.
    Fenced,
    /// The node is gone, and is to be taken out.
    Leaving,
}

/// What the lane's task is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Tell the store of the link.
    Begin,
    /// Make the store equal to memory.
    Sync,
    /// Carry these out.
    Apply(Vec<Change>),
    /// Take the node out.
    Remove(Box<NodeRecord>),
    /// Wait until there is something.
    Idle,
    /// Nothing will come any more.
    Over,
}

/// Who waits for the verdict on an entering.
#[derive(Debug)]
enum Waiter {
    /// A new session, unless it was withdrawn meanwhile.
    Join { ticket: u64, since: Instant },
    /// A live session that is to join another room.
    Seat(SeatReply),
}

/// Tells whether there was a seat; dropped where nobody knows.
pub(crate) type SeatReply = oneshot::Sender<bool>;

#[derive(Debug)]
struct Item {
    change: Change,
    waiter: Option<Waiter>,
}

/// A new session that waits for its verdict.
#[derive(Debug)]
struct Asked {
    ticket: u64,
    user: UserId,
    room: RoomId,
}

/// What a verdict means for whoever waited for it.
#[derive(Debug)]
pub(crate) enum Decided {
    /// A new session has a seat.
    Joined { arrival: Arrival, room: RoomId, since: Instant },
    /// A new session has none.
    JoinFull { session: SessionId },
    /// A live session has a seat, or has none.
    Seat { session: SessionId, user: UserId, room: RoomId, taken: bool, reply: SeatReply },
}

/// The lane.
#[derive(Debug)]
pub(crate) struct Lane {
    node: NodeAt,
    phase: Phase,
    /// The node's snapshot is whole in memory.
    whole: bool,
    queue: VecDeque<Item>,
    in_flight: Vec<Option<Waiter>>,
    asked: AHashMap<SessionId, Asked>,
    /// Rooms that live sessions have asked for, until the verdict.
    seats: AHashMap<SessionId, Vec<RoomId>>,
    next_ticket: u64,
    leaving: Option<Box<NodeRecord>>,
}

impl Lane {
    /// The lane of a new link; `begun`: the store has been told of it.
    pub(crate) fn new(node: NodeAt, begun: bool) -> Self {
        Self {
            node,
            phase: if begun { Phase::Begun } else { Phase::Dirty },
            whole: false,
            queue: VecDeque::new(),
            in_flight: Vec::new(),
            asked: AHashMap::new(),
            seats: AHashMap::new(),
            next_ticket: 0,
            leaving: None,
        }
    }

    /// The node at its link.
    pub(crate) fn node(&self) -> &NodeAt {
        &self.node
    }

    /// The store holds what memory holds, but for what waits here.
    pub(crate) fn is_clean(&self) -> bool {
        self.phase == Phase::Clean
    }

    /// Joins are taken: they can be decided, and do not wait too long, nor in the way of what has happened.
    pub(crate) fn takes_joins(&self) -> bool {
        self.is_clean() && self.queue.len() < MAX_QUEUED / 2
    }

    /// The store knows the link and may be told the node's load.
    pub(crate) fn is_known(&self) -> bool {
        matches!(self.phase, Phase::Begun | Phase::Syncing | Phase::Clean)
    }

    /// Somebody else has the node.
    pub(crate) fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    /// The node is gone from memory.
    pub(crate) fn is_leaving(&self) -> bool {
        self.phase == Phase::Leaving
    }

    /// How many changes wait.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len() + self.in_flight.len()
    }

    /// The node's snapshot is whole.
    pub(crate) fn snapshot_is_whole(&mut self) {
        self.whole = true;
    }

    /// Whether a new session waits for its verdict.
    pub(crate) fn is_asked(&self, session: SessionId) -> bool {
        self.asked.contains_key(&session)
    }

    /// A new session asks for a seat. False where too much waits: the lane has to be spoiled.
    #[must_use]
    pub(crate) fn ask(&mut self, arrival: Arrival, room: RoomId, max_users: u32, since: Instant) -> bool {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let asked = Asked { ticket, user: arrival.user.clone(), room: room.clone() };
        self.asked.insert(arrival.session, asked);
        let change = Change::Enter { arrival, room, max_users: Some(max_users) };
        self.push(change, Some(Waiter::Join { ticket, since }))
    }

    /// A live session asks for a seat in another room. False where too much waits: the lane has to be spoiled.
    #[must_use]
    pub(crate) fn ask_seat(
        &mut self,
        arrival: Arrival,
        room: RoomId,
        max_users: u32,
        reply: SeatReply,
    ) -> bool {
        self.seats.entry(arrival.session).or_default().push(room.clone());
        let change = Change::Enter { arrival, room, max_users: Some(max_users) };
        self.push(change, Some(Waiter::Seat(reply)))
    }

    /// Tells what has happened in memory. False where too much waits: the lane has to be spoiled. While the lane is
    /// dirty nothing has to be told, for the store will be made equal to memory.
    #[must_use]
    pub(crate) fn tell(&mut self, change: Change) -> bool {
        if matches!(self.phase, Phase::Syncing | Phase::Clean) { self.push(change, None) } else { true }
    }

    /// A session has ended; `live`: its user and rooms in memory, where it was live. Also takes back what it asked for,
    /// where that is still on the way. False where too much waits: the lane has to be spoiled.
    #[must_use]
    pub(crate) fn end(&mut self, session: SessionId, live: Option<(UserId, Vec<RoomId>)>) -> bool {
        let asked = self.asked.remove(&session);
        let (user, mut rooms) = match (live, &asked) {
            (Some(live), _) => live,
            (None, Some(asked)) => (asked.user.clone(), Vec::new()),
            (None, None) => return true,
        };
        rooms.extend(asked.map(|asked| asked.room));
        rooms.extend(self.seats.get(&session).into_iter().flatten().cloned());
        self.tell(Change::End { session, user, rooms })
    }

    /// The link is lost: joins that wait are taken back, those of sessions that are `live` without ending them. False
    /// where too much waits: the lane has to be spoiled.
    #[must_use]
    pub(crate) fn withdraw_all(&mut self, live: impl Fn(SessionId) -> bool) -> bool {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().all(|(session, Asked { user, room, .. })| {
            self.tell(match live(session) {
                true => Change::Exit { session, user, room },
                false => Change::End { session, user, rooms: vec![room] },
            })
        })
    }

    fn push(&mut self, change: Change, waiter: Option<Waiter>) -> bool {
        if self.queue.len() >= MAX_QUEUED {
            return false;
        }
        self.queue.push_back(Item { change, waiter });
        true
    }

    /// The node is gone: it is to be taken out of the store, unless somebody else has it. Joins that wait are let go.
    pub(crate) fn leave(&mut self, record: NodeRecord) {
        self.let_go();
        if self.phase != Phase::Fenced {
            self.phase = Phase::Leaving;
            self.leaving = Some(Box::new(record));
        }
    }

    /// What is to be done next. The caller does it before it asks again.
    pub(crate) fn next(&mut self) -> Work {
        match self.phase {
            Phase::Dirty => Work::Begin,
            Phase::Begun if self.whole => {
                self.phase = Phase::Syncing;
                Work::Sync
            }
            Phase::Begun => Work::Idle,
            // Left by a call that came to nothing.
            Phase::Syncing => Work::Sync,
            Phase::Clean if self.queue.is_empty() => Work::Idle,
            Phase::Clean => {
                let batch = self.queue.drain(..self.queue.len().min(MAX_BATCH));
                let (changes, waiters) = batch.map(|item| (item.change, item.waiter)).unzip();
                self.in_flight = waiters;
                Work::Apply(changes)
            }
            Phase::Fenced => Work::Over,
            Phase::Leaving => self.leaving.clone().map_or(Work::Over, Work::Remove),
        }
    }

    /// The store knows the link now.
    pub(crate) fn begun(&mut self) {
        if self.phase == Phase::Dirty {
            self.phase = Phase::Begun;
        }
    }

    /// The store has been made equal to memory.
    pub(crate) fn synced(&mut self) {
        if self.phase == Phase::Syncing {
            self.phase = Phase::Clean;
        }
    }

    /// Another link, or incarnation, has the node for good. Returns the joins that waited.
    pub(crate) fn fence(&mut self) -> Vec<SessionId> {
        self.phase = Phase::Fenced;
        self.leaving = None;
        self.let_go()
    }

    /// The node has been taken out.
    pub(crate) fn removed(&mut self) {
        self.leaving = None;
    }

    /// What the store holds is not known any more. Returns the joins that waited.
    pub(crate) fn spoil(&mut self) -> Vec<SessionId> {
        if self.is_known() {
            self.phase = Phase::Dirty;
        }
        self.let_go()
    }

    fn let_go(&mut self) -> Vec<SessionId> {
        self.queue.clear();
        self.in_flight.clear();
        self.seats.clear();
        std::mem::take(&mut self.asked).into_keys().collect()
    }

    /// Takes in what became of the changes of a [`Work::Apply`]. `None` where the store and the lane do not agree
    /// on who has the node: the lane has to be spoiled.
    pub(crate) fn applied(&mut self, changes: Vec<Change>, verdicts: &[Verdict]) -> Option<Vec<Decided>> {
        let waiters = std::mem::take(&mut self.in_flight);
        if waiters.is_empty() {
            // It was let go meanwhile.
            return Some(Vec::new());
        }
        if verdicts.len() != changes.len() || verdicts.contains(&Verdict::Fenced) {
            return None;
        }
        let all = changes.into_iter().zip(verdicts).zip(waiters);
        Some(all.filter_map(|((change, verdict), waiter)| self.decide(change, *verdict, waiter?)).collect())
    }

    fn decide(&mut self, change: Change, verdict: Verdict, waiter: Waiter) -> Option<Decided> {
        let Change::Enter { arrival, room, .. } = change else { return None };
        let session = arrival.session;
        let taken = verdict == Verdict::Done;
        match waiter {
            Waiter::Join { ticket, since } => {
                // A join that was withdrawn is followed by what takes it back.
                let waits = self.asked.get(&session).is_some_and(|asked| asked.ticket == ticket);
                waits.then(|| self.asked.remove(&session));
                waits.then_some(match taken {
                    true => Decided::Joined { arrival, room, since },
                    false => Decided::JoinFull { session },
                })
            }
            Waiter::Seat(reply) => {
                if let Some(seats) = self.seats.get_mut(&session) {
                    let place = seats.iter().position(|asked| *asked == room);
                    place.map(|place| seats.swap_remove(place));
                    if seats.is_empty() {
                        self.seats.remove(&session);
                    }
                }
                Some(Decided::Seat { session, user: arrival.user, room, taken, reply })
            }
        }
    }
}

#[cfg(test)]
mod tests;
