//! The shard's sessions by slot and generation.
//!
//! Owns: which slot is in use and what its session is called. Must not: know what a session does. Talks to:
//! `shard`.
//!
//! A slot is given to a new session only after its last one is gone, and then under another generation: an id
//! that someone still holds names nothing.

use ringcast_proto::{SessionId, ShardId};

use crate::session::{Phase, Session};
use crate::slab::Slab;

/// The sessions of a shard.
#[derive(Debug)]
pub(crate) struct SessionTable {
    shard: ShardId,
    max_sessions: u32,
    slots: Slab<Session>,
}

impl SessionTable {
    /// An empty table for at most this many sessions.
    pub(crate) fn new(shard: ShardId, max_sessions: u32) -> Self {
        Self { shard, max_sessions, slots: Slab::new() }
    }

    /// Takes a free slot for a new session; `None`: the table is full.
    pub(crate) fn open(&mut self) -> Option<u32> {
        if self.slots.used() >= self.max_sessions as usize {
            return None;
        }
        let slot = match self.slots.take_free() {
            Some(slot) => slot,
            None => self.slots.add(Session::vacant()),
        };
        debug_assert!(matches!(self.slots[slot].phase, Phase::Vacant), "a slot in use was free");
        self.slots[slot].phase = Phase::Head(None);
        Some(slot)
    }

    /// The session is gone: frees its slot, for another generation.
    pub(crate) fn close(&mut self, slot: u32) {
        let session = &mut self.slots[slot];
        debug_assert!(!matches!(session.phase, Phase::Vacant), "a free slot was freed");
        debug_assert!(session.outbox.is_empty(), "a session went with frames that nobody counted");
        let generation = (session.generation + 1) % SessionId::GENERATIONS;
        *session = Session { generation, ..Session::vacant() };
        self.slots.release(slot);
    }

    /// The slot of a session that is not gone.
    #[inline]
    pub(crate) fn find(&self, id: SessionId) -> Option<u32> {
        let session = self.slots.get(id.slot())?;
        let known = session.generation == id.generation()
            && id.shard() == self.shard
            && !matches!(session.phase, Phase::Vacant);
        known.then_some(id.slot())
    }

    /// The id of the session in a slot.
    #[inline]
    pub(crate) fn id(&self, slot: u32) -> SessionId {
        SessionId::new(self.shard, slot, self.slots[slot].generation)
    }

    /// How many slots are in use.
    pub(crate) fn used(&self) -> usize {
        self.slots.used()
    }

    /// How many slots there are, in use or free: all slots are below this.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.places() as u32
    }

    /// All slots in order, free ones too.
    #[cfg(any(debug_assertions, feature = "checks"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter()
    }

    /// The free slots.
    #[cfg(any(debug_assertions, feature = "checks"))]
    pub(crate) fn free_slots(&self) -> &[u32] {
        self.slots.free_places()
    }
}

impl std::ops::Index<u32> for SessionTable {
    type Output = Session;

    #[inline]
    fn index(&self, slot: u32) -> &Session {
        &self.slots[slot]
    }
}

impl std::ops::IndexMut<u32> for SessionTable {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Session {
        &mut self.slots[slot]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_under_another_generation() {
        let mut table = SessionTable::new(ShardId(3), 2);
        let first = table.open().expect("a free slot");
        let id = table.id(first);
        assert_eq!((id.shard(), id.slot(), id.generation()), (ShardId(3), 0, 0));
        assert_eq!(table.open(), Some(1));
        assert_eq!(table.open(), None, "the table is full");
        table.close(first);
        assert_eq!((table.find(id), table.used()), (None, 1));
        assert_eq!(table.open(), Some(first));
        assert_eq!(table.find(id), None, "the old id names nothing");
        assert_eq!(table.find(table.id(first)), Some(first));
        let foreign = SessionId::new(ShardId(4), first, 1);
        assert_eq!((table.find(foreign), table.find(SessionId::from_u64(u64::MAX))), (None, None));
    }

    #[test]
    fn generations_wrap() {
        let mut table = SessionTable::new(ShardId(0), 1);
        let slot = table.open().expect("a free slot");
        table[slot].generation = SessionId::GENERATIONS - 1;
        let last = table.id(slot);
        table.close(slot);
        assert_eq!(table.open(), Some(slot));
        assert_eq!((table.id(slot).generation(), table.find(last)), (0, None));
    }
}
