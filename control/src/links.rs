//! What nodes say, taken in one turn each: registering, snapshots, batches of joins and ends, and what follows from
//! their silence.
//!
//! Owns: the rules of the link. Must not: know streams (`node_service` does).

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::{
    BatchTaken, JoinDecision, NodeHeartbeat, NodeRegistered, SessionEvent, SessionJoin, SessionState,
    SnapshotTaken, session_event::Event,
};
use ringcast_proto::{NodeId, RoomId, SessionId, UserId, check_user_name};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::join_gate::Gate;
use crate::join_trace::Step;
use crate::joins::{Asking, Wait};
use crate::lane::Lane;
use crate::node_watch::is_gone;
use crate::presence::{Arrival, LinkRef, NodeCard, NodeKey, Now, RegisterRefusal, Seat};
use crate::presence_store::{NodeAt, Verdict};
use crate::refusal;
use crate::registry::{Link, LinkMessage, Registry, State, answer, millis};
use crate::rooms::Known;
use crate::store::{KnownNode, StoreError, Wanted};

/// The most bytes of metadata that a session brings; it comes from a request head of 8 KiB.
const MAX_METADATA_BYTES: usize = 16 * 1024;

/// Rooms that are read in one request to the store.
const LOAD_CHUNK: usize = 512;

/// Why a node is taken out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It is dead, or has left: its members leave.
    Gone,
    /// Another controller has it.
    Moved,
    /// A later incarnation of it is there.
    Succeeded,
}

impl Registry {
    /// Tells the store that controllers share of a node's new link, where there is one, then registers the node.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        card: NodeCard,
        number: u64,
        messages: mpsc::Sender<LinkMessage>,
        cut: CancellationToken,
    ) -> Result<LinkRef, Status> {
        let Some(sharing) = &self.sharing else { return self.register(card, number, false, messages, cut) };
        self.read(|state| state.presence.may_register(&card, number))
            .map_err(|refusal| self.refused(&card.id, refusal))?;
        let begun = sharing.ask(sharing.store.begin(&self.new_record(card.clone(), number))).await;
        if let Ok(Verdict::Fenced) = begun {
            let records = sharing.ask(sharing.store.nodes()).await.unwrap_or_default();
            let later = |card: &NodeCard, known: &NodeCard| {
                known.id == card.id && known.incarnation > card.incarnation
            };
            let succeeded = records.iter().any(|record| later(&card, &record.card));
            let why = if succeeded { RegisterRefusal::Former } else { RegisterRefusal::Late };
            return Err(self.refused(&card.id, why));
        }
        // Without the store its routes are published all the same; nobody joins by it meanwhile.
        self.register(card, number, begun.is_ok(), messages, cut)
    }

    /// Registers a node and queues the answer. Its former link, if it has one, is cut.
    fn register(
        self: &Arc<Self>,
        card: NodeCard,
        number: u64,
        begun: bool,
        messages: mpsc::Sender<LinkMessage>,
        cut: CancellationToken,
    ) -> Result<LinkRef, Status> {
        self.turn(|state, now| {
            state.presence.may_register(&card, number).map_err(|refusal| self.refused(&card.id, refusal))?;
            if let Some(former) = state.presence.superseded_by(&card) {
                // A step of its own: what follows is about another incarnation.
                self.remove_node(state, former, Farewell::Succeeded);
                self.publish(state, now);
            }
            let generation = state.next_generation;
            state.next_generation += 1;
            let known = KnownNode {
                id: card.id.clone(),
                incarnation: card.incarnation,
                address: card.grpc_address.clone(),
            };
            let at = state.presence.register(card, number, generation);
            let link = Link { generation, messages, cut };
            link.send(Message::Registered(NodeRegistered {
                controller_id: self.controller_id.to_string(),
                lease_ms: u32::try_from(self.timing.lease.as_millis()).unwrap_or(u32::MAX),
            }));
            if let Some(former) = state.links.insert(at.node, link) {
                let former_at = LinkRef { node: at.node, generation: former.generation };
                former.cut.cancel();
                self.fail_commands(state, former_at);
            }
            let node = NodeAt { id: known.id.clone(), incarnation: known.incarnation, link: number };
            self.open_lane(state, at, node, begun);
            tracing::info!(node = %known.id, incarnation = known.incarnation, "a node registered");
            self.note_registered(known);
            Ok(at)
        })
    }

    fn refused(&self, node: &NodeId, why: RegisterRefusal) -> Status {
        if why == RegisterRefusal::Late {
            return refusal::link_cut("a later link of the node is known");
        }
        if let Some(left_out) = self.refused_nodes.open() {
            let later = why == RegisterRefusal::Former;
            tracing::warn!(%node, later, left_out, "a second node with the same id was refused");
        }
        refusal::node_exists(node.as_str())
    }

    /// Takes a part of a snapshot in.
    pub(crate) fn snapshot(self: &Arc<Self>, at: LinkRef, sessions: Vec<SessionState>, last: bool) {
        let mut rooms: Vec<Wanted> = Vec::new();
        let sessions = sessions.into_iter().filter_map(|session| match arrival(session) {
            Ok((arrival, named)) => {
                rooms.extend(named.iter().map(|room| (room.clone(), true)));
                Some((arrival, named))
            }
            Err(reason) => {
                self.log_invalid(at, &reason);
                None
            }
        });
        let sessions = sessions.collect();
        rooms.sort();
        rooms.dedup();
        self.turn(|state, now| {
            if state.presence.snapshot_part(at, sessions, last, now) {
                if let Some(node) = state.presence.node(at.node) {
                    state.recovery.settled(&node.card.id);
                }
                if let Some(link) = state.link(at) {
                    link.send(Message::SnapshotTaken(SnapshotTaken {}));
                }
                self.snapshot_is_shared(state, at);
            }
            // Live members' rooms exist, whatever became of the store.
            rooms.retain(|(room, _)| matches!(self.rooms.known(room, now), Known::Unknown));
            for wanted in rooms {
                state.want_room(wanted);
            }
        });
    }

    /// Takes a batch in. Refused where the link's snapshot is not complete.
    pub(crate) fn batch(
        self: &Arc<Self>,
        at: LinkRef,
        number: u64,
        events: Vec<SessionEvent>,
    ) -> Result<(), Status> {
        self.turn(|state, now| {
            if !state.presence.has_snapshot(at) {
                let current = state.presence.is_current(at);
                return if current {
                    Err(refusal::protocol("events came before the snapshot"))
                } else {
                    Ok(())
                };
            }
            if let Some(link) = state.link(at) {
                link.send(Message::BatchTaken(BatchTaken { number }));
            }
            for event in events {
                match event.event {
                    Some(Event::Join(join)) => self.join(state, at, join, now),
                    Some(Event::End(end)) => {
                        let session = SessionId::from_u64(end.session_id);
                        state.waiting.withdraw(at, session);
                        state.traces.withdrawn(at, session);
                        self.end_session(state, at, session);
                    }
                    None => {}
                }
            }
            Ok(())
        })
    }

    fn join(&self, state: &mut State, at: LinkRef, join: SessionJoin, now: Now) {
        let session = join.session.unwrap_or_default();
        let id = SessionId::from_u64(session.session_id);
        let asked = arrival(session).and_then(|(arrival, rooms)| match <[RoomId; 1]>::try_from(rooms) {
            Ok([room]) => Ok((arrival, room)),
            Err(rooms) => Err(format!("asks for {} rooms instead of one", rooms.len())),
        });
        match asked {
            Ok((arrival, room)) => {
                if !join.probe {
                    state.traces.asked(at, id, &join.traceparent);
                }
                let asking = Asking { at, arrival, room, probe: join.probe, since: Instant::now() };
                self.ask(state, asking, now);
            }
            Err(reason) => {
                self.log_invalid(at, &reason);
                self.refuse(state, at, id, join.probe, JoinDecision::Invalid, &reason);
            }
        }
    }

    /// Decides a join, or holds it until it can be decided.
    pub(crate) fn ask(&self, state: &mut State, asking: Asking, now: Now) {
        let wait = if !state.recovery.is_over() {
            Wait::Recovery
        } else if state.gate == Gate::Refuse {
            return self.put_off(state, &asking, "not every push manager follows the controller");
        } else if state.gate == Gate::Hold {
            Wait::Gate
        } else if let Known::Fresh(room) = self.rooms.known(&asking.room, now) {
            return self.decide(state, asking, self.rooms.max_users(&room), now);
        } else {
            Wait::Settings
        };
        if state.waiting.is_full() {
            return self.put_off(state, &asking, "too many joins are waiting");
        }
        if !asking.probe {
            let step = match wait {
                Wait::Recovery => Step::Recovery,
                Wait::Gate => Step::Gate,
                Wait::Settings => Step::Settings,
            };
            state.traces.waits(asking.at, asking.arrival.session, step);
        }
        let wanted = (asking.room.clone(), !asking.probe);
        if state.waiting.hold(asking, wait) {
            state.want_room(wanted);
        }
    }

    fn decide(&self, state: &mut State, asking: Asking, max_users: u32, now: Now) {
        if self.sharing.is_some() {
            return self.ask_store(state, asking, max_users);
        }
        let Asking { at, arrival, room, probe, since } = asking;
        let session = arrival.session;
        if probe {
            if state.presence.has_seat(&room, &arrival.user, max_users) {
                state.answer_now(at, answer(session, JoinDecision::Accepted, ""));
            } else {
                self.refuse(state, at, session, probe, JoinDecision::RoomFull, "room full");
            }
            return;
        }
        match state.presence.join(at, arrival, &room, max_users, now) {
            Seat::Taken => {
                self.metrics.join_accepted();
                state.accept(at, session, since);
            }
            Seat::Full => self.refuse(state, at, session, probe, JoinDecision::RoomFull, "room full"),
            Seat::Conflict => {
                let reason = "the session belongs to another user";
                self.log_invalid(at, reason);
                self.refuse(state, at, session, probe, JoinDecision::Invalid, reason);
            }
            Seat::Stale => {}
        }
    }

    pub(crate) fn refuse(
        &self,
        state: &mut State,
        at: LinkRef,
        session: SessionId,
        probe: bool,
        decision: JoinDecision,
        reason: &str,
    ) {
        if !probe {
            self.metrics.joined(match decision {
                JoinDecision::Accepted => "accepted",
                JoinDecision::RoomFull => "room_full",
                JoinDecision::Unavailable => "unavailable",
                JoinDecision::Invalid => "invalid",
            });
        }
        state.answer_now(at, answer(session, decision, reason));
    }

    fn put_off(&self, state: &mut State, asking: &Asking, reason: &str) {
        let session = asking.arrival.session;
        self.refuse(state, asking.at, session, asking.probe, JoinDecision::Unavailable, reason);
    }

    /// Reads rooms, then decides the joins that waited for them.
    pub(crate) async fn load_rooms(self: Arc<Self>, wanted: Vec<Wanted>) {
        for part in wanted.chunks(LOAD_CHUNK) {
            let loaded = self.rooms.load(part.to_vec(), self.now()).await;
            self.turn(|state, now| {
                for (room, result) in loaded {
                    for asking in state.waiting.take_room(&room) {
                        match &result {
                            Ok(Some(room)) => self.decide(state, asking, self.rooms.max_users(room), now),
                            Ok(None) if asking.probe => {
                                self.decide(state, asking, self.rooms.default_max_users(), now);
                            }
                            // The room was asked for by a probe only; now it is to be made.
                            Ok(None) => self.ask(state, asking, now),
                            Err(StoreError::TooManyRooms) => self.put_off(state, &asking, "too many rooms"),
                            Err(StoreError::Failed(_)) => {
                                self.put_off(state, &asking, "the store of rooms cannot be reached");
                            }
                        }
                    }
                }
            });
        }
    }

    /// Takes a node's word for its load.
    pub(crate) fn heartbeat(self: &Arc<Self>, at: LinkRef, heartbeat: NodeHeartbeat) {
        self.turn(|state, _| state.presence.heartbeat(at, heartbeat.connections, heartbeat.draining));
    }

    /// The node leaves for good.
    pub(crate) fn deregister(self: &Arc<Self>, at: LinkRef) {
        self.turn(|state, _| {
            if state.presence.is_current(at) {
                self.remove_node(state, at.node, Farewell::Gone);
            }
        });
    }

    /// The stream has ended or been silent for too long.
    pub(crate) fn link_lost(self: &Arc<Self>, at: LinkRef) {
        self.turn(|state, now| {
            if state.link(at).is_some() {
                state.links.remove(&at.node);
                self.fail_commands(state, at);
                self.withdraw_joins(state, at);
                state.traces.lost(at);
                if let Some(node) = state.presence.node(at.node) {
                    tracing::warn!(node = %node.card.id, "the link to a node is lost");
                }
            }
            state.presence.lose_link(at, now);
        });
    }

    pub(crate) fn remove_node(&self, state: &mut State, key: NodeKey, farewell: Farewell) {
        if let Some(link) = state.links.remove(&key) {
            link.cut.cancel();
            self.fail_commands(state, LinkRef { node: key, generation: link.generation });
        }
        let record = self.record_of(state, key);
        self.leave_lane(state, key, record, farewell != Farewell::Gone);
        if let Some(card) = state.presence.remove_node(key, farewell == Farewell::Moved) {
            tracing::info!(node = %card.id, incarnation = card.incarnation, ?farewell, "a node is gone");
            state.recovery.settled(&card.id);
            self.note_gone(card.id);
        }
    }

    /// What time brings: leases that pass, followers and nodes that stall, joins that have waited too long.
    pub(crate) fn tick(self: &Arc<Self>) {
        self.turn(|state, now| {
            if state.recovery.is_over() {
                self.remove_lost(state, now);
            }
            state.feed.cut_stalled(now.ms, millis(self.timing.follower_ack));
            if let Some(before) = Instant::now().checked_sub(self.timing.join_wait) {
                for asking in state.waiting.take_overdue(before) {
                    self.put_off(state, &asking, "the controller is not ready yet");
                }
            }
            for at in state.overdue_commands(now.ms, millis(self.timing.link_silence)) {
                if let Some(link) = state.link(at) {
                    tracing::warn!(
                        "a node did not answer a command: its link is cut, its snapshot will settle it"
                    );
                    link.cut.cancel();
                }
            }
        });
    }

    /// Removes the nodes whose link is lost and that will not be back.
    fn remove_lost(&self, state: &mut State, now: Now) {
        let (view, lease) = (self.membership.view(), self.timing.lease);
        let lost = state.presence.lost(|card, since_ms| {
            let lost_for = Duration::from_millis(now.ms.saturating_sub(since_ms));
            is_gone(&card.id, card.incarnation, lost_for, lease, &view, Instant::now())
        });
        for key in lost {
            let elsewhere = state.lanes.of_node(key).is_some_and(Lane::is_fenced);
            self.remove_node(state, key, if elsewhere { Farewell::Moved } else { Farewell::Gone });
        }
        if self.sharing.is_none() && !view.fixed && !self.membership.peers().is_empty() {
            // Controllers that share nothing do not tell one another whom a node is linked to now.
            for key in state.presence.lost(|_, since_ms| now.ms >= since_ms + millis(lease)) {
                self.remove_node(state, key, Farewell::Moved);
            }
        }
    }

    pub(crate) fn log_invalid(&self, at: LinkRef, reason: &str) {
        if let Some(left_out) = self.invalid_joins.open() {
            tracing::warn!(link = at.generation, reason, left_out, "a node sent a session that is not valid");
        }
    }
}

/// Reads a session; an error says what is wrong with it.
fn arrival(session: SessionState) -> Result<(Arrival, Vec<RoomId>), String> {
    let user = UserId::new(&session.user_id).map_err(|error| format!("user_id {error}"))?;
    check_user_name(&session.user_name).map_err(|error| format!("user_name {error}"))?;
    let rooms: Result<Vec<_>, _> = session.room_ids.iter().map(|room| RoomId::new(room)).collect();
    let rooms = rooms.map_err(|error| format!("room_id {error}"))?;
    let bytes: usize = session.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > MAX_METADATA_BYTES {
        return Err(format!("metadata is {bytes} bytes long: give at most {MAX_METADATA_BYTES}"));
    }
    let arrival = Arrival {
        session: SessionId::from_u64(session.session_id),
        user,
        user_name: session.user_name,
        metadata: session.metadata,
        connected_at: session.connected_at,
    };
    Ok((arrival, rooms))
}

/// Reads what a node says of itself, and the number of its link.
pub(crate) fn card(register: ringcast_proto::pubsub::NodeRegister) -> Result<(NodeCard, u64), Status> {
    let long = |text: &str| text.len() > 1024;
    for (field, text) in [
        ("grpc_address", &register.grpc_address),
        ("public_ws_url", &register.public_ws_url),
        ("version", &register.version),
        ("driver", &register.driver),
    ] {
        if long(text) {
            return Err(refusal::invalid(field, "is longer than 1024 bytes"));
        }
    }
    let card = NodeCard {
        id: refusal::valid("node_id", NodeId::new(&register.node_id))?,
        incarnation: register.incarnation,
        grpc_address: register.grpc_address,
        public_ws_url: register.public_ws_url,
        capacity: register.capacity,
        version: register.version,
        driver: register.driver,
    };
    Ok((card, register.link))
}
