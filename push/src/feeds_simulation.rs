//! A seeded world that tries hard to break the promise of the join: nodes move between controllers, controllers and
//! nodes die and come back, feeds break, all in any order, and a controller confirms a join only by the rules: when the
//! board has acknowledged its step, or when it does not follow and knows that it does not.
//!
//! After every single change of the board each session that was confirmed has to be in a push's report: handed to its
//! node, or, where the node is lost to the board by the list and its link, though it lives, counted as dropped. Those that were confirmed
//! without the board are let off while it says that it is stale, or while the only one who knows them is dead or not listed:
//! until a controller has told them to the board. At the end of each seed all comes to rest, and then the
//! routes are exactly what is true.
//!
//! `RINGCAST_SEED=n` runs that seed alone.

mod board_side;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{NodeRoute, RoomRoute, RouteUpdate, UserRoute, delivery::Target};

use crate::board::Board;
use crate::feeds::FeedId;
use crate::feeds_tests::{counted, routed, told};
use crate::links::{LinkStream, NewLink};
use crate::routing::{Kept, Routes};

const SEEDS: u64 = 50;
const STEPS: u64 = 3_000;
const NODES: usize = 3;
const CONTROLLERS: usize = 3;
const ROOMS: usize = 4;
/// Sessions on a node: few, so that rooms become empty often.
const SESSIONS: usize = 5;

type Session = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirmed {
    /// The board has acknowledged the join.
    WithBoard,
    /// The board did not follow the controller; by this link of the node to it.
    Without(usize, u64),
}

#[derive(Debug)]
enum Message {
    Register,
    Session(Session, usize),
    Join(Session, usize),
    Leave(Session),
    SnapshotEnd,
}

/// A node as it is.
struct Node {
    incarnation: u64,
    alive: bool,
    /// In the directory.
    listed: bool,
    /// The board's list lacks it all the same.
    hidden: bool,
    links: u64,
    /// The controller of its link, and what is on the way there.
    link: Option<(usize, VecDeque<Message>)>,
    /// Session → room, and how it was confirmed; `None`: not yet.
    sessions: BTreeMap<Session, (usize, Option<Confirmed>)>,
}

/// What a controller has of a node.
struct Record {
    incarnation: u64,
    link: u64,
    linked: bool,
    whole: bool,
    sessions: BTreeMap<Session, usize>,
    /// Sessions named by the present link.
    seen: BTreeSet<Session>,
}

/// The board's side of a feed.
enum Follower {
    Off,
    Snapshot(RouteUpdate),
    Copying { routes: Box<Routes>, kept: Kept, part: usize, number: u64 },
    Following,
}

struct Controller {
    incarnation: u64,
    alive: bool,
    listed: bool,
    records: BTreeMap<usize, Record>,
    number: u64,
    /// Sessions that are confirmed once the board has acknowledged a number: node, its link, session, number. Those that
    /// are confirmed already, without the board, are known to it from then on.
    joins: Vec<(usize, u64, Session, u64)>,
    follower: Follower,
    steps: VecDeque<RouteUpdate>,
    /// The board's latest look had this start of it.
    known: bool,
    feed: Option<FeedId>,
}

struct World {
    seed: u64,
    random: fastrand::Rng,
    board: Board,
    now: Instant,
    nodes: Vec<Node>,
    controllers: Vec<Controller>,
    next_session: Session,
    links: Vec<(NewLink, LinkStream)>,
    hit: BTreeMap<&'static str, u64>,
}

fn node_id(n: usize) -> String {
    format!("n{n}")
}

fn room_id(room: usize) -> String {
    format!("r{room}")
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let node = || Node {
            incarnation: 1,
            alive: true,
            listed: true,
            hidden: false,
            links: 0,
            link: None,
            sessions: BTreeMap::new(),
        };
        let controller = || Controller {
            incarnation: 1,
            alive: true,
            listed: true,
            records: BTreeMap::new(),
            number: 1,
            joins: Vec::new(),
            follower: Follower::Off,
            steps: VecDeque::new(),
            known: false,
            feed: None,
        };
        Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            board: Board::new(now),
            now,
            nodes: std::iter::repeat_with(node).take(NODES).collect(),
            controllers: std::iter::repeat_with(controller).take(CONTROLLERS).collect(),
            next_session: 0,
            links: Vec::new(),
            hit: BTreeMap::new(),
        }
    }

    fn hit(&mut self, what: &'static str) {
        *self.hit.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        self.now += Duration::from_micros(self.random.u64(..4_000));
        let (n, c) = (self.random.usize(..NODES), self.random.usize(..CONTROLLERS));
        match self.random.u32(..1000) {
            0..160 => self.join(n),
            160..230 => self.leave(n),
            230..500 => self.deliver(n),
            500..780 => self.advance(c),
            780..830 => self.look(),
            830..880 => self.link_to(n, c),
            880..890 => self.unlink(n),
            890..950 => self.let_go(n, c),
            950..965 => self.break_feed(c),
            965..975 => self.follow(c),
            975..980 => self.kill_controller(c),
            980..988 => self.list_controller(c),
            988..990 => self.kill_node(n),
            990..993 => self.list_node(n),
            993..996 => self.hide_node(n),
            996..998 => {
                let up = self.random.bool();
                self.turn_link(n, up);
            }
            _ => drop(self.board.feeds.sweep()),
        }
        self.check();
    }

    // The nodes.

    fn join(&mut self, n: usize) {
        let room = self.random.usize(..ROOMS);
        let at = self.random.usize(..);
        let node = &mut self.nodes[n];
        if node.sessions.len() >= SESSIONS {
            return;
        }
        if let Some((_, messages)) = &mut node.link {
            self.next_session += 1;
            node.sessions.insert(self.next_session, (room, None));
            // A snapshot goes shard by shard: a join may be before, within or behind it.
            let first = usize::from(matches!(messages.front(), Some(Message::Register)));
            let behind_joins = messages.iter().rposition(|it| matches!(it, Message::Join(..)));
            let from = behind_joins.map_or(first, |at| at + 1);
            let at = from + at % (messages.len() + 1 - from);
            messages.insert(at, Message::Join(self.next_session, room));
        }
    }

    fn leave(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        let confirmed: Vec<_> =
            node.sessions.iter().filter(|(_, (_, it))| it.is_some()).map(|(session, _)| *session).collect();
        let Some(session) = self.random.choice(confirmed) else { return };
        node.sessions.remove(&session);
        if let Some((_, messages)) = &mut node.link {
            messages.push_back(Message::Leave(session));
        }
    }

    fn link_to(&mut self, n: usize, c: usize) {
        if !(self.nodes[n].alive && self.nodes[n].listed && self.controllers[c].alive) {
            return;
        }
        self.unlink(n);
        let node = &mut self.nodes[n];
        node.links += 1;
        let sessions = node.sessions.iter().map(|(session, (room, _))| Message::Session(*session, *room));
        let messages = [Message::Register].into_iter().chain(sessions).chain([Message::SnapshotEnd]);
        node.link = Some((c, messages.collect()));
        self.hit("link");
    }

    /// A link breaks: what is on the way is lost, and joins that were not confirmed fail.
    fn unlink(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if let Some((c, _)) = node.link.take()
            && let Some(record) = self.controllers[c].records.get_mut(&n)
        {
            record.linked = false;
        }
        node.sessions.retain(|_, (_, confirmed)| confirmed.is_some());
    }

    fn kill_node(&mut self, n: usize) {
        self.unlink(n);
        let node = &mut self.nodes[n];
        node.sessions.clear();
        match node.alive {
            true => {
                for (_, stream) in self.links.iter().filter(|(link, _)| *link.node == *node_id(n)) {
                    self.board.close_stream(stream, self.now, &mut Vec::new());
                }
                self.hit("node dies");
            }
            false => {
                // It may be back before anybody has noticed.
                node.incarnation += 1;
                node.links = 0;
            }
        }
        self.nodes[n].alive ^= true;
    }

    fn list_node(&mut self, n: usize) {
        self.nodes[n].listed = self.nodes[n].alive;
    }

    /// A controller takes the next word of a node.
    fn deliver(&mut self, n: usize) {
        let (incarnation, link) = (self.nodes[n].incarnation, self.nodes[n].links);
        let Some((c, messages)) = &mut self.nodes[n].link else { return };
        let (c, Some(message)) = (*c, messages.pop_front()) else { return };
        let records = &mut self.controllers[c].records;
        if let Message::Register = message {
            let record = records.entry(n).or_insert_with(|| Record::new(incarnation));
            if record.incarnation != incarnation {
                *record = Record::new(incarnation);
            }
            (record.link, record.linked, record.whole) = (link, true, false);
            record.seen.clear();
            return self.tell(c, vec![n], &[]);
        }
        let Some(record) = records.get_mut(&n) else { return };
        match message {
            Message::Register => {}
            Message::Session(session, room) | Message::Join(session, room) => {
                record.sessions.insert(session, room);
                record.seen.insert(session);
                // What a snapshot brings may be told by the same step that tells that it is whole.
                if matches!(message, Message::Join(..)) || self.random.bool() {
                    self.tell(c, vec![], &[(n, session, room)]);
                }
                if matches!(message, Message::Join(..)) {
                    let controller = &mut self.controllers[c];
                    controller.joins.push((n, link, session, controller.number));
                }
            }
            Message::Leave(session) => {
                if let Some(room) = record.sessions.remove(&session) {
                    self.tell(c, vec![], &[(n, session, room)]);
                }
            }
            Message::SnapshotEnd => {
                record.whole = true;
                let seen = std::mem::take(&mut record.seen);
                let known: Vec<_> = seen.iter().copied().collect();
                let left: Vec<_> = record.sessions.extract_if(.., |id, _| !seen.contains(id)).collect();
                let stay = known.iter().filter_map(|session| record.sessions.get_key_value(session));
                let stay = stay.map(|(session, room)| (*session, *room));
                let places: Vec<_> = left.into_iter().chain(stay).map(|(id, room)| (n, id, room)).collect();
                self.tell(c, vec![n], &places);
                let controller = &mut self.controllers[c];
                let number = controller.number;
                controller.joins.extend(known.into_iter().map(|session| (n, link, session, number)));
            }
        }
        self.confirm(c);
    }

    // The controllers.

    /// A step of the feed: nodes as they are now, and the places of sessions that have changed.
    fn tell(&mut self, c: usize, nodes: Vec<usize>, sessions: &[(usize, Session, usize)]) {
        let controller = &mut self.controllers[c];
        let mut step = RouteUpdate::default();
        for n in nodes {
            step.nodes.push(controller.records[&n].route(n));
        }
        for &(n, session, room) in sessions {
            let record = &controller.records[&n];
            step.rooms.push(record.room(n, room));
            step.users.push(record.user(n, session));
        }
        controller.push(step);
    }

    /// A controller lets go of a node whose link it lost: another has it whole, or it is dead.
    fn let_go(&mut self, n: usize, c: usize) {
        let others = self.controllers.iter().enumerate().filter(|(other, it)| *other != c && it.alive);
        let later = others.filter_map(|(_, it)| it.records.get(&n)).filter(|it| it.linked && it.whole);
        let later = later.map(|it| (it.incarnation, it.link)).max();
        let node = &self.nodes[n];
        let Some(record) = self.controllers[c].records.get(&n) else { return };
        let own = (record.incarnation, record.link);
        let moved = later > Some(own);
        let dead = !node.listed || node.incarnation > record.incarnation;
        if record.linked || !(moved || dead) {
            return;
        }
        let mut route = told(&node_id(n), record.incarnation, record.link);
        (route.gone, route.moved) = (true, moved);
        self.controllers[c].records.remove(&n);
        self.controllers[c].push(RouteUpdate { nodes: vec![route], ..Default::default() });
        self.hit(if moved { "moved" } else { "gone" });
    }

    fn kill_controller(&mut self, c: usize) {
        let alive = self.controllers[c].alive;
        if alive {
            self.break_feed(c);
            for n in 0..NODES {
                if self.nodes[n].link.as_ref().is_some_and(|(to, _)| *to == c) {
                    self.unlink(n);
                }
            }
            self.hit("controller dies");
        }
        let controller = &mut self.controllers[c];
        controller.alive = !alive;
        controller.records.clear();
        controller.joins.clear();
        controller.number = 1;
        controller.known = false;
        if !alive {
            controller.incarnation += 1;
            controller.listed = true;
        }
    }

    /// The directory learns of a controller's death, or its lease lapses and comes back.
    fn list_controller(&mut self, c: usize) {
        self.controllers[c].listed = self.controllers[c].alive && self.random.u32(..3) > 0;
    }

    /// Confirms the joins whose steps the board has acknowledged, or, where it does not follow, those of a controller
    /// that it knows of.
    fn confirm(&mut self, c: usize) {
        let controller = &mut self.controllers[c];
        let behind = match &controller.follower {
            Follower::Following => controller.steps.front().map_or(u64::MAX, |step| step.number),
            Follower::Off if controller.known => u64::MAX,
            _ => 0,
        };
        let with_board = matches!(controller.follower, Follower::Following);
        for (n, link, session, _) in controller.joins.extract_if(.., |(.., number)| *number < behind) {
            let node = &mut self.nodes[n];
            let linked = node.links == link && node.link.as_ref().is_some_and(|(to, _)| *to == c);
            let Some((_, confirmed)) = node.sessions.get_mut(&session) else { continue };
            match confirmed {
                None if linked && !with_board => *confirmed = Some(Confirmed::Without(c, link)),
                None if linked => *confirmed = Some(Confirmed::WithBoard),
                Some(Confirmed::Without(..)) if with_board => *confirmed = Some(Confirmed::WithBoard),
                _ => {}
            }
        }
    }

    /// The promise.
    fn check(&mut self) {
        let (board, seed) = (&mut self.board, self.seed);
        let fresh = board.figures(self.now).stale.is_zero();
        let rooms: Vec<_> = (0..ROOMS).map(|room| counted(board, Target::RoomId(room_id(room)))).collect();
        let (mut seen, mut withheld) = (0, 0);
        for (n, node) in self.nodes.iter().enumerate() {
            for (session, (room, confirmed)) in &node.sessions {
                let counts = match confirmed {
                    None => false,
                    Some(Confirmed::WithBoard) => true,
                    Some(Confirmed::Without(c, link)) => {
                        let controller = &self.controllers[*c];
                        let record = controller.records.get(&n).filter(|it| it.link == *link);
                        let knows = record.is_some_and(|record| record.sessions.contains_key(session));
                        fresh && controller.known && knows
                    }
                };
                if !counts {
                    continue;
                }
                let is_there = |nodes: &[String]| nodes.contains(&node_id(n));
                assert!(
                    is_there(&rooms[*room]),
                    "seed {seed}: session {session} on {n} in room {room}, {confirmed:?}: {rooms:?}"
                );
                let user = Target::UserId(format!("u{session}"));
                let of_user = counted(board, user.clone());
                assert!(is_there(&of_user), "seed {seed}: user {session} on {n}: {of_user:?}");
                seen += 1;
                withheld += usize::from(node.alive && routed(board, user).is_empty());
            }
        }
        for nodes in rooms {
            let once: BTreeSet<_> = nodes.iter().collect();
            assert_eq!(once.len(), nodes.len(), "seed {seed}: a node twice: {nodes:?}");
        }
        if withheld > 0 {
            self.hit("withheld");
        }
        if seen > 0 {
            self.hit(if fresh { "fresh" } else { "stale" });
        }
    }

    /// What the tables hold of each node: start, link, partial.
    fn told(&self) -> String {
        let tables = self.board.feeds.tables();
        let of = |n: usize| {
            let all = tables.iter().flat_map(move |table| {
                let all = table.routes.all(&node_id(n)).collect::<Vec<_>>();
                all.into_iter().map(|node| (node.incarnation, node.told_by, node.partial))
            });
            all.collect::<Vec<_>>()
        };
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(n, node)| (node_id(n), node.alive, node.incarnation, node.links, of(n)))
            .collect();
        format!("{nodes:?}")
    }

    /// Everything that is wrong comes right: then the routes are what is true.
    fn rest(&mut self) {
        for c in 0..CONTROLLERS {
            if !self.controllers[c].alive {
                self.kill_controller(c);
            }
        }
        self.controllers.iter_mut().for_each(|controller| controller.listed = true);
        for n in 0..NODES {
            self.list_node(n);
            self.nodes[n].hidden = false;
            self.turn_link(n, true);
        }
        self.look();
        for n in 0..NODES {
            let c = self.random.usize(..CONTROLLERS);
            self.link_to(n, c);
            while self.nodes[n].link.as_ref().is_some_and(|(_, messages)| !messages.is_empty()) {
                self.deliver(n);
            }
        }
        for _ in 0..3 {
            // What was set aside of nodes that died together with their controller ends by this.
            self.now += Duration::from_secs(11);
            self.look();
            (0..CONTROLLERS).for_each(|c| (0..NODES).for_each(|n| self.let_go(n, c)));
            for c in 0..CONTROLLERS {
                (0..10).for_each(|_| self.advance(c));
                while !self.controllers[c].steps.is_empty() {
                    self.advance(c);
                }
            }
            self.look();
        }
        while self.board.feeds.sweep() {}
        let seed = self.seed;
        let figures = self.board.figures(self.now);
        let told = self.told();
        assert_eq!((figures.stale, figures.set_aside), (Duration::ZERO, 0), "seed {seed}: {told}");
        for room in 0..ROOMS {
            let on = |node: &Node| node.sessions.values().filter(|(of, _)| *of == room).count() as u32;
            let truth = self.nodes.iter().enumerate().map(|(n, node)| (node_id(n), on(node)));
            let truth: Vec<_> = truth.filter(|(_, sessions)| *sessions > 0).collect();
            assert_eq!(routed(&mut self.board, Target::RoomId(room_id(room))), truth, "seed {seed}");
        }
        let alive = self.nodes.iter().filter(|node| node.alive).count();
        let linked = self.links.iter().filter(|(link, _)| !link.retired.is_cancelled()).count();
        assert_eq!((figures.nodes, linked), (alive, alive), "seed {seed}: a link to each node that lives");
    }
}

impl Record {
    fn new(incarnation: u64) -> Self {
        let (sessions, seen) = (BTreeMap::new(), BTreeSet::new());
        Self { incarnation, link: 0, linked: false, whole: false, sessions, seen }
    }

    fn route(&self, n: usize) -> NodeRoute {
        NodeRoute { partial: !self.whole, ..told(&node_id(n), self.incarnation, self.link) }
    }

    fn room(&self, n: usize, room: usize) -> RoomRoute {
        let sessions = self.sessions.values().filter(|of| **of == room).count() as u32;
        RoomRoute { room_id: room_id(room), node_id: node_id(n), sessions }
    }

    fn user(&self, n: usize, session: Session) -> UserRoute {
        let sessions = u32::from(self.sessions.contains_key(&session));
        UserRoute { user_id: format!("u{session}"), node_id: node_id(n), sessions }
    }
}

impl Controller {
    fn push(&mut self, mut step: RouteUpdate) {
        self.number += 1;
        step.number = self.number;
        if !matches!(self.follower, Follower::Off) {
            self.steps.push_back(step);
        }
    }
}

#[test]
fn whoever_was_confirmed_in_a_room_is_routed_to_whatever_becomes_of_controllers_and_nodes() {
    let one =
        std::env::var("RINGCAST_SEED").ok().map(|seed| seed.parse().expect("RINGCAST_SEED is a number"));
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut hit: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in seeds {
        let mut world = World::new(seed);
        world.look();
        (0..STEPS).for_each(|_| world.step());
        world.rest();
        world.hit.into_iter().for_each(|(what, times)| *hit.entry(what).or_default() += times);
    }
    for what in [
        "link",
        "node dies",
        "controller dies",
        "break",
        "moved",
        "gone",
        "kept",
        "fresh",
        "stale",
        "withheld",
    ] {
        assert!(hit.get(what).is_some_and(|times| *times > 20), "too few of {what}: {hit:?}");
    }
}
