//! How rooms are read: one batch at a time, whoever asks.
//!
//! Owns: the task that asks the store. What comes while a batch is under way makes up the next one, without what has
//! been read meanwhile: a room that many ask for is read once, and a storm of joins costs few statements.
//! Must not: decide when to read. Talks to: the store; puts what it reads into the cache of `rooms`.

use std::sync::Arc;

use ahash::AHashMap;
use ringcast_proto::RoomId;
use tokio::sync::{mpsc, oneshot};

use super::{Cached, LoadedRoom, SWEEP, Shared};
use crate::presence::Now;
use crate::room_store::{Loaded, RoomStore, StoreError, Wanted};

/// Calls that may wait for the task; callers wait beyond that.
const QUEUE: usize = 1024;

/// Calls that make up a batch.
const MAX_BATCH: usize = 256;

/// A call, with the time at which it asked.
#[derive(Debug)]
struct Call {
    wanted: Vec<Wanted>,
    now: Now,
    reply: oneshot::Sender<Vec<LoadedRoom>>,
}

/// The way to the task, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Loading {
    calls: mpsc::Sender<Call>,
}

impl Loading {
    /// Starts the task in the present runtime.
    pub(super) fn start(store: Arc<dyn RoomStore>, shared: Arc<Shared>) -> Self {
        let (calls, queue) = mpsc::channel(QUEUE);
        tokio::spawn(Loader { store, shared }.run(queue));
        Self { calls }
    }

    /// See [`Rooms::load`](super::Rooms::load).
    pub(super) async fn load(&self, wanted: Vec<Wanted>, now: Now) -> Vec<LoadedRoom> {
        let (reply, answer) = oneshot::channel();
        // The task ends with the runtime only, and then nobody waits for the answer.
        let _ = self.calls.send(Call { wanted, now, reply }).await;
        answer.await.unwrap_or_default()
    }
}

/// What was found of a room.
type Found = Result<Option<Arc<crate::room_store::StoredRoom>>, StoreError>;

struct Loader {
    store: Arc<dyn RoomStore>,
    shared: Arc<Shared>,
}

impl Loader {
    async fn run(self, mut queue: mpsc::Receiver<Call>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
            let found = self.load(&batch).await;
            for call in batch.drain(..) {
                let answers = call.wanted.into_iter().map(|(room, make)| {
                    let result = match found.get(&room).cloned().unwrap_or(Ok(None)) {
                        // Somebody else wanted it made.
                        Err(StoreError::TooManyRooms) if !make => Ok(None),
                        result => result,
                    };
                    (room, result)
                });
                // A caller that has gone away needs no answer.
                let _ = call.reply.send(answers.collect());
            }
        }
    }

    /// Finds each room of a batch once.
    async fn load(&self, batch: &[Call]) -> AHashMap<RoomId, Found> {
        let Some(now) = batch.iter().map(|call| call.now).max_by_key(|now| now.ms) else {
            return AHashMap::new();
        };
        let mut wanted: AHashMap<&RoomId, bool> = AHashMap::new();
        for (room, make) in batch.iter().flat_map(|call| &call.wanted) {
            *wanted.entry(room).or_default() |= *make;
        }
        let mut found = AHashMap::with_capacity(wanted.len());
        let changes = {
            let cache = self.shared.lock();
            wanted.retain(|room, _| match cache.rooms.get(*room) {
                Some(cached) if self.shared.is_fresh(cached, now) => {
                    found.insert((*room).clone(), Ok(Some(cached.room.clone())));
                    false
                }
                _ => true,
            });
            cache.changes
        };
        let mut wanted: Vec<Wanted> = wanted.into_iter().map(|(room, make)| (room.clone(), make)).collect();
        wanted.sort();
        let mut failed = None;
        for part in wanted.chunks(SWEEP as usize) {
            let loaded = match &failed {
                None => self.store.load(part.to_vec(), now.unix_s).await,
                // A store that is away costs a batch its deadline once.
                Some(error) => Err(StoreError::clone(error)),
            };
            let loaded = loaded.unwrap_or_else(|error| {
                let error = failed.get_or_insert(error);
                part.iter().map(|(room, _)| (room.clone(), Err(error.clone()))).collect()
            });
            self.keep(loaded, now, changes, &mut found);
        }
        found
    }

    /// Puts into the cache what the store said, which was asked after that many changes of ours.
    fn keep(&self, loaded: Vec<Loaded>, now: Now, changes: u64, found: &mut AHashMap<RoomId, Found>) {
        let mut cache = self.shared.lock();
        for (room, result) in loaded {
            let known = cache.rooms.get(&room);
            let result = match (result, known) {
                // We have changed it since the store was asked.
                (Ok(_), Some(cached)) if cached.change > changes => Ok(Some(cached.room.clone())),
                (Ok(Some(stored)), _) => {
                    let stored = Arc::new(stored);
                    let cached = Cached { room: stored.clone(), read_at_ms: now.ms, change: 0 };
                    cache.rooms.insert(room.clone(), cached);
                    Ok(Some(stored))
                }
                (Ok(None), _) => {
                    cache.rooms.remove(&room);
                    Ok(None)
                }
                (Err(_), Some(cached)) => Ok(Some(cached.room.clone())),
                (Err(error), None) => Err(error),
            };
            found.insert(room, result);
        }
    }
}
