//! The embedded store: rooms with their settings, and the nodes that a restarted controller waits for, in one
//! SQLite file.
//!
//! Owns: the file, its schema (`migrations/sqlite`), the one task that writes. What waits for that task is written
//! in one transaction, so that a storm of new rooms costs few commits.
//! Must not: cache (`rooms` does), decide who may join. Talks to: `rooms_sqlite`, which has the rooms' statements.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use prometheus::IntCounter;
use ringcast_proto::{NodeId, RoomId};
use settings::SettingError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::log_gate::LogGate;
use crate::room_store::{Loaded, RoomStore};
pub(crate) use crate::room_store::{RoomPatch, StoreError, StoredRoom, Wanted};
use crate::rooms_sqlite;

/// The file in the data folder.
const FILE_NAME: &str = "controller.sqlite";

/// How long a statement waits for another process that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that may wait for the writer; callers wait beyond that.
const QUEUE: usize = 1024;

/// Requests that share a transaction.
const MAX_BATCH: usize = 256;

/// How long notes wait that could not be written.
const NOTE_AGAIN: Duration = Duration::from_secs(1);

/// A node that was registered when it was last heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownNode {
    pub(crate) id: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) address: String,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Request {
    Load {
        wanted: Vec<Wanted>,
        now: i64,
        reply: Reply<Vec<Loaded>>,
    },
    Set {
        room: RoomId,
        patch: RoomPatch,
        now: i64,
        reply: Reply<StoredRoom>,
    },
    Touch {
        rooms: Vec<RoomId>,
        now: i64,
        reply: Reply<()>,
    },
    Forget {
        rooms: Vec<RoomId>,
        before: i64,
        reply: Reply<u64>,
    },
    /// A node is there, or is gone.
    Note(NodeId, Option<KnownNode>),
}

/// What is to be noted of nodes.
#[derive(Default)]
struct Notes {
    unwritten: AHashMap<NodeId, Option<KnownNode>>,
    /// When they could not be written.
    failed: Option<Instant>,
}

/// What a request came to, held back until the transaction is committed.
enum Answer {
    Loaded(Reply<Vec<Loaded>>, Vec<Loaded>),
    Set(Reply<StoredRoom>, Result<StoredRoom, StoreError>),
    Touched(Reply<()>),
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

    /// Remembers a node for the time after a restart.
    pub(crate) async fn put_node(&self, node: KnownNode) {
        self.tell(Request::Note(node.id.clone(), Some(node))).await;
    }

    /// Forgets a node.
    pub(crate) async fn drop_node(&self, node: NodeId) {
        self.tell(Request::Note(node, None)).await;
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

    /// Waits until everything that was asked for is written, then closes the file.
    pub(crate) async fn close(&self) {
        if !self.pool.is_closed() {
            // An empty request is answered after all that came before it.
            let _ = self.load(Vec::new(), 0).await;
            self.pool.close().await;
        }
    }

    /// The connections, for tests that break the store.
    #[cfg(test)]
    pub(crate) fn pool_for_tests(&self) -> SqlitePool {
        self.pool.clone()
    }

    /// Reads rooms where nothing can be written, for this reason: what is there can be joined all the same.
    async fn read(&self, wanted: Vec<Wanted>, why: &Arc<str>) -> Result<Vec<Loaded>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        let mut loaded = Vec::with_capacity(wanted.len());
        for (room, make) in wanted {
            let found = match rooms_sqlite::select(&mut connection, &room).await? {
                None if make => Err(StoreError::Failed(why.clone())),
                found => Ok(found),
            };
            loaded.push((room, found));
        }
        Ok(loaded)
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

#[async_trait::async_trait]
impl RoomStore for Store {
    fn room_count(&self) -> u64 {
        self.rooms.load(Ordering::Relaxed)
    }

    async fn load(&self, wanted: Vec<Wanted>, now: i64) -> Result<Vec<Loaded>, StoreError> {
        let asked = wanted.clone();
        match self.ask(|reply| Request::Load { wanted: asked, now, reply }).await {
            Err(StoreError::Failed(why)) => self.read(wanted, &why).await,
            loaded => loaded,
        }
    }

    async fn set(&self, room: RoomId, patch: RoomPatch, now: i64) -> Result<StoredRoom, StoreError> {
        self.ask(|reply| Request::Set { room, patch, now, reply }).await
    }

    async fn touch(&self, rooms: Vec<RoomId>, now: i64) -> Result<(), StoreError> {
        self.ask(|reply| Request::Touch { rooms, now, reply }).await
    }

    async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(rooms_sqlite::page(&self.pool, after, limit).await?)
    }

    async fn unused(&self, before: i64, limit: u32) -> Result<Vec<RoomId>, StoreError> {
        Ok(rooms_sqlite::unused(&self.pool, before, limit).await?)
    }

    async fn forget(&self, rooms: Vec<RoomId>, before: i64) -> Result<u64, StoreError> {
        self.ask(|reply| Request::Forget { rooms, before, reply }).await
    }

    async fn close(&self) {
        Self::close(self).await;
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
        let mut notes = Notes::default();
        loop {
            let wait = if notes.unwritten.is_empty() { Duration::MAX } else { NOTE_AGAIN };
            if matches!(timeout(wait, queue.recv_many(&mut batch, MAX_BATCH)).await, Ok(0)) {
                return;
            }
            self.keep_notes(&mut notes, &mut batch).await;
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

    /// Writes a batch's notes, and those that could not be written before; in a transaction of their own, for nobody
    /// who asks for a room is to fail by them.
    async fn keep_notes(&self, notes: &mut Notes, batch: &mut Vec<Request>) {
        for note in batch.extract_if(.., |request| matches!(request, Request::Note(..))) {
            if let Request::Note(node, note) = note {
                notes.unwritten.insert(node, note);
            }
        }
        if notes.unwritten.is_empty() || notes.failed.is_some_and(|failed| failed.elapsed() < NOTE_AGAIN) {
            return;
        }
        let written = self.write_notes(&notes.unwritten).await;
        notes.failed = written.is_err().then(Instant::now);
        match written {
            Ok(()) => notes.unwritten.clear(),
            Err(error) => self.fail(&error),
        }
    }

    async fn write_notes(&self, notes: &AHashMap<NodeId, Option<KnownNode>>) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for (node, note) in notes {
            let write = match note {
                Some(known) => {
                    let put = sqlx::query(
                        "INSERT OR REPLACE INTO nodes (id, incarnation, address) VALUES (?, ?, ?)",
                    );
                    put.bind(node.as_str()).bind(known.incarnation.cast_signed()).bind(&known.address)
                }
                None => sqlx::query("DELETE FROM nodes WHERE id = ?").bind(node.as_str()),
            };
            write.execute(&mut *tx).await?;
        }
        tx.commit().await
    }

    async fn write(&self, batch: &mut Vec<Request>) -> Result<Vec<Answer>, sqlx::Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
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
                    Ok(Some(_)) => Ok(rooms_sqlite::set(tx, &room, patch, now).await?),
                    Ok(None) | Err(_) => Err(StoreError::TooManyRooms),
                };
                Answer::Set(reply, set)
            }
            Request::Touch { rooms, now, reply } => {
                for room in rooms {
                    rooms_sqlite::touch(tx, &room, now).await?;
                }
                Answer::Touched(reply)
            }
            Request::Forget { rooms, before, reply } => {
                let mut gone = 0;
                for room in rooms {
                    gone += rooms_sqlite::forget(tx, &room, before).await?;
                }
                *count = count.saturating_sub(gone);
                Answer::Forgotten(reply, gone)
            }
            // They were taken out before.
            Request::Note(..) => Answer::Nothing,
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
        if make && *count < self.max_rooms && rooms_sqlite::make(tx, room, now).await? {
            *count += 1;
            return Ok(Ok(Some(StoredRoom::new(now))));
        }
        let Some(found) = rooms_sqlite::select(tx, room).await? else {
            return Ok(if make { Err(StoreError::TooManyRooms) } else { Ok(None) });
        };
        if make && found.is_long_unused(now) {
            rooms_sqlite::touch(tx, room, now).await?;
        }
        Ok(Ok(Some(found)))
    }
}

impl Answer {
    /// A caller that has gone away needs no answer.
    fn send(self) {
        match self {
            Self::Loaded(reply, loaded) => drop(reply.send(Ok(loaded))),
            Self::Set(reply, set) => drop(reply.send(set)),
            Self::Touched(reply) => drop(reply.send(Ok(()))),
            Self::Forgotten(reply, gone) => drop(reply.send(Ok(gone))),
            Self::Nothing => {}
        }
    }
}
