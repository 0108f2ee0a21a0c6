//! Which shards a push has to go to: those that may hold a member of it.
//!
//! Owns: what is known of that on the bridge's thread, and how many distinct rooms and users the node holds.
//! Must not: leave out a shard that has a member. Talks to: `hub`, which brings what the shards say, `control_link`,
//! which says what it is about to tell them, and `push_intake`, which asks.
//!
//! A shard says when a room or a user came to it with its first session or went with its last, but it says so after
//! the fact: between the word that lets a session in and the shard's own word of it, both on their way, a push must
//! go there all the same. So whatever is about to be let in is *in doubt* before the shard is told. A mark follows
//! it down the lane; the shard sends the mark back behind all that it had to say of what came before it. Then the
//! shard's own word counts again. A lane is taken in its order, so a push that is handed over after the word that
//! lets a session in finds the session.
//!
//! A node of one shard asks it always.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use connect_core::{CensusChange, Target};
use hashbrown::HashMap;
use ringcast_proto::{RoomId, SessionId, UserId};

use crate::census::Holders;

/// What the bridge knows of its shards' rooms and users. Copies share all state.
#[derive(Debug, Clone)]
pub(crate) struct Interest(Arc<Mutex<Known>>);

/// A set of shards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShardSet(Vec<u64>);

impl ShardSet {
    /// Adds a shard.
    pub(crate) fn add(&mut self, shard: usize) {
        if self.0.len() <= shard / 64 {
            self.0.resize(shard / 64 + 1, 0);
        }
        self.0[shard / 64] |= 1 << (shard % 64);
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(|word| *word = 0);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            std::iter::successors((word != 0).then_some(word), |word| {
                let rest = word & (word - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

/// A room or a user, by its hash.
#[derive(Debug, Clone, Copy)]
enum Name {
    Room(u64),
    User(u64),
}

/// Rooms and users with the shards that hold each.
#[derive(Debug, Default)]
struct Held {
    rooms: Holders,
    users: Holders,
}

impl Held {
    fn add(&mut self, name: Name, shard: usize) {
        match name {
            Name::Room(hash) => self.rooms.add(hash, shard),
            Name::User(hash) => self.users.add(hash, shard),
        }
    }

    fn remove(&mut self, name: Name, shard: usize) -> bool {
        match name {
            Name::Room(hash) => self.rooms.remove(hash, shard),
            Name::User(hash) => self.users.remove(hash, shard),
        }
    }

    fn for_each(&self, name: Name, tell: impl FnMut(usize)) {
        match name {
            Name::Room(hash) => self.rooms.for_each(hash, tell),
            Name::User(hash) => self.users.for_each(hash, tell),
        }
    }
}

/// What is in doubt on one shard.
#[derive(Debug, Default)]
struct Doubts {
    /// What was added since the mark that is under way was sent.
    unmarked: Vec<Name>,
    /// What is settled when that mark comes back.
    marked: Vec<Name>,
    /// A mark is under way.
    under_way: bool,
    /// Sessions that were let in without their names being known here: until it is settled, everything goes to the
    /// shard. How many of them are unmarked, and marked.
    nameless: (usize, usize),
}

#[derive(Debug)]
struct Known {
    hashes: RandomState,
    /// By the shards' own word.
    census: Held,
    in_doubt: Held,
    doubts: Vec<Doubts>,
    /// The sum of all `nameless`.
    nameless: usize,
    /// User and room of every join that is not answered yet.
    joins: HashMap<SessionId, (Name, Name), RandomState>,
}

impl Known {
    fn room(&self, id: &RoomId) -> Name {
        Name::Room(self.hashes.hash_one(id))
    }

    fn user(&self, id: &UserId) -> Name {
        Name::User(self.hashes.hash_one(id))
    }

    fn doubt(&mut self, name: Name, shard: usize) {
        self.in_doubt.add(name, shard);
        self.doubts[shard].unmarked.push(name);
    }
}

impl Interest {
    /// For a node of this many shards, which hold nothing.
    pub(crate) fn new(shards: usize) -> Self {
        let doubts = std::iter::repeat_with(Doubts::default).take(shards).collect();
        Self(Arc::new(Mutex::new(Known {
            hashes: RandomState::new(),
            census: Held::default(),
            in_doubt: Held::default(),
            doubts,
            nameless: 0,
            joins: HashMap::default(),
        })))
    }

    /// Distinct users and rooms with a live session.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let known = self.known();
        (known.census.users.names(), known.census.rooms.names())
    }

    /// A shard says what came to it or went.
    pub(crate) fn changed(&self, shard: usize, change: &CensusChange) {
        let mut known = self.known();
        let (name, came) = match change {
            CensusChange::RoomCame(room) => (known.room(room), true),
            CensusChange::RoomWent(room) => (known.room(room), false),
            CensusChange::UserCame(user) => (known.user(user), true),
            CensusChange::UserWent(user) => (known.user(user), false),
        };
        if came {
            known.census.add(name, shard);
        } else {
            let was_there = known.census.remove(name, shard);
            debug_assert!(was_there, "a shard took back what it never told");
        }
    }

    /// A session asks to join: should it be let in, these names are needed.
    pub(crate) fn asked(&self, session: SessionId, user: &UserId, room: Option<&RoomId>) {
        let mut known = self.known();
        if known.doubts.len() > 1
            && let Some(room) = room
        {
            let names = (known.user(user), known.room(room));
            known.joins.insert(session, names);
        }
    }

    /// A session that asked has ended.
    pub(crate) fn ended(&self, session: SessionId) {
        self.known().joins.remove(&session);
    }

    /// Its join is about to be answered to its shard.
    pub(crate) fn answering(&self, session: SessionId, accepted: bool) {
        let mut known = self.known();
        let shard = usize::from(session.shard().0);
        if known.doubts.len() < 2 || shard >= known.doubts.len() {
            return;
        }
        match known.joins.remove(&session) {
            _ if !accepted => {}
            Some((user, room)) => {
                known.doubt(user, shard);
                known.doubt(room, shard);
            }
            None => {
                known.doubts[shard].nameless.0 += 1;
                known.nameless += 1;
            }
        }
    }

    /// A shard is about to be told to add a room to sessions.
    pub(crate) fn adding_room(&self, shard: usize, room: &RoomId) {
        let mut known = self.known();
        if known.doubts.len() > 1 {
            let room = known.room(room);
            known.doubt(room, shard);
        }
    }

    /// Whether what is told to a shard now has to be followed by a mark.
    #[must_use]
    pub(crate) fn wants_mark(&self, shard: usize) -> bool {
        let mut known = self.known();
        let doubts = &mut known.doubts[shard];
        if doubts.under_way || (doubts.unmarked.is_empty() && doubts.nameless.0 == 0) {
            return false;
        }
        doubts.under_way = true;
        std::mem::swap(&mut doubts.marked, &mut doubts.unmarked);
        doubts.nameless = (0, doubts.nameless.0);
        true
    }

    /// The mark came back from a shard.
    pub(crate) fn marked(&self, shard: usize) {
        let mut known = self.known();
        let Known { in_doubt, doubts, nameless, .. } = &mut *known;
        let doubts = &mut doubts[shard];
        doubts.under_way = false;
        *nameless -= std::mem::take(&mut doubts.nameless.1);
        for name in doubts.marked.drain(..) {
            let was_there = in_doubt.remove(name, shard);
            debug_assert!(was_there, "what is in doubt was added");
        }
        // A storm of joins is no reason to keep the memory for it.
        doubts.marked.shrink_to(1024);
    }

    /// The shards that a push has to go to.
    pub(crate) fn shards_for(&self, target: &Target, shards: &mut ShardSet) {
        shards.clear();
        let known = self.known();
        let name = match target {
            Target::Room(room) if known.doubts.len() > 1 => known.room(room),
            Target::User(user) if known.doubts.len() > 1 => known.user(user),
            _ => return (0..known.doubts.len()).for_each(|shard| shards.add(shard)),
        };
        known.census.for_each(name, |shard| shards.add(shard));
        known.in_doubt.for_each(name, |shard| shards.add(shard));
        if known.nameless > 0 {
            let nameless = known.doubts.iter().enumerate().filter(|(_, doubts)| doubts.nameless != (0, 0));
            nameless.for_each(|(shard, _)| shards.add(shard));
        }
    }

    // Only the bridge's one thread comes here, so the lock is always free; tonic wants its services `Send`.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
