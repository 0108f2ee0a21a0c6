//! All services that are there, as far as is known.

use std::time::{Duration, Instant};

use crate::{Entry, Kind};

/// A list of all services, and since when it may be wrong.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The services, by kind and id.
    pub entries: Vec<Entry>,
    /// When the list was last known to be whole and true; `None`: it is fixed, or was never read.
    pub as_of: Option<Instant>,
    /// The list is a setting and cannot grow old.
    pub fixed: bool,
}

impl View {
    /// The services of one kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }

    /// For how long the list has not been known to be true; zero where it is fixed, the largest value where it was
    /// never read.
    pub fn age(&self, now: Instant) -> Duration {
        match (self.fixed, self.as_of) {
            (true, _) => Duration::ZERO,
            (false, Some(as_of)) => now.saturating_duration_since(as_of),
            (false, None) => Duration::MAX,
        }
    }
}
