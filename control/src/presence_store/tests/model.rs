//! A store against a naive model: a plain list of sessions, everything else counted anew each time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NODES: usize = 3;
const USERS: usize = 6;
const ROOMS: usize = 5;

#[derive(Debug, Clone)]
struct Live {
    node: usize,
    id: u64,
    user: usize,
    rooms: BTreeSet<usize>,
}

struct World<'a> {
    store: &'a dyn PresenceStore,
    rng: fastrand::Rng,
    nodes: Vec<NodeAt>,
    /// Which of them the store knows.
    known: Vec<bool>,
    sessions: Vec<Live>,
    next_id: u64,
}

fn user_id(number: usize) -> String {
    format!("u{number}")
}

fn room_id(number: usize) -> String {
    format!("r{number}")
}

fn node_id(number: usize) -> String {
    format!("n{number}")
}

/// Seats of a room, 0 = no limit.
fn max_users(room: usize) -> u32 {
    [1, 2, 3, 0, 2][room]
}

/// Plays so many steps; every panic names the seed.
pub(crate) async fn play(store: &dyn PresenceStore, seed: u64, steps: usize) {
    let nodes: Vec<NodeAt> = (0..NODES).map(|number| at(&node_id(number), 1, 0)).collect();
    let rng = fastrand::Rng::with_seed(seed);
    let mut world = World { store, rng, nodes, known: vec![false; NODES], sessions: Vec::new(), next_id: 1 };
    for number in 0..NODES {
        world.link(number).await;
    }
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        let node = world.rng.usize(0..NODES);
        match world.rng.u32(0..100) {
            0..4 => world.link(node).await,
            4..6 => world.restart(node).await,
            6..8 => world.remove(node).await,
            8..12 => world.late_words(node, &context).await,
            _ => world.words(node, &context).await,
        }
        world.check(&context).await;
    }
}

impl World<'_> {
    /// A new link, whose snapshot lacks some sessions and has new ones.
    async fn link(&mut self, node: usize) {
        self.nodes[node].link += 1;
        assert_eq!(self.store.begin(&record(&self.nodes[node])).await, Ok(Verdict::Done));
        self.known[node] = true;
        let rng = &mut self.rng;
        self.sessions.retain(|live| live.node != node || rng.u32(0..5) > 0);
        if self.rng.bool() {
            let live = self.new_session(node);
            self.sessions.push(live);
        }
        let own = self.sessions.iter().filter(|live| live.node == node);
        let told = own.map(|live| {
            let rooms = live.rooms.iter().map(|number| room(&room_id(*number))).collect();
            (arrival(live.id, &user_id(live.user)), rooms)
        });
        let told = told.collect();
        assert_eq!(self.store.sync(&self.nodes[node], told, NOW).await, Ok(Verdict::Done));
    }

    async fn restart(&mut self, node: usize) {
        self.nodes[node].incarnation += 1;
        self.nodes[node].link = 0;
        self.sessions.retain(|live| live.node != node);
        self.link(node).await;
    }

    async fn remove(&mut self, node: usize) {
        self.store.remove(&self.nodes[node]).await.unwrap();
        self.known[node] = false;
        self.sessions.retain(|live| live.node != node);
    }

    async fn late_words(&mut self, node: usize, context: &str) {
        if !self.known[node] {
            return;
        }
        let current = &self.nodes[node];
        let former = NodeAt { incarnation: current.incarnation - 1, link: 99, ..current.clone() };
        let earlier = NodeAt { link: current.link - 1, ..current.clone() };
        let ends = self.sessions.iter().map(|live| end(live.id, &user_id(live.user), &["r0", "r1"]));
        let words: Vec<Change> = ends.chain([enter(999_999, "u0", "r3", 0)]).collect();
        for at in [former, earlier] {
            let verdicts = self.store.apply(&at, &words, NOW).await.unwrap();
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Fenced), "{context}");
        }
    }

    fn new_session(&mut self, node: usize) -> Live {
        let id = self.next_id;
        self.next_id += 1;
        Live { node, id, user: self.rng.usize(0..USERS), rooms: BTreeSet::from([self.rng.usize(0..ROOMS)]) }
    }

    /// Some words in one call.
    async fn words(&mut self, node: usize, context: &str) {
        if !self.known[node] {
            assert!(self.store.apply(&self.nodes[node], &[enter(1, "u", "r", 0)], NOW).await.is_err());
            return self.link(node).await;
        }
        let count = self.rng.usize(1..6);
        let (words, expected): (Vec<Change>, Vec<Verdict>) = (0..count).map(|_| self.word(node)).unzip();
        let verdicts = self.store.apply(&self.nodes[node], &words, NOW).await;
        assert_eq!(verdicts, Ok(expected), "{context}: {words:#?}");
    }

    fn word(&mut self, node: usize) -> (Change, Verdict) {
        let own: Vec<usize> =
            (0..self.sessions.len()).filter(|place| self.sessions[*place].node == node).collect();
        let place = (!own.is_empty()).then(|| own[self.rng.usize(0..own.len())]);
        match (self.rng.u32(0..10), place) {
            (0..3, Some(place)) => {
                let live = self.sessions.swap_remove(place);
                let rooms: Vec<String> = live.rooms.iter().map(|number| room_id(*number)).collect();
                let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
                (end(live.id, &user_id(live.user), &rooms), Verdict::Done)
            }
            (3..5, Some(place)) => {
                let number = self.rng.usize(0..ROOMS);
                let live = &mut self.sessions[place];
                live.rooms.remove(&number);
                (exit(live.id, &user_id(live.user), &room_id(number)), Verdict::Done)
            }
            (5..7, Some(place)) => {
                let number = self.rng.usize(0..ROOMS);
                let live = self.sessions[place].clone();
                let free = self.is_free(number, live.user);
                if free {
                    self.sessions[place].rooms.insert(number);
                }
                entering(&live, number, free)
            }
            _ => {
                let live = self.new_session(node);
                let number = *live.rooms.first().unwrap();
                let free = self.is_free(number, live.user);
                if free {
                    self.sessions.push(live.clone());
                }
                entering(&live, number, free)
            }
        }
    }

    fn users_in(&self, number: usize) -> BTreeSet<usize> {
        self.sessions.iter().filter(|live| live.rooms.contains(&number)).map(|live| live.user).collect()
    }

    fn is_free(&self, number: usize, user: usize) -> bool {
        let (users, most) = (self.users_in(number), max_users(number) as usize);
        most == 0 || users.len() < most || users.contains(&user)
    }

    async fn check(&self, context: &str) {
        for number in 0..ROOMS {
            let told = users_in(self.store, &room_id(number)).await;
            let live: Vec<String> = self.users_in(number).into_iter().map(user_id).collect();
            assert_eq!(told, live, "{context}: room {number}");
        }
        for number in 0..USERS {
            let told: BTreeSet<_> = sessions_of(self.store, &user_id(number)).await.into_iter().collect();
            let own = self.sessions.iter().filter(|live| live.user == number);
            let live = own.map(|live| {
                let rooms: Vec<String> = live.rooms.iter().map(|number| room_id(*number)).collect();
                (node_id(live.node), live.id, rooms)
            });
            assert_eq!(told, live.collect::<BTreeSet<_>>(), "{context}: user {number}");
        }
        let users: BTreeSet<usize> = self.sessions.iter().map(|live| live.user).collect();
        let totals = Totals { users: users.len() as u64, sessions: self.sessions.len() as u64 };
        assert_eq!(self.store.totals().await, Ok(totals), "{context}");
        let nodes = self.store.nodes().await.unwrap();
        let told: BTreeMap<String, u64> =
            nodes.iter().map(|record| (record.card.id.to_string(), record.card.incarnation)).collect();
        let known = self.nodes.iter().zip(&self.known).filter(|(_, known)| **known);
        let known: BTreeMap<String, u64> = known.map(|(at, _)| (at.id.to_string(), at.incarnation)).collect();
        assert_eq!(told, known, "{context}");
    }
}

fn entering(live: &Live, number: usize, free: bool) -> (Change, Verdict) {
    let change = enter(live.id, &user_id(live.user), &room_id(number), max_users(number));
    (change, if free { Verdict::Done } else { Verdict::Full })
}
