//! Which shards hold which names, and how many names there are.
//!
//! Owns: for one kind of name (rooms or users), the pairs of name and shard. Must not: know sessions, or keep a
//! name: a hash and a shard in eight bytes are all that a user costs here. Talks to: `interest`, which feeds it
//! what the shards say.

use hashbrown::HashTable;

/// Bits of an entry that name a shard; the others are the hash. Two names that share their 52 bits count as one,
/// and a push to either goes to the shards of both: among a million names that happens once in ten thousand runs.
const SHARD_BITS: u32 = 12;

/// The most shards that entries can tell apart.
pub(crate) const MAX_SHARDS: usize = (1 << SHARD_BITS) - 1;

/// Pairs of a name's hash and a shard. A pair that was added twice is there until it was removed twice.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    pairs: HashTable<u64>,
    names: usize,
}

/// Spreads an entry's hash over all bits again: the table reads the lowest and the highest.
fn spread(entry: &u64) -> u64 {
    (entry >> SHARD_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn pair(hash: u64, shard: usize) -> u64 {
    debug_assert!(shard <= MAX_SHARDS);
    hash >> SHARD_BITS << SHARD_BITS | shard as u64
}

impl Holders {
    /// Distinct names that some shard holds.
    pub(crate) fn names(&self) -> usize {
        self.names
    }

    /// A shard holds the name.
    pub(crate) fn add(&mut self, hash: u64, shard: usize) {
        let pair = pair(hash, shard);
        let is_new = self.pairs.find(spread(&pair), |other| is_same_name(*other, pair)).is_none();
        self.names += usize::from(is_new);
        self.pairs.insert_unique(spread(&pair), pair, spread);
    }

    /// The shard holds it no more; false where it never did.
    pub(crate) fn remove(&mut self, hash: u64, shard: usize) -> bool {
        let pair = pair(hash, shard);
        let Ok(found) = self.pairs.find_entry(spread(&pair), |other| *other == pair) else { return false };
        found.remove();
        let is_gone = self.pairs.find(spread(&pair), |other| is_same_name(*other, pair)).is_none();
        self.names -= usize::from(is_gone);
        true
    }

    /// Tells every shard that holds the name, perhaps more than once.
    pub(crate) fn for_each(&self, hash: u64, mut tell: impl FnMut(usize)) {
        let pair = pair(hash, 0);
        for other in self.pairs.iter_hash(spread(&pair)).filter(|other| is_same_name(**other, pair)) {
            tell(*other as usize & MAX_SHARDS);
        }
    }
}

fn is_same_name(one: u64, other: u64) -> bool {
    one >> SHARD_BITS == other >> SHARD_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash as good as any.
    fn hash(n: u64) -> u64 {
        ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(n)
    }

    fn shards(holders: &Holders, hash: u64) -> Vec<usize> {
        let mut shards = Vec::new();
        holders.for_each(hash, |shard| shards.push(shard));
        shards.sort_unstable();
        shards
    }

    #[test]
    fn what_two_shards_hold_counts_once() {
        let mut holders = Holders::default();
        holders.add(hash(1), 0);
        holders.add(hash(1), MAX_SHARDS - 1);
        assert_eq!((holders.names(), shards(&holders, hash(1))), (1, vec![0, MAX_SHARDS - 1]));
        assert!(holders.remove(hash(1), 0));
        assert_eq!((holders.names(), shards(&holders, hash(1))), (1, vec![MAX_SHARDS - 1]));
        assert!(!holders.remove(hash(1), 0), "it was removed already");
        assert!(holders.remove(hash(1), MAX_SHARDS - 1));
        assert_eq!((holders.names(), shards(&holders, hash(1))), (0, vec![]));
    }

    #[test]
    fn names_with_one_hash_are_kept_until_the_last_of_them_goes() {
        let mut holders = Holders::default();
        holders.add(hash(1), 3);
        holders.add(hash(1), 3);
        assert!(holders.remove(hash(1), 3));
        assert_eq!(shards(&holders, hash(1)), [3]);
    }

    #[test]
    fn many_names_come_and_go_in_any_order() {
        let mut holders = Holders::default();
        for n in 0..50_000 {
            holders.add(hash(n), n as usize % 56);
            if n % 3 == 0 {
                holders.add(hash(n), 56);
            }
        }
        assert_eq!(holders.names(), 50_000);
        assert_eq!(shards(&holders, hash(3)), [3, 56]);
        for n in (0..50_000).rev() {
            assert!(holders.remove(hash(n), n as usize % 56));
        }
        assert_eq!(holders.names(), 50_000_usize.div_ceil(3));
        for n in (0..50_000).step_by(3) {
            assert!(holders.remove(hash(n), 56));
        }
        assert_eq!(holders.names(), 0);
    }
}
