//! Servers that are away, are held, are emptied, or hand over to another.

use std::time::Instant;

use test_servers::Forwarder;

use super::*;

/// What a call may take beyond its deadline on a machine that is busy.
const SLACK: Duration = Duration::from_millis(500);

/// How long anything may take to work again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries until it works: a store that comes back is tried again by its caller.
pub(super) async fn again<T>(mut call: impl AsyncFnMut() -> Result<T, PresenceError>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "it does not work again: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a caller does with a store that comes back.
pub(super) async fn tell_again(store: &PresenceRedis, at: &NodeAt, sessions: &[(Arrival, Vec<RoomId>)]) {
    let tell = async || {
        store.begin(&record(at)).await?;
        store.sync(at, sessions.to_vec(), NOW).await
    };
    assert_eq!(again(tell).await, Verdict::Done);
}

fn one_in_r(session: u64, of: &str) -> [(Arrival, Vec<RoomId>); 1] {
    [(arrival(session, of), vec![room("r")])]
}

#[tokio::test]
async fn a_server_that_is_away_at_the_start_is_found_when_it_comes() {
    let mut server = Redis::plain();
    server.kill();
    let store = connected(&[server.address()]).await;
    let from = Instant::now();
    assert!(store.nodes().await.is_err());
    assert!(from.elapsed() < DEADLINE + SLACK);
    server.start_again();
    tell_again(&store, &at("a", 1, 1), &one_in_r(1, "u")).await;
    assert_eq!(users_in(&store, "r").await, ["u"]);
}

#[tokio::test]
async fn a_held_server_is_noticed_in_time_and_used_when_it_goes_on() {
    let mut on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    on.server.stop();
    let from = Instant::now();
    assert!(on.store.apply(&a, &[enter(1, "u", "r", 0)], NOW).await.is_err());
    assert!(from.elapsed() < DEADLINE + SLACK, "it took {:?}", from.elapsed());
    on.server.cont();
    tell_again(&on.store, &a, &one_in_r(2, "v")).await;
    assert_eq!(users_in(&on.store, "r").await, ["v"], "what was said before the hold comes too late");
}

#[tokio::test]
async fn words_that_arrive_after_later_ones_change_nothing() {
    let server = Redis::plain();
    let forwarder = Forwarder::start(&server.address());
    let (store, direct) = (connected(&[forwarder.address()]).await, connected(&[server.address()]).await);
    let a = begun(&store, "a").await;
    apply(&store, &a, enter(1, "u", "r", 0)).await;
    forwarder.black_hole();
    let words = [enter(2, "late", "r", 0), end(1, "u", &["r"])];
    assert!(store.apply(&a, &words, NOW).await.is_err());
    // A later turn of the same link has been told by another way when the forwarder lets these words go.
    server.command(&["hset", &keys::record(&a.id), "turn", &keys::turn(a.link, 1)]);
    let before = server.command(&["info", "commandstats"]);
    forwarder.heal();
    let arrived = async || {
        let now = server.command(&["info", "commandstats"]);
        let count = |stats: &str| stats.lines().find(|line| line.contains("evalsha")).map(str::to_owned);
        if count(&now) == count(&before) { Err(PresenceError("not yet".into())) } else { Ok(()) }
    };
    again(arrived).await;
    assert_eq!(users_in(&direct, "r").await, ["u"]);
    assert!(sessions_of(&direct, "late").await.is_empty());
    tell_again(&store, &a, &one_in_r(1, "u")).await;
    assert_eq!(direct.totals().await.unwrap(), Totals { users: 1, sessions: 1 });
}

#[tokio::test]
async fn more_calls_than_a_bound_fail_at_once() {
    let mut on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    on.server.stop();
    let store = Arc::new(on.store);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let store = store.clone();
        calls.spawn(async move {
            let from = Instant::now();
            (store.totals().await.unwrap_err().0, from.elapsed())
        });
    }
    let word = store.apply(&a, &[enter(1, "u", "r", 0)], NOW).await.unwrap_err();
    assert!(!word.0.contains("in flight"), "questions do not keep a node's words out: {word}");
    let look = store.nodes().await.unwrap_err();
    assert!(!look.0.contains("in flight"), "nor the looks of controllers: {look}");
    let ends = calls.join_all().await;
    let (refused, waited): (Vec<_>, Vec<_>) =
        ends.into_iter().partition(|(why, _)| why.contains("in flight"));
    assert_eq!((refused.len(), waited.len()), (36, 64));
    assert!(refused.iter().all(|(_, took)| *took < DEADLINE));
    assert!(waited.iter().all(|(_, took)| *took < DEADLINE + SLACK));
}

#[tokio::test]
async fn an_emptied_store_is_noticed_and_made_anew() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    tell_again(&on.store, &a, &one_in_r(1, "u")).await;
    for _ in 0..2 {
        assert_eq!(on.store.beat(&[record(&a)]).await.unwrap(), (vec![Verdict::Done], true));
    }
    on.server.command(&["flushall"]);
    let error = on.store.apply(&a, &[enter(2, "v", "r", 0)], NOW).await.unwrap_err();
    assert!(error.0.contains("does not know node a"), "{error}");
    assert_eq!(on.server.keys("ringcast:{r:*"), [""; 0], "nothing is done for a node that is not known");
    assert_eq!(on.store.beat(&[record(&a)]).await.unwrap(), (vec![Verdict::Done], false));
    tell_again(&on.store, &a, &one_in_r(1, "u")).await;
    assert_eq!(on.store.beat(&[record(&a)]).await.unwrap(), (vec![Verdict::Done], true));
    assert_eq!(users_in(&on.store, "r").await, ["u"]);
    // Without a node to ask for, the epoch tells.
    on.server.command(&["flushall"]);
    assert_eq!(on.store.beat(&[]).await.unwrap(), (vec![], false));
}

#[tokio::test]
async fn a_server_that_was_killed_and_comes_back_empty_is_another_store() {
    let mut on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    assert!(on.store.beat(&[record(&a)]).await.unwrap().1);
    on.server.kill();
    assert!(on.store.beat(&[record(&a)]).await.is_err());
    on.server.start_again_empty();
    let (_, same) = again(async || on.store.beat(&[]).await).await;
    assert!(!same);
    tell_again(&on.store, &a, &one_in_r(1, "u")).await;
    assert_eq!(users_in(&on.store, "r").await, ["u"]);
}

#[tokio::test]
async fn a_connection_that_broke_between_two_beats_is_told() {
    let server = Redis::plain();
    let forwarder = Forwarder::start(&server.address());
    let store = connected(&[forwarder.address()]).await;
    let a = begun(&store, "a").await;
    assert!(store.beat(&[record(&a)]).await.unwrap().1);
    forwarder.cut();
    let (_, same) = again(async || store.beat(&[record(&a)]).await).await;
    assert!(!same, "a failover may have lost the last words");
    assert!(store.beat(&[record(&a)]).await.unwrap().1);
}

#[tokio::test]
async fn a_replica_that_takes_no_writes_is_no_store() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    let other = Redis::plain();
    on.server.command(&["replicaof", "127.0.0.1", &other.port().to_string()]);
    // The replica is empty by then, and its link to the other may break the first connection.
    let refused = async || match on.store.begin(&record(&a)).await {
        Err(error) if error.0.to_lowercase().contains("read only replica") => Ok(()),
        other => Err(PresenceError(format!("{other:?}"))),
    };
    again(refused).await;
    on.server.command(&["replicaof", "no", "one"]);
    tell_again(&on.store, &a, &one_in_r(1, "u")).await;
    assert_eq!(users_in(&on.store, "r").await, ["u"]);
}

#[tokio::test]
async fn the_master_that_sentinels_name_is_found_anew() {
    let mut servers = Redis::sentinel();
    let master = Some(servers.master_name().to_owned());
    let by_name = RedisStore { sentinel_master: master, ..settings(&servers.addresses()) };
    let store = PresenceRedis::connect(&by_name).await.unwrap();
    let a = at("a", 1, 1);
    tell_again(&store, &a, &one_in_r(1, "u")).await;
    let new = servers.failover();
    let sessions = [(arrival(1, "u"), vec![room("r")]), (arrival(2, "v"), vec![room("r")])];
    tell_again(&store, &a, &sessions).await;
    assert_eq!(users_in(&store, "r").await, ["u", "v"]);
    assert_eq!(servers.servers()[new].command(&["hlen", "ringcast:{r:r}:users"]), "2");
}
