//! A server that is away, silent, or that refuses.

use test_servers::MariaDbPair;

use super::*;

/// What a call may take beyond its deadline on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// A call that cannot be served, answered within its time.
async fn refused<T: std::fmt::Debug>(call: impl Future<Output = Result<T, StoreError>>) -> String {
    match timeout(CALL.whole + SLACK, call).await.expect("an answer within the deadline") {
        Err(StoreError::Failed(why)) => why.to_string(),
        answer => panic!("{answer:?}"),
    }
}

/// The server's connections of the store.
fn connections(server: &MariaDb, store: &MysqlStore) -> Vec<String> {
    let list = "select id from information_schema.processlist where db = ";
    server.sql(&format!("{list}'{}'", store.database)).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_server_that_was_killed_is_used_again_when_it_is_back() {
    let mut server = MariaDb::primary();
    let store = database_of(&server);
    let counter = errors();
    let rooms = MysqlRooms::open(&store, 1000, counter.clone()).await.unwrap();
    made(&rooms, "a", 5).await.unwrap();
    server.kill();
    let why = refused(made(&rooms, "a", 5)).await;
    assert!(why.contains(&server.address()), "{why}");
    assert_eq!(counter.get(), 1);
    server.start_again();
    rooms.set(room("a"), named("Hall"), 6).await.unwrap();
    // All its connections are dead, and nobody has noticed: the first call finds a new one.
    let used = futures_util::future::join_all((0..8).map(|_| made(&rooms, "a", 6))).await;
    assert!(used.into_iter().all(|used| used.is_ok()));
    server.kill();
    server.start_again();
    assert_eq!(made(&rooms, "a", 7).await.unwrap().name, "Hall");
    assert_eq!(counter.get(), 1, "what goes well at the second try is no error");
}

#[tokio::test]
async fn a_start_waits_for_a_server_that_cannot_be_reached() {
    let store = fresh_database();
    let front = Forwarder::start(&shared().address());
    front.refuse();
    let behind = through(&front, &store);
    let opening = tokio::spawn(async move { open(&behind).await });
    let early = tokio::time::sleep(Duration::from_millis(700));
    early.await;
    assert!(!opening.is_finished());
    front.heal();
    let rooms = timeout(Duration::from_secs(10), opening).await.expect("it is there now").unwrap();
    made(&rooms, "a", 5).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_silent_is_found_within_the_deadline() {
    let store = fresh_database();
    let front = Forwarder::start(&shared().address());
    let rooms = open(&through(&front, &store)).await;
    let calls = || futures_util::future::join_all((0..2 * CONNECTIONS).map(|_| made(&rooms, "a", 5)));
    assert!(calls().await.into_iter().all(|made| made.is_ok()));
    front.black_hole();
    let silent = timeout(CALL.whole + SLACK, calls()).await.expect("answers within the deadline");
    assert!(silent.into_iter().all(|made| made.is_err()));
    refused(rooms.set(room("a"), named("x"), 5)).await;
    refused(rooms.page("", 10)).await;
    refused(rooms.touch(vec![room("a")], 5)).await;
    // No place among the connections is held by one that is still silent.
    front.heal();
    assert!(calls().await.into_iter().all(|made| made.is_ok()));
}

#[tokio::test]
async fn a_connection_that_goes_silent_is_replaced_within_the_call() {
    let store = fresh_database();
    let front = Forwarder::start(&shared().address());
    let rooms = open(&through(&front, &store)).await;
    made(&rooms, "a", 5).await.unwrap();
    front.black_hole();
    let call = tokio::spawn({
        let rooms = rooms.clone();
        async move { made(&rooms, "a", 5).await }
    });
    // What was on its way is lost with the old connections; new ones are answered.
    tokio::time::sleep(Duration::from_millis(200)).await;
    front.retarget(&shared().address());
    front.heal();
    assert!(call.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_connection_behind() {
    let store = fresh_database();
    let front = Forwarder::start(&shared().address());
    let rooms = open(&through(&front, &store)).await;
    made(&rooms, "a", 5).await.unwrap();
    front.black_hole();
    for _ in 0..2 * CONNECTIONS {
        assert!(timeout(Duration::from_millis(20), made(&rooms, "a", 5)).await.is_err());
    }
    front.heal();
    made(&rooms, "a", 5).await.unwrap();
}

#[tokio::test]
async fn connections_to_a_primary_that_became_read_only_are_dropped() {
    let server = MariaDb::primary();
    let store = database_of(&server);
    let rooms = open(&store).await;
    rooms.set(room("a"), named("Hall"), 5).await.unwrap();
    futures_util::future::join_all((0..4).map(|_| made(&rooms, "a", 5))).await;
    let before = connections(&server, &store);
    server.read_only(true);
    let why = refused(rooms.set(room("a"), named("x"), 6)).await;
    assert!(why.contains("read-only"), "{why}");
    let later = 6 + 2 * crate::room_store::TOUCH_AFTER_S;
    assert_eq!(made(&rooms, "a", later).await.unwrap().name, "Hall", "what is there can be joined");
    refused(made(&rooms, "new", 6)).await;
    let both =
        rooms.load(vec![(room("a"), true), (room("new"), true), (room("asked"), false)], 6).await.unwrap();
    let there = both.iter().map(|(room, result)| (room.as_str(), result.as_ref().map(Option::is_some).ok()));
    assert_eq!(
        there.collect::<Vec<_>>(),
        [("a", Some(true)), ("new", None), ("asked", Some(false))],
        "also beside one that cannot be made"
    );
    server.read_only(false);
    rooms.set(room("a"), named("x"), 7).await.unwrap();
    let dropped = async {
        while connections(&server, &store).iter().any(|id| before.contains(id)) {
            // An older one is dropped when its turn comes.
            made(&rooms, "a", 7).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), dropped).await.expect("none of the old ones is left");
}

#[tokio::test]
async fn a_replica_that_was_promoted_is_found_behind_the_same_address() {
    let mut pair: MariaDbPair = MariaDb::pair();
    let store =
        MysqlStore { port: pair.port(), database: pair.fresh_database(), ..database_of(pair.primary()) };
    let rooms = open(&store).await;
    rooms.set(room("a"), named("Hall"), 5).await.unwrap();
    pair.promote();
    assert_eq!(made(&rooms, "a", 6).await.unwrap().name, "Hall");
    rooms.set(room("a"), named("Lobby"), 7).await.unwrap();
}

#[tokio::test]
async fn a_deadlock_is_tried_again_and_a_refusal_is_not() {
    let store = fresh_database();
    let counter = errors();
    let rooms = MysqlRooms::open(&store, 1000, counter.clone()).await.unwrap();
    made(&rooms, "a", 5).await.unwrap();
    // What is counted stays although the statement is undone: that table knows no transactions.
    let refuse = |error: u16, times: u32| {
        format!(
            "use `{}`; drop trigger if exists refuse; drop table if exists tried; \
             create table tried (n int) engine = MyISAM;\ndelimiter //\n\
             create trigger refuse before update on rooms for each row begin \
             insert into tried values (1); \
             if (select count(*) from tried) <= {times} then signal sqlstate '45000' set mysql_errno = {error}; \
             end if; end//\n",
            store.database
        )
    };
    let tried = || shared().sql(&format!("select count(*) from `{}`.tried", store.database));
    for error in [1213, 1205, 1927] {
        shared().sql(&refuse(error, 3));
        rooms.set(room("a"), named("x"), 6).await.unwrap();
        assert_eq!(tried().trim(), "4", "error {error}");
    }
    shared().sql(&refuse(1644, 3));
    assert!(rooms.set(room("a"), named("x"), 6).await.is_err());
    assert_eq!((tried().trim(), counter.get()), ("1", 1));
}
