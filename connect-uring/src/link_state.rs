//! What the node has still to tell the controller over the present link: snapshot, batches of joins and ends,
//! results of commands.
//!
//! Owns: the order of these, numbers of links and batches, which shards' words count yet, whether joins wait for the
//! next link. Must not: know a socket, a lane or a task. Talks to: `control_link`, which sends what this hands out and
//! brings what the controller says.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use ahash::RandomState;
use connect_core::{ControlEvent, SessionInfo};
use hashbrown::HashMap;
use prost::Message as _;
use ringcast_proto::pubsub::node_message::Message;
use ringcast_proto::pubsub::session_event::Event;
use ringcast_proto::pubsub::{
    NodeDeregister, NodeHeartbeat, NodeMessage, NodeRegister, SessionBatch, SessionCommandResult, SessionEnd,
    SessionEvent, SessionJoin, SessionSnapshot, SessionState,
};
use telemetry::Traces;
use tokio::time::Instant;

use crate::join_traces::JoinTraces;

/// Events in a batch, and sessions in a part of the snapshot.
const MAX_BATCH: usize = 1024;

/// Bytes of events in a batch, so that a batch of long ids and metadata stays below the limit of a gRPC message.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Batches that the controller has not acknowledged yet.
const MAX_IN_FLIGHT: u64 = 4;

/// Events that wait for their batch. Beyond, the link is cut and begins anew: a snapshot says all of it at once.
const MAX_WAITING: usize = 262_144;

/// Shards that are asked for their part of the snapshot at a time, and parts that may wait for the controller before
/// the next is asked. A node of a million sessions would otherwise hold a second copy of all that it knows of them.
const SHARDS_AT_A_TIME: usize = 2;
const MAX_PARTS_WAITING: usize = 16;

/// Commands that shards have still to answer; more are not carried out.
const MAX_COMMANDS: usize = 4096;

/// Messages that wait for the controller beside events. One that asks on and does not read loses the link beyond.
const MAX_OUTGOING: usize = 4 * MAX_COMMANDS;

/// Whether a shard's events belong to the present link.
#[derive(Debug, Default, Clone)]
struct ShardSync {
    /// It is still to be asked for the snapshot that counts.
    to_ask: bool,
    /// Snapshots that the shard was asked for and has not ended; only the last one counts.
    snapshots_due: u32,
    /// A part of the one that counts has come.
    begun: bool,
}

/// A command that some shards have still to answer.
#[derive(Debug)]
struct Gathering {
    /// As the controller calls it.
    command: u64,
    shards_left: usize,
    sessions: Vec<u64>,
}

/// The present link, as far as the node's side goes.
#[derive(Debug)]
pub(crate) struct LinkState {
    link: u64,
    shards: Vec<ShardSync>,
    registered: bool,
    shards_to_end: usize,
    /// The first shard that is still to be asked for its snapshot.
    next_to_ask: usize,
    leaving: bool,
    joins_held: Option<Instant>,
    outgoing: VecDeque<Message>,
    events: VecDeque<ControlEvent>,
    batches: u64,
    batches_taken: u64,
    /// By the number that shards answer with.
    commands: HashMap<u64, Gathering, RandomState>,
    next_command: u64,
    /// More waited than may.
    overrun: bool,
    writer: Option<Waker>,
    /// The joins that are traced.
    pub(crate) traces: JoinTraces,
}

impl LinkState {
    /// No link yet, for a node of this many shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            link: 0,
            shards: vec![ShardSync::default(); shards],
            registered: false,
            shards_to_end: 0,
            next_to_ask: shards,
            leaving: false,
            joins_held: None,
            outgoing: VecDeque::new(),
            events: VecDeque::new(),
            batches: 0,
            batches_taken: 0,
            commands: HashMap::default(),
            next_command: 0,
            overrun: false,
            writer: None,
            traces: JoinTraces::new(Traces::off()),
        }
    }

    /// A new link begins with the registration, which tells its number; gives it, too. A later one is larger.
    pub(crate) fn begin(&mut self, register: NodeRegister) -> u64 {
        self.lose();
        self.outgoing.push_back(Message::Register(NodeRegister { link: self.link, ..register }));
        self.link
    }

    /// The link is gone, and all that waited for it.
    pub(crate) fn lose(&mut self) {
        self.link += 1;
        self.registered = false;
        self.outgoing.clear();
        self.events.clear();
        self.commands.clear();
        self.overrun = false;
        self.batches = 0;
        self.batches_taken = 0;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// New joins are to wait for the next link, until then.
    pub(crate) fn hold_joins(&mut self, until: Instant) {
        self.joins_held = Some(until);
    }

    /// Until when joins are held; `None`: they are not, or there is a link.
    pub(crate) fn joins_held(&self) -> Option<Instant> {
        self.joins_held
    }

    /// Joins are not held any longer. Returns whether they were.
    pub(crate) fn let_joins_go(&mut self) -> bool {
        self.joins_held.take().is_some()
    }

    /// The node is registered, and every shard has to be asked for its snapshot.
    pub(crate) fn registered(&mut self) {
        self.registered = true;
        self.joins_held = None;
        self.shards_to_end = self.shards.len();
        self.next_to_ask = 0;
        for shard in &mut self.shards {
            shard.to_ask = true;
            shard.begun = false;
        }
        self.end_snapshot();
    }

    /// The shard that is to be asked for its snapshot now, once for each time that this names it.
    pub(crate) fn next_to_ask(&mut self) -> Option<usize> {
        let asked = self.next_to_ask + self.shards_to_end - self.shards.len();
        if !self.registered || asked >= SHARDS_AT_A_TIME || self.outgoing.len() > MAX_PARTS_WAITING {
            return None;
        }
        let shard = self.shards.get_mut(self.next_to_ask)?;
        shard.to_ask = false;
        shard.snapshots_due += 1;
        self.next_to_ask += 1;
        Some(self.next_to_ask - 1)
    }

    /// Takes in what a shard says.
    pub(crate) fn event(&mut self, shard: usize, event: ControlEvent) {
        if let ControlEvent::End { session } = &event {
            self.traces.gone(*session);
        }
        let Some(sync) = self.shards.get_mut(shard) else { return };
        // Before the snapshot that counts, the shard speaks of what that snapshot contains.
        let early = sync.to_ask || sync.snapshots_due > 1 || (sync.snapshots_due == 1 && !sync.begun);
        match event {
            ControlEvent::Snapshot { sessions, last } => self.snapshot_part(shard, &sessions, last),
            // Whoever asked over this link waits for it, whatever the snapshot contains.
            ControlEvent::RoomsChanged { command, sessions } => {
                self.rooms_changed(command, sessions.iter().map(|session| session.as_u64()));
            }
            ControlEvent::Join { .. } | ControlEvent::End { .. } if early || !self.registered => {}
            event => {
                if let ControlEvent::Join { session, probe: false, traceparent } = &event {
                    self.traces.asked(session.session, traceparent.as_deref());
                }
                self.events.push_back(event);
                self.overrun |= self.events.len() > MAX_WAITING;
                self.wake();
            }
        }
    }

    /// Too much is waiting: the link is to be cut.
    pub(crate) fn is_overrun(&self) -> bool {
        self.overrun
    }

    fn snapshot_part(&mut self, shard: usize, sessions: &[SessionInfo], last: bool) {
        let sync = &mut self.shards[shard];
        debug_assert!(sync.snapshots_due > 0, "a snapshot that nobody asked for");
        let counts = sync.snapshots_due == 1 && !sync.to_ask && self.registered;
        sync.begun = counts;
        if last {
            sync.snapshots_due = sync.snapshots_due.saturating_sub(1);
        }
        if !counts {
            return;
        }
        let mut rest = sessions.iter().map(session_state).peekable();
        while rest.peek().is_some() {
            let sessions = take_batch(&mut rest);
            self.outgoing.push_back(Message::Snapshot(SessionSnapshot { sessions, last: false }));
        }
        if last {
            self.shards_to_end -= 1;
            self.end_snapshot();
        }
        self.wake();
    }

    fn end_snapshot(&mut self) {
        if self.shards_to_end == 0 {
            self.outgoing.push_back(Message::Snapshot(SessionSnapshot { sessions: Vec::new(), last: true }));
            self.wake();
        }
    }

    /// The controller has taken in all batches up to this one.
    pub(crate) fn batch_taken(&mut self, number: u64) {
        self.batches_taken = self.batches_taken.max(number.min(self.batches));
        self.wake();
    }

    /// A command of the controller is to go out to this many shards. Gives the number by which they answer it, which no
    /// other command ever has, over whichever link. `None`: nobody is to be told of it, for there is none, or too many
    /// commands are open; that no session is as was asked is answered at once.
    pub(crate) fn command(&mut self, command: u64, shards: usize) -> Option<u64> {
        if shards == 0 || self.commands.len() >= MAX_COMMANDS {
            self.answer_command(command, Vec::new());
            return None;
        }
        self.next_command += 1;
        let gathering = Gathering { command, shards_left: shards, sessions: Vec::new() };
        self.commands.insert(self.next_command, gathering);
        Some(self.next_command)
    }

    fn rooms_changed(&mut self, number: u64, sessions: impl Iterator<Item = u64>) {
        let Some(gathering) = self.commands.get_mut(&number) else { return };
        gathering.sessions.extend(sessions);
        gathering.shards_left -= 1;
        if gathering.shards_left == 0
            && let Some(gathering) = self.commands.remove(&number)
        {
            self.answer_command(gathering.command, gathering.sessions);
        }
    }

    fn answer_command(&mut self, command_id: u64, session_ids: Vec<u64>) {
        self.outgoing.push_back(Message::CommandResult(SessionCommandResult { command_id, session_ids }));
        self.overrun |= self.outgoing.len() > MAX_OUTGOING;
        self.wake();
    }

    /// Says that the node is alive. A word that is still waiting is brought up to date instead.
    pub(crate) fn heartbeat(&mut self, heartbeat: NodeHeartbeat) {
        if !self.registered {
            return;
        }
        match self.outgoing.back_mut() {
            Some(Message::Heartbeat(waiting)) => *waiting = heartbeat,
            _ => self.outgoing.push_back(Message::Heartbeat(heartbeat)),
        }
        self.wake();
    }

    /// The node leaves for good: after what is waiting, the link says so and ends.
    pub(crate) fn leave(&mut self) {
        self.leaving = true;
        self.wake();
    }

    /// The node was asked to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving
    }

    fn wake(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// The next message of this link; `None` when it is over.
    pub(crate) fn poll_next(&mut self, link: u64, context: &Context<'_>) -> Poll<Option<NodeMessage>> {
        if link != self.link {
            return Poll::Ready(None);
        }
        if let Some(message) = self.outgoing.pop_front() {
            return Poll::Ready(Some(NodeMessage { message: Some(message) }));
        }
        if let Some(batch) = self.next_batch() {
            return Poll::Ready(Some(NodeMessage { message: Some(Message::Batch(batch)) }));
        }
        if self.leaving && self.registered && self.shards_to_end == 0 && self.events.is_empty() {
            self.registered = false;
            return Poll::Ready(Some(NodeMessage { message: Some(Message::Deregister(NodeDeregister {})) }));
        }
        if self.leaving && !self.registered {
            return Poll::Ready(None);
        }
        self.writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn next_batch(&mut self) -> Option<SessionBatch> {
        if self.shards_to_end > 0
            || self.events.is_empty()
            || self.batches - self.batches_taken >= MAX_IN_FLIGHT
        {
            return None;
        }
        let mut events = Vec::with_capacity(self.events.len().min(MAX_BATCH));
        let mut bytes = 0;
        while events.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Some(event) = self.events.pop_front() else { break };
            let event = session_event(event, &self.traces);
            bytes += event.encoded_len();
            events.push(event);
        }
        if self.events.is_empty() && self.events.capacity() > MAX_BATCH {
            // What a storm of joins needed is given back.
            self.events = VecDeque::new();
        }
        self.batches += 1;
        Some(SessionBatch { number: self.batches, events })
    }
}

fn take_batch(sessions: &mut impl Iterator<Item = SessionState>) -> Vec<SessionState> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
        let Some(session) = sessions.next() else { break };
        bytes += session.encoded_len();
        batch.push(session);
    }
    batch
}

fn session_event(event: ControlEvent, traces: &JoinTraces) -> SessionEvent {
    let event = match event {
        ControlEvent::Join { session, probe, .. } => {
            let traceparent = if probe { String::new() } else { traces.traceparent(session.session) };
            Event::Join(SessionJoin { session: Some(session_state(&session)), probe, traceparent })
        }
        ControlEvent::End { session } => Event::End(SessionEnd { session_id: session.as_u64() }),
        ControlEvent::RoomsChanged { .. } | ControlEvent::Snapshot { .. } => {
            unreachable!("these never wait among the events")
        }
    };
    SessionEvent { event: Some(event) }
}

fn session_state(session: &SessionInfo) -> SessionState {
    SessionState {
        session_id: session.session.as_u64(),
        user_id: session.user.as_str().to_owned(),
        user_name: session.user_name.clone(),
        room_ids: session.rooms.iter().map(|room| room.as_str().to_owned()).collect(),
        metadata: session.metadata.iter().cloned().collect(),
        connected_at: session.connected_unix_ms / 1000,
    }
}
