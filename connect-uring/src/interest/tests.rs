use std::collections::VecDeque;

use fastrand::Rng;
use ringcast_proto::ShardId;

use super::*;

const SHARDS: usize = 3;
const NAMES: usize = 3;

fn room(n: usize) -> RoomId {
    RoomId::new(&format!("room-{n}")).unwrap()
}

fn user(n: usize) -> UserId {
    UserId::new(&format!("user-{n}")).unwrap()
}

fn asked_for(interest: &Interest, target: &Target) -> Vec<usize> {
    let mut shards = ShardSet::default();
    interest.shards_for(target, &mut shards);
    assert_eq!(shards.len(), shards.iter().count());
    shards.iter().collect()
}

#[test]
fn a_set_of_shards_holds_any_of_4095() {
    let mut set = ShardSet::default();
    for shard in [4094, 0, 63, 64, 0] {
        set.add(shard);
    }
    assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (4, vec![0, 63, 64, 4094]));
    set.clear();
    assert_eq!((set.len(), set.iter().next()), (0, None));
}

#[test]
fn a_node_of_one_shard_asks_it_always_and_counts_all_the_same() {
    let interest = Interest::new(1);
    assert_eq!(asked_for(&interest, &Target::User(user(1))), [0]);
    interest.changed(0, &CensusChange::UserCame(user(1)));
    assert_eq!(interest.counts(), (1, 0));
}

#[test]
fn a_broadcast_goes_to_all_shards() {
    assert_eq!(asked_for(&Interest::new(SHARDS), &Target::All), [0, 1, 2]);
}

#[test]
fn a_session_that_is_let_in_unknown_makes_its_shard_be_asked_for_everything() {
    let interest = Interest::new(2);
    interest.answering(SessionId::new(ShardId(1), 1, 1), true);
    assert_eq!(asked_for(&interest, &Target::Room(room(1))), [1]);
    assert!(interest.wants_mark(1) && !interest.wants_mark(1));
    interest.marked(1);
    assert!(asked_for(&interest, &Target::Room(room(1))).is_empty());
}

/// What passes in a lane to a shard.
#[derive(Clone)]
enum Down {
    Answer { session: u32, accepted: bool },
    AddRoom { sessions: Vec<u32>, room: usize },
    Mark,
}

/// What passes in a lane from a shard.
enum Up {
    Join { session: u32, user: usize, room: usize },
    End { session: u32 },
    Census(CensusChange),
    Mark,
}

#[derive(Clone)]
struct Member {
    session: u32,
    user: usize,
    rooms: Vec<usize>,
    live: bool,
}

/// A shard as the core is one, and its lanes.
#[derive(Default)]
struct Played {
    down: VecDeque<Down>,
    up: VecDeque<Up>,
    members: Vec<Member>,
}

impl Played {
    fn users(&self, user: usize) -> usize {
        self.members.iter().filter(|member| member.live && member.user == user).count()
    }

    fn in_room(&self, room: usize) -> usize {
        self.members.iter().filter(|member| member.live && member.rooms.contains(&room)).count()
    }

    /// Takes the next word from the bridge.
    fn take(&mut self) {
        match self.down.pop_front() {
            Some(Down::Mark) => self.up.push_back(Up::Mark),
            Some(Down::Answer { session, accepted }) => {
                let Some(at) = self.members.iter().position(|member| member.session == session) else {
                    return;
                };
                if !accepted {
                    self.members.remove(at);
                    self.up.push_back(Up::End { session });
                    return;
                }
                let Member { user: name, rooms, .. } = self.members[at].clone();
                let (first_of_user, first_in_room) = (self.users(name) == 0, self.in_room(rooms[0]) == 0);
                self.members[at].live = true;
                if first_of_user {
                    self.up.push_back(Up::Census(CensusChange::UserCame(user(name))));
                }
                if first_in_room {
                    self.up.push_back(Up::Census(CensusChange::RoomCame(room(rooms[0]))));
                }
            }
            Some(Down::AddRoom { sessions, room: name }) => {
                for session in sessions {
                    let first = self.in_room(name) == 0;
                    let found =
                        self.members.iter_mut().find(|member| member.session == session && member.live);
                    let Some(member) = found.filter(|member| !member.rooms.contains(&name)) else { continue };
                    member.rooms.push(name);
                    if first {
                        self.up.push_back(Up::Census(CensusChange::RoomCame(room(name))));
                    }
                }
            }
            None => {}
        }
    }

    /// A client goes, whether its join was answered or not.
    fn leave(&mut self, at: usize) {
        let member = self.members.swap_remove(at);
        if member.live {
            if self.users(member.user) == 0 {
                self.up.push_back(Up::Census(CensusChange::UserWent(user(member.user))));
            }
            for name in member.rooms {
                if self.in_room(name) == 0 {
                    self.up.push_back(Up::Census(CensusChange::RoomWent(room(name))));
                }
            }
        }
        self.up.push_back(Up::End { session: member.session });
    }

    /// Whether a push that is handed over now would find anybody.
    fn would_find(&self, target: &Target) -> bool {
        let mut then = Self { down: self.down.clone(), up: VecDeque::new(), members: self.members.clone() };
        while !then.down.is_empty() {
            then.take();
        }
        (0..NAMES).any(|name| match target {
            Target::Room(id) => *id == room(name) && then.in_room(name) > 0,
            Target::User(id) => *id == user(name) && then.users(name) > 0,
            Target::All => false,
        })
    }
}

/// The bridge as `hub` and `control_link` are it, and the shards.
struct World {
    rng: Rng,
    interest: Interest,
    shards: Vec<Played>,
    /// Joins that the controller has heard of.
    asked: Vec<(usize, u32)>,
    sessions: u32,
}

fn id(shard: usize, session: u32) -> SessionId {
    SessionId::new(ShardId(shard as u16), session, 1)
}

impl World {
    fn hand_over(&mut self, shard: usize, word: Option<Down>) {
        self.shards[shard].down.extend(word);
        if self.interest.wants_mark(shard) {
            self.shards[shard].down.push_back(Down::Mark);
        }
    }

    fn hear(&mut self, shard: usize) {
        match self.shards[shard].up.pop_front() {
            Some(Up::Join { session, user: name, room: of }) => {
                self.interest.asked(id(shard, session), &user(name), Some(&room(of)));
                self.asked.push((shard, session));
            }
            Some(Up::End { session }) => self.interest.ended(id(shard, session)),
            Some(Up::Census(change)) => self.interest.changed(shard, &change),
            Some(Up::Mark) => {
                self.interest.marked(shard);
                self.hand_over(shard, None);
            }
            None => {}
        }
    }

    fn act(&mut self) {
        let shard = self.rng.usize(..SHARDS);
        match self.rng.u32(..12) {
            0 | 1 => {
                self.sessions += 1;
                let (session, name, of) = (self.sessions, self.rng.usize(..NAMES), self.rng.usize(..NAMES));
                let played = &mut self.shards[shard];
                played.members.push(Member { session, user: name, rooms: vec![of], live: false });
                played.up.push_back(Up::Join { session, user: name, room: of });
            }
            2 | 3 if !self.asked.is_empty() => {
                let at = self.rng.usize(..self.asked.len());
                let (shard, session) = self.asked.swap_remove(at);
                let accepted = self.rng.u32(..5) > 0;
                self.interest.answering(id(shard, session), accepted);
                self.hand_over(shard, Some(Down::Answer { session, accepted }));
            }
            4 | 5 if !self.shards[shard].members.is_empty() => {
                let at = self.rng.usize(..self.shards[shard].members.len());
                self.shards[shard].leave(at);
            }
            6 => {
                let sessions = self.shards[shard].members.iter().map(|member| member.session).collect();
                let of = self.rng.usize(..NAMES);
                self.interest.adding_room(shard, &room(of));
                self.hand_over(shard, Some(Down::AddRoom { sessions, room: of }));
            }
            7..10 => self.shards[shard].take(),
            _ => self.hear(shard),
        }
    }

    fn targets() -> impl Iterator<Item = Target> {
        (0..NAMES).flat_map(|name| [Target::Room(room(name)), Target::User(user(name))])
    }

    /// No shard that has anybody is left out.
    fn check(&self, seed: u64) {
        for target in Self::targets() {
            let asked = asked_for(&self.interest, &target);
            for (shard, played) in self.shards.iter().enumerate() {
                let missed = played.would_find(&target) && !asked.contains(&shard);
                assert!(!missed, "seed {seed}: {target:?} does not go to shard {shard}");
            }
        }
    }

    /// All that is under way arrives.
    fn come_to_rest(&mut self) {
        while self.shards.iter().any(|played| !played.down.is_empty() || !played.up.is_empty()) {
            for shard in 0..SHARDS {
                self.shards[shard].take();
                self.hear(shard);
            }
        }
    }
}

#[test]
fn whatever_the_order_no_member_is_missed_and_nothing_stays_behind() {
    for seed in 0..200 {
        let mut world = World {
            rng: Rng::with_seed(seed),
            interest: Interest::new(SHARDS),
            shards: std::iter::repeat_with(Played::default).take(SHARDS).collect(),
            asked: Vec::new(),
            sessions: 0,
        };
        for _ in 0..400 {
            world.act();
            world.check(seed);
        }
        world.come_to_rest();
        for target in World::targets() {
            let holding = (0..SHARDS).filter(|&shard| world.shards[shard].would_find(&target));
            let holding: Vec<usize> = holding.collect();
            assert_eq!(asked_for(&world.interest, &target), holding, "seed {seed}: {target:?}, at rest");
        }
        for shard in &mut world.shards {
            while !shard.members.is_empty() {
                shard.leave(0);
            }
        }
        world.come_to_rest();
        let known = world.interest.known();
        let doubted = known.in_doubt.rooms.names() + known.in_doubt.users.names();
        assert_eq!((doubted, known.joins.len(), known.nameless), (0, 0, 0), "seed {seed}");
        assert_eq!((known.census.rooms.names(), known.census.users.names()), (0, 0), "seed {seed}");
    }
}
