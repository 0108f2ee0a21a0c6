//! What takes out what is dead: all that a node had, and what a crash half-way has left in a room.
//!
//! Owns: how that is found. Everything here may be done twice, and by several controllers at once.
//!
//! An entry in a room is dead where its node has no record, or a later incarnation, or was synchronised in a later
//! turn than the entry was written in: whatever lives was written anew then. Such entries come of words that were
//! carried out in part, or late. They hold a seat until a room is full; only then is it worth a look.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use redis::Value;
use ringcast_proto::{NodeId, RoomId, SessionId, UserId};
use tokio::time::Instant;

use super::batch::{Batch, Speaker, unexpected};
use super::scripts::{self, SCRIPTS};
use super::{CHUNK, PresenceRedis, keys};
use crate::presence_store::PresenceError;

/// A room is looked through at most once in this time.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Full rooms whose last look is remembered; in this time no more are looked through.
const MAX_LOOKS: usize = 1024;

/// Users that are looked at in one go.
const PAGE: usize = 500;

/// What a node holds, as it names it itself.
#[derive(Debug)]
pub(super) struct Held {
    /// Its session's name.
    pub(super) name: String,
    pub(super) incarnation: u64,
    pub(super) session: SessionId,
    /// `None`: it cannot be read.
    pub(super) user: Option<UserId>,
    pub(super) rooms: Vec<RoomId>,
}

/// An entry of a room.
struct Entry {
    node: NodeId,
    incarnation: u64,
    user: UserId,
    session: String,
    turn: String,
}

/// When full rooms were last looked through.
#[derive(Debug, Default)]
pub(super) struct Looks(HashMap<RoomId, Instant>);

impl Looks {
    /// Whether a room is due; if so it is not until the time has passed.
    fn take(&mut self, room: &RoomId) -> bool {
        let now = Instant::now();
        if self.0.len() >= MAX_LOOKS {
            self.0.retain(|_, last| now - *last < LOOK_AGAIN);
        }
        let due = self.0.get(room).is_none_or(|last| now - *last >= LOOK_AGAIN);
        let due = due && (self.0.len() < MAX_LOOKS || self.0.contains_key(room));
        if due {
            self.0.insert(room.clone(), now);
        }
        due
    }
}

impl PresenceRedis {
    /// All that a node holds.
    pub(super) async fn held_by(&self, node: &NodeId) -> Result<Vec<Held>, PresenceError> {
        let mut all: BTreeMap<String, Held> = BTreeMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = scripts::run(&SCRIPTS.held, &[keys::sessions(node)]);
            command.arg(&cursor).arg(CHUNK);
            let answer =
                self.redis.send(vec![command], self.redis.deadline()).await?.pop().unwrap_or_default();
            let Value::Array(parts) = answer else {
                return Err(PresenceError("the script that reads a node gave no list".into()));
            };
            let mut parts = parts.into_iter();
            cursor = redis::from_redis_value(parts.next().unwrap_or_default()).map_err(unexpected)?;
            for part in parts {
                let words: Vec<String> = redis::from_redis_value(part).map_err(unexpected)?;
                // A scan may tell a session twice.
                if let Some(held) = read_held(words) {
                    all.insert(held.name.clone(), held);
                }
            }
            if cursor == "0" {
                return Ok(all.into_values().collect());
            }
        }
    }

    /// Takes out what a node had in this incarnation and in earlier ones, then its record.
    pub(super) async fn take_out(&self, node: &NodeId, incarnation: u64) -> Result<(), PresenceError> {
        let held = self.held_by(node).await?;
        let dead: Vec<&Held> = held.iter().filter(|held| held.incarnation <= incarnation).collect();
        for part in dead.chunks(CHUNK) {
            let mut batch = Batch::new(Speaker::Sweeper(node), 0);
            for held in part {
                if let Some(user) = &held.user {
                    batch.end(&held.name, user, &held.rooms, keys::LAST_TURN);
                }
            }
            self.run(batch, self.redis.deadline()).await?;
            let mut forget = redis::cmd("HDEL");
            forget.arg(keys::sessions(node));
            for held in part {
                forget.arg(&held.name);
            }
            self.redis.send(vec![forget], self.redis.deadline()).await?;
        }
        let mut drop = scripts::run(&SCRIPTS.drop, &[keys::record(node)]);
        drop.arg(keys::digits(incarnation));
        let answer = self.redis.send(vec![drop], self.redis.deadline()).await?.pop().unwrap_or_default();
        let gone: bool = redis::from_redis_value(answer).map_err(unexpected)?;
        if gone {
            let mut strike = redis::cmd("SREM");
            strike.arg(keys::NODES).arg(node.as_str());
            self.redis.send(vec![strike], self.redis.deadline()).await?;
        }
        Ok(())
    }

    /// Takes what is dead out of full rooms, those that were not looked through just now. Returns whether there was
    /// something.
    pub(super) async fn purge(&self, rooms: &[&RoomId], until: Instant) -> Result<bool, PresenceError> {
        let mut found = false;
        for room in rooms {
            let due = self.looks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take(room);
            if due {
                found |= self.purge_room(room, until).await?;
            }
        }
        Ok(found)
    }

    async fn purge_room(&self, room: &RoomId, until: Instant) -> Result<bool, PresenceError> {
        let mut after = String::new();
        let mut found = false;
        loop {
            let mut command = scripts::run(&SCRIPTS.entries, &[keys::users(room), keys::order(room)]);
            command.arg(&after).arg(PAGE);
            let answer = self.redis.send(vec![command], until).await?.pop().unwrap_or_default();
            let page: Vec<Vec<String>> = redis::from_redis_value(answer).map_err(unexpected)?;
            let Some(last) = page.last().and_then(|entry| entry.first()).cloned() else { return Ok(found) };
            let entries: Vec<Entry> = page.iter().flat_map(|words| read_entries(words)).collect();
            found |= self.purge_entries(room, entries, until).await?;
            if page.len() < PAGE {
                return Ok(found);
            }
            after = last;
        }
    }

    async fn purge_entries(
        &self,
        room: &RoomId,
        entries: Vec<Entry>,
        until: Instant,
    ) -> Result<bool, PresenceError> {
        let mut of_nodes: BTreeMap<NodeId, Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            of_nodes.entry(entry.node.clone()).or_default().push(entry);
        }
        let asks = of_nodes.keys().map(|node| {
            let mut ask = redis::cmd("HMGET");
            ask.arg(keys::record(node)).arg("incarnation").arg("synced");
            ask
        });
        let answers = self.redis.send(asks.collect(), until).await?;
        let mut found = false;
        for ((node, entries), answer) in of_nodes.into_iter().zip(answers) {
            let (incarnation, synced): (Option<String>, Option<String>) =
                redis::from_redis_value(answer).map_err(unexpected)?;
            let incarnation = incarnation.as_deref().and_then(keys::number);
            let synced = synced.unwrap_or_default();
            let mut batch = Batch::new(Speaker::Sweeper(&node), 0);
            for entry in entries {
                let written = keys::digits(entry.incarnation) + &entry.turn;
                let former = incarnation.is_none_or(|known| entry.incarnation < known);
                if former || written < synced {
                    // What was written anew meanwhile stays, here and at the user.
                    batch.end(&entry.session, &entry.user, std::slice::from_ref(room), &entry.turn);
                }
            }
            if batch.len() > 0 {
                found = true;
                self.run(batch, until).await?;
            }
        }
        Ok(found)
    }
}

fn read_held(words: Vec<String>) -> Option<Held> {
    let mut words = words.into_iter();
    let name = words.next()?;
    let (incarnation, session) = keys::session_of(&name)?;
    let user = words.next().and_then(|user| UserId::new(&user).ok());
    Some(Held {
        name,
        incarnation,
        session,
        user,
        rooms: words.filter_map(|room| RoomId::new(&room).ok()).collect(),
    })
}

fn read_entries(words: &[String]) -> Vec<Entry> {
    let Some((user, parts)) = words.split_first() else { return Vec::new() };
    let entry = |part: &[String]| {
        let [node, session, turn] = part else { return None };
        let (incarnation, _) = keys::session_of(session)?;
        let (node, user) = (NodeId::new(node).ok()?, UserId::new(user).ok()?);
        Some(Entry { node, incarnation, user, session: session.clone(), turn: turn.clone() })
    };
    parts.chunks(3).filter_map(entry).collect()
}
