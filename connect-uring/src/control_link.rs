//! The node's link to a controller: one long-lived stream, made again, with the next controller, whenever it is lost.
//!
//! Owns: connecting, heartbeats, the time after which a silent controller is given up, what becomes of joins meanwhile.
//! Must not: decide a join, or wait for a shard. Talks to: `controller_choice` (who is next), `node_lease` (before the
//! first word), `link_state` (what is to be said), `bridge` (the lanes), `hub` (what shards say).
//!
//! Clients notice nothing of a move: sessions stay, and a join that is under way is asked again with the snapshot that
//! every link begins with. A new one is held for a moment, too, before joins are refused.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use connect_core::{ControlEvent, JoinDecision};
use futures_util::Stream;
use registry::{Directory, Lease};
use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::node_link_service_client::NodeLinkServiceClient;
use ringcast_proto::pubsub::session_command::Command;
use ringcast_proto::pubsub::{
    self, ControllerMessage, JoinAnswers, NodeHeartbeat, NodeMessage, NodeRegister, SessionCommand,
    SessionRooms,
};
use ringcast_proto::{
    GRPC_KEEPALIVE_INTERVAL, GRPC_KEEPALIVE_TIMEOUT, MAX_GRPC_MESSAGE_BYTES, RoomId, SessionId,
};
use settings::SettingError;
use telemetry::Traces;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::bridge::{ToShard, ToShardLane};
use crate::controller_choice::{Listed, Rounds};
use crate::fence::Signs;
use crate::http::NodeStatus;
use crate::interest::Interest;
use crate::join_traces::JoinTraces;
use crate::link_state::LinkState;
use crate::metrics::BridgeMetrics;
use crate::node_lease::{id_taken, until_lost, until_own};

/// How often the controller is told that the node is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// After how long without a word from the controller the link is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest pause before the next controller is tried; each is a part of it by chance.
const NEXT_PAUSE: Duration = Duration::from_millis(50);

/// For how long new joins wait for the next controller when one is lost; then, or when nobody answered, they are
/// refused. A client waits for 5 s.
const JOINS_HELD: Duration = Duration::from_secs(2);

/// Why a link is cut whose controller is too slow.
const OVERRUN: &str = "too much waits for the controller";

/// A link that was lost sooner than this is not made again at once.
const SHORT_LIVED: Duration = Duration::from_secs(2);

/// For how long after its start a node says nothing of a controller that is not there.
const QUIET_START: Duration = Duration::from_secs(2);

/// How long the controller may take to end the link of a node that leaves.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the link is made of.
pub(crate) struct LinkParts {
    /// What the node says of itself.
    pub(crate) register: NodeRegister,
    /// Where controllers are.
    pub(crate) directory: Directory,
    /// How the node's registration is doing.
    pub(crate) lease: watch::Receiver<Lease>,
    /// For how long the id may be another's before the node gives up.
    pub(crate) patience: Duration,
    /// Where the controller's signs of life are noted.
    pub(crate) signs: Signs,
    /// The lanes to all shards.
    pub(crate) shards: Vec<Arc<ToShardLane>>,
    /// What is told of those whom shards are about to let in.
    pub(crate) interest: Interest,
    /// The load to tell.
    pub(crate) status: Arc<NodeStatus>,
    /// Where it counts.
    pub(crate) metrics: BridgeMetrics,
    /// Where it tells of joins that are traced.
    pub(crate) traces: Traces,
}

/// The link. Copies share all state.
#[derive(Clone)]
pub(crate) struct ControlLink {
    parts: Arc<LinkParts>,
    // Only the bridge's one thread comes here, so the lock is always free; tonic wants its streams `Send`.
    state: Arc<Mutex<LinkState>>,
    overrun: Arc<Notify>,
    /// The connection to the controller that the node is registered with.
    linked: Arc<watch::Sender<Option<Channel>>>,
    leaving: CancellationToken,
    over: CancellationToken,
}

/// How a link ended.
enum Ended {
    /// It can be made again; whether the node was registered, and why it ended.
    Lost(bool, String),
    /// Another node has the id.
    Refused(String),
    /// The node has left.
    Left,
}

/// The search for a controller: from a loss, or the start, to the next registration.
struct Search {
    delays: ExponentialBackoff,
    refused_since: Option<Instant>,
    quiet_until: Instant,
    told: bool,
}

impl Search {
    /// It begins now, and says nothing at first.
    fn new(quiet: Duration) -> Self {
        Self { delays: delays(), refused_since: None, quiet_until: Instant::now() + quiet, told: false }
    }

    /// Logs once why it goes on.
    fn tell(&mut self, controller: &str, reason: &str) {
        if Instant::now() >= self.quiet_until && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(controller, reason, "not registered; trying again");
        }
    }

    /// For how long controllers have refused the id.
    fn refused_for(&mut self) -> Duration {
        self.refused_since.get_or_insert_with(Instant::now).elapsed()
    }
}

impl ControlLink {
    /// A link that is not made yet.
    pub(crate) fn new(parts: LinkParts) -> Self {
        let mut state = LinkState::new(parts.shards.len());
        state.traces = JoinTraces::new(parts.traces.clone());
        Self {
            parts: Arc::new(parts),
            state: Arc::new(Mutex::new(state)),
            overrun: Arc::new(Notify::new()),
            linked: Arc::new(watch::Sender::new(None)),
            leaving: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    /// Takes in what a shard said in one wake-up.
    pub(crate) fn events(&self, shard: usize, events: impl Iterator<Item = ControlEvent>) {
        let mut state = self.state();
        for event in events {
            state.event(shard, event);
        }
        if state.is_overrun() {
            self.overrun.notify_one();
        }
        ask_for_snapshots(&mut state, &self.parts.shards);
    }

    /// The connection to the controller that the node is registered with, while there is one.
    pub(crate) fn linked(&self) -> watch::Receiver<Option<Channel>> {
        self.linked.subscribe()
    }

    /// Tells the load now.
    pub(crate) fn heartbeat(&self) {
        let status = &self.parts.status;
        let heartbeat = NodeHeartbeat { connections: status.connections(), draining: status.is_draining() };
        self.state().heartbeat(heartbeat);
    }

    /// Deregisters the node and ends the link; after at most 2 s it is over, whatever the controller does.
    pub(crate) async fn leave(&self) {
        self.state().leave();
        self.leaving.cancel();
        if timeout(LEAVE_TIMEOUT, self.over.cancelled()).await.is_err() {
            tracing::warn!("the controller did not end the link; it will find the node lost");
        }
    }

    /// Waits until the node's id is its own, then keeps the link until the node leaves; an error where another live
    /// node has the id.
    pub(crate) async fn run(self) -> Result<(), SettingError> {
        let _over = self.over.clone().drop_guard();
        let node_id = &self.parts.register.node_id;
        let mut lease = self.parts.lease.clone();
        tokio::select! {
            own = until_own(&mut lease, node_id, self.parts.patience) => own?,
            () = self.leaving.cancelled() => return Ok(()),
        }
        self.parts.status.set_starting(false);
        tokio::select! {
            kept = self.keep() => kept,
            () = until_lost(&mut lease) => Err(id_taken(node_id)),
        }
    }

    /// Goes from controller to controller, round by round.
    async fn keep(&self) -> Result<(), SettingError> {
        let mut rounds = Rounds::new(&self.parts.register.node_id);
        let mut search = Search::new(QUIET_START);
        let mut last = None;
        loop {
            rounds.begin(&self.parts.directory.view(), last.as_deref());
            let mut tried = false;
            let lost = loop {
                let Some(controller) = rounds.next(&self.parts.directory.view()) else { break None };
                // Nodes that lost the same controller do not come to the next all at once.
                let pause = NEXT_PAUSE.mul_f32(fastrand::f32());
                if !self.pause(pause).await {
                    return Ok(());
                }
                tried = true;
                let began = Instant::now();
                let ended = self.attempt(&controller).await;
                self.state().lose();
                self.linked.send_replace(None);
                self.parts.metrics.link_up.set(0);
                match ended {
                    Ended::Left => return Ok(()),
                    _ if self.leaving.is_cancelled() => return Ok(()),
                    Ended::Lost(true, reason) => {
                        self.parts.metrics.link_losses.inc();
                        self.state().hold_joins(Instant::now() + JOINS_HELD);
                        let pause = match began.elapsed() < SHORT_LIVED {
                            // It would register, and end the link, for ever.
                            true => search.delays.next().unwrap_or(HEARTBEAT),
                            false => {
                                search = Search::new(Duration::ZERO);
                                Duration::ZERO
                            }
                        };
                        search.tell(&controller, &reason);
                        if !self.pause(pause).await {
                            return Ok(());
                        }
                        break Some(controller);
                    }
                    Ended::Lost(false, reason) => search.tell(&controller, &reason),
                    Ended::Refused(reason) => {
                        search.tell(&controller, &reason);
                        if search.refused_for() >= self.parts.patience {
                            return Err(id_taken(&self.parts.register.node_id));
                        }
                    }
                }
            };
            if lost.is_some() {
                last = lost;
                continue;
            }
            self.refuse_joins();
            if !tried {
                search.tell("none", "no controller is listed");
            }
            if !self.pause(search.delays.next().unwrap_or(HEARTBEAT)).await {
                return Ok(());
            }
        }
    }

    /// `false`: the node leaves meanwhile.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.leaving.cancelled() => false,
        }
    }

    /// One link, or none; while there is none yet, joins are refused when they were held for long enough.
    async fn attempt(&self, controller: &str) -> Ended {
        let held = self.state().joins_held();
        let refuse = async {
            if let Some(until) = held {
                sleep_until(until).await;
                self.refuse_joins();
            }
            std::future::pending().await
        };
        tokio::select! {
            ended = self.live_once(controller) => ended,
            ended = refuse => ended,
        }
    }

    /// Joins that were held for the next controller are not held any longer.
    fn refuse_joins(&self) {
        if self.state().let_joins_go() {
            self.tell_all(|| vec![ToShard::ControllerReachable(false)]);
        }
    }

    /// One link from its first to its last word.
    async fn live_once(&self, controller: &str) -> Ended {
        let connected = tokio::select! {
            connected = timeout(SILENCE, self.connect(controller)) => connected,
            () = self.leaving.cancelled() => return Ended::Left,
        };
        let (channel, mut inbound) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(status)) => return ended(&status, false),
            Err(_) => return Ended::Lost(false, "no answer in time".to_owned()),
        };
        let mut registered = false;
        let mut heard = Instant::now();
        let mut listed = Listed::default();
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                message = inbound.message() => {
                    heard = Instant::now();
                    match message {
                        Ok(Some(message)) => {
                            if matches!(message.message, Some(Message::Registered(_))) {
                                registered = true;
                                self.linked.send_replace(Some(channel.clone()));
                            }
                            if registered {
                                self.parts.signs.controller(heard.into_std());
                            }
                            if let Err(reason) = self.take(message) {
                                return Ended::Lost(registered, reason.to_owned());
                            }
                        }
                        Ok(None) if self.state().is_leaving() => return Ended::Left,
                        Ok(None) => return Ended::Lost(registered, "the controller ended the link".to_owned()),
                        Err(status) => return ended(&status, registered),
                    }
                }
                _ = beat.tick() => {
                    self.heartbeat();
                    let now = Instant::now().into_std();
                    if listed.given_up(&self.parts.directory.view(), controller, now) {
                        return Ended::Lost(registered, "the controller is not listed any more".to_owned());
                    }
                }
                () = sleep_until(heard + SILENCE) => {
                    return Ended::Lost(registered, "the controller is silent".to_owned());
                }
                () = self.overrun.notified() => {
                    // What is left of a former link is none of this one's.
                    if self.state().is_overrun() {
                        return Ended::Lost(registered, OVERRUN.to_owned());
                    }
                }
            }
        }
    }

    async fn connect(&self, controller: &str) -> Result<(Channel, Streaming<ControllerMessage>), Status> {
        let endpoint = Endpoint::from_shared(format!("http://{controller}"))
            .map_err(|error| Status::invalid_argument(cause(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(GRPC_KEEPALIVE_INTERVAL)
            .keep_alive_timeout(GRPC_KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(cause(&error)))?;
        let link = self.state().begin(self.parts.register.clone());
        let outbound = Outbound { state: Arc::clone(&self.state), parts: Arc::clone(&self.parts), link };
        let inbound = NodeLinkServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_GRPC_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_GRPC_MESSAGE_BYTES)
            .link(outbound)
            .await?
            .into_inner();
        Ok((channel, inbound))
    }

    /// Takes in a word of the controller; an error ends the link.
    fn take(&self, message: ControllerMessage) -> Result<(), &'static str> {
        match message.message {
            Some(Message::Registered(registered)) => {
                tracing::info!(
                    controller = %registered.controller_id.escape_debug(),
                    lease_ms = registered.lease_ms,
                    "registered with the controller"
                );
                self.parts.metrics.link_up.set(1);
                self.tell_all(|| vec![ToShard::ControllerReachable(true)]);
                let mut state = self.state();
                state.registered();
                ask_for_snapshots(&mut state, &self.parts.shards);
                drop(state);
                self.heartbeat();
                Ok(())
            }
            Some(Message::BatchTaken(taken)) => {
                self.state().batch_taken(taken.number);
                Ok(())
            }
            Some(Message::JoinAnswers(answers)) => {
                self.answer_joins(&answers);
                Ok(())
            }
            Some(Message::Command(command)) => {
                self.command(command);
                if self.state().is_overrun() { Err(OVERRUN) } else { Ok(()) }
            }
            Some(Message::SnapshotTaken(_) | Message::Heartbeat(_)) | None => Ok(()),
        }
    }

    fn answer_joins(&self, answers: &JoinAnswers) {
        let mut by_shard: Vec<Vec<ToShard>> = Vec::new();
        by_shard.resize_with(self.parts.shards.len(), Vec::new);
        let mut state = self.state();
        for answer in &answers.answers {
            let session = SessionId::from_u64(answer.session_id);
            let decision = match answer.decision() {
                pubsub::JoinDecision::Accepted => JoinDecision::Accepted,
                pubsub::JoinDecision::RoomFull => JoinDecision::RoomFull,
                pubsub::JoinDecision::Unavailable => JoinDecision::Unavailable,
                pubsub::JoinDecision::Invalid => JoinDecision::Invalid,
            };
            state.traces.answered(session, decision);
            if let Some(shard) = by_shard.get_mut(usize::from(session.shard().0)) {
                self.parts.interest.answering(session, decision == JoinDecision::Accepted);
                shard.push(ToShard::JoinAnswered { session, decision });
            }
        }
        drop(state);
        self.tell(self.followed_by_marks(by_shard));
    }

    fn command(&self, command: SessionCommand) {
        let (rooms, add) = match command.command {
            Some(Command::AddRoom(rooms)) => (rooms, true),
            Some(Command::RemoveRoom(rooms)) => (rooms, false),
            // A command of a newer controller: nobody here knows what it is.
            None => (SessionRooms::default(), false),
        };
        let mut by_shard: Vec<Vec<SessionId>> = vec![Vec::new(); self.parts.shards.len()];
        for session in rooms.session_ids.into_iter().map(SessionId::from_u64) {
            if let Some(shard) = by_shard.get_mut(usize::from(session.shard().0)) {
                shard.push(session);
            }
        }
        let room = RoomId::new(&rooms.room_id).ok();
        let shards = by_shard.iter().filter(|sessions| !sessions.is_empty()).count();
        let number = self.state().command(command.command_id, if room.is_some() { shards } else { 0 });
        let Some((number, room)) = number.zip(room) else { return };
        let change = |(shard, sessions): (usize, Vec<SessionId>)| {
            if sessions.is_empty() {
                return Vec::new();
            }
            if add {
                self.parts.interest.adding_room(shard, &room);
            }
            vec![ToShard::ChangeRooms { command: number, sessions, room: room.clone(), add }]
        };
        let changes = by_shard.into_iter().enumerate().map(change).collect();
        self.tell(self.followed_by_marks(changes));
    }

    /// A mark has come back: another follows where something new is in doubt.
    pub(crate) fn mark(&self, shard: usize) {
        if self.parts.interest.wants_mark(shard) {
            let taken = self.parts.shards[shard].push(ToShard::Mark);
            debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
        }
    }

    fn followed_by_marks(&self, mut by_shard: Vec<Vec<ToShard>>) -> Vec<Vec<ToShard>> {
        for (shard, items) in by_shard.iter_mut().enumerate().filter(|(_, items)| !items.is_empty()) {
            if self.parts.interest.wants_mark(shard) {
                items.push(ToShard::Mark);
            }
        }
        by_shard
    }

    /// Tells each shard its part. What is not a delivery is always taken.
    fn tell(&self, by_shard: impl IntoIterator<Item = Vec<ToShard>>) {
        for (shard, items) in self.parts.shards.iter().zip(by_shard).filter(|(_, items)| !items.is_empty()) {
            let taken = shard.push_batch(items);
            debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
        }
    }

    fn tell_all(&self, items: impl Fn() -> Vec<ToShard>) {
        self.tell(self.parts.shards.iter().map(|_| items()));
    }

    fn state(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pauses between rounds: 50 ms to 1 s and as much again by chance, for ever.
fn delays() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        // Without a seed all nodes would draw the same.
        .with_jitter_seed(fastrand::u64(..))
        .without_max_times()
        .build()
}

fn ended(status: &Status, registered: bool) -> Ended {
    match status.code() {
        Code::AlreadyExists => Ended::Refused(status.message().escape_debug().to_string()),
        code => Ended::Lost(registered, format!("{code:?}: {}", status.message().escape_debug())),
    }
}

/// The innermost cause, which says it plainest: "Connection refused", not "transport error".
fn cause(error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error);
    innermost.to_string().escape_debug().to_string()
}

/// Asks as many shards for their part of the snapshot as may be asked now.
fn ask_for_snapshots(state: &mut LinkState, shards: &[Arc<ToShardLane>]) {
    while let Some(shard) = state.next_to_ask() {
        let taken = shards[shard].push(ToShard::Snapshot);
        debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
    }
}

/// What the node says over one link.
struct Outbound {
    state: Arc<Mutex<LinkState>>,
    parts: Arc<LinkParts>,
    link: u64,
}

impl Stream for Outbound {
    type Item = NodeMessage;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NodeMessage>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = state.poll_next(self.link, context);
        ask_for_snapshots(&mut state, &self.parts.shards);
        next
    }
}

#[cfg(test)]
mod tests;
