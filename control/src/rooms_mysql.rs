//! Rooms in MySQL or MariaDB, which controllers share.
//!
//! Owns: the connections, how long a call may take and what is tried again within that time, the count of rooms.
//! A connection that failed, that did not answer, or whose server has become read-only is dropped, and all that are
//! older with it: a new one asks for the server's address anew, and finds the one that was promoted.
//! Must not: cache rooms (`rooms` does), decide who may join. Talks to: `statements`; `opening` makes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use prometheus::IntCounter;
use ringcast_proto::RoomId;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlPool, MySqlPoolOptions};
use tokio::time::{Instant, timeout, timeout_at};

use crate::log_gate::LogGate;
use crate::room_store::{Loaded, RoomPatch, RoomStore, StoreError, StoredRoom, Wanted};
use statements::{Change, Count, Forget, MAX_LIST, Make, Page, Select, Statement, Touch, Unused};

mod opening;
mod statements;
#[cfg(test)]
pub(crate) mod tests;

/// Connections to the server; statements beyond that wait. Rooms are read one batch at a time.
const CONNECTIONS: u32 = 8;

/// How long a statement waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that nobody has used for this long is closed: firewalls forget idle ones without a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a call takes at most. A node waits 5 s for a join, the controller 4 s for the settings.
const CALL: Patience = Patience { whole: Duration::from_millis(1500), attempt: Duration::from_secs(1) };

/// The same for what is done beside the calls.
const BESIDE: Patience = Patience { whole: Duration::from_secs(30), attempt: Duration::from_secs(30) };

/// The age from which on the count of rooms is taken anew.
const COUNT_AGE: Duration = Duration::from_secs(1);

/// How long something may take, all attempts together and each.
#[derive(Debug, Clone, Copy)]
struct Patience {
    whole: Duration,
    attempt: Duration,
}

impl Patience {
    fn begin(self) -> Deadline {
        Deadline { end: Instant::now() + self.whole, attempt: self.attempt }
    }
}

/// The same, begun.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    end: Instant,
    attempt: Duration,
}

/// The store, as others use it.
#[derive(Debug, Clone)]
pub(crate) struct MysqlRooms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: MySqlPool,
    /// host:port, for messages.
    server: String,
    max_rooms: u64,
    counted: Counted,
    errors: IntCounter,
    gate: LogGate,
    /// When a connection was last found to be of no use.
    spoiled: Arc<Mutex<Option<Instant>>>,
}

/// How many rooms there are, as far as it is known.
#[derive(Debug)]
struct Counted {
    rooms: AtomicU64,
    at: Mutex<Instant>,
    under_way: AtomicBool,
}

impl Counted {
    fn is_aged(&self) -> bool {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= COUNT_AGE
    }

    fn set(&self, rooms: u64) {
        self.rooms.store(rooms, Ordering::Relaxed);
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn take(&self, rooms: u64) {
        // Cannot fail: the closure always gives a value.
        let _ = self
            .rooms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| Some(all.saturating_sub(rooms)));
    }
}

impl MysqlRooms {
    /// A store whose tables are there, with so many rooms.
    fn new(
        options: MySqlConnectOptions,
        server: String,
        rooms: u64,
        max_rooms: u64,
        errors: IntCounter,
    ) -> Self {
        let spoiled: Arc<Mutex<Option<Instant>>> = Arc::default();
        let since = spoiled.clone();
        let pool = MySqlPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            // Each was tried when it was given back; what has gone since is found by the statement, and tried again.
            .test_before_acquire(false)
            .before_acquire(move |_, about| {
                let spoiled = *since.lock().unwrap_or_else(PoisonError::into_inner);
                let good = spoiled.is_none_or(|spoiled| about.age < spoiled.elapsed());
                Box::pin(std::future::ready(Ok(good)))
            })
            .connect_lazy_with(options);
        let (at, under_way) = (Mutex::new(Instant::now()), AtomicBool::new(false));
        let counted = Counted { rooms: AtomicU64::new(rooms), at, under_way };
        let gate = LogGate::default();
        Self(Arc::new(Inner { pool, server, max_rooms, counted, errors, gate, spoiled }))
    }

    /// Reads rooms and makes what is missing, once.
    async fn find(&self, rooms: &[&RoomId], make: &[&RoomId], now: i64) -> Result<Found, StoreError> {
        let deadline = CALL.begin();
        loop {
            let mut found = self.0.ask(&Select(rooms), deadline).await?;
            let missing: Vec<&RoomId> =
                make.iter().copied().filter(|room| !found.contains_key(*room)).collect();
            let made = self.make(&missing, now, deadline).await;
            let missing = match made {
                Ok((made, refused)) => {
                    found.extend(made);
                    Missing::Refused(refused)
                }
                // What is there can be joined all the same.
                Err(error) => Missing::Failed(error),
            };
            let unused = make.iter().copied();
            let unused: Vec<&RoomId> = unused
                .filter(|room| found.get(*room).is_some_and(|found| found.is_long_unused(now)))
                .collect();
            // Whoever reads a room may use it also where that cannot be noted now, as where none can be made; `rooms`
            // notes it again.
            let forgotten = !unused.is_empty()
                && matches!(missing, Missing::Refused(_))
                && matches!(self.0.ask(&Touch(&unused, now), deadline).await,
                    Ok(there) if there < unused.len() as u64);
            // Another controller has forgotten some of them in between: they are made anew.
            if !forgotten || Instant::now() >= deadline.end {
                return Ok(Found { found, missing });
            }
        }
    }

    /// Makes as many of these rooms as there may be; returns them, and those that there may not be.
    async fn make(
        &self,
        rooms: &[&RoomId],
        now: i64,
        deadline: Deadline,
    ) -> Result<(AHashMap<RoomId, StoredRoom>, AHashSet<RoomId>), StoreError> {
        let (rooms, refused) = rooms.split_at(self.allowed(rooms.len(), deadline).await?);
        let refused = refused.iter().map(|room| (*room).clone()).collect();
        if rooms.is_empty() {
            return Ok((AHashMap::new(), refused));
        }
        let made = self.0.ask(&Make(rooms, now), deadline).await?;
        self.0.counted.rooms.fetch_add(made, Ordering::Relaxed);
        if made == rooms.len() as u64 {
            return Ok((rooms.iter().map(|room| ((*room).clone(), StoredRoom::new(now))).collect(), refused));
        }
        // Others were faster with some of them, and may have set something.
        Ok((self.0.ask(&Select(rooms), deadline).await?, refused))
    }

    /// How many of so many rooms may be made. What is known of the count suffices while there is room enough.
    async fn allowed(&self, rooms: usize, deadline: Deadline) -> Result<usize, StoreError> {
        if rooms == 0 {
            return Ok(0);
        }
        let free = || {
            let free = self.0.max_rooms.saturating_sub(self.0.counted.rooms.load(Ordering::Relaxed));
            usize::try_from(free).unwrap_or(usize::MAX)
        };
        if free() >= rooms {
            self.count_soon();
        } else if self.0.counted.is_aged() {
            self.0.counted.set(self.0.ask(&Count, deadline).await?);
        }
        Ok(free().min(rooms))
    }

    /// Has the count taken anew where it is aged.
    fn count_soon(&self) {
        let counted = &self.0.counted;
        if !counted.is_aged() || counted.under_way.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = self.0.clone();
        tokio::spawn(async move {
            // An error is counted and logged; the next one who needs the count asks again.
            if let Ok(rooms) = inner.ask(&Count, BESIDE.begin()).await {
                inner.counted.set(rooms);
            }
            inner.counted.under_way.store(false, Ordering::Relaxed);
        });
    }
}

/// Rooms that were found or made, and what became of the others that were to be made.
struct Found {
    found: AHashMap<RoomId, StoredRoom>,
    missing: Missing,
}

enum Missing {
    /// These could not be made because there are too many.
    Refused(AHashSet<RoomId>),
    /// None could be made.
    Failed(StoreError),
}

impl Inner {
    /// Carries a statement out, and tries again what may go well then, until the deadline.
    async fn ask<S: Statement>(&self, statement: &S, deadline: Deadline) -> Result<S::Answer, StoreError> {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(Duration::from_millis(200))
            .with_jitter()
            // Its own seed is the same in every process.
            .with_jitter_seed(fastrand::u64(..))
            .without_max_times();
        let mut pauses = pauses.build();
        let error = loop {
            let error = match self.attempt(statement, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let next = pauses.next().map(|pause| Instant::now() + pause).filter(|next| *next < deadline.end);
            match next {
                Some(next) if error.may_pass() => tokio::time::sleep_until(next).await,
                _ => break error,
            }
        };
        self.errors.inc();
        let error = format!("MySQL at {}: {error}", self.server);
        if let Some(left_out) = self.gate.open() {
            tracing::error!(error, left_out, "the store of rooms failed");
        }
        Err(StoreError::Failed(error.into()))
    }

    async fn attempt<S: Statement>(&self, statement: &S, deadline: Deadline) -> Result<S::Answer, Failure> {
        let end = deadline.end.min(Instant::now() + deadline.attempt);
        let mut connection = match timeout_at(end, self.pool.acquire()).await {
            Ok(connection) => connection?,
            Err(_) => return Err(Failure::Silence),
        };
        // In the middle of a statement it is of no use to anybody else, also where our caller has gone away.
        connection.close_on_drop();
        let answer = match timeout_at(end, statement.run(&mut connection)).await {
            Ok(answer) => answer.map_err(Failure::from),
            Err(_) => Err(Failure::Silence),
        };
        if answer.as_ref().err().is_some_and(Failure::spoils) {
            *self.spoiled.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        } else {
            // The pool asks the server whether all is well with it, which must not take up its place for long.
            tokio::spawn(timeout(ACQUIRE_TIMEOUT, connection.return_to_pool()));
        }
        answer
    }
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer in time")]
    Silence,
    #[error("no connection within {} ms", ACQUIRE_TIMEOUT.as_millis())]
    NoConnection,
    #[error("{1}")]
    Said(u16, String),
    #[error("{0}")]
    Lost(String),
}

impl Failure {
    /// Whether the next attempt may go well.
    fn may_pass(&self) -> bool {
        match self {
            Self::Silence | Self::NoConnection | Self::Lost(_) => true,
            Self::Said(number, _) => is_transient(*number),
        }
    }

    /// Whether the connection, and those that were made before, are of no use.
    fn spoils(&self) -> bool {
        match self {
            Self::Silence | Self::Lost(_) => true,
            Self::NoConnection => false,
            Self::Said(number, _) => is_transient(*number) && !matches!(number, 1205 | 1213),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::NoConnection,
            sqlx::Error::Database(said) => {
                let number =
                    said.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
                Self::Said(number, said.to_string())
            }
            sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => {
                Self::Lost(error.to_string())
            }
            // Ours: a row that is not as it should be, a store that is closed.
            error => Self::Said(0, error.to_string()),
        }
    }
}

/// Errors of the server that pass by, or that another server would not give.
fn is_transient(number: u16) -> bool {
    matches!(
        number,
        1205 | 1213 // a lock was waited for too long, a deadlock
        | 1290 | 1792 | 1836 // read-only
        | 1040 | 1203 // too many connections
        | 1053 | 1927 | 3169 // being stopped; the connection was killed
    )
}

#[async_trait::async_trait]
impl RoomStore for MysqlRooms {
    fn room_count(&self) -> u64 {
        self.count_soon();
        self.0.counted.rooms.load(Ordering::Relaxed)
    }

    async fn load(&self, wanted: Vec<Wanted>, now: i64) -> Result<Vec<Loaded>, StoreError> {
        let mut loaded = Vec::with_capacity(wanted.len());
        for part in wanted.chunks(MAX_LIST) {
            // In their order, so that controllers that make the same rooms do not wait for one another in a circle.
            let rooms = sorted(part.iter().map(|(room, _)| room));
            let make = sorted(part.iter().filter(|(_, make)| *make).map(|(room, _)| room));
            let found = self.find(&rooms, &make, now).await?;
            loaded.extend(part.iter().map(|(room, make)| {
                let result = match (found.found.get(room), &found.missing) {
                    (Some(stored), _) => Ok(Some(stored.clone())),
                    (None, Missing::Refused(refused)) if refused.contains(room) => {
                        Err(StoreError::TooManyRooms)
                    }
                    (None, Missing::Failed(error)) if *make => Err(error.clone()),
                    (None, _) => Ok(None),
                };
                (room.clone(), result)
            }));
        }
        Ok(loaded)
    }

    async fn set(&self, room: RoomId, patch: RoomPatch, now: i64) -> Result<StoredRoom, StoreError> {
        let deadline = CALL.begin();
        let change = Change(&room, &patch, now);
        while !self.0.ask(&change, deadline).await? {
            if self.allowed(1, deadline).await? == 0 {
                return Err(StoreError::TooManyRooms);
            }
            let made = self.0.ask(&Make(&[&room], now), deadline).await?;
            self.0.counted.rooms.fetch_add(made, Ordering::Relaxed);
        }
        let mut found = self.0.ask(&Select(&[&room]), deadline).await?;
        found.remove(&room).ok_or_else(|| StoreError::Failed("the room was forgotten at once".into()))
    }

    async fn touch(&self, rooms: Vec<RoomId>, now: i64) -> Result<(), StoreError> {
        for part in sorted(&rooms).chunks(MAX_LIST) {
            self.0.ask(&Touch(part, now), CALL.begin()).await?;
        }
        Ok(())
    }

    async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        self.0.ask(&Page(after, limit), CALL.begin()).await
    }

    async fn unused(&self, before: i64, limit: u32) -> Result<Vec<RoomId>, StoreError> {
        self.0.ask(&Unused(before, limit), CALL.begin()).await
    }

    async fn forget(&self, rooms: Vec<RoomId>, before: i64) -> Result<u64, StoreError> {
        let mut gone = 0;
        for part in sorted(&rooms).chunks(MAX_LIST) {
            gone += self.0.ask(&Forget(part, before), CALL.begin()).await?;
        }
        self.0.counted.take(gone);
        Ok(gone)
    }

    async fn close(&self) {
        // A server that is silent does not keep us.
        let _ = timeout(ACQUIRE_TIMEOUT, self.0.pool.close()).await;
    }
}

fn sorted<'a>(rooms: impl IntoIterator<Item = &'a RoomId>) -> Vec<&'a RoomId> {
    let mut rooms: Vec<&RoomId> = rooms.into_iter().collect();
    rooms.sort();
    rooms.dedup();
    rooms
}
