//! Several controllers of one database.

use super::*;
use crate::presence::Now;
use crate::rooms::Rooms;

fn at(unix_s: i64) -> Now {
    Now { ms: unix_s.unsigned_abs() * 1000, unix_s }
}

#[tokio::test]
async fn controllers_that_start_at_once_make_the_tables_once() {
    let store = fresh_database();
    let opened = futures_util::future::join_all((0..8).map(|_| open(&store))).await;
    assert_eq!(opened.len(), 8);
    let applied = format!("select count(*), min(success) from `{}`._sqlx_migrations", store.database);
    assert_eq!(shared().sql(&applied).trim(), "1\t1");
}

#[tokio::test]
async fn what_one_sets_the_other_sees() {
    let store = fresh_database();
    let (a, b) = (open(&store).await, open(&store).await);
    a.set(room("hall"), RoomPatch { max_users: Some(7), ..named("Hall") }, 5).await.unwrap();
    let seen = made(&b, "hall", 6).await.unwrap();
    assert_eq!((seen.name.as_str(), seen.max_users, seen.created_at), ("Hall", Some(7), 5));
    b.set(room("hall"), named("Lobby"), 7).await.unwrap();
    assert_eq!(made(&a, "hall", 8).await.unwrap().name, "Lobby");
    let counted = async {
        while b.room_count() != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), counted).await.expect("the other's room is counted in the end");
}

#[tokio::test]
async fn rooms_that_several_make_at_once_are_made_once() {
    let store = fresh_database();
    let (a, b) = (open(&store).await, open(&store).await);
    let wanted = |reversed: bool| {
        let mut wanted: Vec<Wanted> = (0..300).map(|number| (room(&format!("r{number}")), true)).collect();
        if reversed {
            wanted.reverse();
        }
        wanted
    };
    let all = [(&a, false), (&b, true), (&a, true), (&b, false)];
    let loads = all.map(|(rooms, reversed)| rooms.load(wanted(reversed), 5));
    for loaded in futures_util::future::join_all(loads).await {
        assert!(loaded.unwrap().into_iter().all(|(_, found)| matches!(found, Ok(Some(_)))));
    }
    assert_eq!(shared().sql(&format!("select count(*) from `{}`.rooms", store.database)).trim(), "300");
}

#[tokio::test]
async fn a_room_that_another_controller_has_forgotten_is_made_anew_by_a_join() {
    let store = fresh_database();
    let (a, b) = (open(&store).await, open(&store).await);
    made(&a, "r", 5).await.unwrap();
    assert_eq!(b.forget(vec![room("r")], 10).await.unwrap(), 1);
    assert_eq!(made(&a, "r", 20).await.unwrap().created_at, 20);
}

#[tokio::test]
async fn a_room_in_use_at_one_controller_is_not_forgotten_by_the_other() {
    let store = fresh_database();
    let ttl = Duration::from_secs(300);
    let (a, b) = (open(&store).await, open(&store).await);
    let (a, b) = (Rooms::new(Arc::new(a), ttl, 100), Rooms::new(Arc::new(b), ttl, 100));
    let empty_for = Duration::from_secs(86_400);
    for id in ["at b", "at neither"] {
        b.get(&room(id), true, at(1000)).await.unwrap();
    }
    // A day goes by at B, whose room has members all the time.
    let mut notes = 0;
    for now in (1000..90_000).step_by(60).map(at) {
        if b.is_noting_due(empty_for, now) {
            b.note_in_use(vec![room("at b")], now).await;
            notes += 1;
        }
    }
    assert!((3..=5).contains(&notes), "{notes} times a day");
    // A has no members at all, and knows nothing of B's.
    let split = |candidates: Vec<RoomId>| (Vec::new(), candidates);
    let now = at(90_000);
    assert_eq!(a.forget_unused(now.unix_s - 86_400, now, split).await.unwrap(), 1);
    let there = a.page("", 10).await.unwrap();
    assert_eq!(there.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["at b"]);
}
