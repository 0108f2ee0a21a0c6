//! Shards that are nothing but their ends of the lanes, for the tests of the bridge.

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use connect_core::{CensusChange, ControlEvent, Counts, Report, Target};
use prometheus::Registry;
use registry::{Directory, Lease};
use ringcast_proto::pubsub::{DeliverWelcome, NodeRegister};
use ringcast_proto::{RoomId, SessionId, ShardId};
use telemetry::Traces;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::bridge::{self, FromShard, ShardEnd, ShardHandle, ToShard, ToShardLane};
use crate::clock::Clock;
use crate::control_link::{ControlLink, LinkParts};
use crate::delivery_log::DeliveryLog;
use crate::fence::Signs;
use crate::fence_watch::FenceWatch;
use crate::http::NodeStatus;
use crate::hub::Hub;
use crate::interest::{Interest, ShardSet};
use crate::members;
use crate::metrics::BridgeMetrics;
use crate::node_lease;
use crate::push_intake::{IntakeParts, PushIntake};

/// The longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A shard's end of its lanes.
pub(crate) struct FakeShard {
    end: ShardEnd,
    waiting: VecDeque<ToShard>,
}

impl FakeShard {
    /// What the shard is told next.
    pub(crate) async fn next(&mut self) -> ToShard {
        self.next_within(PATIENCE).await
    }

    /// The same, where it may take longer.
    pub(crate) async fn next_within(&mut self, patience: Duration) -> ToShard {
        timeout(patience, self.wait()).await.expect("the shard is told nothing")
    }

    async fn wait(&mut self) -> ToShard {
        let event = self.end.to_shard.event().as_fd().try_clone_to_owned().expect("an eventfd can be cloned");
        // SAFETY: an owned descriptor stays open, and the same, for as long as the AsyncFd has it.
        let event = unsafe { AsyncFd::register(event) }.expect("an eventfd polls");
        loop {
            if let Some(item) = self.waiting.pop_front() {
                return item;
            }
            self.end.to_shard.drain_into(&mut self.waiting);
            if self.waiting.is_empty() && self.end.to_shard.may_sleep() {
                let mut ready = event.readable().await.expect("an eventfd polls");
                self.end.to_shard.event().clear();
                ready.clear_ready();
            }
        }
    }

    /// What waits for the shard now.
    pub(crate) fn told(&mut self) -> Vec<ToShard> {
        self.end.to_shard.drain_into(&mut self.waiting);
        self.waiting.drain(..).collect()
    }

    /// The shard says something.
    pub(crate) fn say(&self, words: impl IntoIterator<Item = FromShard>) {
        let mut words: VecDeque<FromShard> = words.into_iter().collect();
        self.end.from_shard.push_from(&mut words);
        assert!(words.is_empty(), "the lane is full");
    }

    /// The shard tells the controller something.
    pub(crate) fn say_control(&self, events: impl IntoIterator<Item = ControlEvent>) {
        self.say(events.into_iter().map(FromShard::Control));
    }

    /// The shard reports that it has written a push to so many sessions.
    pub(crate) fn report_written(&self, delivery: u64, sessions: u64) {
        let counts = Counts { members: sessions, written: sessions, ..Counts::default() };
        self.say([FromShard::Report(Report { delivery, counts })]);
    }
}

/// The bridge's parts over fake shards; nothing is served or connected yet.
pub(crate) struct FakeNode {
    pub(crate) shards: Vec<FakeShard>,
    pub(crate) intake: PushIntake,
    pub(crate) link: ControlLink,
    pub(crate) status: Arc<NodeStatus>,
    pub(crate) interest: Interest,
    /// How its registration is doing.
    pub(crate) lease: watch::Sender<Lease>,
    signs: Signs,
    metrics: BridgeMetrics,
    lanes: Vec<Arc<ToShardLane>>,
}

impl FakeNode {
    /// With its hub running, for a controller at this address.
    pub(crate) fn start(shards: u16, controller: &str) -> Self {
        Self::with(shards, Directory::fixed(vec![controller.to_owned()]))
    }

    /// With its hub running, for the controllers of a directory.
    pub(crate) fn with(shards: u16, directory: Directory) -> Self {
        let lanes = (0..shards).map(|shard| bridge::connect(ShardId(shard)).expect("lanes can be made"));
        let (handles, ends): (Vec<ShardHandle>, Vec<ShardEnd>) = lanes.unzip();
        let stats = handles.iter().map(|handle| Arc::clone(&handle.stats)).collect();
        let status = Arc::new(NodeStatus::new("node-1".to_owned(), 7, stats));
        let metrics = BridgeMetrics::register(&Registry::new()).expect("names are unique");
        let lanes: Vec<Arc<ToShardLane>> =
            handles.iter().map(|handle| Arc::clone(&handle.to_shard)).collect();
        let interest = Interest::new(lanes.len());
        let (signs, (lease, leased)) = (Signs::default(), watch::channel(Lease::Fixed));
        let intake = PushIntake::new(IntakeParts {
            welcome: DeliverWelcome { node_id: "node-1".to_owned(), incarnation: 7 },
            max_payload_bytes: 1000,
            shards: lanes.clone(),
            interest: interest.clone(),
            clock: Clock::start(),
            signs: signs.clone(),
            metrics: metrics.clone(),
            traces: Traces::off(),
            log: DeliveryLog::new(),
        });
        let register =
            NodeRegister { node_id: "node-1".to_owned(), incarnation: 7, ..NodeRegister::default() };
        let link = ControlLink::new(LinkParts {
            register,
            directory,
            lease: leased,
            patience: node_lease::patience(None),
            signs: signs.clone(),
            shards: lanes.clone(),
            interest: interest.clone(),
            status: Arc::clone(&status),
            metrics: metrics.clone(),
            traces: Traces::off(),
        });
        let (asked, questions) = members::questions(metrics.members_unanswered.clone());
        let hub = Hub::new(intake.clone(), link.clone(), Arc::clone(&status), interest.clone(), asked);
        let unanswered = metrics.members_unanswered.clone();
        tokio::spawn(members::answer(questions, link.linked(), lanes.clone(), unanswered));
        for (shard, handle) in handles.into_iter().enumerate() {
            let end = handle.from_shard.into_async().expect("an eventfd polls");
            tokio::spawn(hub.clone().listen(shard, end));
        }
        let shards = ends.into_iter().map(|end| FakeShard { end, waiting: VecDeque::new() }).collect();
        Self { shards, intake, link, status, interest, lease, signs, metrics, lanes }
    }

    /// What watches whether it is cut off.
    pub(crate) fn fence_watch(&self) -> FenceWatch {
        FenceWatch {
            signs: self.signs.clone(),
            lease: self.lease.subscribe(),
            shards: self.lanes.clone(),
            status: Arc::clone(&self.status),
            metrics: self.metrics.clone(),
        }
    }

    /// The shards that a push goes to now.
    pub(crate) fn shards_for(&self, target: &Target) -> Vec<usize> {
        let mut shards = ShardSet::default();
        self.interest.shards_for(target, &mut shards);
        shards.iter().collect()
    }

    /// These shards say that a room came to them; waits until that is known.
    pub(crate) async fn open_room(&self, room: &RoomId, shards: &[usize]) {
        for &shard in shards {
            self.shards[shard].say([FromShard::Census(CensusChange::RoomCame(room.clone()))]);
        }
        let known = async {
            while self.shards_for(&Target::Room(room.clone())) != shards {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, known).await.expect("the room does not become known");
    }
}

/// A session of a shard.
pub(crate) fn session(shard: u16, slot: u32) -> SessionId {
    SessionId::new(ShardId(shard), slot, 1)
}
