use std::path::Path;

use ringcast_proto::NodeId;

use super::*;
use crate::room_store::Loaded;
use crate::store::{KnownNode, Store};

async fn rooms(folder: &Path, max_rooms: u64) -> Rooms {
    let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
    let store = Store::open(folder, max_rooms, errors).await.unwrap();
    Rooms::new(Arc::new(store), Duration::from_secs(300), 100)
}

fn room(id: &str) -> RoomId {
    RoomId::new(id).unwrap()
}

fn at(unix_s: i64) -> Now {
    Now { ms: unix_s.unsigned_abs() * 1000, unix_s }
}

#[tokio::test]
async fn settings_live_through_a_restart_and_unset_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let first = rooms(folder.path(), 10).await;
    let patch = RoomPatch { name: Some("Hall".into()), max_users: Some(0), ..RoomPatch::default() };
    first.set(&room("a"), patch, at(5)).await.unwrap();
    drop(first);
    let second = rooms(folder.path(), 10).await;
    assert_eq!(second.count(), 1);
    let patch = RoomPatch { description: Some("Big".into()), ..RoomPatch::default() };
    let set = second.set(&room("a"), patch, at(7)).await.unwrap();
    assert_eq!((set.name.as_str(), set.description.as_str()), ("Hall", "Big"));
    assert_eq!((set.created_at, set.updated_at, second.max_users(&set)), (5, 7, 0));
    let made = second.get(&room("b"), true, at(8)).await.unwrap().unwrap();
    assert_eq!(second.max_users(&made), 100);
}

#[tokio::test]
async fn there_are_no_more_rooms_than_there_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = rooms(folder.path(), 2).await;
    let wanted = ["a", "b", "a", "c"].map(|id| (room(id), true)).to_vec();
    let loaded = rooms.load(wanted, at(5)).await;
    let made: Vec<bool> = loaded.iter().map(|(_, result)| result.is_ok()).collect();
    assert_eq!(made, [true, true, true, false]);
    assert!(matches!(loaded[3].1, Err(StoreError::TooManyRooms)));
    assert!(rooms.get(&room("a"), true, at(5)).await.unwrap().is_some());
    let refused = rooms.set(&room("c"), RoomPatch::default(), at(5)).await;
    assert!(matches!(refused, Err(StoreError::TooManyRooms)));
    assert_eq!(rooms.count(), 2);
}

#[tokio::test]
async fn empty_rooms_are_forgotten_and_those_in_use_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = rooms(folder.path(), 10).await;
    for id in ["empty", "used", "emptied"] {
        rooms.get(&room(id), true, at(1000)).await.unwrap();
    }
    rooms.touch(vec![room("emptied")], at(5000)).await;
    let split = |candidates: Vec<RoomId>| {
        let (used, unused): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|id| id.as_str() == "used");
        rooms.evict(&unused);
        (used, unused)
    };
    assert_eq!(rooms.forget_unused(5000, at(6000), split).await.unwrap(), 1);
    assert!(rooms.get(&room("empty"), false, at(6000)).await.unwrap().is_none());
    assert_eq!(rooms.count(), 2);
    assert_eq!(rooms.forget_unused(5001, at(6000), split).await.unwrap(), 1, "the emptied one's time came");
}

#[tokio::test]
async fn a_failing_store_takes_nothing_away_from_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
    let store = Store::open(folder.path(), 10, errors).await.unwrap();
    let rooms = Rooms::new(Arc::new(store.clone()), Duration::from_secs(300), 100);
    rooms.get(&room("a"), true, at(5)).await.unwrap();
    sqlx::query("DROP TABLE rooms").execute(&store.pool_for_tests()).await.unwrap();
    assert!(matches!(rooms.known(&room("a"), at(306)), Known::Aged));
    assert!(rooms.get(&room("a"), true, at(306)).await.unwrap().is_some());
    assert!(matches!(rooms.get(&room("b"), true, at(306)).await, Err(StoreError::Failed(_))));
}

#[tokio::test]
async fn the_path_is_named_where_the_store_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
    let error = Store::open(&file.join("data"), 1, errors).await.unwrap_err().to_string();
    assert!(error.contains(file.to_str().unwrap()), "{error}");
}

/// A store that keeps what it is asked for, and answers when it is let.
#[derive(Debug)]
struct Slow {
    store: Store,
    /// A permit lets one load read, another one lets it answer.
    steps: tokio::sync::Semaphore,
    loads: Mutex<Vec<Vec<Wanted>>>,
}

impl Slow {
    async fn step(&self) {
        self.steps.acquire().await.unwrap().forget();
    }
}

#[async_trait::async_trait]
impl RoomStore for Slow {
    fn room_count(&self) -> u64 {
        self.store.room_count()
    }

    async fn load(&self, wanted: Vec<Wanted>, now: i64) -> Result<Vec<Loaded>, StoreError> {
        self.loads.lock().unwrap().push(wanted.clone());
        self.step().await;
        let loaded = self.store.load(wanted, now).await;
        self.step().await;
        loaded
    }

    async fn set(&self, room: RoomId, patch: RoomPatch, now: i64) -> Result<StoredRoom, StoreError> {
        self.store.set(room, patch, now).await
    }

    async fn touch(&self, rooms: Vec<RoomId>, now: i64) -> Result<(), StoreError> {
        self.store.touch(rooms, now).await
    }

    async fn page(&self, after: &str, limit: u32) -> Result<Vec<(String, i64)>, StoreError> {
        self.store.page(after, limit).await
    }

    async fn unused(&self, before: i64, limit: u32) -> Result<Vec<RoomId>, StoreError> {
        self.store.unused(before, limit).await
    }

    async fn forget(&self, rooms: Vec<RoomId>, before: i64) -> Result<u64, StoreError> {
        self.store.forget(rooms, before).await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

async fn slow(folder: &Path) -> (Arc<Slow>, Arc<Rooms>) {
    let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
    let store = Store::open(folder, 10, errors).await.unwrap();
    let slow = Arc::new(Slow { store, steps: tokio::sync::Semaphore::new(0), loads: Mutex::default() });
    (slow.clone(), Arc::new(Rooms::new(slow, Duration::from_secs(300), 100)))
}

async fn begun(slow: &Slow, loads: usize) {
    while slow.loads.lock().unwrap().len() < loads {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_room_that_many_ask_for_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, rooms) = slow(folder.path()).await;
    let get = |id: &'static str, make: bool| {
        let rooms = rooms.clone();
        tokio::spawn(async move { rooms.get(&room(id), make, at(5)).await })
    };
    let mut calls = vec![get("a", true)];
    begun(&slow, 1).await;
    for call in 0..50 {
        calls.push(get("a", call % 2 == 0));
        calls.push(get("b", call == 7));
    }
    let absent = get("absent", false);
    tokio::task::yield_now().await;
    slow.steps.add_permits(4);
    for call in calls {
        assert!(call.await.unwrap().unwrap().is_some());
    }
    assert!(absent.await.unwrap().unwrap().is_none());
    let asked = slow.loads.lock().unwrap().clone();
    assert_eq!(asked, [vec![(room("a"), true)], vec![(room("absent"), false), (room("b"), true)]]);
}

#[tokio::test]
async fn what_was_read_before_a_change_does_not_undo_it() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, rooms) = slow(folder.path()).await;
    let reading = tokio::spawn({
        let rooms = rooms.clone();
        async move { rooms.get(&room("a"), true, at(5)).await }
    });
    begun(&slow, 1).await;
    slow.steps.add_permits(1);
    while slow.room_count() == 0 || slow.steps.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let patch = RoomPatch { name: Some("Hall".into()), ..RoomPatch::default() };
    rooms.set(&room("a"), patch, at(6)).await.unwrap();
    slow.steps.add_permits(1);
    assert_eq!(reading.await.unwrap().unwrap().unwrap().name, "Hall");
    assert_eq!(rooms.get(&room("a"), false, at(7)).await.unwrap().unwrap().name, "Hall");
}

#[tokio::test]
async fn a_probe_of_a_room_too_many_finds_none_while_a_join_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, rooms) = slow(folder.path()).await;
    slow.steps.add_permits(100);
    let eleven = (0..11).map(|number| (room(&format!("r{number:02}")), true)).collect();
    rooms.load(eleven, at(5)).await;
    slow.steps.forget_permits(100);
    let first = tokio::spawn({
        let rooms = rooms.clone();
        async move { rooms.get(&room("other"), false, at(5)).await }
    });
    begun(&slow, 2).await;
    let both = [false, true].map(|make| {
        let rooms = rooms.clone();
        tokio::spawn(async move { rooms.get(&room("r10"), make, at(5)).await })
    });
    tokio::task::yield_now().await;
    slow.steps.add_permits(4);
    assert!(first.await.unwrap().unwrap().is_none());
    let [probe, join] = both;
    assert!(probe.await.unwrap().unwrap().is_none());
    assert!(matches!(join.await.unwrap(), Err(StoreError::TooManyRooms)));
}

#[tokio::test]
async fn noting_rooms_in_use_stays_due_until_it_went_well() {
    let folder = tempfile::tempdir().unwrap();
    let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
    let store = Store::open(folder.path(), 10, errors).await.unwrap();
    let rooms = Rooms::new(Arc::new(store.clone()), Duration::from_secs(300), 100);
    let empty_for = Duration::from_secs(400);
    rooms.get(&room("a"), true, at(5)).await.unwrap();
    assert!(!rooms.is_noting_due(empty_for, at(99)));
    assert!(rooms.is_noting_due(empty_for, at(100)));
    rooms.note_in_use(vec![room("a")], at(100)).await;
    assert!(!rooms.is_noting_due(empty_for, at(199)));
    assert!(store.unused(100, 10).await.unwrap().is_empty());
    sqlx::query("DROP TABLE rooms").execute(&store.pool_for_tests()).await.unwrap();
    rooms.note_in_use(vec![room("a")], at(200)).await;
    assert!(rooms.is_noting_due(empty_for, at(200)));
}

#[tokio::test]
async fn while_nothing_can_be_written_what_is_there_is_read_and_nodes_are_noted_later() {
    let folder = tempfile::tempdir().unwrap();
    let errors = prometheus::IntCounter::new("errors", "errors").unwrap();
    let store = Store::open(folder.path(), 10, errors).await.unwrap();
    store.load(vec![(room("a"), true)], 5).await.unwrap();
    let lock = store.pool_for_tests().begin_with("BEGIN IMMEDIATE").await.unwrap();
    let node = KnownNode { id: NodeId::new("n").unwrap(), incarnation: 7, address: "n:1".into() };
    store.put_node(node.clone()).await;
    let wanted = vec![(room("a"), true), (room("new"), true), (room("asked"), false)];
    let loaded = store.load(wanted, 6).await.unwrap();
    let told = loaded.iter().map(|(_, result)| result.as_ref().map(Option::is_some).ok());
    assert_eq!(told.collect::<Vec<_>>(), [Some(true), None, Some(false)]);
    lock.rollback().await.unwrap();
    let noted = async {
        while store.known_nodes().await.unwrap() != [node.clone()] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noted).await.expect("a note that failed is written later");
}
