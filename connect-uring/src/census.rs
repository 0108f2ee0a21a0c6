//! How many distinct rooms and users the node holds, over all its shards.
//!
//! Owns: for every room and user, the number of shards that hold it. Must not: know sessions, or keep a name: a
//! hash and a count in eight bytes are all that a user costs here. Talks to: `hub`, which feeds it what the
//! shards say, and `http` and `metrics`, which show the two numbers.

use ahash::RandomState;
use connect_core::CensusChange;
use hashbrown::HashTable;

/// Counts distinct rooms and users.
#[derive(Debug, Default)]
pub(crate) struct Census {
    hashes: RandomState,
    rooms: Holders,
    users: Holders,
}

impl Census {
    /// Takes in what a shard said.
    pub(crate) fn apply(&mut self, change: &CensusChange) {
        match change {
            CensusChange::RoomCame(room) => self.rooms.add(self.hashes.hash_one(room)),
            CensusChange::RoomWent(room) => self.rooms.remove(self.hashes.hash_one(room)),
            CensusChange::UserCame(user) => self.users.add(self.hashes.hash_one(user)),
            CensusChange::UserWent(user) => self.users.remove(self.hashes.hash_one(user)),
        }
    }

    /// Distinct rooms with a live session.
    pub(crate) fn rooms(&self) -> usize {
        self.rooms.0.len()
    }

    /// Distinct users with a live session.
    pub(crate) fn users(&self) -> usize {
        self.users.0.len()
    }
}

/// Bits of an entry that count shards; the others are the hash. Among a million names two share their 52 bits
/// once in ten thousand runs, and then the figure is one too low.
const COUNT_BITS: u32 = 12;

/// The most shards that an entry can count.
pub(crate) const MAX_SHARDS: usize = (1 << COUNT_BITS) - 1;

/// Hashes with the number of shards that hold each, packed.
#[derive(Debug, Default)]
struct Holders(HashTable<u64>);

/// Spreads an entry's hash over all bits again: the table reads the lowest and the highest.
fn spread(entry: &u64) -> u64 {
    (entry >> COUNT_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Holders {
    fn add(&mut self, hash: u64) {
        let key = hash >> COUNT_BITS;
        match self.0.find_mut(spread(&hash), |entry| entry >> COUNT_BITS == key) {
            Some(entry) => *entry += 1,
            None => {
                self.0.insert_unique(spread(&hash), key << COUNT_BITS | 1, spread);
            }
        }
    }

    fn remove(&mut self, hash: u64) {
        let key = hash >> COUNT_BITS;
        let Ok(mut found) = self.0.find_entry(spread(&hash), |entry| entry >> COUNT_BITS == key) else {
            debug_assert!(false, "a shard took back what it never told");
            return;
        };
        *found.get_mut() -= 1;
        if found.get() & MAX_SHARDS as u64 == 0 {
            found.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringcast_proto::{RoomId, UserId};

    fn user(n: usize) -> UserId {
        UserId::new(&format!("user-{n}")).unwrap()
    }

    #[test]
    fn what_two_shards_hold_counts_once() {
        let mut census = Census::default();
        let room = RoomId::new("room").unwrap();
        census.apply(&CensusChange::RoomCame(room.clone()));
        census.apply(&CensusChange::RoomCame(room.clone()));
        assert_eq!((census.rooms(), census.users()), (1, 0));
        census.apply(&CensusChange::RoomWent(room.clone()));
        assert_eq!(census.rooms(), 1);
        census.apply(&CensusChange::RoomWent(room));
        assert_eq!(census.rooms(), 0);
    }

    #[test]
    fn many_users_come_and_go_in_any_order() {
        let mut census = Census::default();
        for n in 0..50_000 {
            census.apply(&CensusChange::UserCame(user(n)));
            if n % 3 == 0 {
                census.apply(&CensusChange::UserCame(user(n)));
            }
        }
        assert_eq!(census.users(), 50_000);
        for n in (0..50_000).rev() {
            census.apply(&CensusChange::UserWent(user(n)));
        }
        assert_eq!(census.users(), 50_000_usize.div_ceil(3));
        for n in (0..50_000).step_by(3) {
            census.apply(&CensusChange::UserWent(user(n)));
        }
        assert_eq!(census.users(), 0);
    }
}
