//! Rooms' settings: read once, kept for `room.cache_ttl`, made by the first join.
//!
//! Owns: the cache, the effective `max_users`. Must not: know who is in a room (`presence` does).
//! Talks to: `store`, on behalf of `registry` and `room_service`. A join to a room that is cached needs no store,
//! and a store that fails takes nothing away from what is cached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahash::AHashMap;
use ringcast_proto::RoomId;

use crate::presence::Now;
use crate::store::{RoomPatch, Store, StoreError, StoredRoom, Wanted};

/// Rooms that one sweep reads at a time.
const SWEEP: u32 = 512;

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
}

/// All rooms.
#[derive(Debug)]
pub(crate) struct Rooms {
    store: Store,
    cache: Mutex<AHashMap<RoomId, Cached>>,
    ttl_ms: u64,
    default_max_users: u32,
}

impl Rooms {
    /// Rooms of a store; see `Settings` for the bounds.
    pub(crate) fn new(store: Store, ttl: Duration, default_max_users: u32) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Self { store, cache: Mutex::default(), ttl_ms, default_max_users }
    }

    fn cache(&self) -> MutexGuard<'_, AHashMap<RoomId, Cached>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many users may be in a room; 0 = no limit.
    pub(crate) fn max_users(&self, room: &StoredRoom) -> u32 {
        room.max_users.unwrap_or(self.default_max_users)
    }

    /// The same for a room of which nothing is stored.
    pub(crate) fn default_max_users(&self) -> u32 {
        self.default_max_users
    }

    /// How many rooms are stored.
    pub(crate) fn count(&self) -> u64 {
        self.store.room_count()
    }

    /// What is known of a room.
    pub(crate) fn known(&self, room: &RoomId, now: Now) -> Known {
        match self.cache().get(room) {
            None => Known::Unknown,
            Some(cached) if now.ms.saturating_sub(cached.read_at_ms) < self.ttl_ms => {
                Known::Fresh(cached.room.clone())
            }
            Some(_) => Known::Aged,
        }
    }

    /// Reads rooms and makes those that are to be made. One answer for each; a store that fails answers with
    /// what is cached, where anything is.
    pub(crate) async fn load(
        &self,
        wanted: Vec<Wanted>,
        now: Now,
    ) -> Vec<(RoomId, Result<Option<Arc<StoredRoom>>, StoreError>)> {
        let loaded = match self.store.load(wanted.clone(), now.unix_s).await {
            Ok(loaded) => loaded,
            Err(error) => wanted.into_iter().map(|(room, _)| (room, Err(error.clone()))).collect(),
        };
        let mut cache = self.cache();
        let mut answers = Vec::with_capacity(loaded.len());
        for (room, result) in loaded {
            let result = match result {
                Ok(Some(stored)) => {
                    let stored = Arc::new(stored);
                    cache.insert(room.clone(), Cached { room: stored.clone(), read_at_ms: now.ms });
                    Ok(Some(stored))
                }
                Ok(None) => {
                    cache.remove(&room);
                    Ok(None)
                }
                Err(error) => match cache.get(&room) {
                    Some(cached) => Ok(Some(cached.room.clone())),
                    None => Err(error),
                },
            };
            answers.push((room, result));
        }
        answers
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
        self.cache().insert(room.clone(), Cached { room: stored.clone(), read_at_ms: now.ms });
        Ok(stored)
    }

    /// A page of rooms; see [`Store::page`].
    pub(crate) async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        self.store.page(after, limit).await
    }

    /// Rooms that have become empty stay for their time from now on.
    pub(crate) async fn touch(&self, rooms: Vec<RoomId>, now: Now) {
        for part in rooms.chunks(SWEEP as usize) {
            self.store.touch(part.to_vec(), now.unix_s).await;
        }
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
            self.touch(used, now).await;
            gone += self.store.forget(unused, before).await?;
            if all < SWEEP as usize {
                return Ok(gone);
            }
        }
    }

    /// Takes rooms out of the cache.
    pub(crate) fn evict(&self, rooms: &[RoomId]) {
        let mut cache = self.cache();
        for room in rooms {
            cache.remove(room);
        }
    }

    /// The cached rooms whose settings are aged: worth keeping only while somebody is in.
    pub(crate) fn aged(&self, now: Now) -> Vec<RoomId> {
        let aged = |cached: &Cached| now.ms.saturating_sub(cached.read_at_ms) >= self.ttl_ms;
        self.cache().iter().filter(|(_, cached)| aged(cached)).map(|(room, _)| room.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    async fn rooms(folder: &Path, max_rooms: u64) -> Rooms {
        let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
        let store = Store::open(folder, max_rooms, errors).await.unwrap();
        Rooms::new(store, Duration::from_secs(300), 100)
    }

    fn room(id: &str) -> RoomId {
        RoomId::new(id).unwrap()
    }

    fn at(unix_s: i64) -> Now {
        Now { ms: unix_s.unsigned_abs() * 1000, unix_s }
    }

    #[tokio::test]
    async fn settings_live_through_a_restart_and_unset_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let first = rooms(folder.path(), 10).await;
        let patch = RoomPatch { name: Some("Hall".into()), max_users: Some(0), ..RoomPatch::default() };
        first.set(&room("a"), patch, at(5)).await.unwrap();
        drop(first);
        let second = rooms(folder.path(), 10).await;
        assert_eq!(second.count(), 1);
        let patch = RoomPatch { description: Some("Big".into()), ..RoomPatch::default() };
        let set = second.set(&room("a"), patch, at(7)).await.unwrap();
        assert_eq!((set.name.as_str(), set.description.as_str()), ("Hall", "Big"));
        assert_eq!((set.created_at, set.updated_at, second.max_users(&set)), (5, 7, 0));
        let made = second.get(&room("b"), true, at(8)).await.unwrap().unwrap();
        assert_eq!(second.max_users(&made), 100);
    }

    #[tokio::test]
    async fn there_are_no_more_rooms_than_there_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = rooms(folder.path(), 2).await;
        let wanted = ["a", "b", "a", "c"].map(|id| (room(id), true)).to_vec();
        let loaded = rooms.load(wanted, at(5)).await;
        let made: Vec<bool> = loaded.iter().map(|(_, result)| result.is_ok()).collect();
        assert_eq!(made, [true, true, true, false]);
        assert!(matches!(loaded[3].1, Err(StoreError::TooManyRooms)));
        assert!(rooms.get(&room("a"), true, at(5)).await.unwrap().is_some());
        let refused = rooms.set(&room("c"), RoomPatch::default(), at(5)).await;
        assert!(matches!(refused, Err(StoreError::TooManyRooms)));
        assert_eq!(rooms.count(), 2);
    }

    #[tokio::test]
    async fn empty_rooms_are_forgotten_and_those_in_use_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = rooms(folder.path(), 10).await;
        for id in ["empty", "used", "emptied"] {
            rooms.get(&room(id), true, at(1000)).await.unwrap();
        }
        rooms.touch(vec![room("emptied")], at(5000)).await;
        let split = |candidates: Vec<RoomId>| {
            let (used, unused): (Vec<_>, Vec<_>) =
                candidates.into_iter().partition(|id| id.as_str() == "used");
            rooms.evict(&unused);
            (used, unused)
        };
        assert_eq!(rooms.forget_unused(5000, at(6000), split).await.unwrap(), 1);
        assert!(rooms.get(&room("empty"), false, at(6000)).await.unwrap().is_none());
        assert_eq!(rooms.count(), 2);
        assert_eq!(
            rooms.forget_unused(5001, at(6000), split).await.unwrap(),
            1,
            "the emptied one's time came"
        );
    }

    #[tokio::test]
    async fn a_failing_store_takes_nothing_away_from_what_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = rooms(folder.path(), 10).await;
        rooms.get(&room("a"), true, at(5)).await.unwrap();
        sqlx::query("DROP TABLE rooms").execute(&rooms.store.pool_for_tests()).await.unwrap();
        assert!(matches!(rooms.known(&room("a"), at(306)), Known::Aged));
        assert!(rooms.get(&room("a"), true, at(306)).await.unwrap().is_some());
        assert!(matches!(rooms.get(&room("b"), true, at(306)).await, Err(StoreError::Failed(_))));
    }

    #[tokio::test]
    async fn the_path_is_named_where_the_store_cannot_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
        let error = Store::open(&file.join("data"), 1, errors).await.unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }
}
