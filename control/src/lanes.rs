//! The lanes of all nodes to the store that controllers share: what happens in memory is told to them, joins ask them
//! for a seat, and what the store decides comes back.
//!
//! Owns: which lane is told what, what follows from a verdict. Must not: decide what a lane does next (`lane` does), or
//! call the store (`lane_task` does, for each of them). Talks to: `registry`, under whose lock all of this happens.
//!
//! Memory is true and the store is made like it: a store that is away, or that has lost what it held, costs joins
//! their answer for a while, and nothing else.

use std::sync::Arc;

use ahash::AHashMap;
use ringcast_proto::pubsub::JoinDecision;
use ringcast_proto::{RoomId, SessionId, UserId};
use tokio::sync::{Notify, oneshot};
use tonic::Status;

use crate::join_trace::Step;
use crate::joins::Asking;
use crate::lane::{Decided, Lane, Work};
use crate::lane_task::drive;
use crate::presence::{LinkRef, NodeCard, NodeKey, Now, Seat, SessionRef};
use crate::presence_store::{Change, NodeAt, NodeRecord, Verdict};
use crate::refusal;
use crate::registry::{Registry, State, answer};
use crate::sharing::Sharing;

/// Questions in one call.
const PROBE_CHUNK: usize = 500;

/// What is said to those whose join waits for the store.
const AWAY: &str = "the store of presence cannot be reached";

/// A lane with what wakes its task.
#[derive(Debug)]
struct Slot {
    generation: u64,
    lane: Lane,
    wake: Arc<Notify>,
}

/// All lanes. None where presence is not shared.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    slots: AHashMap<NodeKey, Slot>,
}

impl Lanes {
    /// The lane of a link.
    pub(crate) fn of(&self, at: LinkRef) -> Option<&Lane> {
        self.slots.get(&at.node).filter(|slot| slot.generation == at.generation).map(|slot| &slot.lane)
    }

    /// The lane of a node, whatever its link.
    pub(crate) fn of_node(&self, node: NodeKey) -> Option<&Lane> {
        self.slots.get(&node).map(|slot| &slot.lane)
    }

    /// All of them, with their links.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkRef, &Lane)> {
        self.slots
            .iter()
            .map(|(node, slot)| (LinkRef { node: *node, generation: slot.generation }, &slot.lane))
    }

    /// The link of a node's lane.
    fn at(&self, node: NodeKey) -> Option<LinkRef> {
        self.slots.get(&node).map(|slot| LinkRef { node, generation: slot.generation })
    }

    fn slot(&mut self, at: LinkRef) -> Option<&mut Slot> {
        self.slots.get_mut(&at.node).filter(|slot| slot.generation == at.generation)
    }

    /// What a link's lane is to do next, with its node.
    pub(crate) fn next_work(&mut self, at: LinkRef) -> Option<(NodeAt, Work)> {
        let lane = &mut self.slot(at)?.lane;
        Some((lane.node().clone(), lane.next()))
    }

    /// Takes in what became of a batch; `None`: the lane has to be spoiled.
    pub(crate) fn applied(
        &mut self,
        at: LinkRef,
        changes: Vec<Change>,
        verdicts: &[Verdict],
    ) -> Option<Vec<Decided>> {
        match self.slot(at) {
            Some(slot) => slot.lane.applied(changes, verdicts),
            None => Some(Vec::new()),
        }
    }

    /// The same, to be changed, which its task will look at.
    pub(crate) fn change(&mut self, at: LinkRef) -> Option<&mut Lane> {
        let slot = self.slot(at)?;
        slot.wake.notify_one();
        Some(&mut slot.lane)
    }

    /// Forgets a node's lane: nothing is said to the store any more.
    pub(crate) fn forget(&mut self, node: NodeKey) {
        if let Some(slot) = self.slots.remove(&node) {
            slot.wake.notify_one();
        }
    }

    /// A link's lane has nothing to do any more. One that is fenced stays known while its node is.
    pub(crate) fn over(&mut self, at: LinkRef, node_is_known: bool) {
        if self.slot(at).is_some_and(|slot| !(node_is_known && slot.lane.is_fenced())) {
            self.forget(at.node);
        }
    }
}

/// A question whether there would be a seat.
#[derive(Debug)]
pub(crate) struct Probe {
    at: LinkRef,
    session: SessionId,
    asked: (RoomId, UserId, u32),
}

/// What happens in memory, told to the lanes.
impl Registry {
    /// A node has a new link, whose lane this opens; `begun`: the store has been told of it.
    pub(crate) fn open_lane(self: &Arc<Self>, state: &mut State, at: LinkRef, node: NodeAt, begun: bool) {
        let Some(sharing) = &self.sharing else { return };
        // A removal of the same node that is still to come would be one of this link.
        state.lanes.slots.retain(|_, slot| !(slot.lane.is_leaving() && slot.lane.node().id == node.id));
        let wake = Arc::new(Notify::new());
        let slot = Slot { generation: at.generation, lane: Lane::new(node, begun), wake: wake.clone() };
        if let Some(former) = state.lanes.slots.insert(at.node, slot) {
            former.wake.notify_one();
        }
        let drive = drive(self.clone(), sharing.clone(), at, wake);
        sharing.spawn(drive);
    }

    /// A node's snapshot is whole.
    pub(crate) fn snapshot_is_shared(&self, state: &mut State, at: LinkRef) {
        if let Some(lane) = state.lanes.change(at) {
            lane.snapshot_is_whole();
        }
    }

    /// A session has ended, or takes its join back.
    pub(crate) fn end_session(&self, state: &mut State, at: LinkRef, session: SessionId) {
        if state.lanes.of(at).is_some() {
            let live = state.presence.record(at.node, session).map(|(arrival, rooms)| (arrival.user, rooms));
            self.tell(state, at, |lane| lane.end(session, live));
        }
        state.presence.end(at, session);
    }

    /// Adds a room to a live session, without a question of seats. Returns whether that changed anything.
    pub(crate) fn enter(&self, state: &mut State, session: &SessionRef, room: &RoomId, now: Now) -> bool {
        let changed = state.presence.add_room(session.node, session.session, room, now);
        if changed {
            self.tell_entered(state, session, room);
        }
        changed
    }

    /// Takes a room from a live session. Returns whether that changed anything.
    pub(crate) fn exit(&self, state: &mut State, session: &SessionRef, room: &RoomId) -> bool {
        let changed = state.presence.remove_room(session.node, session.session, room);
        if changed && let Some(at) = state.lanes.at(session.node) {
            let record = state.presence.record(session.node, session.session);
            let change = record.map(|(arrival, _)| Change::Exit {
                session: session.session,
                user: arrival.user,
                room: room.clone(),
            });
            self.tell(state, at, |lane| change.is_none_or(|change| lane.tell(change)));
        }
        changed
    }

    /// A live session has another name or metadata.
    pub(crate) fn renamed(&self, state: &mut State, session: &SessionRef) {
        if state.lanes.at(session.node).is_none() {
            return;
        }
        let rooms = state.presence.record(session.node, session.session).map(|(_, rooms)| rooms);
        for room in rooms.unwrap_or_default() {
            self.tell_entered(state, session, &room);
        }
    }

    fn tell_entered(&self, state: &mut State, session: &SessionRef, room: &RoomId) {
        let Some(at) = state.lanes.at(session.node) else { return };
        let Some((arrival, _)) = state.presence.record(session.node, session.session) else { return };
        let change = Change::Enter { arrival, room: room.clone(), max_users: None };
        self.tell(state, at, |lane| lane.tell(change));
    }

    /// A node's link is lost: its joins are taken back.
    pub(crate) fn withdraw_joins(&self, state: &mut State, at: LinkRef) {
        let Some(lane) = state.lanes.slots.get_mut(&at.node).filter(|slot| slot.generation == at.generation)
        else {
            return;
        };
        let presence = &state.presence;
        let taken = lane.lane.withdraw_all(|session| presence.record(at.node, session).is_some());
        lane.wake.notify_one();
        if !taken {
            self.spoil(state, at);
        }
    }

    /// A node is gone from memory, and is to be gone from the store; where it has `moved`, the store is another
    /// controller's to write.
    pub(crate) fn leave_lane(
        &self,
        state: &mut State,
        node: NodeKey,
        record: Option<NodeRecord>,
        moved: bool,
    ) {
        let Some(at) = state.lanes.at(node) else { return };
        let fenced = state.lanes.of(at).is_some_and(Lane::is_fenced);
        match record.filter(|_| !moved && !fenced) {
            Some(record) => {
                if let Some(lane) = state.lanes.change(at) {
                    lane.leave(record);
                }
            }
            None => state.lanes.forget(node),
        }
    }

    /// A node as others are told of it.
    pub(crate) fn record_of(&self, state: &State, node: NodeKey) -> Option<NodeRecord> {
        let known = state.presence.node(node)?;
        Some(NodeRecord {
            link: known.link(),
            whole: state.lanes.of_node(node).is_some_and(Lane::is_clean),
            linked: known.lost_since().is_none(),
            draining: known.is_draining(),
            connections: known.connections,
            sessions: known.session_count(),
            ..self.new_record(known.card.clone(), known.link())
        })
    }

    /// A node that has a new link.
    pub(crate) fn new_record(&self, card: NodeCard, link: u64) -> NodeRecord {
        NodeRecord {
            card,
            link,
            controller: self.controller_id.to_string(),
            whole: false,
            linked: true,
            draining: false,
            connections: 0,
            sessions: 0,
        }
    }

    fn tell(&self, state: &mut State, at: LinkRef, tell: impl FnOnce(&mut Lane) -> bool) {
        if state.lanes.change(at).is_some_and(|lane| !tell(lane)) {
            tracing::warn!("more waits for the store of presence than may: a node will be written anew");
            self.spoil(state, at);
        }
    }

    /// What the store holds of a node is not known any more; joins that waited are answered.
    pub(crate) fn spoil(&self, state: &mut State, at: LinkRef) {
        let waiting = state.lanes.change(at).map(Lane::spoil).unwrap_or_default();
        for session in waiting {
            self.refuse(state, at, session, false, JoinDecision::Unavailable, AWAY);
        }
    }
}

/// Joins.
impl Registry {
    /// Has a join decided by the store.
    pub(crate) fn ask_store(&self, state: &mut State, asking: Asking, max_users: u32) {
        let Asking { at, arrival, room, probe, since } = asking;
        let session = arrival.session;
        if probe {
            return state.probe(Probe { at, session, asked: (room, arrival.user, max_users) });
        }
        let Some(lane) = state.lanes.of(at).filter(|_| state.presence.is_current(at)) else { return };
        let another = lane.is_asked(session) || state.presence.conflicts(at.node, &arrival);
        if another {
            let reason = "the session is another user's, or asks for a room already";
            self.log_invalid(at, reason);
            return self.refuse(state, at, session, probe, JoinDecision::Invalid, reason);
        }
        if !lane.takes_joins() {
            return self.refuse(state, at, session, probe, JoinDecision::Unavailable, AWAY);
        }
        state.traces.waits(at, session, Step::Seat);
        self.tell(state, at, |lane| lane.ask(arrival, room, max_users, since));
    }

    /// Asks the store for a seat in a room for live sessions of one user. Returns the sessions that are in the room
    /// by this; `None`: the room is full.
    pub(crate) async fn ask_seats(
        self: &Arc<Self>,
        sessions: &[SessionRef],
        room: &RoomId,
        max_users: u32,
    ) -> Result<Option<Vec<SessionRef>>, Status> {
        let replies: Vec<(SessionRef, oneshot::Receiver<bool>)> = self.turn(|state, _| {
            let ask = |session: &SessionRef| {
                let at = state.lanes.at(session.node)?;
                let taken = state.lanes.of(at).is_some_and(Lane::takes_joins);
                let (arrival, _) = state.presence.record(session.node, session.session)?;
                let (reply, answer) = oneshot::channel();
                if taken {
                    self.tell(state, at, |lane| lane.ask_seat(arrival, room.clone(), max_users, reply));
                }
                Some((*session, answer))
            };
            sessions.iter().filter_map(ask).collect()
        });
        let (mut entered, mut full) = (Vec::new(), false);
        for (session, reply) in replies {
            match reply.await {
                Ok(true) => entered.push(session),
                Ok(false) => full = true,
                // The store was away, or the session's link was lost meanwhile.
                Err(_) => {}
            }
        }
        match (entered.is_empty(), full) {
            (false, _) => Ok(Some(entered)),
            (true, true) => Ok(None),
            (true, false) => Err(refusal::presence_away()),
        }
    }

    /// Asks the store whether there would be seats, and answers those who wanted to know.
    pub(crate) async fn answer_probes(self: Arc<Self>, sharing: Arc<Sharing>, probes: Vec<Probe>) {
        for probes in probes.chunks(PROBE_CHUNK) {
            let asked: Vec<_> = probes.iter().map(|probe| probe.asked.clone()).collect();
            let free = sharing.ask(sharing.store.have_seats(&asked)).await;
            self.turn(|state, _| {
                for (number, Probe { at, session, .. }) in probes.iter().enumerate() {
                    match free.as_ref().map(|free| free.get(number)) {
                        Ok(Some(true)) => {
                            state.answer_now(*at, answer(*session, JoinDecision::Accepted, ""));
                        }
                        Ok(Some(false)) => {
                            self.refuse(state, *at, *session, true, JoinDecision::RoomFull, "room full");
                        }
                        Ok(None) | Err(_) => {
                            self.refuse(state, *at, *session, true, JoinDecision::Unavailable, AWAY);
                        }
                    }
                }
            });
        }
    }

    pub(crate) fn decided(&self, state: &mut State, at: LinkRef, decided: Decided, now: Now) {
        match decided {
            Decided::Joined { arrival, room, since } => {
                let session = arrival.session;
                let user = arrival.user.clone();
                match state.presence.join(at, arrival, &room, 0, now) {
                    Seat::Taken => {
                        self.metrics.join_accepted();
                        state.accept(at, session, since);
                    }
                    // Memory does not have it, so the store may not either.
                    Seat::Full | Seat::Conflict | Seat::Stale => {
                        self.tell(state, at, |lane| {
                            lane.tell(Change::End { session, user, rooms: vec![room] })
                        });
                    }
                }
            }
            Decided::JoinFull { session } => {
                self.refuse(state, at, session, false, JoinDecision::RoomFull, "room full");
            }
            Decided::Seat { reply, taken: false, .. } => {
                let _ = reply.send(false);
            }
            Decided::Seat { session, user, room, reply, taken: true } => {
                let live = state.presence.record(at.node, session).is_some();
                if live && state.presence.is_current(at) {
                    state.presence.add_room(at.node, session, &room, now);
                    // Whoever asked goes on by itself.
                    let _ = reply.send(true);
                    return;
                }
                self.tell(state, at, |lane| {
                    lane.tell(match live {
                        true => Change::Exit { session, user, room },
                        false => Change::End { session, user, rooms: vec![room] },
                    })
                });
            }
        }
    }
}
