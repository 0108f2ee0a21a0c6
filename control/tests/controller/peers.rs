//! The other ends: a node, a push manager, a caller. Every wait is bounded.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use control::{Running, Settings, Timing};
use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::node_link_service_client::NodeLinkServiceClient;
use ringcast_proto::pubsub::route_feed_service_client::RouteFeedServiceClient;
use ringcast_proto::pubsub::{
    ControllerMessage, FollowHello, FollowRequest, JoinAnswer, JoinDecision, NodeDeregister, NodeHeartbeat,
    NodeMessage, NodeRegister, RouteUpdate, RouteUpdateKind, SessionBatch, SessionCommand,
    SessionCommandResult, SessionEnd, SessionEvent, SessionJoin, SessionSnapshot, SessionState, node_message,
    session_event,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Nothing here takes longer, or the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

pub(crate) struct Controller {
    pub(crate) grpc: SocketAddr,
    pub(crate) metrics: SocketAddr,
    running: Running,
    stop: CancellationToken,
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Settings on free ports, with the times of the real thing.
pub(crate) fn settings(data: &Path) -> Settings {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        grpc_addr: loopback,
        metrics_addr: loopback,
        data_dir: data.to_owned(),
        process_metrics: false,
        ..Settings::default()
    }
}

/// The same with a timing of its own.
pub(crate) fn timed(data: &Path, set: impl FnOnce(&mut Timing)) -> Settings {
    let mut settings = settings(data);
    settings.timing.tick = Duration::from_millis(5);
    set(&mut settings.timing);
    settings
}

impl Controller {
    pub(crate) async fn start(settings: Settings) -> Self {
        let stop = CancellationToken::new();
        let running = control::start(settings, stop.clone()).await.unwrap();
        Self { grpc: running.grpc_addr, metrics: running.metrics_addr, running, stop }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        soon("the stop", self.running.stopped()).await.unwrap();
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        soon("the connection", endpoint.connect()).await.unwrap()
    }

    pub(crate) async fn rpc(&self) -> ControllerServiceClient<Channel> {
        ControllerServiceClient::new(self.channel().await)
    }

    /// A registered node whose snapshot is taken.
    pub(crate) async fn node(&self, id: &str) -> Node {
        let mut node = Node::register(self, id, 1).await.unwrap();
        node.snapshot(Vec::new()).await;
        node
    }
}

pub(crate) fn session(id: u64, user: &str, room: &str) -> SessionState {
    SessionState {
        session_id: id,
        user_id: user.into(),
        user_name: format!("name of {user}"),
        room_ids: vec![room.into()],
        connected_at: i64::try_from(id).unwrap(),
        ..SessionState::default()
    }
}

pub(crate) fn join(id: u64, user: &str, room: &str) -> SessionEvent {
    let join = SessionJoin { session: Some(session(id, user, room)), ..Default::default() };
    SessionEvent { event: Some(session_event::Event::Join(join)) }
}

pub(crate) fn probe(id: u64, user: &str, room: &str) -> SessionEvent {
    let join = SessionJoin { session: Some(session(id, user, room)), probe: true, ..Default::default() };
    SessionEvent { event: Some(session_event::Event::Join(join)) }
}

pub(crate) fn end(id: u64) -> SessionEvent {
    SessionEvent { event: Some(session_event::Event::End(SessionEnd { session_id: id })) }
}

pub(crate) struct Node {
    messages: mpsc::Sender<NodeMessage>,
    inbound: Streaming<ControllerMessage>,
    batches: u64,
    pub(crate) lease_ms: u32,
}

impl Node {
    /// Registers; an error is what the stream ended with.
    pub(crate) async fn register(
        controller: &Controller,
        id: &str,
        incarnation: u64,
    ) -> Result<Self, Status> {
        Self::link(controller, id, incarnation, 0).await
    }

    /// The same over a link of this number.
    pub(crate) async fn link(
        controller: &Controller,
        id: &str,
        incarnation: u64,
        link: u64,
    ) -> Result<Self, Status> {
        let (messages, stream) = mpsc::channel(64);
        let mut client = NodeLinkServiceClient::new(controller.channel().await);
        let opened = client.link(ReceiverStream::new(stream));
        let inbound = soon("the link", opened).await?.into_inner();
        let mut node = Self { messages, inbound, batches: 0, lease_ms: 0 };
        node.say(node_message::Message::Register(NodeRegister {
            node_id: id.into(),
            incarnation,
            grpc_address: format!("{id}.example:50052"),
            public_ws_url: format!("ws://{id}.example/ws"),
            capacity: 1000,
            version: "test".into(),
            driver: "epoll".into(),
            link,
        }))
        .await;
        match node.next().await? {
            Message::Registered(registered) => node.lease_ms = registered.lease_ms,
            other => panic!("a registration was answered with {other:?}"),
        }
        Ok(node)
    }

    pub(crate) async fn say(&mut self, message: node_message::Message) {
        // A stream that has ended shows when it is read.
        let _ = self.messages.send(NodeMessage { message: Some(message) }).await;
    }

    /// The next message that is no heartbeat.
    pub(crate) async fn next(&mut self) -> Result<Message, Status> {
        loop {
            match soon("the controller's word", self.inbound.message()).await? {
                Some(ControllerMessage { message: Some(Message::Heartbeat(_)) }) => {}
                Some(ControllerMessage { message: Some(message) }) => return Ok(message),
                Some(_) => panic!("an empty message"),
                None => return Err(Status::cancelled("the stream ended")),
            }
        }
    }

    pub(crate) async fn snapshot_part(&mut self, sessions: Vec<SessionState>, last: bool) {
        self.say(node_message::Message::Snapshot(SessionSnapshot { sessions, last })).await;
    }

    pub(crate) async fn snapshot(&mut self, sessions: Vec<SessionState>) {
        self.snapshot_part(sessions, true).await;
        let taken = self.next().await.unwrap();
        assert!(matches!(taken, Message::SnapshotTaken(_)), "{taken:?}");
    }

    /// Sends a batch, without waiting for anything.
    pub(crate) async fn send(&mut self, events: Vec<SessionEvent>) -> u64 {
        self.batches += 1;
        let batch = SessionBatch { number: self.batches, events };
        self.say(node_message::Message::Batch(batch)).await;
        self.batches
    }

    /// Reads on until so many joins are answered.
    pub(crate) async fn answers(&mut self, count: usize) -> Vec<JoinAnswer> {
        let mut answers = Vec::new();
        while answers.len() < count {
            match self.next().await.unwrap() {
                Message::JoinAnswers(more) => answers.extend(more.answers),
                Message::BatchTaken(_) => {}
                other => panic!("{other:?} came instead of answers"),
            }
        }
        assert_eq!(answers.len(), count, "{answers:?}");
        answers
    }

    /// Sends one join and reads its answer.
    pub(crate) async fn join(&mut self, id: u64, user: &str, room: &str) -> JoinDecision {
        self.send(vec![join(id, user, room)]).await;
        let answers = self.answers(1).await;
        assert_eq!(answers[0].session_id, id);
        answers[0].decision()
    }

    /// Sends a batch and waits until it is taken in.
    pub(crate) async fn batch(&mut self, events: Vec<SessionEvent>) {
        let number = self.send(events).await;
        loop {
            match self.next().await.unwrap() {
                Message::BatchTaken(taken) if taken.number == number => return,
                Message::BatchTaken(_) => {}
                other => panic!("{other:?} came instead of the batch's acknowledgement"),
            }
        }
    }

    pub(crate) async fn heartbeat(&mut self, connections: u64, draining: bool) {
        self.say(node_message::Message::Heartbeat(NodeHeartbeat { connections, draining })).await;
    }

    pub(crate) async fn deregister(&mut self) {
        self.say(node_message::Message::Deregister(NodeDeregister {})).await;
    }

    pub(crate) async fn command(&mut self) -> SessionCommand {
        match self.next().await.unwrap() {
            Message::Command(command) => command,
            other => panic!("{other:?} came instead of a command"),
        }
    }

    pub(crate) async fn did(&mut self, command: &SessionCommand, session_ids: Vec<u64>) {
        let result = SessionCommandResult { command_id: command.command_id, session_ids };
        self.say(node_message::Message::CommandResult(result)).await;
    }
}

/// A push manager, with the routes that it made of what it heard.
pub(crate) struct Follower {
    requests: mpsc::Sender<FollowRequest>,
    updates: Streaming<RouteUpdate>,
    pub(crate) number: u64,
    pub(crate) nodes: BTreeMap<String, u64>,
    pub(crate) rooms: BTreeMap<(String, String), u32>,
    pub(crate) users: BTreeMap<(String, String), u32>,
}

impl Follower {
    /// Follows; the snapshot is yet to be read.
    pub(crate) async fn open(controller: &Controller) -> Self {
        let (requests, stream) = mpsc::channel(64);
        let mut client = RouteFeedServiceClient::new(controller.channel().await);
        let hello = FollowHello { manager_id: "pm-1".into() };
        requests.send(FollowRequest { hello: Some(hello), acknowledged: 0 }).await.unwrap();
        let updates = soon("the feed", client.follow(ReceiverStream::new(stream))).await.unwrap();
        Self {
            requests,
            updates: updates.into_inner(),
            number: 0,
            nodes: BTreeMap::new(),
            rooms: BTreeMap::new(),
            users: BTreeMap::new(),
        }
    }

    /// Follows and acknowledges the snapshot.
    pub(crate) async fn follow(controller: &Controller) -> Self {
        let mut follower = Self::open(controller).await;
        follower.snapshot().await;
        follower
    }

    /// Reads and acknowledges the snapshot. Returns how many parts it had.
    pub(crate) async fn snapshot(&mut self) -> usize {
        for part in 1.. {
            let update = self.update().await.unwrap();
            let end = update.kind() == RouteUpdateKind::SnapshotEnd;
            assert!(end || update.kind() == RouteUpdateKind::SnapshotPart, "{:?}", update.kind());
            self.number = update.number;
            self.apply(update);
            if end {
                self.acknowledge().await;
                return part;
            }
        }
        unreachable!("the range has no end")
    }

    /// The next update of any kind.
    pub(crate) async fn raw(&mut self) -> Result<RouteUpdate, Status> {
        let update = soon("the feed's word", self.updates.message()).await?;
        update.ok_or_else(|| Status::cancelled("the feed ended"))
    }

    /// The next update that is no heartbeat.
    pub(crate) async fn update(&mut self) -> Result<RouteUpdate, Status> {
        loop {
            let update = self.raw().await?;
            if update.kind() != RouteUpdateKind::Heartbeat {
                return Ok(update);
            }
            assert_eq!(update.number, self.number, "a heartbeat repeats the last number");
        }
    }

    /// The next step, taken into the routes; its number must be the next one.
    pub(crate) async fn step(&mut self) -> RouteUpdate {
        let update = self.update().await.unwrap();
        assert_eq!((update.kind(), update.number), (RouteUpdateKind::Change, self.number + 1));
        self.number = update.number;
        self.apply(update.clone());
        update
    }

    pub(crate) async fn acknowledge(&mut self) {
        let request = FollowRequest { hello: None, acknowledged: self.number };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) fn room(&self, room: &str, node: &str) -> u32 {
        self.rooms.get(&(room.to_owned(), node.to_owned())).copied().unwrap_or(0)
    }

    fn apply(&mut self, update: RouteUpdate) {
        for node in update.nodes {
            if node.gone {
                self.nodes.remove(&node.node_id);
                self.rooms.retain(|(_, on), _| *on != node.node_id);
                self.users.retain(|(_, on), _| *on != node.node_id);
            } else {
                self.nodes.insert(node.node_id, node.incarnation);
            }
        }
        for route in update.rooms {
            self.rooms.insert((route.room_id, route.node_id), route.sessions);
        }
        for route in update.users {
            self.users.insert((route.user_id, route.node_id), route.sessions);
        }
        self.rooms.retain(|_, sessions| *sessions > 0);
        self.users.retain(|_, sessions| *sessions > 0);
    }
}
