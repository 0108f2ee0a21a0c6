//! What controllers say of who is where, beside who is connected.
//!
//! Owns: reading it page by page, the differences. Must not: wait. Talks to: a controller's gRPC port.

use std::collections::{BTreeMap, BTreeSet};

use ringcast_proto::pubsub::{GetRoomInfoRequest, GetRoomStatsRequest};
use tonic::{Code, Status};

use crate::grpc::Controller;
use crate::oracle::{Client, Spans};

/// Users by room.
pub(super) type Rooms = BTreeMap<String, BTreeSet<String>>;

/// The largest page.
const PAGE: u32 = 1_000;

/// What a controller says.
pub(super) struct Presence {
    /// How many sessions there are.
    pub(super) sessions: u64,
    /// Who is in which room; rooms without users are left out.
    pub(super) rooms: Rooms,
}

/// Reads all of it.
pub(super) async fn read(controller: &Controller) -> Result<Presence, Status> {
    let (mut client, mut token) = (controller.0.clone(), String::new());
    let mut presence = Presence { sessions: 0, rooms: Rooms::new() };
    loop {
        let request = GetRoomStatsRequest { page_size: PAGE, page_token: token };
        let page = client.get_room_stats(request).await?.into_inner();
        presence.sessions = page.total_sessions;
        for room in page.rooms.into_iter().filter(|room| room.user_count > 0) {
            let users = users_of(controller, &room.room_id).await?;
            if !users.is_empty() {
                presence.rooms.insert(room.room_id, users);
            }
        }
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(presence);
        }
    }
}

async fn users_of(controller: &Controller, room: &str) -> Result<BTreeSet<String>, Status> {
    let (mut client, mut token, mut users) = (controller.0.clone(), String::new(), BTreeSet::new());
    loop {
        let request = GetRoomInfoRequest { room_id: room.into(), page_size: PAGE, page_token: token };
        let page = match client.get_room_info(request).await {
            Ok(page) => page.into_inner(),
            // It was forgotten in between.
            Err(status) if status.code() == Code::NotFound => return Ok(users),
            Err(status) => return Err(status),
        };
        users.extend(page.room_info.unwrap_or_default().users.into_iter().map(|user| user.user_id));
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(users);
        }
    }
}

/// Who is connected, by room, and how many sessions that makes.
pub(super) fn connected(clients: &[Client], spans: &Spans) -> Presence {
    let mut presence = Presence { sessions: 0, rooms: Rooms::new() };
    for (_, client) in clients.iter().enumerate().filter(|(number, _)| spans.is_connected(*number)) {
        presence.sessions += 1;
        presence.rooms.entry(client.room.clone()).or_default().insert(client.user.clone());
    }
    presence
}

/// Where a controller is wrong, in words: ghosts, whom it lists although no client of theirs is connected, and those it
/// misses. `None`: it is right.
pub(super) fn wrong(said: &Presence, is: &Presence) -> Option<String> {
    let (ghosts, missing) = (beyond(&said.rooms, &is.rooms), beyond(&is.rooms, &said.rooms));
    if ghosts.is_empty() && missing.is_empty() && said.sessions == is.sessions {
        return None;
    }
    let some = |found: &[String]| found.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    Some(format!(
        "{} ghosts ({}), {} missing ({}), {} sessions of {}",
        ghosts.len(),
        some(&ghosts),
        missing.len(),
        some(&missing),
        said.sessions,
        is.sessions
    ))
}

/// Users by room that one has and the other has not.
fn beyond(one: &Rooms, other: &Rooms) -> Vec<String> {
    let mut found = Vec::new();
    for (room, users) in one {
        let known = other.get(room);
        let more = users.iter().filter(|user| !known.is_some_and(|known| known.contains(*user)));
        found.extend(more.map(|user| format!("{user} in {room}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(sessions: u64, rooms: &[(&str, &[&str])]) -> Presence {
        let users = |users: &[&str]| users.iter().map(|user| (*user).to_owned()).collect();
        let rooms = rooms.iter().map(|(room, names)| ((*room).to_owned(), users(names))).collect();
        Presence { sessions, rooms }
    }

    #[test]
    fn ghosts_and_those_who_are_missed_are_told_apart() {
        let is = presence(3, &[("r", &["a", "b"]), ("s", &["c"])]);
        assert_eq!(wrong(&presence(3, &[("r", &["a", "b"]), ("s", &["c"])]), &is), None);
        let found = wrong(&presence(3, &[("r", &["a", "x"]), ("s", &["c"])]), &is).unwrap();
        assert_eq!(found, "1 ghosts (x in r), 1 missing (b in r), 3 sessions of 3");
        assert!(
            wrong(&presence(4, &[("r", &["a", "b"]), ("s", &["c"])]), &is).is_some(),
            "one session too many"
        );
        assert!(wrong(&presence(3, &[("r", &["a", "b"]), ("t", &["c"])]), &is).is_some(), "another room");
    }
}
