//! Values at places that stay, and values that are also found by their name.
//!
//! Owns: places, which of them are free, the index of names. Must not: know what it holds. Talks to: nobody.
//!
//! Everything that is there once a session lies in these: a place is four bytes wherever one record names another,
//! a name is kept once, and a table grows in pieces instead of copying all that it holds under the lock.

use ahash::RandomState;
use hashbrown::HashTable;

/// Values in one piece.
const PIECE: usize = 1024;

/// Values at places that stay.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// How many places there are, the free ones too; each is below it.
    fn places(&self) -> u32 {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len()) as u32
    }

    /// Keeps a value, and says where.
    pub(super) fn add(&mut self, value: T) -> u32 {
        if let Some(place) = self.free.pop() {
            *self.slot(place) = Some(value);
            return place;
        }
        let place = self.places();
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(Some(value)),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(Some(value));
                self.pieces.push(piece);
            }
        }
        place
    }

    /// The value at a place, where there is one.
    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.pieces.get(place as usize / PIECE)?.get(place as usize % PIECE)?.as_ref()
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.pieces.get_mut(place as usize / PIECE)?.get_mut(place as usize % PIECE)?.as_mut()
    }

    /// Takes a value out and sets its place free.
    pub(super) fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.slot(place).take()?;
        self.free.push(place);
        Some(value)
    }

    /// All values with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let all = self.pieces.iter().flatten().zip(0..);
        all.filter_map(|(value, place)| Some((place, value.as_ref()?)))
    }

    fn slot(&mut self, place: u32) -> &mut Option<T> {
        &mut self.pieces[place as usize / PIECE][place as usize % PIECE]
    }
}

/// What is found by a name.
pub(super) trait Name {
    /// Its name, which stays the same.
    fn name(&self) -> &str;
}

/// Values at places that stay, each found by its name.
#[derive(Debug)]
pub(super) struct Named<T> {
    values: Slab<T>,
    by_name: HashTable<u32>,
    hasher: RandomState,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { values: Slab::default(), by_name: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<T: Name> Named<T> {
    /// Where the value of a name is.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        let values = &self.values;
        let same = |place: &u32| values.get(*place).is_some_and(|value| value.name() == name);
        self.by_name.find(self.hasher.hash_one(name), same).copied()
    }

    /// Where the value of a name is; it is made where it is not there.
    pub(super) fn find_or_make(&mut self, name: &str, make: impl FnOnce() -> T) -> u32 {
        if let Some(place) = self.find(name) {
            return place;
        }
        let hash = self.hasher.hash_one(name);
        let place = self.values.add(make());
        let (values, hasher) = (&self.values, &self.hasher);
        let hash_of = |place: &u32| values.get(*place).map_or(0, |value| hasher.hash_one(value.name()));
        self.by_name.insert_unique(hash, place, hash_of);
        place
    }

    /// See [`Slab::get`].
    pub(super) fn get(&self, place: u32) -> Option<&T> {
        self.values.get(place)
    }

    /// See [`Slab::get_mut`].
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.values.get_mut(place)
    }

    /// See [`Slab::remove`].
    pub(super) fn remove(&mut self, place: u32) -> Option<T> {
        let hash = self.hasher.hash_one(self.values.get(place)?.name());
        if let Ok(entry) = self.by_name.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        self.values.remove(place)
    }

    /// See [`Slab::iter`].
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.values.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Name for String {
        fn name(&self) -> &str {
            self
        }
    }

    #[test]
    fn names_are_found_at_their_places_however_many_come_and_go() {
        let mut named = Named::default();
        let places: Vec<u32> =
            (0..3000).map(|n| named.find_or_make(&n.to_string(), || n.to_string())).collect();
        assert_eq!(named.find_or_make("7", || panic!("it is there")), places[7]);
        for n in (0..3000).step_by(2) {
            assert_eq!(named.remove(places[n]), Some(n.to_string()));
        }
        assert_eq!((named.find("8"), named.remove(places[8])), (None, None));
        let reused = named.find_or_make("new", || "new".to_owned());
        assert!(places.contains(&reused), "a free place is used first");
        for n in (1..3000).step_by(2) {
            assert_eq!(named.find(&n.to_string()), Some(places[n]));
        }
        assert_eq!((named.iter().count(), named.values.places()), (1501, 3000));
    }
}
