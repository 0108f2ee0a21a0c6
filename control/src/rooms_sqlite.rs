//! The statements on rooms in SQLite.
//!
//! Owns: the table `rooms` of `migrations/sqlite`. Must not: begin or end a transaction; the writer of `store` does.

use ringcast_proto::RoomId;
use sqlx::sqlite::SqlitePool;
use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::room_store::{RoomPatch, StoredRoom};

/// Makes a room; `false`: it is there already.
pub(crate) async fn make(
    tx: &mut Transaction<'_, Sqlite>,
    room: &RoomId,
    now: i64,
) -> Result<bool, sqlx::Error> {
    let insert = sqlx::query(
        "INSERT OR IGNORE INTO rooms (id, created_at, updated_at, last_used) VALUES (?, ?, ?, ?)",
    );
    let insert = insert.bind(room.as_str()).bind(now).bind(now).bind(now);
    Ok(insert.execute(&mut **tx).await?.rows_affected() == 1)
}

/// Reads a room.
pub(crate) async fn select(
    connection: &mut SqliteConnection,
    room: &RoomId,
) -> Result<Option<StoredRoom>, sqlx::Error> {
    let select = sqlx::query_as(
        "SELECT name, description, max_users, created_at, updated_at, last_used FROM rooms WHERE id = ?",
    );
    select.bind(room.as_str()).fetch_optional(connection).await
}

/// Changes a room that is there.
pub(crate) async fn set(
    tx: &mut Transaction<'_, Sqlite>,
    room: &RoomId,
    patch: RoomPatch,
    now: i64,
) -> Result<StoredRoom, sqlx::Error> {
    let update = sqlx::query_as(
        "UPDATE rooms SET name = COALESCE(?, name), description = COALESCE(?, description), \
         max_users = COALESCE(?, max_users), updated_at = ?, last_used = MAX(last_used, ?) WHERE id = ? \
         RETURNING name, description, max_users, created_at, updated_at, last_used",
    );
    let update = update.bind(patch.name).bind(patch.description).bind(patch.max_users);
    update.bind(now).bind(now).bind(room.as_str()).fetch_one(&mut **tx).await
}

/// Notes that a room has been in use.
pub(crate) async fn touch(
    tx: &mut Transaction<'_, Sqlite>,
    room: &RoomId,
    now: i64,
) -> Result<(), sqlx::Error> {
    let touch = sqlx::query("UPDATE rooms SET last_used = ? WHERE id = ? AND last_used < ?");
    touch.bind(now).bind(room.as_str()).bind(now).execute(&mut **tx).await?;
    Ok(())
}

/// Forgets a room that has not been used since `before`, and says how many that are.
pub(crate) async fn forget(
    tx: &mut Transaction<'_, Sqlite>,
    room: &RoomId,
    before: i64,
) -> Result<u64, sqlx::Error> {
    let delete = sqlx::query("DELETE FROM rooms WHERE id = ? AND last_used < ?");
    Ok(delete.bind(room.as_str()).bind(before).execute(&mut **tx).await?.rows_affected())
}

/// Rooms in the order of their ids.
pub(crate) async fn page(
    pool: &SqlitePool,
    after: &str,
    limit: u32,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let page = sqlx::query_as("SELECT id, created_at FROM rooms WHERE id > ? ORDER BY id LIMIT ?");
    page.bind(after).bind(limit).fetch_all(pool).await
}

/// Rooms that were not used since `before`.
pub(crate) async fn unused(pool: &SqlitePool, before: i64, limit: u32) -> Result<Vec<RoomId>, sqlx::Error> {
    let unused = sqlx::query_as("SELECT id FROM rooms WHERE last_used < ? ORDER BY last_used LIMIT ?");
    let ids: Vec<(String,)> = unused.bind(before).bind(limit).fetch_all(pool).await?;
    Ok(ids.into_iter().filter_map(|(id,)| RoomId::new(&id).ok()).collect())
}
