//! The statements on rooms in MySQL: what is common to MySQL 8 and MariaDB 10.
//!
//! Owns: the table `rooms` of `migrations/mysql`. Each statement can be carried out twice without harm, because one
//! whose answer was lost is tried again. Must not: try again by itself, or begin a transaction.

use std::future::Future;

use ahash::AHashMap;
use ringcast_proto::RoomId;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, FromRow, MySql, Row as _};

use crate::room_store::{RoomPatch, StoredRoom};

/// Lists are filled up to one of these lengths with their last entry, so that few statements are prepared.
const LENGTHS: [usize; 4] = [1, 8, 64, MAX_LIST];

/// The longest list.
pub(super) const MAX_LIST: usize = 512;

/// One statement with its values.
pub(super) trait Statement: Sync {
    /// What it comes to.
    type Answer: Send;

    /// Carries it out.
    fn run(
        &self,
        connection: &mut MySqlConnection,
    ) -> impl Future<Output = Result<Self::Answer, sqlx::Error>> + Send;
}

/// Reads rooms, those that are there.
pub(super) struct Select<'a>(pub(super) &'a [&'a RoomId]);

impl Statement for Select<'_> {
    type Answer = AHashMap<RoomId, StoredRoom>;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<Self::Answer, sqlx::Error> {
        let marks = marks("?", self.0.len());
        let sql = format!(
            "SELECT id, name, description, max_users, created_at, updated_at, last_used FROM rooms \
             WHERE id IN ({marks})"
        );
        let rows = bind_all(sqlx::query(AssertSqlSafe(sql)), self.0).fetch_all(connection).await?;
        let mut rooms = AHashMap::with_capacity(rows.len());
        for row in rows {
            if let Some(id) = id_of(&row)? {
                rooms.insert(id, StoredRoom::from_row(&row)?);
            }
        }
        Ok(rooms)
    }
}

/// Makes those of the rooms that are not there, and says how many these were.
pub(super) struct Make<'a>(pub(super) &'a [&'a RoomId], pub(super) i64);

impl Statement for Make<'_> {
    type Answer = u64;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<u64, sqlx::Error> {
        let Self(rooms, now) = self;
        let marks = marks("(?, ?, ?, ?)", rooms.len());
        let sql = format!("INSERT IGNORE INTO rooms (id, created_at, updated_at, last_used) VALUES {marks}");
        let mut insert = sqlx::query(AssertSqlSafe(sql));
        for room in filled(rooms) {
            insert = insert.bind(room.as_str().as_bytes()).bind(now).bind(now).bind(now);
        }
        Ok(insert.execute(connection).await?.rows_affected())
    }
}

/// Changes a room, and says whether it is there.
pub(super) struct Change<'a>(pub(super) &'a RoomId, pub(super) &'a RoomPatch, pub(super) i64);

impl Statement for Change<'_> {
    type Answer = bool;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
        let Self(room, patch, now) = self;
        let update = sqlx::query(
            "UPDATE rooms SET name = COALESCE(?, name), description = COALESCE(?, description), \
             max_users = COALESCE(?, max_users), updated_at = ?, last_used = GREATEST(last_used, ?) \
             WHERE id = ?",
        );
        let update = update.bind(&patch.name).bind(&patch.description).bind(patch.max_users);
        let update = update.bind(now).bind(now).bind(room.as_str().as_bytes());
        // Rows that were found, changed by it or not: the driver asks for that.
        Ok(update.execute(connection).await?.rows_affected() > 0)
    }
}

/// Notes that rooms have been in use, and says how many of them are there.
pub(super) struct Touch<'a>(pub(super) &'a [&'a RoomId], pub(super) i64);

impl Statement for Touch<'_> {
    type Answer = u64;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<u64, sqlx::Error> {
        let Self(rooms, now) = self;
        let marks = marks("?", rooms.len());
        let sql = format!("UPDATE rooms SET last_used = GREATEST(last_used, ?) WHERE id IN ({marks})");
        let update = bind_all(sqlx::query(AssertSqlSafe(sql)).bind(now), rooms);
        Ok(update.execute(connection).await?.rows_affected())
    }
}

/// Forgets those of the rooms that have not been used since, and says how many.
pub(super) struct Forget<'a>(pub(super) &'a [&'a RoomId], pub(super) i64);

impl Statement for Forget<'_> {
    type Answer = u64;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<u64, sqlx::Error> {
        let Self(rooms, before) = self;
        let marks = marks("?", rooms.len());
        let sql = format!("DELETE FROM rooms WHERE last_used < ? AND id IN ({marks})");
        let delete = bind_all(sqlx::query(AssertSqlSafe(sql)).bind(before), rooms);
        Ok(delete.execute(connection).await?.rows_affected())
    }
}

/// Rooms after one, in the order of their ids, with their beginnings.
pub(super) struct Page<'a>(pub(super) &'a str, pub(super) u32);

impl Statement for Page<'_> {
    type Answer = Vec<(String, i64)>;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<Self::Answer, sqlx::Error> {
        let page = sqlx::query("SELECT id, created_at FROM rooms WHERE id > ? ORDER BY id LIMIT ?");
        let rows = page.bind(self.0.as_bytes()).bind(self.1).fetch_all(connection).await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(id) = id_of(&row)? {
                rooms.push((id.to_string(), row.try_get("created_at")?));
            }
        }
        Ok(rooms)
    }
}

/// Rooms that were not used since, the longest unused first.
pub(super) struct Unused(pub(super) i64, pub(super) u32);

impl Statement for Unused {
    type Answer = Vec<RoomId>;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<Vec<RoomId>, sqlx::Error> {
        let unused = sqlx::query("SELECT id FROM rooms WHERE last_used < ? ORDER BY last_used LIMIT ?");
        let rows = unused.bind(self.0).bind(self.1).fetch_all(connection).await?;
        rows.iter().filter_map(|row| id_of(row).transpose()).collect()
    }
}

/// How many rooms there are.
pub(super) struct Count;

impl Statement for Count {
    type Answer = u64;

    async fn run(&self, connection: &mut MySqlConnection) -> Result<u64, sqlx::Error> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM rooms").fetch_one(connection).await?;
        Ok(count.unsigned_abs())
    }
}

/// A room's id; `None`: somebody else has put there what is none.
fn id_of(row: &MySqlRow) -> Result<Option<RoomId>, sqlx::Error> {
    let id: &[u8] = row.try_get("id")?;
    Ok(std::str::from_utf8(id).ok().and_then(|id| RoomId::new(id).ok()))
}

/// Placeholders for a list.
fn marks(one: &str, entries: usize) -> String {
    vec![one; filled_to(entries)].join(", ")
}

fn filled_to(entries: usize) -> usize {
    LENGTHS.into_iter().find(|length| *length >= entries).unwrap_or(entries)
}

fn filled<'a>(rooms: &'a [&'a RoomId]) -> impl Iterator<Item = &'a RoomId> {
    let last = rooms.last().copied();
    let more = filled_to(rooms.len()) - rooms.len();
    rooms.iter().copied().chain(last.into_iter().cycle().take(more))
}

fn bind_all<'q>(
    mut query: Query<'q, MySql, MySqlArguments>,
    rooms: &'q [&'q RoomId],
) -> Query<'q, MySql, MySqlArguments> {
    for room in filled(rooms) {
        query = query.bind(room.as_str().as_bytes());
    }
    query
}
