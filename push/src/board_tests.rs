//! A seeded world against the board: pushes, links that come and go, nodes that answer, answer late or never, a feed
//! that changes under way, in virtual time. A shadow knows what was handed over and checks every answer.
//!
//! `RINGCAST_SEED=n` runs that seed alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use registry::{Kind, View};
use ringcast_proto::pubsub::{
    DeliveryOutcome, MessageContent, NodeRoute, Outcomes, ReportMode, RoomRoute, UserRoute, delivery::Target,
};
use tokio::sync::oneshot;

use crate::answer::{Answer, Answers, Finished, Waiter};
use crate::board::{Batch, Board, Due};
use crate::feeds::FeedId;
use crate::feeds_tests::{controller, entry};
use crate::links::{LinkStream, NewLink};
use crate::listing::Listing;
use crate::receipts::OpenPush;
use crate::request::Push;
use crate::routing::Routes;

const SEEDS: u64 = 64;
const STEPS: u64 = 10_000;
const NODES: usize = 4;
const ROOMS: usize = 6;

struct World {
    seed: u64,
    random: fastrand::Rng,
    board: Board,
    feed: FeedId,
    now: Instant,
    /// When the deadline task would wake up.
    timer: Option<Instant>,
    number: u64,
    incarnations: [u64; NODES],
    links: Vec<NewLink>,
    streams: HashMap<u32, LinkStream>,
    /// Link → ids handed over on its present stream and not answered, with their message.
    handed: HashMap<u32, BTreeMap<u64, String>>,
    last_handed: HashMap<u32, u64>,
    /// Message and node of every hand-over that there ever was.
    ever_handed: HashSet<(String, String)>,
    waiting: BTreeMap<String, (Instant, oneshot::Receiver<Answer>)>,
    hit: BTreeMap<&'static str, u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut board = Board::new(now);
        let view = View { entries: vec![controller("c", 0)], as_of: None, fixed: true };
        let listing = Listing::of(&view, &entry(Kind::PushManager, "p", 1));
        let feed = board.look(&listing, now).follow[0].0;
        let mut world = Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            board,
            feed,
            now,
            timer: None,
            number: 1,
            incarnations: [1; NODES],
            links: Vec::new(),
            streams: HashMap::new(),
            handed: HashMap::new(),
            last_handed: HashMap::new(),
            ever_handed: HashSet::new(),
            waiting: BTreeMap::new(),
            hit: BTreeMap::new(),
        };
        world.snapshot();
        world
    }

    fn hit(&mut self, what: &'static str) {
        *self.hit.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..40 => self.accept(),
            40..60 => self.take_batch(),
            60..75 => self.answer(),
            75..85 => self.pass_time(),
            85..90 => self.change_route(),
            90..94 => self.open_stream(),
            94..96 => self.close_stream(),
            96..97 => self.change_node(),
            97..99 => self.end_retired(),
            _ if self.random.u32(..10) == 0 => self.snapshot(),
            // Links that are down are out of routing then.
            _ if self.random.u32(..5) == 0 => self.pass(Duration::from_secs(3)),
            _ => self.late_answer(),
        }
    }

    fn accept(&mut self) {
        let target = match self.random.u32(..4) {
            0 => Target::UserId(format!("u{}", self.random.usize(..ROOMS))),
            1 => Target::Broadcast(true),
            _ => Target::RoomId(format!("r{}", self.random.usize(..=ROOMS))),
        };
        let unheard = self.random.u32(..5) == 0;
        let deadline = Duration::from_millis(self.random.u64(1..40));
        self.number += 1;
        let message_id = self.number.to_string();
        let push = Push {
            target,
            exclude: Vec::new(),
            content: MessageContent::default(),
            message_id: message_id.clone(),
            deadline,
            report_mode: if unheard { ReportMode::None } else { ReportMode::Full },
            span: None,
        };
        let (sender, receiver) = oneshot::channel();
        let mut due = Due::new();
        if self.board.accept(self.now, Duration::ZERO, Arc::new(push), Waiter::Call(sender), &mut due) {
            self.timer = self.board.open.set_timer();
        }
        self.waiting.insert(message_id, (self.now + deadline, receiver));
        for (waiter, answer) in due {
            Answers::default().give(waiter, answer);
        }
        self.collect();
    }

    fn finish(&mut self, ended: Vec<OpenPush>) {
        for push in ended {
            let (waiter, finished) = push.finish(self.now);
            Answers::default().give(waiter, Ok(finished));
        }
        self.collect();
    }

    fn collect(&mut self) {
        let mut answered = Vec::new();
        self.waiting.retain(|_, (_, receiver)| match receiver.try_recv() {
            Ok(answer) => {
                answered.push(answer.expect("nothing is refused in this world"));
                false
            }
            Err(oneshot::error::TryRecvError::Empty) => true,
            Err(oneshot::error::TryRecvError::Closed) => panic!("seed {}: a caller was forgotten", self.seed),
        });
        answered.iter().for_each(|finished| self.check(finished));
    }

    /// Members are the sum of the outcomes, in all and by node; `unknown` says that it was handed over, shed that
    /// it was not.
    fn check(&mut self, finished: &Finished) {
        let seed = self.seed;
        let sum = |of: &Outcomes| {
            of.written
                + of.queued
                + of.dropped_slow
                + of.dropped_closed
                + of.dropped_shed
                + of.offline
                + of.unknown
        };
        assert_eq!(finished.total.members, sum(&finished.total), "seed {seed}: {finished:?}");
        let mut members = 0;
        for node in &finished.nodes {
            let outcomes = node.outcomes.unwrap();
            assert_eq!(outcomes.members, sum(&outcomes), "seed {seed}: {finished:?}");
            members += outcomes.members;
            let handed = self.ever_handed.contains(&(finished.message_id.clone(), node.node_id.clone()));
            if outcomes.unknown > 0 {
                assert!(handed, "seed {seed}: unknown, but never handed over: {finished:?}");
                self.hit("unknown");
            }
            if outcomes.dropped_shed > 0 {
                assert!(!handed, "seed {seed}: shed, but handed over: {finished:?}");
                self.hit("shed");
            }
            if outcomes.dropped_closed > 0 {
                assert!(!handed, "seed {seed}: closed by us, but handed over: {finished:?}");
                self.hit("out");
            }
            if outcomes.written > 0 {
                self.hit("written");
            }
        }
        if !finished.nodes.is_empty() {
            assert_eq!(finished.total.members - finished.total.offline, members, "seed {seed}: {finished:?}");
        }
        if finished.total.offline > 0 {
            self.hit("offline");
        }
    }

    fn take_batch(&mut self) {
        let Some(stream) = self.any_stream() else { return };
        let link = stream.link.0;
        let node = self.links.iter().find(|new| new.link.0 == link).unwrap().node.to_string();
        let mut late = Vec::new();
        let Batch::Pushes(pushes) = self.board.take_batch(&stream, self.now, &mut late) else { return };
        for queued in pushes {
            assert!(queued.deadline > self.now, "seed {}: sent too late", self.seed);
            let last = self.last_handed.insert(link, queued.id).unwrap_or(0);
            assert!(last < queued.id, "seed {}: out of order on link {link}", self.seed);
            let message = queued.push.message_id.clone();
            if queued.push.report_mode == ReportMode::Full {
                self.ever_handed.insert((message.clone(), node.clone()));
                self.handed.entry(link).or_default().insert(queued.id, message);
            }
        }
        if !late.is_empty() {
            self.hit("withdrawn");
        }
    }

    fn answer(&mut self) {
        let Some(stream) = self.any_stream() else { return };
        let link = stream.link.0;
        let Some(handed) = self.handed.get_mut(&link) else { return };
        let mut outcomes = Vec::new();
        for _ in 0..self.random.usize(1..5) {
            let Some(at) = self.random.usize(..handed.len() + 1).checked_sub(1) else { break };
            let id = *handed.keys().nth(at).unwrap();
            handed.remove(&id);
            let known = Outcomes {
                members: self.random.u64(..9),
                written: self.random.u64(..4),
                dropped_slow: self.random.u64(..2),
                ..Default::default()
            };
            outcomes.push(DeliveryOutcome { delivery_id: id, outcomes: Some(known) });
        }
        let mut ended = Vec::new();
        let late = self.board.answer(stream.link, outcomes, self.now, &mut ended);
        if late > 0 {
            self.hit("late");
        }
        self.finish(ended);
    }

    /// Of pushes that are long over, and of ones that never were.
    fn late_answer(&mut self) {
        let Some(stream) = self.any_stream() else { return };
        let id = self.random.u64(..) >> self.random.u32(..64);
        if self.handed.get(&stream.link.0).is_some_and(|handed| handed.contains_key(&id)) {
            return;
        }
        let outcomes = vec![DeliveryOutcome { delivery_id: id, outcomes: None }];
        let mut ended = Vec::new();
        assert_eq!(self.board.answer(stream.link, outcomes, self.now, &mut ended), 1, "seed {}", self.seed);
        assert!(ended.is_empty());
    }

    fn pass_time(&mut self) {
        let time = Duration::from_micros(self.random.u64(..15_000));
        self.pass(time);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        let mut ended = Vec::new();
        if self.timer.is_some_and(|timer| timer <= self.now) {
            self.board.open.expire(self.now, &mut ended);
            self.timer = self.board.open.set_timer();
        }
        if !ended.is_empty() {
            self.hit("deadline");
        }
        self.finish(ended);
        let kept = self.waiting.values().filter(|(deadline, _)| *deadline <= self.now).count();
        assert_eq!(kept, 0, "seed {}: callers are kept past their deadline", self.seed);
    }

    fn change_route(&mut self) {
        let (node, at, sessions) =
            (self.random.usize(..NODES), self.random.usize(..ROOMS), self.random.u32(..4));
        // A route to a node that is away is refused, and changes nothing.
        let _ = self.board.feeds.set_room(
            self.feed,
            RoomRoute { room_id: format!("r{at}"), node_id: format!("n{node}"), sessions },
        );
        let _ = self.board.feeds.set_user(
            self.feed,
            UserRoute { user_id: format!("u{at}"), node_id: format!("n{node}"), sessions },
        );
    }

    fn node(&mut self) -> NodeRoute {
        let node = self.random.usize(..NODES);
        let gone = self.random.bool();
        self.incarnations[node] += u64::from(self.random.u32(..3) == 0);
        let incarnation = self.incarnations[node];
        NodeRoute {
            node_id: format!("n{node}"),
            incarnation,
            grpc_address: format!("n{node}:1"),
            gone,
            ..Default::default()
        }
    }

    fn change_node(&mut self) {
        let node = self.node();
        let new = self.board.set_node(self.feed, node, self.now);
        self.links.extend(new);
        while self.board.feeds.sweep() {}
        self.hit("node");
    }

    fn snapshot(&mut self) {
        let mut routes = Routes::default();
        for node in 0..NODES {
            let incarnation = self.incarnations[node];
            let route = NodeRoute {
                node_id: format!("n{node}"),
                incarnation,
                grpc_address: format!("n{node}:1"),
                ..Default::default()
            };
            routes.tell(route);
            for at in 0..ROOMS {
                let (room_id, user_id, node_id) = (format!("r{at}"), format!("u{at}"), format!("n{node}"));
                let sessions = self.random.u32(..3);
                routes.set_room(RoomRoute { room_id, node_id: node_id.clone(), sessions }).unwrap();
                routes.set_user(UserRoute { user_id, node_id, sessions }).unwrap();
            }
        }
        let (new, _) = self.board.install(self.feed, routes, self.number, self.now);
        self.links.extend(new);
        self.hit("snapshot");
    }

    fn open_stream(&mut self) {
        if self.links.is_empty() {
            return;
        }
        let link = self.links[self.random.usize(..self.links.len())].link;
        if let Some(former) = self.streams.remove(&link.0) {
            self.close(&former);
        }
        let stream = self.board.open_stream(link, self.now).unwrap();
        let mut late = Vec::new();
        let before = self.board.take_batch(&stream, self.now, &mut late);
        assert!(matches!(before, Batch::Nothing), "seed {}: sent before the welcome", self.seed);
        self.board.raise_stream(&stream, self.now);
        self.streams.insert(link.0, stream);
    }

    fn close_stream(&mut self) {
        if let Some(stream) = self.any_stream() {
            self.streams.remove(&stream.link.0);
            self.close(&stream);
            self.hit("break");
        }
    }

    fn close(&mut self, stream: &LinkStream) {
        let mut ended = Vec::new();
        self.board.close_stream(stream, self.now, &mut ended);
        self.handed.remove(&stream.link.0);
        assert!(!self.board.open.awaits(stream.link), "seed {}: awaited on a stream that is over", self.seed);
        let mut late = Vec::new();
        assert!(matches!(self.board.take_batch(stream, self.now, &mut late), Batch::Ended));
        self.finish(ended);
    }

    fn end_retired(&mut self) {
        let Some(at) = self.links.iter().position(|new| new.retired.is_cancelled()) else { return };
        let link = self.links.swap_remove(at).link;
        if let Some(stream) = self.streams.remove(&link.0) {
            self.close(&stream);
        }
        let mut ended = Vec::new();
        self.board.remove_link(link, &mut ended);
        self.last_handed.remove(&link.0);
        self.finish(ended);
        self.hit("retired");
    }

    fn any_stream(&mut self) -> Option<LinkStream> {
        let mut links: Vec<_> = self.streams.keys().copied().collect();
        links.sort_unstable();
        let link = self.random.choice(links)?;
        self.streams.get(&link).cloned()
    }
}

#[test]
fn every_push_has_one_answer_in_time_and_its_counts_add_up() {
    let one =
        std::env::var("RINGCAST_SEED").ok().map(|seed| seed.parse().expect("RINGCAST_SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.now += Duration::from_secs(60);
        world.pass_time();
        assert!(world.waiting.is_empty(), "seed {seed}: {} callers wait for ever", world.waiting.len());
        assert_eq!(world.board.open.len(), 0, "seed {seed}");
        let all = [
            "written",
            "unknown",
            "shed",
            "out",
            "offline",
            "withdrawn",
            "late",
            "deadline",
            "node",
            "snapshot",
            "break",
            "retired",
        ];
        for what in all {
            assert!(world.hit.contains_key(what), "seed {seed} never saw {what}: {:?}", world.hit);
        }
    }
}
