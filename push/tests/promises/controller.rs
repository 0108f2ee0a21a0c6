//! A controller that says what a test tells it to: snapshot, numbered changes, heartbeats.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::Stream;
use ringcast_proto::pubsub::route_feed_service_server::{RouteFeedService, RouteFeedServiceServer};
use ringcast_proto::pubsub::{FollowRequest, NodeRoute, RoomRoute, RouteUpdate, RouteUpdateKind, UserRoute};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

type Update = Result<RouteUpdate, Status>;

#[derive(Default)]
struct Told {
    number: u64,
    nodes: BTreeMap<String, NodeRoute>,
    rooms: BTreeMap<(String, String), u32>,
    users: BTreeMap<(String, String), u32>,
    followers: Vec<mpsc::UnboundedSender<Update>>,
}

#[derive(Clone)]
struct Feed {
    told: Arc<Mutex<Told>>,
    acknowledged: watch::Sender<u64>,
    follows: watch::Sender<usize>,
    /// Nothing is sent to new followers while this is set.
    mute: watch::Sender<bool>,
}

pub(crate) struct FakeController {
    pub(crate) address: SocketAddr,
    feed: Feed,
    /// Dropping it ends every connection at once, as the death of a process does.
    runtime: Option<Runtime>,
    _reserved: TcpSocket,
}

impl FakeController {
    pub(crate) fn start() -> Self {
        let feed = Feed {
            told: Arc::new(Mutex::new(Told { number: 1, ..Told::default() })),
            acknowledged: watch::Sender::new(0),
            follows: watch::Sender::new(0),
            mute: watch::Sender::new(false),
        };
        let (address, reserved) = reserve_address();
        let mut controller = Self { address, feed, runtime: None, _reserved: reserved };
        controller.restart();
        controller
    }

    /// Serves at the same address again, with all that was told.
    pub(crate) fn restart(&mut self) {
        let (runtime, listener) = own_runtime(self.address);
        self.feed.acknowledged.send_replace(0);
        let server =
            tonic::transport::Server::builder().add_service(RouteFeedServiceServer::new(self.feed.clone()));
        runtime.spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        self.runtime = Some(runtime);
    }

    pub(crate) fn kill(&mut self) {
        end_runtime(self.runtime.take().unwrap());
        self.feed.told.lock().unwrap().followers.clear();
    }

    pub(crate) fn mute(&self, mute: bool) {
        self.feed.mute.send_replace(mute);
    }

    /// How often the feed was opened.
    pub(crate) fn follows(&self) -> usize {
        *self.feed.follows.borrow()
    }

    /// Waits until the feed was opened so often.
    pub(crate) async fn followed(&self, times: usize) {
        self.feed.follows.subscribe().wait_for(|follows| *follows >= times).await.unwrap();
    }

    /// Waits until the last number is acknowledged.
    pub(crate) async fn acknowledged(&self) {
        let number = self.feed.told.lock().unwrap().number;
        self.feed.acknowledged.subscribe().wait_for(|acknowledged| *acknowledged >= number).await.unwrap();
    }

    pub(crate) fn set_node(&self, node: NodeRoute) {
        self.change(RouteUpdate { nodes: vec![node], ..Default::default() });
    }

    pub(crate) fn set_room(&self, room: RoomRoute) {
        self.change(RouteUpdate { rooms: vec![room], ..Default::default() });
    }

    pub(crate) fn change(&self, update: RouteUpdate) {
        self.feed.told.lock().unwrap().change(update);
    }

    /// Leaves out a number.
    pub(crate) fn skip_a_number(&self) {
        self.feed.told.lock().unwrap().number += 1;
    }
}

impl Drop for FakeController {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Told {
    fn change(&mut self, mut update: RouteUpdate) {
        self.number += 1;
        update.number = self.number;
        for node in &update.nodes {
            match node.gone {
                true => drop(self.nodes.remove(&node.node_id)),
                false => drop(self.nodes.insert(node.node_id.clone(), node.clone())),
            }
        }
        for room in &update.rooms {
            self.rooms.insert((room.room_id.clone(), room.node_id.clone()), room.sessions);
        }
        for user in &update.users {
            self.users.insert((user.user_id.clone(), user.node_id.clone()), user.sessions);
        }
        let nodes = &self.nodes;
        self.rooms.retain(|(_, node), sessions| *sessions > 0 && nodes.contains_key(node));
        self.users.retain(|(_, node), sessions| *sessions > 0 && nodes.contains_key(node));
        self.followers.retain(|follower| follower.send(Ok(update.clone())).is_ok());
    }

    /// In two parts, as a large one would be.
    fn snapshot(&self) -> [RouteUpdate; 2] {
        let rooms = self.rooms.iter().map(|((room_id, node_id), &sessions)| RoomRoute {
            room_id: room_id.clone(),
            node_id: node_id.clone(),
            sessions,
        });
        let users = self.users.iter().map(|((user_id, node_id), &sessions)| UserRoute {
            user_id: user_id.clone(),
            node_id: node_id.clone(),
            sessions,
        });
        let part = RouteUpdate {
            number: self.number,
            kind: RouteUpdateKind::SnapshotPart.into(),
            nodes: self.nodes.values().cloned().collect(),
            rooms: rooms.collect(),
            ..Default::default()
        };
        let end = RouteUpdate {
            number: self.number,
            kind: RouteUpdateKind::SnapshotEnd.into(),
            users: users.collect(),
            ..Default::default()
        };
        [part, end]
    }
}

impl Feed {
    async fn serve(self, mut requests: Streaming<FollowRequest>, updates: mpsc::UnboundedSender<Update>) {
        let hello = requests.message().await.unwrap().unwrap().hello.unwrap();
        assert_eq!(hello.manager_id, "push-manager-1");
        if self.mute.subscribe().wait_for(|mute| !mute).await.is_err() {
            return;
        }
        {
            let mut told = self.told.lock().unwrap();
            for part in told.snapshot() {
                let _ = updates.send(Ok(part));
            }
            told.followers.push(updates.clone());
        }
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(request)) = request else { return };
                    self.acknowledged.send_if_modified(|highest| {
                        let higher = request.acknowledged > *highest;
                        *highest = request.acknowledged.max(*highest);
                        higher
                    });
                }
                _ = beat.tick() => {
                    let told = self.told.lock().unwrap();
                    let kind = RouteUpdateKind::Heartbeat.into();
                    let _ = updates.send(Ok(RouteUpdate { number: told.number, kind, ..Default::default() }));
                }
            }
        }
    }
}

#[tonic::async_trait]
impl RouteFeedService for Feed {
    type FollowStream = Pin<Box<dyn Stream<Item = Update> + Send>>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.follows.send_modify(|follows| *follows += 1);
        let (updates, stream) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().serve(request.into_inner(), updates));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream))))
    }
}

/// Ends a runtime with its listener and all connections, and waits until they are gone. It waits on a thread of its
/// own, because a runtime cannot be waited for on another's.
pub(crate) fn end_runtime(runtime: Runtime) {
    std::thread::spawn(move || runtime.shutdown_timeout(crate::PATIENCE)).join().unwrap();
}

/// A loopback address that nobody else is given while the socket lives. It does not listen: who connects is refused
/// until [`own_runtime`] listens there, too.
pub(crate) fn reserve_address() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// A runtime that can be dropped with all its connections, and a listener on it.
pub(crate) fn own_runtime(address: SocketAddr) -> (Runtime, TcpListener) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, listener) = std::sync::mpsc::channel();
    runtime.spawn(async move { sender.send(TcpListener::bind(address).await.unwrap()) });
    let listener = listener.recv().unwrap();
    (runtime, listener)
}
