//! A table of where keys are: key → node → sessions. Rooms and users are one each.
//!
//! Owns: its entries. Pure. Must not: know what a node is beyond its index, or which of them are held: that it is told.
//! Talks to: `routing`.
//!
//! It is cut into [`PARTS`] parts, so that no growth moves all its entries at once, and so that what goes over all of it
//! (a sweep, a copy) can let go of the lock after each.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;
use smallvec::SmallVec;

/// Into how many parts a table is cut: a million users are 4,000 entries a part.
pub(crate) const PARTS: usize = 256;

/// Where a key is, and with how many sessions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The node's index.
    pub(crate) node: u32,
    /// Sessions there.
    pub(crate) sessions: u32,
}

#[derive(Debug)]
struct Entry {
    key: Box<str>,
    /// Two fit without an allocation; most users are on one node.
    places: SmallVec<[Place; 2]>,
}

/// What a change left behind.
pub(crate) struct Left {
    /// The sessions there before.
    pub(crate) before: u32,
    /// The key was somewhere, and is nowhere now.
    pub(crate) now_empty: bool,
}

/// The table.
#[derive(Debug)]
pub(crate) struct PlaceTable {
    hasher: RandomState,
    parts: Vec<HashTable<Entry>>,
    /// Entries that are somewhere.
    placed: usize,
}

impl Default for PlaceTable {
    fn default() -> Self {
        let parts = std::iter::repeat_with(HashTable::new).take(PARTS).collect();
        Self { hasher: RandomState::new(), parts, placed: 0 }
    }
}

impl PlaceTable {
    /// How many keys are somewhere.
    pub(crate) fn placed(&self) -> usize {
        self.placed
    }

    /// Where a key is. `None`: it is not known.
    pub(crate) fn get(&self, key: &str) -> Option<&[Place]> {
        let hash = self.hasher.hash_one(key);
        self.parts[part_of(hash)].find(hash, |entry| *entry.key == *key).map(|entry| entry.places.as_slice())
    }

    /// Sets the number of a key's sessions on a node; 0 takes the place away and leaves an empty entry.
    pub(crate) fn set(&mut self, key: &str, node: u32, sessions: u32, is_held: impl Fn(u32) -> bool) -> Left {
        let hash = self.hasher.hash_one(key);
        let hasher = &self.hasher;
        let slot = self.parts[part_of(hash)].entry(
            hash,
            |entry| *entry.key == *key,
            |entry| hasher.hash_one(&*entry.key),
        );
        let places = match slot {
            Slot::Occupied(slot) => &mut slot.into_mut().places,
            Slot::Vacant(_) if sessions == 0 => return Left { before: 0, now_empty: false },
            Slot::Vacant(slot) => {
                &mut slot.insert(Entry { key: Box::from(key), places: SmallVec::new() }).into_mut().places
            }
        };
        let was_placed = !places.is_empty();
        places.retain(|place| is_held(place.node));
        let at = places.iter().position(|place| place.node == node);
        let before = at.map_or(0, |at| places[at].sessions);
        match (at, sessions) {
            (Some(at), 0) => drop(places.swap_remove(at)),
            (Some(at), _) => places[at].sessions = sessions,
            (None, 0) => {}
            (None, _) => places.push(Place { node, sessions }),
        }
        let is_placed = !places.is_empty();
        self.placed = self.placed + usize::from(is_placed) - usize::from(was_placed);
        Left { before, now_empty: was_placed && !is_placed }
    }

    /// Forgets a key that is nowhere.
    pub(crate) fn forget_if_empty(&mut self, key: &str) {
        let hash = self.hasher.hash_one(key);
        let found = self.parts[part_of(hash)].find_entry(hash, |entry| *entry.key == *key);
        if let Ok(entry) = found
            && entry.get().places.is_empty()
        {
            entry.remove();
        }
    }

    /// Takes nodes that are not held any more out of one part; the keys that are nowhere now.
    pub(crate) fn sweep(&mut self, part: usize, is_held: impl Fn(u32) -> bool) -> Vec<Box<str>> {
        let mut emptied = Vec::new();
        for entry in self.parts[part].iter_mut().filter(|entry| !entry.places.is_empty()) {
            entry.places.retain(|place| is_held(place.node));
            if entry.places.is_empty() {
                emptied.push(entry.key.clone());
            }
        }
        self.placed -= emptied.len();
        emptied
    }

    /// Copies one part's places on some nodes, each under the index that `renamed` gives it.
    pub(crate) fn copy(&self, part: usize, renamed: impl Fn(u32) -> Option<u32>) -> Vec<(Box<str>, Place)> {
        let mut copied = Vec::new();
        for entry in &self.parts[part] {
            for place in &entry.places {
                if let Some(node) = renamed(place.node) {
                    copied.push((entry.key.clone(), Place { node, ..*place }));
                }
            }
        }
        copied
    }
}

/// The part of a hash: bits that the table itself does not choose its buckets by.
fn part_of(hash: u64) -> usize {
    (hash >> 32) as usize % PARTS
}
