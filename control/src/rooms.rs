//! Rooms' settings: read once, kept for `room.cache_ttl`, made by the first join.
//!
//! Owns: the cache, the effective `max_users`, what keeps rooms in use from being forgotten. Must not: know who is in
//! a room (`presence` does).
//! Talks to: a store of rooms, on behalf of `registry` and `room_service`; what is missed goes there through `loading`.
//! A join to a room that is cached needs no store, and a store that fails takes nothing away from what is cached.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::AHashMap;
use ringcast_proto::RoomId;

use crate::presence::Now;
use crate::room_store::{RoomPatch, RoomStore, StoreError, StoredRoom, Wanted};
use loading::Loading;

mod loading;
#[cfg(test)]
mod tests;

/// Rooms that one sweep reads at a time, and that one call to the store names.
const SWEEP: u32 = 512;

/// Rooms in use are noted this many times in the time for which an empty one is kept.
const NOTES_PER_TIME: u64 = 4;

/// What was asked for and found.
pub(crate) type LoadedRoom = (RoomId, Result<Option<Arc<StoredRoom>>, StoreError>);

/// What is known of a room without asking the store.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// Its settings.
    Fresh(Arc<StoredRoom>),
    /// Its settings as they were longer ago than they may be used unasked; good where the store fails.
    Aged,
    /// Nothing.
    Unknown,
}

#[derive(Debug)]
struct Cached {
    room: Arc<StoredRoom>,
    read_at_ms: u64,
    /// The change by us that wrote it; 0: it was read.
    change: u64,
}

/// What has been read.
#[derive(Debug, Default)]
struct Cache {
    rooms: AHashMap<RoomId, Cached>,
    /// Counts the changes that we have made.
    changes: u64,
}

/// The cache, as it is shared with the task that reads.
#[derive(Debug)]
struct Shared {
    cache: Mutex<Cache>,
    ttl_ms: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fresh(&self, cached: &Cached, now: Now) -> bool {
        now.ms.saturating_sub(cached.read_at_ms) < self.ttl_ms
    }
}

/// All rooms.
#[derive(Debug)]
pub(crate) struct Rooms {
    store: Arc<dyn RoomStore>,
    shared: Arc<Shared>,
    loading: Loading,
    /// When rooms in use were last noted.
    noted_at_ms: AtomicU64,
    default_max_users: u32,
}

impl Rooms {
    /// Rooms of a store; see `Settings` for the bounds. Must be called in a runtime.
    pub(crate) fn new(store: Arc<dyn RoomStore>, ttl: Duration, default_max_users: u32) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let shared = Arc::new(Shared { cache: Mutex::default(), ttl_ms });
        let loading = Loading::start(store.clone(), shared.clone());
        Self { store, shared, loading, noted_at_ms: AtomicU64::new(0), default_max_users }
    }

    /// How many users may be in a room; 0 = no limit.
    pub(crate) fn max_users(&self, room: &StoredRoom) -> u32 {
        room.max_users.unwrap_or(self.default_max_users)
    }

    /// The same for a room of which nothing is stored.
    pub(crate) fn default_max_users(&self) -> u32 {
        self.default_max_users
    }

    /// How many rooms are stored; see [`RoomStore::room_count`].
    pub(crate) fn count(&self) -> u64 {
        self.store.room_count()
    }

    /// What is known of a room.
    pub(crate) fn known(&self, room: &RoomId, now: Now) -> Known {
        match self.shared.lock().rooms.get(room) {
            None => Known::Unknown,
            Some(cached) if self.shared.is_fresh(cached, now) => Known::Fresh(cached.room.clone()),
            Some(_) => Known::Aged,
        }
    }

    /// Reads rooms and makes those that are to be made. One answer for each; a store that fails answers with
    /// what is cached, where anything is. A room that is being read for somebody else already is not read twice.
    pub(crate) async fn load(&self, wanted: Vec<Wanted>, now: Now) -> Vec<LoadedRoom> {
        self.loading.load(wanted, now).await
    }

    /// One room, from the cache where that is fresh.
    pub(crate) async fn get(
        &self,
        room: &RoomId,
        make: bool,
        now: Now,
    ) -> Result<Option<Arc<StoredRoom>>, StoreError> {
        if let Known::Fresh(known) = self.known(room, now) {
            return Ok(Some(known));
        }
        let loaded = self.load(vec![(room.clone(), make)], now).await;
        loaded.into_iter().next().map_or(Ok(None), |(_, result)| result)
    }

    /// Makes or changes a room.
    pub(crate) async fn set(
        &self,
        room: &RoomId,
        patch: RoomPatch,
        now: Now,
    ) -> Result<Arc<StoredRoom>, StoreError> {
        let stored = Arc::new(self.store.set(room.clone(), patch, now.unix_s).await?);
        let mut cache = self.shared.lock();
        cache.changes += 1;
        let change = cache.changes;
        cache.rooms.insert(room.clone(), Cached { room: stored.clone(), read_at_ms: now.ms, change });
        Ok(stored)
    }

    /// A page of rooms; see [`RoomStore::page`].
    pub(crate) async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        self.store.page(after, limit).await
    }

    /// Rooms that have become empty stay for their time from now on. Where the store fails they are forgotten earlier,
    /// by the time since their use was last noted.
    pub(crate) async fn touch(&self, rooms: Vec<RoomId>, now: Now) {
        // The store has counted and logged it.
        let _ = self.note(rooms, now).await;
    }

    /// Whether it is time to note which rooms have members, by [`note_in_use`](Self::note_in_use): another controller
    /// of the same store forgets rooms whose use has not been noted for as long as empty ones are kept.
    pub(crate) fn is_noting_due(&self, empty_for: Duration, now: Now) -> bool {
        let every = u64::try_from(empty_for.as_millis()).unwrap_or(u64::MAX) / NOTES_PER_TIME;
        now.ms.saturating_sub(self.noted_at_ms.load(Ordering::Relaxed)) >= every
    }

    /// Notes that these rooms have members. Where the store fails this stays due.
    pub(crate) async fn note_in_use(&self, rooms: Vec<RoomId>, now: Now) {
        if self.note(rooms, now).await.is_ok() {
            self.noted_at_ms.store(now.ms, Ordering::Relaxed);
        }
    }

    async fn note(&self, rooms: Vec<RoomId>, now: Now) -> Result<(), StoreError> {
        for part in rooms.chunks(SWEEP as usize) {
            self.store.touch(part.to_vec(), now.unix_s).await?;
        }
        Ok(())
    }

    /// Forgets the rooms that were not used since `before`, in seconds since the Unix epoch. `split` is given
    /// rooms that may go, keeps those that have members, and evicts the others by [`evict`](Self::evict) in the
    /// same critical section in which joins are decided: a join that comes later asks the store, which then
    /// either still has the room and notes its use, or makes it anew.
    pub(crate) async fn forget_unused(
        &self,
        before: i64,
        now: Now,
        split: impl Fn(Vec<RoomId>) -> (Vec<RoomId>, Vec<RoomId>),
    ) -> Result<u64, StoreError> {
        let mut gone = 0;
        loop {
            let unused = self.store.unused(before, SWEEP).await?;
            let all = unused.len();
            if all == 0 {
                return Ok(gone);
            }
            let (used, unused) = split(unused);
            self.note(used, now).await?;
            gone += self.store.forget(unused, before).await?;
            if all < SWEEP as usize {
                return Ok(gone);
            }
        }
    }

    /// Takes rooms out of the cache.
    pub(crate) fn evict(&self, rooms: &[RoomId]) {
        let mut cache = self.shared.lock();
        for room in rooms {
            cache.rooms.remove(room);
        }
    }

    /// The cached rooms whose settings are aged: worth keeping only while somebody is in.
    pub(crate) fn aged(&self, now: Now) -> Vec<RoomId> {
        let cache = self.shared.lock();
        let aged = cache.rooms.iter().filter(|(_, cached)| !self.shared.is_fresh(cached, now));
        aged.map(|(room, _)| room.clone()).collect()
    }

    /// Ends the store, when everything that was asked for is written.
    pub(crate) async fn close(&self) {
        self.store.close().await;
    }
}
