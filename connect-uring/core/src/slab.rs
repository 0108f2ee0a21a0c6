//! A table of values with stable places, grown in pieces so that it never copies what it holds.
//!
//! Owns: places and which of them are free. Must not: know what it holds. Talks to: nobody.
//!
//! Growing piece by piece matters with many sessions: a doubling vector would copy tens of megabytes in the
//! middle of a wake-up and hold both copies while it does.

/// Places in one piece of the table.
const PIECE: usize = 1024;

/// Values at places that never move.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pieces: Vec<Vec<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self { pieces: Vec::new(), free: Vec::new() }
    }

    /// How many places there are, used or free.
    pub(crate) fn places(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    /// How many places are in use.
    pub(crate) fn used(&self) -> usize {
        self.places() - self.free.len()
    }

    /// The places that are free.
    #[cfg(any(debug_assertions, feature = "checks"))]
    pub(crate) fn free_places(&self) -> &[u32] {
        &self.free
    }

    /// The value at a place, where there is such a place.
    #[inline]
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        self.pieces.get(place as usize / PIECE)?.get(place as usize % PIECE)
    }

    /// A free place that held a value before; it is in use from now on.
    pub(crate) fn take_free(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Adds a new place in use with this value.
    pub(crate) fn add(&mut self, value: T) -> u32 {
        let place = self.places() as u32;
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(value),
            // The first piece grows as it is filled: a small shard stays small.
            None => self.pieces.push(vec![value]),
            Some(_) => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(value);
                self.pieces.push(piece);
            }
        }
        place
    }

    /// Frees a place; the value there is left as it is.
    pub(crate) fn release(&mut self, place: u32) {
        debug_assert!((place as usize) < self.places());
        self.free.push(place);
    }

    /// All places in order, used and free.
    #[cfg(any(test, debug_assertions, feature = "checks"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, place: u32) -> &T {
        &self.pieces[place as usize / PIECE][place as usize % PIECE]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, place: u32) -> &mut T {
        &mut self.pieces[place as usize / PIECE][place as usize % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_and_freed_ones_come_back() {
        let mut slab = Slab::new();
        for value in 0..(PIECE as u32 * 2 + 3) {
            assert_eq!(slab.add(value), value);
        }
        assert_eq!((slab.places(), slab.used()), (PIECE * 2 + 3, PIECE * 2 + 3));
        slab.release(1500);
        assert_eq!(slab.used(), PIECE * 2 + 2);
        assert_eq!(slab.take_free(), Some(1500));
        assert_eq!(slab.take_free(), None);
        assert_eq!(slab.get(PIECE as u32 * 2 + 3), None);
        assert!(slab.iter().copied().eq(0..(PIECE as u32 * 2 + 3)));
    }
}
