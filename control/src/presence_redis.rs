//! Presence in Redis: one server, a master that sentinels name, or a Redis Cluster.
//!
//! Owns: which words of a node are carried out, and what is done where they are carried out in part.
//! Must not: decide anything that a node's words do not say; hold presence itself.
//! Talks to: Redis, through `connection`, by the scripts beside it.
//!
//! | key | what |
//! | --- | --- |
//! | `ringcast:{r:<room>}:users`, `:order` | a room's users, each with his sessions; their ids in the order of bytes |
//! | `ringcast:{u:<n>}` | one of 256 buckets of users, each with his sessions and their rooms |
//! | `ringcast:{n:<node>}:link`, `:sessions` | a node's record; all of its sessions with users and rooms |
//! | `ringcast:nodes`, `ringcast:epoch` | the ids of nodes; a text by chance, by which a lost store is noticed |
//!
//! Each script is all or nothing, a call of several is not: it may be carried out in part, or late. So a session is
//! named at its node before a room or a user holds it. And all that is written carries its turn: the node's link, and
//! how often this controller had lost words. What a stopped server or an old packet says late is of an earlier turn
//! than what was told since: on one server each script asks the node's record first and does nothing then.
//!
//! A Redis Cluster cannot ask the record in each script, for it is in another slot. A node is asked before the rest is
//! sent; what is late all the same leaves later turns alone, and an entry of an earlier one that it may leave in a
//! room holds a seat until the room is full (`sweep`).
//!
//! A part of a cluster may lose its data alone, and a failover of any kind may lose the last words that a master had
//! not passed on. The first is noticed where it takes a node's record or the epoch, the second by the connection that
//! broke; then `beat` says that the store is another one.

mod apply;
mod batch;
mod connection;
mod dial;
mod keys;
mod reads;
mod records;
mod scripts;
mod sweep;
mod sync;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::Value;
use ringcast_proto::{NodeId, RoomId, UserId};
use settings::RedisStore;
use tokio::time::Instant;

use crate::presence::Arrival;
use crate::presence_store::{
    Change, MemberRecord, NodeAt, NodeRecord, PresenceError, PresenceStore, SessionRecord, Totals, Verdict,
};
use batch::{Batch, Outcome, Speaker, Standing, unexpected};
use connection::Redis;
use dial::Dialer;
use records::Written;
use sweep::Looks;

/// How long a call may take; `sync` and `remove`: each of their parts.
const DEADLINE: Duration = Duration::from_millis(500);

/// Changes of a part of `sync` and `remove`.
const CHUNK: usize = 500;

/// The store.
pub(crate) struct PresenceRedis {
    /// What nodes say goes here.
    redis: Redis,
    /// What is asked goes here.
    reads: Redis,
    /// Of full rooms.
    looks: Mutex<Looks>,
    seen: Mutex<Seen>,
}

/// The store as it was at the last beat.
#[derive(Debug)]
struct Seen {
    epoch: Option<String>,
    connection: u64,
}

impl fmt::Debug for PresenceRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresenceRedis").finish_non_exhaustive()
    }
}

impl PresenceRedis {
    /// Begins to connect, in the background. Fails for settings that cannot work, not for a server that is away.
    pub(crate) async fn connect(settings: &RedisStore) -> Result<Self, PresenceError> {
        let redis = Redis::new(Dialer::new(settings, DEADLINE)?, DEADLINE);
        let seen = Mutex::new(Seen { epoch: None, connection: 1 });
        Ok(Self { reads: redis.for_others(), redis, looks: Mutex::default(), seen })
    }

    fn turn(&self, link: u64) -> String {
        keys::turn(link, self.redis.lost())
    }

    /// A node that speaks over its link; `make`: it is made known where it is not.
    fn node<'a>(&self, at: &'a NodeAt, turn: &'a str, make: bool) -> Speaker<'a> {
        Speaker::Node { at, turn, make, one_server: self.redis.is_one_server() }
    }

    async fn run(&self, batch: Batch<'_>, until: Instant) -> Result<Outcome, PresenceError> {
        let (stages, reading) = batch.into_stages();
        let go_on = |intents: &[Value]| {
            intents.is_empty()
                || batch::read_words(&intents[0]).is_ok_and(|(standing, _)| standing == Standing::Held)
        };
        let answers = self.redis.send_in_stages(stages.into(), until, go_on).await?;
        reading.read(answers.stages)
    }

    /// Notes what a beat told of the store; whether it is the one that it was.
    fn is_same(&self, epoch: Option<String>, connection: u64) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let same = seen.connection == connection && (seen.epoch.is_none() || seen.epoch == epoch);
        *seen = Seen { epoch, connection };
        same
    }
}

/// Words that were not carried out, or on nobody's account.
fn overtaken(node: &NodeId, standing: Standing) -> PresenceError {
    PresenceError(match standing {
        Standing::Unknown => {
            format!("it does not know node {node}: it was emptied, or another controller removed it")
        }
        _ => format!("words of node {node} were overtaken by later ones"),
    })
}

#[async_trait::async_trait]
impl PresenceStore for PresenceRedis {
    async fn begin(&self, record: &NodeRecord) -> Result<Verdict, PresenceError> {
        let [name, write] = records::write(record, &self.turn(record.link));
        let stages = vec![vec![name], vec![write]];
        let answers = self.redis.send_in_stages(stages, self.redis.deadline(), |_| true).await?;
        let written = answers.stages.into_iter().flatten().nth(1).unwrap_or_default();
        match records::read_written(written)? {
            Written::Done | Written::Made => Ok(Verdict::Done),
            Written::Fenced => Ok(Verdict::Fenced),
            Written::Late => Err(overtaken(&record.card.id, Standing::Late)),
        }
    }

    async fn apply(
        &self,
        at: &NodeAt,
        changes: &[Change],
        now_unix_s: i64,
    ) -> Result<Vec<Verdict>, PresenceError> {
        self.carry_out(at, changes, now_unix_s).await
    }

    async fn sync(
        &self,
        at: &NodeAt,
        sessions: Vec<(Arrival, Vec<RoomId>)>,
        now_unix_s: i64,
    ) -> Result<Verdict, PresenceError> {
        self.make_equal(at, &sessions, now_unix_s).await
    }

    async fn beat(&self, records: &[NodeRecord]) -> Result<(Vec<Verdict>, bool), PresenceError> {
        let mut mark = redis::cmd("SET");
        mark.arg(keys::EPOCH).arg(format!("{:032x}", fastrand::u128(..))).arg("NX");
        let mut epoch = redis::cmd("GET");
        epoch.arg(keys::EPOCH);
        let mut stages = [vec![mark], vec![epoch]];
        for record in records {
            let [name, write] = records::write(record, &self.turn(record.link));
            stages[0].push(name);
            stages[1].push(write);
        }
        let answers = self.redis.send_in_stages(stages.into(), self.redis.deadline(), |_| true).await?;
        let mut told = answers.stages.into_iter().nth(1).unwrap_or_default().into_iter();
        let epoch = redis::from_redis_value(told.next().unwrap_or_default()).map_err(unexpected)?;
        let mut same = self.is_same(epoch, answers.connection);
        let mut verdicts = Vec::with_capacity(records.len());
        for answer in told {
            let written = records::read_written(answer)?;
            same &= written != Written::Made;
            // A beat that comes late has nothing to say: the next one follows.
            verdicts.push(if written == Written::Fenced { Verdict::Fenced } else { Verdict::Done });
        }
        Ok((verdicts, same))
    }

    async fn remove(&self, at: &NodeAt) -> Result<(), PresenceError> {
        self.take_out(at).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, PresenceError> {
        // Controllers look at nodes all the time, whatever callers read.
        let until = self.redis.deadline();
        let ids = reads::node_ids(&self.redis, until).await?;
        let ask = |id: &NodeId| {
            let mut command = redis::cmd("HGETALL");
            command.arg(keys::record(id));
            command
        };
        let answers = self.redis.send(ids.iter().map(ask).collect(), until).await?;
        let records = ids.iter().zip(answers).map(|(id, answer)| records::read(id, answer));
        Ok(records.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    async fn have_seats(&self, asked: &[(RoomId, UserId, u32)]) -> Result<Vec<bool>, PresenceError> {
        let until = self.redis.deadline();
        let mut have = vec![true; asked.len()];
        let mut open: Vec<usize> = (0..asked.len()).filter(|place| asked[*place].2 > 0).collect();
        for first in [true, false] {
            let questions: Vec<_> = open.iter().map(|place| &asked[*place]).collect();
            for (place, seat) in open.iter().zip(self.ask_seats(&questions, until).await?) {
                have[*place] = seat;
            }
            open.retain(|place| !have[*place]);
            let full: Vec<&RoomId> = open.iter().map(|place| &asked[*place].0).collect();
            if open.is_empty() || !first || !self.purge(&full, until).await? {
                break;
            }
        }
        Ok(have)
    }

    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<(Vec<MemberRecord>, u32), PresenceError> {
        self.read_members(room, after, size).await
    }

    async fn sessions_of(&self, user: &UserId) -> Result<Vec<SessionRecord>, PresenceError> {
        self.read_sessions(user).await
    }

    async fn counts(&self, rooms: &[RoomId]) -> Result<Vec<u32>, PresenceError> {
        self.read_counts(rooms).await
    }

    async fn totals(&self) -> Result<Totals, PresenceError> {
        self.read_totals().await
    }
}
