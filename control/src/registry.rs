//! The one owner of what the controller knows: presence, the feed, the joins that are under way, the lanes to the
//! store that controllers share.
//!
//! Owns: the lock, and what a processing turn is: something is taken in, then everything that changed goes out as
//! one step of the feed, and what was waiting for that step's acknowledgement is put in line.
//! Must not: await while it holds the lock, or speak gRPC beyond queueing messages.
//! Talks to: `node_service` and `room_service` before it, `presence`, `feed`, `joins`, `commands` behind it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ahash::{AHashMap, AHashSet};
use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::{ControllerMessage, JoinAnswer, JoinAnswers, JoinDecision};
use ringcast_proto::{NodeId, RoomId, SessionId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::commands::Commands;
use crate::config::Timing;
use crate::feed::{Feed, FollowerId, FollowerQueue};
use crate::join_gate::Gate;
use crate::join_trace::{JoinTraces, Step};
use crate::joins::WaitingJoins;
use crate::lanes::{Lanes, Probe};
use crate::log_gate::LogGate;
use crate::membership::{Membership, Tenure};
use crate::metrics::{LaneFigures, Metrics, Reading};
use crate::peers::Peers;
use crate::presence::{LinkRef, NodeKey, Now, Presence};
use crate::recovery::Recovery;
use crate::refusal;
use crate::rooms::Rooms;
use crate::sharing::Sharing;
use crate::store::{KnownNode, Store, Wanted};

/// Answers in one message.
const MAX_ANSWERS: usize = 1024;

/// Notes for the store that may wait; beyond that they are lost: after a restart a node is not waited for, or one that
/// has left is.
const MAX_NOTES: usize = 4096;

/// What a node's stream carries.
pub(crate) type LinkMessage = Result<ControllerMessage, Status>;

/// The sending end of a node's stream.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) generation: u64,
    pub(crate) messages: mpsc::Sender<LinkMessage>,
    /// Ends the stream.
    pub(crate) cut: CancellationToken,
}

impl Link {
    /// Queues a message; a node that does not read loses its link, and comes back with a snapshot.
    pub(crate) fn send(&self, message: Message) {
        if self.messages.try_send(Ok(ControllerMessage { message: Some(message) })).is_err() {
            self.cut.cancel();
        }
    }
}

/// Waits for the acknowledgement of a step.
#[derive(Debug)]
enum Confirmation {
    Joins { at: LinkRef, sessions: Vec<(SessionId, Instant)> },
    Call(oneshot::Sender<()>),
}

/// A note for the store.
#[derive(Debug)]
enum Note {
    Put(KnownNode),
    Drop(NodeId),
    /// Everything before it is to be written, and the store closed.
    Close(oneshot::Sender<()>),
}

/// What a turn has gathered.
#[derive(Debug, Default)]
struct Turn {
    accepted: AHashMap<LinkRef, Vec<(SessionId, Instant)>>,
    answers: AHashMap<LinkRef, Vec<JoinAnswer>>,
    calls: Vec<oneshot::Sender<()>>,
    wanted: Vec<Wanted>,
    probes: Vec<Probe>,
}

/// All that is under the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) presence: Presence,
    pub(crate) feed: Feed,
    pub(crate) recovery: Recovery,
    pub(crate) links: AHashMap<NodeKey, Link>,
    pub(crate) waiting: WaitingJoins,
    pub(crate) commands: Commands,
    pub(crate) lanes: Lanes,
    /// What is done with joins in this turn.
    pub(crate) gate: Gate,
    pub(crate) next_generation: u64,
    tenure: Tenure,
    turn: Turn,
    confirmations: VecDeque<(u64, Confirmation)>,
    emptied: AHashSet<RoomId>,
    /// The joins that are traced.
    pub(crate) traces: JoinTraces,
}

/// What the owner is made of.
#[derive(Debug)]
pub(crate) struct RegistryParts {
    pub(crate) controller_id: Arc<str>,
    pub(crate) rooms: Rooms,
    pub(crate) store: Store,
    /// The nodes that are waited for before anything is published.
    pub(crate) expected: Vec<NodeId>,
    /// The store of presence, where controllers share one.
    pub(crate) sharing: Option<Arc<Sharing>>,
    pub(crate) membership: Membership,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) timing: Timing,
    /// The joins that are traced: none yet.
    pub(crate) traces: JoinTraces,
}

/// The owner.
#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    pub(crate) controller_id: Arc<str>,
    pub(crate) rooms: Rooms,
    pub(crate) sharing: Option<Arc<Sharing>>,
    pub(crate) membership: Membership,
    pub(crate) peers: Peers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) timing: Timing,
    pub(crate) invalid_joins: LogGate,
    pub(crate) refused_nodes: LogGate,
    notes: mpsc::Sender<Note>,
    recovered: watch::Sender<bool>,
    gate: watch::Sender<Gate>,
    started: Instant,
}

impl Registry {
    /// An owner of these. Must be called in a runtime.
    pub(crate) fn new(parts: RegistryParts) -> Arc<Self> {
        let RegistryParts {
            controller_id,
            rooms,
            store,
            expected,
            sharing,
            membership,
            metrics,
            timing,
            traces,
        } = parts;
        let (notes, queue) = mpsc::channel(MAX_NOTES);
        tokio::spawn(keep_notes(store, queue));
        let state = State {
            presence: Presence::default(),
            feed: Feed::new(controller_id.to_string()),
            recovery: Recovery::new(expected, millis(timing.lease)),
            links: AHashMap::new(),
            waiting: WaitingJoins::default(),
            commands: Commands::default(),
            lanes: Lanes::default(),
            gate: Gate::default(),
            next_generation: 0,
            tenure: Tenure::default(),
            turn: Turn::default(),
            confirmations: VecDeque::new(),
            emptied: AHashSet::new(),
            traces,
        };
        let registry = Arc::new(Self {
            state: Mutex::new(state),
            controller_id,
            rooms,
            sharing,
            membership,
            peers: Peers::default(),
            metrics,
            timing,
            invalid_joins: LogGate::default(),
            refused_nodes: LogGate::default(),
            notes,
            recovered: watch::Sender::new(false),
            gate: watch::Sender::new(Gate::Hold),
            started: Instant::now(),
        });
        registry.turn(|_, _| {});
        registry
    }

    /// The time.
    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { ms: millis(self.started.elapsed()), unix_s: i64::try_from(unix.as_secs()).unwrap_or(i64::MAX) }
    }

    /// Reads, without a turn.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One processing turn.
    pub(crate) fn turn<R>(self: &Arc<Self>, act: impl FnOnce(&mut State, Now) -> R) -> R {
        let now = self.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        self.look_at_gate(state);
        let result = act(state, now);
        self.recover(state, now);
        if state.gate == Gate::Open {
            for asking in state.waiting.take_gated() {
                self.ask(state, asking, now);
            }
        }
        self.settle(state, now);
        let wanted = std::mem::take(&mut state.turn.wanted);
        if !wanted.is_empty() {
            tokio::spawn(self.clone().load_rooms(wanted));
        }
        let probes = std::mem::take(&mut state.turn.probes);
        if let Some(sharing) = self.sharing.as_ref().filter(|_| !probes.is_empty()) {
            sharing.spawn(self.clone().answer_probes(sharing.clone(), probes));
        }
        result
    }

    fn look_at_gate(&self, state: &mut State) {
        state.gate = self.membership.gate(&state.feed, &mut state.tenure);
        self.gate.send_if_modified(|told| std::mem::replace(told, state.gate) != state.gate);
    }

    /// Ends the wait after a restart when it is time.
    fn recover(self: &Arc<Self>, state: &mut State, now: Now) {
        let Some(absent) = state.recovery.end(now.ms) else { return };
        for node in absent {
            tracing::warn!(%node, "a node that was known before the restart did not come back");
            self.note(Note::Drop(node.clone()));
            self.forget_absent(node);
        }
        // What came in so far is in the snapshots.
        state.presence.drop_changes();
        for follower in state.feed.waiting() {
            state.feed.start(follower, state.presence.routes(), now.ms);
        }
        for asking in state.waiting.take_recovered() {
            self.ask(state, asking, now);
        }
        self.recovered.send_replace(true);
    }

    /// Sends what changed, and puts in line what waits for it.
    fn settle(&self, state: &mut State, now: Now) {
        self.publish(state, now);
        state.emptied.extend(state.presence.take_emptied());
        let number = state.feed.number();
        for (at, sessions) in state.turn.accepted.drain() {
            state.confirmations.push_back((number, Confirmation::Joins { at, sessions }));
        }
        for call in state.turn.calls.drain(..) {
            state.confirmations.push_back((number, Confirmation::Call(call)));
        }
        let mut answers = std::mem::take(&mut state.turn.answers);
        for (at, answers) in answers.drain() {
            state.answer(at, answers);
        }
        self.release(state);
    }

    /// Sends what has changed so far as a step of its own. Before the nodes are back nothing goes out: the
    /// snapshots will hold it.
    pub(crate) fn publish(&self, state: &mut State, now: Now) {
        if state.recovery.is_over() {
            let changes = state.presence.take_changes();
            state.feed.publish(changes, now.ms);
        } else {
            state.presence.drop_changes();
        }
    }

    /// Confirms what every follower has acknowledged.
    fn release(&self, state: &mut State) {
        let acknowledged = state.feed.acknowledged_by_all();
        while state.confirmations.front().is_some_and(|(number, _)| *number <= acknowledged) {
            match state.confirmations.pop_front() {
                Some((_, Confirmation::Joins { at, sessions })) => {
                    let answers = sessions.iter().map(|(session, since)| {
                        self.metrics.confirmed(since.elapsed());
                        answer(*session, JoinDecision::Accepted, "")
                    });
                    let answers = answers.collect();
                    state.answer(at, answers);
                }
                // A caller that has gone away needs no answer.
                Some((_, Confirmation::Call(call))) => drop(call.send(())),
                None => return,
            }
        }
    }

    /// A follower came. It gets its snapshot now, or when the nodes are back.
    pub(crate) fn follow(self: &Arc<Self>, manager: String, queue: FollowerQueue) -> FollowerId {
        self.turn(|state, now| {
            let id = state.feed.follow(manager, queue);
            if state.recovery.is_over() {
                // Every turn publishes what it changed, so the routes are those after the last step.
                state.feed.start(id, state.presence.routes(), now.ms);
            }
            id
        })
    }

    /// A follower has taken in everything up to a number. Returns whether it is still there.
    pub(crate) fn acknowledge(self: &Arc<Self>, follower: FollowerId, number: u64) -> bool {
        self.turn(|state, now| state.feed.acknowledge(follower, number, now.ms))
    }

    /// A follower has been handed a part of its snapshot.
    pub(crate) fn follower_progress(self: &Arc<Self>, follower: FollowerId) {
        self.turn(|state, now| state.feed.progress(follower, now.ms));
    }

    /// A follower's stream is over.
    pub(crate) fn unfollow(self: &Arc<Self>, follower: FollowerId) {
        self.turn(|state, _| state.feed.leave(follower));
    }

    /// Ends every follower's stream.
    pub(crate) fn end_feed(self: &Arc<Self>, status: &Status) {
        self.turn(|state, _| state.feed.end_all(status));
    }

    /// A node is registered or gone, for the time after a restart.
    pub(crate) fn note_registered(&self, node: KnownNode) {
        self.note(Note::Put(node));
    }

    /// The same for one that is gone.
    pub(crate) fn note_gone(&self, node: NodeId) {
        self.note(Note::Drop(node));
    }

    /// Writes what is to be remembered and closes the store.
    pub(crate) async fn close_store(&self) {
        let (done, closed) = oneshot::channel();
        if self.notes.send(Note::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            tracing::warn!("the store is behind: a node's coming or going is not noted");
        }
    }

    /// Waits until the controller knows its nodes, at most as long as a join does.
    pub(crate) async fn recovered(&self) -> bool {
        let mut recovered = self.recovered.subscribe();
        let waited = tokio::time::timeout(self.timing.join_wait, recovered.wait_for(|over| *over)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Waits until joins may be decided, at most as long as a join does.
    pub(crate) async fn admitted(&self) -> Result<(), Status> {
        let mut gate = self.gate.subscribe();
        let decided = gate.wait_for(|gate| *gate != Gate::Hold);
        match tokio::time::timeout(self.timing.join_wait, decided).await {
            Ok(Ok(gate)) if *gate == Gate::Open => Ok(()),
            _ => Err(refusal::not_registered()),
        }
    }

    /// Notes which rooms have become empty, and from time to time which are in use, forgets those that have been
    /// empty for the given time, and drops aged settings that nobody uses.
    pub(crate) async fn keep_rooms(self: &Arc<Self>, empty_for: Duration) {
        let now = self.now();
        let emptied: Vec<RoomId> = self.turn(|state, _| {
            let emptied = std::mem::take(&mut state.emptied);
            emptied.into_iter().filter(|room| state.presence.room(room).is_none()).collect()
        });
        self.rooms.touch(emptied, now).await;
        if self.rooms.is_noting_due(empty_for, now) {
            let in_use = self.read(|state| state.presence.occupied().cloned().collect());
            self.rooms.note_in_use(in_use, now).await;
        }
        let mut aged = self.rooms.aged(now);
        let recovered = self.read(|state| {
            aged.retain(|room| state.presence.room(room).is_none());
            state.recovery.is_over()
        });
        self.rooms.evict(&aged);
        if !recovered {
            return;
        }
        let before = now.unix_s - i64::try_from(empty_for.as_secs()).unwrap_or(i64::MAX);
        let forgotten = self.rooms.forget_unused(before, now, |candidates| {
            self.turn(|state, _| {
                let (used, unused): (Vec<RoomId>, Vec<RoomId>) =
                    candidates.into_iter().partition(|room| state.presence.room(room).is_some());
                self.rooms.evict(&unused);
                (used, unused)
            })
        });
        match forgotten.await {
            Ok(0) => {}
            Ok(rooms) => tracing::info!(rooms, "empty rooms were forgotten"),
            Err(error) => tracing::warn!(%error, "empty rooms could not be forgotten"),
        }
    }

    /// What the metrics tell.
    pub(crate) fn reading(&self) -> Reading {
        self.read(|state| Reading {
            presence: state.presence.figures(),
            rooms_stored: self.rooms.count(),
            feed_number: state.feed.number(),
            followers: state.feed.followers(),
            cut_offs: state.feed.cut_offs(),
            recovering: !state.recovery.is_over(),
            held_joins: state.waiting.gated(),
            lanes: state.lanes.iter().fold(LaneFigures::default(), |figures, (_, lane)| LaneFigures {
                all: figures.all + 1,
                dirty: figures.dirty + usize::from(!lane.is_clean() && !lane.is_fenced()),
                queued: figures.queued + lane.queued(),
            }),
        })
    }
}

impl State {
    /// A join is accepted: its answer goes out when the turn's step is acknowledged.
    pub(crate) fn accept(&mut self, at: LinkRef, session: SessionId, since: Instant) {
        self.traces.waits(at, session, Step::Confirmation);
        self.turn.accepted.entry(at).or_default().push((session, since));
    }

    /// A join, or a question, is answered with this turn.
    pub(crate) fn answer_now(&mut self, at: LinkRef, answer: JoinAnswer) {
        self.turn.answers.entry(at).or_default().push(answer);
    }

    /// Tells a caller when the turn's step is acknowledged.
    pub(crate) fn when_acknowledged(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.turn.calls.push(sender);
        receiver
    }

    /// Has a room's settings read after this turn.
    pub(crate) fn want_room(&mut self, wanted: Wanted) {
        self.turn.wanted.push(wanted);
    }

    /// Has the store asked after this turn whether there would be a seat.
    pub(crate) fn probe(&mut self, probe: Probe) {
        self.turn.probes.push(probe);
    }

    /// A node's link, if it still is this one.
    pub(crate) fn link(&self, at: LinkRef) -> Option<&Link> {
        self.links.get(&at.node).filter(|link| link.generation == at.generation)
    }

    fn answer(&mut self, at: LinkRef, mut answers: Vec<JoinAnswer>) {
        for answer in &answers {
            let session = SessionId::from_u64(answer.session_id);
            self.traces.answered(at, session, answer.decision(), &answer.message);
        }
        let Some(link) = self.link(at) else { return };
        while !answers.is_empty() {
            let rest = answers.split_off(answers.len().min(MAX_ANSWERS));
            link.send(Message::JoinAnswers(JoinAnswers { answers }));
            answers = rest;
        }
    }
}

/// One decided join, as a message.
pub(crate) fn answer(session: SessionId, decision: JoinDecision, message: &str) -> JoinAnswer {
    JoinAnswer { session_id: session.as_u64(), decision: decision.into(), message: message.to_owned() }
}

/// A time in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn keep_notes(store: Store, mut queue: mpsc::Receiver<Note>) {
    while let Some(note) = queue.recv().await {
        match note {
            Note::Put(node) => store.put_node(node).await,
            Note::Drop(node) => store.drop_node(node).await,
            Note::Close(done) => {
                store.close().await;
                // Whoever asked may have lost patience.
                let _ = done.send(());
            }
        }
    }
}
