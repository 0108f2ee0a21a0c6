//! What takes out what is dead: all that a node had, and what a crash half-way has left in a room.
//!
//! Owns: how that is found. Everything here may be done twice, and by several controllers at once.
//!
//! An entry in a room is dead where its node has no record, or a later incarnation, or was synchronised in a later
//! turn than the entry was written in: whatever lives was written anew then. Such entries come of words that were
//! carried out in part, or late. They hold a seat until a room is full; only then is it worth a look.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use redis::Value;
use ringcast_proto::{NodeId, RoomId, SessionId, UserId};
use tokio::time::Instant;

use super::batch::{Batch, Speaker, unexpected};
use super::scripts::{self, SCRIPTS};
use super::{CHUNK, PresenceRedis, keys};
use crate::presence_store::{NodeAt, PresenceError};

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

/// The last look through a full room.
#[derive(Debug)]
struct Look {
    at: Instant,
    /// Where it ended: the last user that was looked at; empty: it came through.
    after: String,
}

/// When full rooms were last looked through, and how far.
#[derive(Debug, Default)]
pub(super) struct Looks(HashMap<RoomId, Look>);

impl Looks {
    /// Where a room that is due is to be looked through from; it is not due again until the time has passed.
    fn take(&mut self, room: &RoomId, now: Instant) -> Option<String> {
        if self.0.len() >= MAX_LOOKS {
            self.0.retain(|_, last| now - last.at < LOOK_AGAIN);
        }
        if let Some(last) = self.0.get_mut(room) {
            let due = now - last.at >= LOOK_AGAIN;
            return due.then(|| {
                last.at = now;
                std::mem::take(&mut last.after)
            });
        }
        (self.0.len() < MAX_LOOKS).then(|| {
            self.0.insert(room.clone(), Look { at: now, after: String::new() });
            String::new()
        })
    }

    /// The look at a room ended here; empty: it came through.
    fn leave(&mut self, room: &RoomId, after: String) {
        if let Some(last) = self.0.get_mut(room) {
            last.after = after;
        }
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

    /// Takes out what a node had up to this link, in this incarnation and in earlier ones, then its record. What it
    /// told over a later link stays.
    pub(super) async fn take_out(&self, at: &NodeAt) -> Result<(), PresenceError> {
        let node = &at.id;
        let (incarnation, last) = (keys::digits(at.incarnation), keys::turn(at.link, u32::MAX));
        let held = self.held_by(node).await?;
        let dead: Vec<&Held> = held.iter().filter(|held| held.incarnation <= at.incarnation).collect();
        for part in dead.chunks(CHUNK) {
            let mut batch = Batch::new(Speaker::Sweeper(node), 0);
            for held in part {
                // A former incarnation counted its links by itself.
                let until = if held.incarnation < at.incarnation { keys::LAST_TURN } else { last.as_str() };
                if let Some(user) = &held.user {
                    batch.end(&held.name, user, &held.rooms, until);
                }
            }
            self.run(batch, self.redis.deadline()).await?;
            let mut forget = scripts::run(&SCRIPTS.forget, &[keys::record(node), keys::sessions(node)]);
            forget.arg(&incarnation).arg(&last);
            for held in part {
                forget.arg(&held.name);
            }
            self.redis.send(vec![forget], self.redis.deadline()).await?;
        }
        let mut drop = scripts::run(&SCRIPTS.drop, &[keys::record(node)]);
        drop.arg(incarnation).arg(last);
        let answer = self.redis.send(vec![drop], self.redis.deadline()).await?.pop().unwrap_or_default();
        let gone: bool = redis::from_redis_value(answer).map_err(unexpected)?;
        if gone {
            let mut strike = redis::cmd("SREM");
            strike.arg(keys::NODES).arg(node.as_str());
            self.redis.send(vec![strike], self.redis.deadline()).await?;
        }
        Ok(())
    }

    /// Takes what is dead out of full rooms, those that were not looked through just now, in half of the time that is
    /// left: the other half is for what was asked for. What that does not suffice for comes the next time. Returns
    /// whether there was something.
    pub(super) async fn purge(&self, rooms: &[&RoomId], until: Instant) -> Result<bool, PresenceError> {
        let begun = Instant::now();
        let enough = begun + until.saturating_duration_since(begun) / 2;
        let mut found = false;
        for room in rooms {
            let now = Instant::now();
            if now >= enough {
                break;
            }
            let due = self.looks().take(room, now);
            if let Some(after) = due {
                let (some, ended_at) = self.purge_room(room, after, enough, until).await?;
                found |= some;
                self.looks().leave(room, ended_at.unwrap_or_default());
            }
        }
        Ok(found)
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks through a room's users after one of them. Returns whether something was dead, and where the look ended
    /// when it had taken long enough.
    pub(super) async fn purge_room(
        &self,
        room: &RoomId,
        mut after: String,
        enough: Instant,
        until: Instant,
    ) -> Result<(bool, Option<String>), PresenceError> {
        let mut found = false;
        loop {
            let mut command = scripts::run(&SCRIPTS.entries, &[keys::users(room), keys::order(room)]);
            command.arg(&after).arg(PAGE);
            let answer = self.redis.send(vec![command], until).await?.pop().unwrap_or_default();
            let page: Vec<Vec<String>> = redis::from_redis_value(answer).map_err(unexpected)?;
            let Some(last) = page.last().and_then(|entry| entry.first()).cloned() else {
                return Ok((found, None));
            };
            let entries: Vec<Entry> = page.iter().flat_map(|words| read_entries(words)).collect();
            found |= self.purge_entries(room, entries, until).await?;
            if page.len() < PAGE {
                return Ok((found, None));
            }
            if Instant::now() >= enough {
                return Ok((found, Some(last)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_due_once_in_a_while_and_from_where_the_last_look_ended() {
        let (mut looks, room, start) = (Looks::default(), RoomId::new("r").unwrap(), Instant::now());
        assert_eq!(looks.take(&room, start), Some(String::new()));
        looks.leave(&room, "u7".into());
        assert_eq!(looks.take(&room, start + LOOK_AGAIN / 2), None, "just now");
        assert_eq!(looks.take(&room, start + LOOK_AGAIN), Some("u7".into()));
        let later = start + LOOK_AGAIN * 2;
        assert_eq!(looks.take(&room, later), Some(String::new()), "that look did not come back");
    }

    #[test]
    fn no_more_rooms_are_looked_through_than_are_remembered() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        let room = |number: usize| RoomId::new(&format!("r{number}")).unwrap();
        let looked = (0..MAX_LOOKS + 9).filter(|number| looks.take(&room(*number), start).is_some());
        assert_eq!(looked.count(), MAX_LOOKS);
        assert!(looks.take(&room(MAX_LOOKS + 1), start + LOOK_AGAIN).is_some());
    }
}
