//! The embedded store: rooms with their settings, and the nodes that a restarted controller waits for, in one
//! SQLite file.
//!
//! Owns: the file, its schema (`migrations/sqlite`), the one task that writes. What waits for that task is written
//! in one transaction, so that a storm of new rooms costs few commits.
//! Must not: cache (`rooms` does), decide who may join.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use ringcast_proto::{NodeId, RoomId};
use settings::SettingError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use tokio::sync::{mpsc, oneshot};

use crate::log_gate::LogGate;

/// The file in the data folder.
const FILE_NAME: &str = "controller.sqlite";

/// How long a statement waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that may wait for the writer; callers wait beyond that.
const QUEUE: usize = 1024;

/// Requests that share a transaction.
const MAX_BATCH: usize = 256;

/// A room that is asked for was used; that is noted when what is noted is older than this, in seconds.
const TOUCH_AFTER_S: i64 = 3600;

/// A room as it is stored; times are in seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct StoredRoom {
    pub(crate) name: String,
    pub(crate) description: String,
    /// `None`: the default of the settings. 0: no limit.
    pub(crate) max_users: Option<u32>,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
    last_used: i64,
}

/// What is to be changed of a room.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoomPatch {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) max_users: Option<u32>,
}

/// A node that was registered when it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownNode {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
}

/// Why the store has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite said no.
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

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A room that is asked for, and whether it is to be made where it is not there.
pub(crate) type Wanted = (RoomId, bool);

/// What was asked for and found; `Ok(None)`: not there, and not to be made.
pub(crate) type Loaded = (RoomId, Result<Option<StoredRoom>, StoreError>);

enum Request {
    Load { wanted: Vec<Wanted>, now: i64, reply: Reply<Vec<Loaded>> },
    Set { room: RoomId, patch: RoomPatch, now: i64, reply: Reply<StoredRoom> },
    Touch { rooms: Vec<RoomId>, now: i64 },
    Forget { rooms: Vec<RoomId>, before: i64, reply: Reply<u64> },
    PutNode(KnownNode),
    DropNode(NodeId),
}

/// What a request came to, held back until the transaction is committed.
enum Answer {
    Loaded(Reply<Vec<Loaded>>, Vec<Loaded>),
    Set(Reply<StoredRoom>, Result<StoredRoom, StoreError>),
    Forgotten(Reply<u64>, u64),
    Nothing,
}

/// The store, as others use it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pool: SqlitePool,
    requests: mpsc::Sender<Request>,
    rooms: Arc<AtomicU64>,
}

impl Store {
    /// Opens or makes the store in a folder, which is made where it is not there. Must be called in a runtime.
    pub(crate) async fn open(
        folder: &Path,
        max_rooms: u64,
        errors: IntCounter,
    ) -> Result<Self, SettingError> {
        std::fs::create_dir_all(folder)
            .map_err(|error| unusable(folder, format!("the folder cannot be made ({error})")))?;
        let file: PathBuf = folder.join(FILE_NAME);
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT);
        let failed = |error: &dyn std::fmt::Display| {
            unusable(folder, format!("{} cannot be opened ({error})", file.display()))
        };
        // One connection writes, one serves pages of rooms.
        let pool = SqlitePoolOptions::new()
            .max_connections(2)
            .acquire_timeout(BUSY_TIMEOUT)
            .connect_with(options)
            .await
            .map_err(|error| failed(&error))?;
        sqlx::migrate!("migrations/sqlite").run(&pool).await.map_err(|error| failed(&error))?;
        let (rooms,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM rooms")
            .fetch_one(&pool)
            .await
            .map_err(|error| failed(&error))?;
        let rooms = Arc::new(AtomicU64::new(rooms.unsigned_abs()));
        let (requests, queue) = mpsc::channel(QUEUE);
        let writer =
            Writer { pool: pool.clone(), max_rooms, rooms: rooms.clone(), errors, gate: LogGate::default() };
        tokio::spawn(writer.run(queue));
        Ok(Self { pool, requests, rooms })
    }

    /// How many rooms are stored.
    pub(crate) fn room_count(&self) -> u64 {
        self.rooms.load(Ordering::Relaxed)
    }

    /// Reads rooms, and makes those that are to be made.
    pub(crate) async fn load(&self, wanted: Vec<Wanted>, now: i64) -> Result<Vec<Loaded>, StoreError> {
        self.ask(|reply| Request::Load { wanted, now, reply }).await
    }

    /// Makes or changes a room.
    pub(crate) async fn set(
        &self,
        room: RoomId,
        patch: RoomPatch,
        now: i64,
    ) -> Result<StoredRoom, StoreError> {
        self.ask(|reply| Request::Set { room, patch, now, reply }).await
    }

    /// Notes that rooms have been in use until now. Lost where the store fails: they are forgotten early then.
    pub(crate) async fn touch(&self, rooms: Vec<RoomId>, now: i64) {
        self.tell(Request::Touch { rooms, now }).await;
    }

    /// Forgets those of the rooms that have not been used since `before`.
    pub(crate) async fn forget(&self, rooms: Vec<RoomId>, before: i64) -> Result<u64, StoreError> {
        self.ask(|reply| Request::Forget { rooms, before, reply }).await
    }

    /// Remembers a node for the time after a restart.
    pub(crate) async fn put_node(&self, node: KnownNode) {
        self.tell(Request::PutNode(node)).await;
    }

    /// Forgets a node.
    pub(crate) async fn drop_node(&self, node: NodeId) {
        self.tell(Request::DropNode(node)).await;
    }

    /// The nodes that were registered when the controller was last up.
    pub(crate) async fn known_nodes(&self) -> Result<Vec<KnownNode>, StoreError> {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT id, incarnation, address FROM nodes").fetch_all(&self.pool).await?;
        let nodes = rows.into_iter().filter_map(|(id, incarnation, address)| {
            let id = NodeId::new(&id).ok()?;
            Some(KnownNode { id, incarnation: incarnation.cast_unsigned(), address })
        });
        Ok(nodes.collect())
    }

    /// Rooms in the order of their ids, with the time at which each came to be.
    pub(crate) async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        let page = sqlx::query_as("SELECT id, created_at FROM rooms WHERE id > ? ORDER BY id LIMIT ?");
        Ok(page.bind(after).bind(limit).fetch_all(&self.pool).await?)
    }

    /// Rooms that were not used since `before`, as far as that was noted.
    pub(crate) async fn unused(&self, before: i64, limit: u32) -> Result<Vec<RoomId>, StoreError> {
        let ids: Vec<(String,)> = sqlx::query_as("SELECT id FROM rooms WHERE last_used < ? LIMIT ?")
            .bind(before)
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        Ok(ids.into_iter().filter_map(|(id,)| RoomId::new(&id).ok()).collect())
    }

    /// Waits until everything that was asked for is written, then closes the file.
    pub(crate) async fn close(&self) {
        // An empty request is answered after all that came before it.
        let _ = self.load(Vec::new(), 0).await;
        self.pool.close().await;
    }

    /// The connections, for tests that break the store.
    #[cfg(test)]
    pub(crate) fn pool_for_tests(&self) -> SqlitePool {
        self.pool.clone()
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.tell(request(reply)).await;
        answer.await.unwrap_or_else(|_| Err(StoreError::Failed("the store failed".into())))
    }

    async fn tell(&self, request: Request) {
        // The writer ends with the runtime only; a reply that was dropped tells the caller.
        let _ = self.requests.send(request).await;
    }
}

fn unusable(folder: &Path, what: String) -> SettingError {
    SettingError::new("DATA_DIR", folder.display(), format!("{what}: name a folder that can be written to"))
}

struct Writer {
    pool: SqlitePool,
    max_rooms: u64,
    rooms: Arc<AtomicU64>,
    errors: IntCounter,
    gate: LogGate,
}

impl Writer {
    async fn run(self, mut queue: mpsc::Receiver<Request>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
            match self.write(&mut batch).await {
                Ok(answers) => answers.into_iter().for_each(Answer::send),
                Err(error) => self.fail(&error),
            }
            // Requests that were not served lose their replies here, which tells their callers.
            batch.clear();
        }
    }

    fn fail(&self, error: &sqlx::Error) {
        self.errors.inc();
        if let Some(left_out) = self.gate.open() {
            tracing::error!(%error, left_out, "the store failed");
        }
    }

    async fn write(&self, batch: &mut Vec<Request>) -> Result<Vec<Answer>, sqlx::Error> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut answers = Vec::with_capacity(batch.len());
        let mut count = self.rooms.load(Ordering::Relaxed);
        for request in batch.drain(..) {
            answers.push(self.apply(&mut tx, request, &mut count).await?);
        }
        tx.commit().await?;
        self.rooms.store(count, Ordering::Relaxed);
        Ok(answers)
    }

    async fn apply(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        request: Request,
        count: &mut u64,
    ) -> Result<Answer, sqlx::Error> {
        Ok(match request {
            Request::Load { wanted, now, reply } => {
                let mut loaded = Vec::with_capacity(wanted.len());
                for (room, make) in wanted {
                    let found = self.load(tx, &room, make, now, count).await?;
                    loaded.push((room, found));
                }
                Answer::Loaded(reply, loaded)
            }
            Request::Set { room, patch, now, reply } => {
                let set = match self.load(tx, &room, true, now, count).await? {
                    Ok(Some(_)) => Ok(set(tx, &room, patch, now).await?),
                    Ok(None) | Err(_) => Err(StoreError::TooManyRooms),
                };
                Answer::Set(reply, set)
            }
            Request::Touch { rooms, now } => {
                for room in rooms {
                    let touch = sqlx::query("UPDATE rooms SET last_used = ? WHERE id = ?");
                    touch.bind(now).bind(room.as_str()).execute(&mut **tx).await?;
                }
                Answer::Nothing
            }
            Request::Forget { rooms, before, reply } => {
                let mut gone = 0;
                for room in rooms {
                    let delete = sqlx::query("DELETE FROM rooms WHERE id = ? AND last_used < ?");
                    gone += delete.bind(room.as_str()).bind(before).execute(&mut **tx).await?.rows_affected();
                }
                *count = count.saturating_sub(gone);
                Answer::Forgotten(reply, gone)
            }
            Request::PutNode(node) => {
                let put =
                    sqlx::query("INSERT OR REPLACE INTO nodes (id, incarnation, address) VALUES (?, ?, ?)");
                let put = put.bind(node.id.as_str()).bind(node.incarnation.cast_signed()).bind(node.address);
                put.execute(&mut **tx).await?;
                Answer::Nothing
            }
            Request::DropNode(id) => {
                sqlx::query("DELETE FROM nodes WHERE id = ?").bind(id.as_str()).execute(&mut **tx).await?;
                Answer::Nothing
            }
        })
    }

    async fn load(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        room: &RoomId,
        make: bool,
        now: i64,
        count: &mut u64,
    ) -> Result<Result<Option<StoredRoom>, StoreError>, sqlx::Error> {
        if make && *count < self.max_rooms {
            let insert = sqlx::query(
                "INSERT OR IGNORE INTO rooms (id, created_at, updated_at, last_used) VALUES (?, ?, ?, ?)",
            );
            let insert = insert.bind(room.as_str()).bind(now).bind(now).bind(now);
            if insert.execute(&mut **tx).await?.rows_affected() == 1 {
                *count += 1;
                return Ok(Ok(Some(StoredRoom {
                    name: String::new(),
                    description: String::new(),
                    max_users: None,
                    created_at: now,
                    updated_at: now,
                    last_used: now,
                })));
            }
        }
        let Some(found) = select(tx, room).await? else {
            return Ok(if make { Err(StoreError::TooManyRooms) } else { Ok(None) });
        };
        if make && found.last_used < now - TOUCH_AFTER_S {
            let touch = sqlx::query("UPDATE rooms SET last_used = ? WHERE id = ?");
            touch.bind(now).bind(room.as_str()).execute(&mut **tx).await?;
        }
        Ok(Ok(Some(found)))
    }
}

async fn select(tx: &mut Transaction<'_, Sqlite>, room: &RoomId) -> Result<Option<StoredRoom>, sqlx::Error> {
    let select = sqlx::query_as(
        "SELECT name, description, max_users, created_at, updated_at, last_used FROM rooms WHERE id = ?",
    );
    select.bind(room.as_str()).fetch_optional(&mut **tx).await
}

async fn set(
    tx: &mut Transaction<'_, Sqlite>,
    room: &RoomId,
    patch: RoomPatch,
    now: i64,
) -> Result<StoredRoom, sqlx::Error> {
    let update = sqlx::query_as(
        "UPDATE rooms SET name = COALESCE(?, name), description = COALESCE(?, description), \
         max_users = COALESCE(?, max_users), updated_at = ?, last_used = ? WHERE id = ? \
         RETURNING name, description, max_users, created_at, updated_at, last_used",
    );
    let update = update.bind(patch.name).bind(patch.description).bind(patch.max_users);
    update.bind(now).bind(now).bind(room.as_str()).fetch_one(&mut **tx).await
}

impl Answer {
    /// A caller that has gone away needs no answer.
    fn send(self) {
        match self {
            Self::Loaded(reply, loaded) => drop(reply.send(Ok(loaded))),
            Self::Set(reply, set) => drop(reply.send(set)),
            Self::Forgotten(reply, gone) => drop(reply.send(Ok(gone))),
            Self::Nothing => {}
        }
    }
}
