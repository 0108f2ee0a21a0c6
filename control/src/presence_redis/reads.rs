//! What is read of rooms and users.
//!
//! Owns: how the answers become records. What another program has put there, and cannot be read, counts as not there.

use redis::Value;
use ringcast_proto::{NodeId, RoomId, UserId};

use super::batch::unexpected;
use super::connection::Redis;
use super::scripts::{self, SCRIPTS};
use super::{PresenceRedis, keys};
use crate::presence_store::{MemberRecord, PresenceError, SessionRecord, Totals};

impl PresenceRedis {
    pub(super) async fn read_members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<(Vec<MemberRecord>, u32), PresenceError> {
        let mut command = scripts::run(&SCRIPTS.members, &[keys::users(room), keys::order(room)]);
        command.arg(after.map_or("", UserId::as_str)).arg(size);
        let answer = self.reads.send(vec![command], self.reads.deadline()).await?.pop().unwrap_or_default();
        let Value::Array(parts) = answer else {
            return Err(PresenceError("the script that reads a room gave no list".into()));
        };
        let mut parts = parts.into_iter();
        let all = redis::from_redis_value(parts.next().unwrap_or_default()).map_err(unexpected)?;
        let mut members = Vec::with_capacity(parts.len());
        for part in parts {
            let words: Vec<String> = redis::from_redis_value(part).map_err(unexpected)?;
            members.extend(read_member(&words));
        }
        Ok((members, all))
    }

    pub(super) async fn read_sessions(&self, user: &UserId) -> Result<Vec<SessionRecord>, PresenceError> {
        let mut command = scripts::run(&SCRIPTS.sessions, &[keys::bucket(keys::bucket_of(user))]);
        command.arg(user.as_str());
        let answer = self.reads.send(vec![command], self.reads.deadline()).await?.pop().unwrap_or_default();
        let sessions: Vec<Vec<String>> = redis::from_redis_value(answer).map_err(unexpected)?;
        Ok(sessions.iter().rev().filter_map(|words| read_session(words)).collect())
    }

    /// Whether each of these users has a seat, or would get one; each room has a limit.
    pub(super) async fn ask_seats(
        &self,
        asked: &[&(RoomId, UserId, u32)],
        until: tokio::time::Instant,
    ) -> Result<Vec<bool>, PresenceError> {
        let mut commands = Vec::with_capacity(asked.len() * 2);
        for (room, user, _) in asked {
            commands.push(length(&keys::users(room)));
            let mut inside = redis::cmd("HEXISTS");
            inside.arg(keys::users(room)).arg(user.as_str());
            commands.push(inside);
        }
        let answers: Vec<u64> = numbers(self.reads.send(commands, until).await?)?;
        let seats = asked.iter().zip(answers.chunks_exact(2));
        Ok(seats.map(|((_, _, most), answer)| answer[1] == 1 || answer[0] < u64::from(*most)).collect())
    }

    pub(super) async fn read_counts(&self, rooms: &[RoomId]) -> Result<Vec<u32>, PresenceError> {
        let commands = rooms.iter().map(|room| length(&keys::users(room))).collect();
        let counts: Vec<u64> = numbers(self.reads.send(commands, self.reads.deadline()).await?)?;
        Ok(counts.into_iter().map(|count| u32::try_from(count).unwrap_or(u32::MAX)).collect())
    }

    pub(super) async fn read_totals(&self) -> Result<Totals, PresenceError> {
        let until = self.reads.deadline();
        let buckets = (0..keys::BUCKETS).map(|number| length(&keys::bucket(number))).collect();
        let users: Vec<u64> = numbers(self.reads.send(buckets, until).await?)?;
        let nodes = node_ids(&self.reads, until).await?;
        let of_nodes = nodes.iter().map(|node| length(&keys::sessions(node))).collect();
        let sessions: Vec<u64> = numbers(self.reads.send(of_nodes, until).await?)?;
        Ok(Totals { users: users.iter().sum(), sessions: sessions.iter().sum() })
    }
}

/// All nodes that have, or had, a record, in the order of their ids.
pub(super) async fn node_ids(
    redis: &Redis,
    until: tokio::time::Instant,
) -> Result<Vec<NodeId>, PresenceError> {
    let mut command = redis::cmd("SMEMBERS");
    command.arg(keys::NODES);
    let answer = redis.send(vec![command], until).await?.pop().unwrap_or_default();
    let ids: Vec<String> = redis::from_redis_value(answer).map_err(unexpected)?;
    let mut ids: Vec<NodeId> = ids.iter().filter_map(|id| NodeId::new(id).ok()).collect();
    ids.sort();
    Ok(ids)
}

fn length(hash: &str) -> redis::Cmd {
    let mut command = redis::cmd("HLEN");
    command.arg(hash);
    command
}

fn numbers(answers: Vec<Value>) -> Result<Vec<u64>, PresenceError> {
    answers.into_iter().map(|answer| redis::from_redis_value(answer).map_err(unexpected)).collect()
}

fn read_member(words: &[String]) -> Option<MemberRecord> {
    let [user, joined_at, sessions, node, user_name, metadata] = words else { return None };
    Some(MemberRecord {
        user: UserId::new(user).ok()?,
        user_name: user_name.clone(),
        metadata: serde_json::from_str(metadata).unwrap_or_default(),
        node: NodeId::new(node).ok()?,
        joined_at: joined_at.parse().ok()?,
        sessions: sessions.parse().ok()?,
    })
}

fn read_session(words: &[String]) -> Option<SessionRecord> {
    let [node, session, _, connected_at, rooms @ ..] = words else { return None };
    let (incarnation, session) = keys::session_of(session)?;
    Some(SessionRecord {
        node: NodeId::new(node).ok()?,
        incarnation,
        session,
        rooms: rooms.iter().filter_map(|room| RoomId::new(room).ok()).collect(),
        connected_at: connected_at.parse().ok()?,
    })
}
