//! Presence against a naive model: a plain list of sessions, everything else counted anew each time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::presence::tests::{Follower, arrival, card};
use crate::routes::Routes;

const SEEDS: u64 = 300;
const STEPS: usize = 400;
const LEASE_MS: u64 = 50;

#[derive(Debug, Clone)]
struct ModelSession {
    node: usize,
    id: u64,
    user: usize,
    rooms: BTreeSet<usize>,
}

#[derive(Debug, Clone, Default)]
struct ModelNode {
    /// 0: not there.
    incarnation: u64,
    at: Option<LinkRef>,
    lost_at: Option<u64>,
}

struct World {
    rng: fastrand::Rng,
    presence: Presence,
    follower: Follower,
    nodes: Vec<ModelNode>,
    sessions: Vec<ModelSession>,
    next_id: u64,
    next_link: u64,
    now: Now,
    /// How often each kind of thing happened.
    hits: BTreeMap<&'static str, u32>,
}

fn user(number: usize) -> UserId {
    UserId::new(&format!("u{number}")).unwrap()
}

fn room(number: usize) -> RoomId {
    RoomId::new(&format!("r{number}")).unwrap()
}

/// Seats of a room, 0 = no limit.
fn max_users(room: usize) -> u32 {
    [2, 3, 0][room % 3]
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            presence: Presence::default(),
            follower: Follower::default(),
            nodes: vec![ModelNode::default(); 3],
            sessions: Vec::new(),
            next_id: 1,
            next_link: 0,
            now: Now::default(),
            hits: BTreeMap::new(),
        }
    }

    fn hit(&mut self, what: &'static str) {
        *self.hits.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        self.now.ms += self.rng.u64(0..20);
        let node = self.rng.usize(0..self.nodes.len());
        match self.rng.u32(0..100) {
            0..8 => self.register(node),
            8..12 => self.lose(node),
            12..14 => self.deregister(node),
            14..18 => self.stale_word(node),
            18..60 => self.join(node),
            60..85 => self.end(),
            85..92 => self.change_room(),
            _ => self.expire(),
        }
        self.check();
    }

    fn register(&mut self, node: usize) {
        let live = self.nodes[node].at.is_some();
        let newer = self.rng.bool();
        let incarnation =
            self.nodes[node].incarnation + u64::from(newer || self.nodes[node].incarnation == 0);
        let card = card(&format!("n{node}"), incarnation);
        if let Some(former) = self.presence.superseded_by(&card) {
            assert!(!live && newer, "only a lost node has a successor");
            self.presence.remove_node(former, false);
            self.sessions.retain(|session| session.node != node);
            self.nodes[node] = ModelNode::default();
            self.follower.hear(self.presence.take_changes());
            self.hit("superseded");
        }
        self.next_link += 1;
        let other = self.nodes[node].incarnation != 0 && self.nodes[node].incarnation != incarnation;
        match self.presence.may_register(&card, self.next_link) {
            Err(refusal) => {
                assert!(other, "a node was refused: {refusal:?}");
                assert_eq!(refusal == RegisterRefusal::Live, live);
                self.hit("refused");
            }
            Ok(()) => {
                assert!(!other, "a second incarnation was registered");
                let at = self.presence.register(card, self.next_link, self.next_link);
                self.nodes[node] = ModelNode { incarnation, at: Some(at), lost_at: None };
                self.snapshot(node, at);
            }
        }
    }

    /// The node names what it holds; some sessions have ended meanwhile, some are new.
    fn snapshot(&mut self, node: usize, at: LinkRef) {
        let rng = &mut self.rng;
        let before = self.sessions.len();
        self.sessions.retain(|session| session.node != node || rng.u32(0..10) > 0);
        if self.sessions.len() < before {
            self.hit("left in snapshot");
        }
        if self.rng.bool() {
            let id = self.next_id;
            self.next_id += 1;
            let rooms = BTreeSet::from([self.rng.usize(0..6)]);
            self.sessions.push(ModelSession { node, id, user: self.rng.usize(0..8), rooms });
            self.hit("new in snapshot");
        }
        let held: Vec<_> = self.sessions.iter().filter(|session| session.node == node).cloned().collect();
        let parts: Vec<_> = held.chunks(3).collect();
        assert!(!self.presence.has_snapshot(at));
        for part in &parts {
            let sessions = part.iter().map(|session| {
                let rooms = session.rooms.iter().map(|number| room(*number)).collect();
                (arrival(session.id, user(session.user).as_str()), rooms)
            });
            assert!(!self.presence.snapshot_part(at, sessions.collect(), false, self.now));
        }
        assert!(self.presence.snapshot_part(at, Vec::new(), true, self.now));
        assert!(self.presence.has_snapshot(at));
    }

    fn lose(&mut self, node: usize) {
        if let Some(at) = self.nodes[node].at.take() {
            self.presence.lose_link(at, self.now);
            self.nodes[node].lost_at = Some(self.now.ms);
            self.hit("lost");
        }
    }

    fn deregister(&mut self, node: usize) {
        if let Some(at) = self.nodes[node].at {
            self.presence.remove_node(at.node, false);
            self.sessions.retain(|session| session.node != node);
            self.nodes[node] = ModelNode::default();
            self.hit("deregistered");
        }
    }

    /// A link that is not current says all that it can; nothing may change.
    fn stale_word(&mut self, node: usize) {
        let Some(at) = self.nodes[node].at else { return };
        let stale = match self.rng.bool() {
            true => LinkRef { generation: at.generation + 1, ..at },
            false => LinkRef { node: NodeKey(at.node.0 + 1000), ..at },
        };
        let session = self.sessions.first().map_or(1, |session| session.id);
        self.presence.end(stale, SessionId::from_u64(session));
        let seat = self.presence.join(stale, arrival(999_999, "u0"), &room(2), 0, self.now);
        assert_eq!(seat, Seat::Stale);
        assert!(!self.presence.snapshot_part(stale, Vec::new(), true, self.now));
        self.presence.heartbeat(stale, 7, true);
        self.presence.lose_link(stale, self.now);
        assert_eq!(self.presence.take_changes(), Routes::default());
        self.hit("stale");
    }

    fn users_in(&self, number: usize) -> BTreeSet<usize> {
        let inside = self.sessions.iter().filter(|session| session.rooms.contains(&number));
        inside.map(|session| session.user).collect()
    }

    fn join(&mut self, node: usize) {
        let Some(at) = self.nodes[node].at else { return };
        let (who, number) = (self.rng.usize(0..8), self.rng.usize(0..6));
        let users = self.users_in(number);
        let max = max_users(number);
        let free = max == 0 || users.len() < max as usize || users.contains(&who);
        assert_eq!(self.presence.has_seat(&room(number), &user(who), max), free);
        let id = self.next_id;
        self.next_id += 1;
        let seat = self.presence.join(at, arrival(id, user(who).as_str()), &room(number), max, self.now);
        assert_eq!(seat, if free { Seat::Taken } else { Seat::Full });
        self.hit(if free { "joined" } else { "full" });
        if free {
            self.sessions.push(ModelSession { node, id, user: who, rooms: BTreeSet::from([number]) });
        }
    }

    fn end(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let index = self.rng.usize(0..self.sessions.len());
        let Some(at) = self.nodes[self.sessions[index].node].at else { return };
        let session = self.sessions.swap_remove(index);
        self.presence.end(at, SessionId::from_u64(session.id));
        self.hit("ended");
    }

    /// All sessions of a user enter or leave a room, as by RPC.
    fn change_room(&mut self) {
        let (who, number) = (self.rng.usize(0..8), self.rng.usize(0..6));
        let refs: Vec<SessionRef> = self.presence.sessions_of(&user(who)).collect();
        if self.rng.bool() {
            let users = self.users_in(number);
            let max = max_users(number);
            let free = max == 0 || users.len() < max as usize || users.contains(&who);
            let taken = self.presence.take_seat(&user(who), &refs, &room(number), max, self.now);
            assert_eq!(taken.is_some(), free);
            if free {
                let inside = |session: &&mut ModelSession| session.user == who;
                self.sessions.iter_mut().filter(inside).for_each(|session| {
                    session.rooms.insert(number);
                });
                self.hit("entered");
            }
        } else {
            for at in refs {
                self.presence.remove_room(at.node, at.session, &room(number));
            }
            for session in self.sessions.iter_mut().filter(|session| session.user == who) {
                session.rooms.remove(&number);
            }
            self.hit("left");
        }
    }

    fn expire(&mut self) {
        let due = |node: &ModelNode| node.lost_at.is_some_and(|at| self.now.ms >= at + LEASE_MS);
        let due: Vec<usize> = (0..self.nodes.len()).filter(|node| due(&self.nodes[*node])).collect();
        let expired = self.presence.lost(|_, since_ms| self.now.ms >= since_ms + LEASE_MS);
        assert_eq!(expired.len(), due.len());
        for key in expired {
            self.presence.remove_node(key, false);
            self.hit("expired");
        }
        for node in due {
            self.sessions.retain(|session| session.node != node);
            self.nodes[node] = ModelNode::default();
        }
    }

    /// Counts everything anew and compares; so does the follower, who heard the changes only.
    fn check(&mut self) {
        self.follower.hear(self.presence.take_changes());
        let mut whole = Follower::default();
        whole.hear(self.presence.routes());
        assert_eq!(self.follower, whole, "the changes do not add up to the routes");

        let mut rooms: BTreeMap<(String, String), u32> = BTreeMap::new();
        let mut users: BTreeMap<(String, String), u32> = BTreeMap::new();
        for session in &self.sessions {
            let node = format!("n{}", session.node);
            *users.entry((format!("u{}", session.user), node.clone())).or_default() += 1;
            for number in &session.rooms {
                *rooms.entry((format!("r{number}"), node.clone())).or_default() += 1;
            }
        }
        assert_eq!((&self.follower.rooms, &self.follower.users), (&rooms, &users));
        let nodes = self.nodes.iter().filter(|node| node.incarnation != 0).count();
        assert_eq!(self.follower.nodes.len(), nodes);

        let everybody: BTreeSet<usize> = self.sessions.iter().map(|session| session.user).collect();
        let figures = self.presence.figures();
        assert_eq!((figures.users, figures.sessions), (everybody.len(), self.sessions.len()));
        for number in 0..6 {
            let members = self.presence.room(&room(number)).map_or(0, |room| room.members.len());
            assert_eq!(members, self.users_in(number).len());
        }
    }
}

#[test]
fn random_operations_agree_with_a_naive_model() {
    let mut hits: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                world.step();
            }
        }));
        assert!(run.is_ok(), "seed {seed} fails");
        for (what, count) in world.hits {
            *hits.entry(what).or_default() += count;
        }
    }
    for what in [
        "superseded",
        "refused",
        "left in snapshot",
        "new in snapshot",
        "lost",
        "deregistered",
        "stale",
        "joined",
        "full",
        "ended",
        "entered",
        "left",
        "expired",
    ] {
        assert!(hits.contains_key(what), "no run had a node or session that was {what}");
    }
}
