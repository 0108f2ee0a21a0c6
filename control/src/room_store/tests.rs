//! What every store of rooms promises, each promise to be kept by all of them.

use super::*;
use crate::store::Store;

/// Where a store is kept. It can be opened more than once.
enum Place {
    Folder(tempfile::TempDir),
    #[cfg(feature = "cluster")]
    Database(settings::MysqlStore),
}

impl Place {
    fn folder() -> Self {
        Self::Folder(tempfile::tempdir().unwrap())
    }

    #[cfg(feature = "cluster")]
    fn database() -> Self {
        Self::Database(crate::rooms_mysql::tests::fresh_database())
    }

    async fn open(&self, max_rooms: u64) -> Arc<dyn RoomStore> {
        let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
        match self {
            Self::Folder(folder) => Arc::new(Store::open(folder.path(), max_rooms, errors).await.unwrap()),
            #[cfg(feature = "cluster")]
            Self::Database(database) => {
                let rooms = crate::rooms_mysql::MysqlRooms::open(database, max_rooms, errors).await;
                Arc::new(rooms.unwrap())
            }
        }
    }
}

/// Each promise as a test of each store.
macro_rules! kept_by_all {
    ($($promise:ident)*) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Place::folder()).await;
            })*
        }

        #[cfg(feature = "cluster")]
        mod mysql {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::Place::database()).await;
            })*
        }
    };
}

kept_by_all! {
    ids_are_compared_byte_for_byte
    each_that_is_wanted_gets_its_answer
    many_rooms_are_loaded_at_once
    what_was_set_stays_and_the_rest_is_as_it_was
    there_are_no_more_rooms_than_there_may_be
    only_rooms_that_were_not_used_are_forgotten
    a_join_notes_that_a_room_is_in_use_and_a_look_does_not
    pages_follow_one_another_to_the_end
    what_is_written_is_there_when_it_is_opened_again
}

fn room(id: &str) -> RoomId {
    RoomId::new(id).unwrap()
}

fn named(name: &str) -> RoomPatch {
    RoomPatch { name: Some(name.into()), ..RoomPatch::default() }
}

async fn make(store: &dyn RoomStore, ids: &[&str], now: i64) {
    let wanted = ids.iter().map(|id| (room(id), true)).collect();
    for (room, result) in store.load(wanted, now).await.unwrap() {
        assert!(matches!(result, Ok(Some(_))), "{room}: {result:?}");
    }
}

/// The rooms of these that there are.
async fn there(store: &dyn RoomStore, ids: &[&str]) -> Vec<String> {
    let wanted = ids.iter().map(|id| (room(id), false)).collect();
    let loaded = store.load(wanted, 0).await.unwrap();
    loaded
        .into_iter()
        .filter(|(_, found)| matches!(found, Ok(Some(_))))
        .map(|(id, _)| id.to_string())
        .collect()
}

async fn ids_are_compared_byte_for_byte(place: Place) {
    let store = place.open(100).await;
    let longest = "🦀".repeat(16);
    // Case, spaces at the end, and accents are what collations overlook.
    let ids = ["a", "A", "a ", "a  ", " a", "ä", "a\u{308}", "ß", "ss", "%", "_", "\\", "'", "🦀", &longest];
    for id in ids {
        store.set(room(id), named(id), 1).await.unwrap();
    }
    assert_eq!(store.room_count(), ids.len() as u64);
    let wanted = ids.iter().map(|id| (room(id), true)).collect();
    for (id, found) in store.load(wanted, 2).await.unwrap() {
        assert_eq!(found.unwrap().unwrap().name, id.as_str());
    }
    assert!(there(&*store, &["aa", "A "]).await.is_empty());
    assert_eq!(store.forget(vec![room("a ")], 100).await.unwrap(), 1);
    let mut left: Vec<&str> = ids.into_iter().filter(|id| *id != "a ").collect();
    left.sort_unstable();
    let page = store.page("", 100).await.unwrap();
    assert_eq!(page.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), left);
}

async fn each_that_is_wanted_gets_its_answer(place: Place) {
    let store = place.open(100).await;
    assert!(store.load(Vec::new(), 5).await.unwrap().is_empty());
    let wanted = [("a", true), ("absent", false), ("a", true), ("b", true), ("b", false)];
    let wanted: Vec<Wanted> = wanted.into_iter().map(|(id, make)| (room(id), make)).collect();
    let loaded = store.load(wanted.clone(), 5).await.unwrap();
    assert_eq!(loaded.len(), wanted.len());
    for ((asked, _), (answered, found)) in wanted.iter().zip(&loaded) {
        assert_eq!(asked, answered);
        match asked.as_str() {
            "absent" => assert!(matches!(found, Ok(None)), "{found:?}"),
            _ => assert!(matches!(found, Ok(Some(made)) if *made == StoredRoom::new(5)), "{found:?}"),
        }
    }
    assert_eq!(store.room_count(), 2);
}

async fn many_rooms_are_loaded_at_once(place: Place) {
    let store = place.open(10_000).await;
    let ids: Vec<String> = (0..1100).map(|number| format!("room-{number}")).collect();
    make(&*store, &ids[..700].iter().map(String::as_str).collect::<Vec<_>>(), 5).await;
    store.set(room("room-699"), named("set"), 6).await.unwrap();
    let wanted = ids.iter().map(|id| (room(id), true)).collect();
    let loaded = store.load(wanted, 9).await.unwrap();
    for (place, (id, found)) in loaded.into_iter().enumerate() {
        let found = found.unwrap().unwrap();
        assert_eq!(id.as_str(), ids[place]);
        assert_eq!((found.created_at, found.name == "set"), (if place < 700 { 5 } else { 9 }, place == 699));
    }
    assert_eq!(store.room_count(), 1100);
}

async fn what_was_set_stays_and_the_rest_is_as_it_was(place: Place) {
    let store = place.open(100).await;
    let patch = RoomPatch { max_users: Some(0), ..named("Hall 🦀") };
    let made = store.set(room("a"), patch, 5).await.unwrap();
    assert_eq!((made.name.as_str(), made.description.as_str(), made.max_users), ("Hall 🦀", "", Some(0)));
    assert_eq!((made.created_at, made.updated_at), (5, 5));
    let description = "d".repeat(4096);
    let patch = RoomPatch { description: Some(description.clone()), ..RoomPatch::default() };
    let set = store.set(room("a"), patch, 7).await.unwrap();
    assert_eq!((set.name.as_str(), &set.description, set.max_users), ("Hall 🦀", &description, Some(0)));
    assert_eq!((set.created_at, set.updated_at), (5, 7));
    let patch = RoomPatch { name: Some(String::new()), max_users: Some(u32::MAX), ..RoomPatch::default() };
    let set = store.set(room("a"), patch, 7).await.unwrap();
    assert_eq!((set.name.as_str(), set.max_users), ("", Some(u32::MAX)));
    let loaded = store.load(vec![(room("a"), false)], 8).await.unwrap();
    assert!(matches!(&loaded[0].1, Ok(Some(found)) if *found == set), "{loaded:?}");
}

async fn there_are_no_more_rooms_than_there_may_be(place: Place) {
    let store = place.open(2).await;
    let wanted = ["a", "b", "a", "c"].map(|id| (room(id), true)).to_vec();
    let loaded = store.load(wanted, 5).await.unwrap();
    let made: Vec<bool> = loaded.iter().map(|(_, found)| matches!(found, Ok(Some(_)))).collect();
    assert_eq!(made, [true, true, true, false]);
    assert!(matches!(loaded[3].1, Err(StoreError::TooManyRooms)));
    let refused = store.set(room("c"), RoomPatch::default(), 5).await;
    assert!(matches!(refused, Err(StoreError::TooManyRooms)), "{refused:?}");
    store.set(room("a"), named("still to be set"), 5).await.unwrap();
    assert_eq!(store.forget(vec![room("b")], 6).await.unwrap(), 1);
    make(&*store, &["c"], 6).await;
    assert_eq!(store.room_count(), 2);
}

async fn only_rooms_that_were_not_used_are_forgotten(place: Place) {
    let store = place.open(100).await;
    make(&*store, &["never"], 900).await;
    make(&*store, &["old", "touched", "set"], 1000).await;
    store.touch(vec![room("touched"), room("absent")], 5000).await.unwrap();
    // A clock that is behind takes nothing back.
    store.touch(vec![room("touched")], 2000).await.unwrap();
    store.set(room("set"), named("x"), 5000).await.unwrap();
    store.set(room("set"), named("y"), 2000).await.unwrap();
    assert_eq!(store.unused(1000, 10).await.unwrap(), [room("never")], "unused since 1000 is not before it");
    let mut unused = store.unused(5000, 10).await.unwrap();
    unused.sort();
    assert_eq!(unused, [room("never"), room("old")]);
    assert_eq!(store.unused(5000, 1).await.unwrap(), [room("never")], "the longest unused first");
    let all = ["never", "old", "touched", "set", "absent"];
    assert_eq!(store.forget(all.map(room).to_vec(), 5000).await.unwrap(), 2);
    assert_eq!(store.forget(Vec::new(), 5000).await.unwrap(), 0);
    assert_eq!(there(&*store, &all).await, ["touched", "set"]);
    assert_eq!(store.room_count(), 2);
}

async fn a_join_notes_that_a_room_is_in_use_and_a_look_does_not(place: Place) {
    let store = place.open(100).await;
    make(&*store, &["joined", "looked at"], 1000).await;
    let soon = 1000 + TOUCH_AFTER_S;
    make(&*store, &["joined"], soon).await;
    assert_eq!(store.unused(soon, 10).await.unwrap().len(), 2, "a use is noted once in that time");
    let later = soon + 1;
    make(&*store, &["joined"], later).await;
    assert_eq!(there(&*store, &["looked at"]).await, ["looked at"]);
    assert_eq!(store.unused(later, 10).await.unwrap(), [room("looked at")]);
}

async fn pages_follow_one_another_to_the_end(place: Place) {
    let store = place.open(100).await;
    make(&*store, &["b", "a", "d", "c", "B"], 5).await;
    let (mut after, mut seen) = (String::new(), Vec::new());
    loop {
        let page = store.page(&after, 2).await.unwrap();
        let Some((last, created_at)) = page.last() else { break };
        assert_eq!(*created_at, 5);
        after.clone_from(last);
        seen.extend(page.into_iter().map(|(id, _)| id));
    }
    assert_eq!(seen, ["B", "a", "b", "c", "d"]);
}

async fn what_is_written_is_there_when_it_is_opened_again(place: Place) {
    let first = place.open(100).await;
    first.set(room("a"), named("Hall"), 5).await.unwrap();
    first.close().await;
    let failed = first.load(vec![(room("a"), true)], 6).await;
    assert!(matches!(failed, Err(StoreError::Failed(_))), "{failed:?}");
    let second = place.open(100).await;
    assert_eq!(second.room_count(), 1);
    let loaded = second.load(vec![(room("a"), false)], 7).await.unwrap();
    assert!(matches!(&loaded[0].1, Ok(Some(found)) if found.name == "Hall"), "{loaded:?}");
}
