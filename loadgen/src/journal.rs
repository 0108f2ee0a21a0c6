//! What each client saw and when, for tests that lay it beside what was pushed.
//!
//! Owns: the entries of one thread. Must not: judge them. Talks to: `connection` (joins), `measured` (receipts),
//! `worker` (ends), which write; `fleet`, which hands the entries out. Only where a plan asks for it: a journal grows
//! with every receipt.

use crate::payload::Stamp;
use crate::tally::Ended;

/// Something that one client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// The client's number in the plan.
    pub client: u32,
    /// Which of the client's connections, from 0.
    pub connection: u32,
    /// What.
    pub seen: Seen,
}

/// What a client saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It has joined at the node of this place in the plan.
    Joined {
        /// The node's place.
        node: u16,
    },
    /// A push, the first time or again.
    Got {
        /// The push's stream.
        stream: u32,
        /// Its number there.
        seq: u64,
    },
    /// The connection is over, or never came to be.
    Ended {
        /// The node's place.
        node: u16,
        /// How.
        how: Box<Ended>,
    },
}

/// The entries of one thread; without one nothing is kept.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    entries: Option<Vec<Entry>>,
}

impl Journal {
    /// One that keeps entries, or none.
    pub(crate) fn new(kept: bool) -> Self {
        Self { entries: kept.then(Vec::new) }
    }

    /// A connection has joined.
    pub(crate) fn joined(&mut self, at_ns: u64, client: usize, connection: u32, node: usize) {
        self.write(at_ns, client, connection, || Seen::Joined { node: node as u16 });
    }

    /// A push has come.
    pub(crate) fn got(&mut self, at_ns: u64, client: usize, connection: u32, stamp: Stamp) {
        self.write(at_ns, client, connection, || Seen::Got { stream: stamp.stream, seq: stamp.seq });
    }

    /// A connection is over.
    pub(crate) fn ended(&mut self, at_ns: u64, client: usize, connection: u32, node: usize, how: &Ended) {
        self.write(at_ns, client, connection, || Seen::Ended {
            node: node as u16,
            how: Box::new(how.clone()),
        });
    }

    /// All entries since the last time, in the order of their times for each client.
    pub(crate) fn take(&mut self) -> Vec<Entry> {
        self.entries.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn write(&mut self, at_ns: u64, client: usize, connection: u32, seen: impl FnOnce() -> Seen) {
        if let Some(entries) = &mut self.entries {
            entries.push(Entry { at_ns, client: client as u32, connection, seen: seen() });
        }
    }
}
