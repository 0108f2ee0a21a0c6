//! What is stored of rooms, and what a store of them does.
//!
//! Owns: the trait and what goes over it. There are two: one file of SQLite for one controller (`rooms_sqlite`), and
//! MySQL (`rooms_mysql`), which several controllers share. Ids are compared byte for byte in both.
//! Must not: cache (`rooms` does), decide who may join.

use std::fmt::Debug;
use std::sync::Arc;

use ringcast_proto::RoomId;

#[cfg(test)]
mod tests;

/// A room that is asked for was used; that is noted when what is noted is older than this, in seconds.
pub(crate) const TOUCH_AFTER_S: i64 = 3600;

/// A room as it is stored; times are in seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct StoredRoom {
    pub(crate) name: String,
    pub(crate) description: String,
    /// `None`: the default of the settings. 0: no limit.
    pub(crate) max_users: Option<u32>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    pub(crate) last_used: i64,
}

impl StoredRoom {
    /// A room that came to be now, of which nothing is set.
    pub(crate) fn new(now: i64) -> Self {
        Self {
            name: String::new(),
            description: String::new(),
            max_users: None,
            created_at: now,
            updated_at: now,
            last_used: now,
        }
    }

    /// Whether it is time to note a use.
    pub(crate) fn is_long_unused(&self, now: i64) -> bool {
        self.last_used < now - TOUCH_AFTER_S
    }
}

/// What is to be changed of a room.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoomPatch {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) max_users: Option<u32>,
}

/// Why the store has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    /// It cannot be reached, or it said no.
    #[error("{0}")]
    Failed(Arc<str>),
    /// There are as many rooms as there may be.
    #[error("there are as many rooms as there may be")]
    TooManyRooms,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.to_string().into())
    }
}

/// A room that is asked for, and whether it is to be made where it is not there.
pub(crate) type Wanted = (RoomId, bool);

/// What was asked for and found; `Ok(None)`: not there, and not to be made.
pub(crate) type Loaded = (RoomId, Result<Option<StoredRoom>, StoreError>);

/// A store of rooms. `now` and `before` are seconds since the Unix epoch.
#[async_trait::async_trait]
pub(crate) trait RoomStore: Debug + Send + Sync {
    /// How many rooms are stored. What other controllers make and forget may be missing for some seconds; the bound
    /// on rooms is kept by this count, so it may be passed by what they make meanwhile.
    fn room_count(&self) -> u64;

    /// Reads rooms, and makes those that are to be made. One answer for each.
    async fn load(&self, wanted: Vec<Wanted>, now: i64) -> Result<Vec<Loaded>, StoreError>;

    /// Makes or changes a room.
    async fn set(&self, room: RoomId, patch: RoomPatch, now: i64) -> Result<StoredRoom, StoreError>;

    /// Notes that rooms have been in use until now.
    async fn touch(&self, rooms: Vec<RoomId>, now: i64) -> Result<(), StoreError>;

    /// Rooms in the order of their ids' bytes, with the time at which each came to be.
    async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError>;

    /// Rooms that were not used since `before`, as far as that was noted.
    async fn unused(&self, before: i64, limit: u32) -> Result<Vec<RoomId>, StoreError>;

    /// Forgets those of the rooms that have not been used since `before`, and says how many.
    async fn forget(&self, rooms: Vec<RoomId>, before: i64) -> Result<u64, StoreError>;

    /// Ends it, when everything that was asked for is written.
    async fn close(&self);
}
