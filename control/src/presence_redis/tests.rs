//! Presence in a real Redis: the scenarios of every store, and what only a server that others write to, that is
//! emptied, or that goes away can show.

mod cluster;
mod faults;
mod leftovers;

use std::sync::Arc;

use ringcast_proto::SessionId;
use settings::RedisStore;
use test_servers::{Redis, RedisOptions};

use super::*;
use crate::presence_store::tests::*;

/// A store, and the server that it is on.
pub(super) struct OnServer {
    pub(super) server: Redis,
    pub(super) store: PresenceRedis,
}

impl OnServer {
    pub(super) async fn start() -> Self {
        let server = Redis::plain();
        let store = connected(&[server.address()]).await;
        Self { server, store }
    }

    fn store(&self) -> &dyn PresenceStore {
        &self.store
    }

    /// Another controller's store.
    pub(super) async fn another(&self) -> PresenceRedis {
        connected(&[self.server.address()]).await
    }
}

pub(super) fn settings(addresses: &[String]) -> RedisStore {
    RedisStore { addresses: addresses.to_vec(), ..RedisStore::default() }
}

pub(super) async fn connected(addresses: &[String]) -> PresenceRedis {
    PresenceRedis::connect(&settings(addresses)).await.unwrap()
}

all_scenarios!(on_a_store!(OnServer::start(), OnServer::store));

#[tokio::test]
async fn random_words_agree_with_a_naive_model() {
    for seed in 0..2 {
        let on = OnServer::start().await;
        model::play(&on.store, seed, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_enters_at_once_for_the_last_ten_seats_end_with_ten() {
    let on = OnServer::start().await;
    let early = begun(&on.store, "early").await;
    let words: Vec<Change> =
        (0..90).map(|number| enter(number, &format!("early{number}"), "r", 100)).collect();
    on.store.apply(&early, &words, NOW).await.unwrap();
    let mut joins = tokio::task::JoinSet::new();
    for controller in 0..4 {
        let store = Arc::new(on.another().await);
        let at = begun(&*store, &format!("n{controller}")).await;
        for number in 0..50 {
            let (store, at) = (store.clone(), at.clone());
            joins.spawn(async move {
                apply(&*store, &at, enter(number, &format!("late{controller}-{number}"), "r", 100)).await
            });
        }
    }
    let verdicts = joins.join_all().await;
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Done).count(), 10);
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Full).count(), 190);
    assert_eq!(users_in(&on.store, "r").await.len(), 100);
    assert_eq!(
        on.store.totals().await.unwrap(),
        Totals { users: 100, sessions: 100 },
        "no trace of the others"
    );
}

#[tokio::test]
async fn nothing_is_left_of_what_was_removed() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    let words: Vec<Change> = (0..1200)
        .map(|number| enter(number, &format!("u{}", number % 700), &format!("r{}", number % 90), 0))
        .collect();
    for words in words.chunks(300) {
        on.store.apply(&a, words, NOW).await.unwrap();
    }
    on.store.beat(&[record(&a)]).await.unwrap();
    on.store.remove(&a).await.unwrap();
    assert_eq!(on.server.keys("*"), ["ringcast:epoch"]);
}

#[tokio::test]
async fn a_password_a_database_and_tls_are_used() {
    let options = RedisOptions { password: Some("s3cret \"x\"".into()), tls: true };
    let server = Redis::with(options.clone());
    let authority = server.certificates().unwrap().authority.clone();
    let right = RedisStore {
        password: options.password.map(Into::into),
        tls: true,
        ca: Some(authority),
        db: 3,
        ..settings(&[server.address()])
    };
    let store = PresenceRedis::connect(&right).await.unwrap();
    begun(&store, "a").await;
    assert_eq!(server.command(&["dbsize"]), "0");
    assert!(server.command(&["info", "keyspace"]).contains("db3:keys="), "it is in its database");
    let wrong = RedisStore { password: Some("wrong".to_owned().into()), ..right.clone() };
    let unknown = RedisStore { ca: None, ..right };
    for refused in [wrong, unknown] {
        let store = PresenceRedis::connect(&refused).await.unwrap();
        assert!(store.nodes().await.is_err());
    }
}

#[tokio::test]
async fn what_another_program_wrote_counts_as_not_there() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    apply(&on.store, &a, enter(1, "u", "r", 0)).await;
    for key in ["ringcast:{r:r}:users", &keys::bucket(keys::bucket_of(&user("u"))), "ringcast:{n:a}:sessions"]
    {
        let field = on.server.command(&["hkeys", key]);
        on.server.command(&["hset", key, &field, "garbage"]);
    }
    assert!(on.store.members(&room("r"), None, 10).await.unwrap().0.is_empty());
    assert!(on.store.sessions_of(&user("u")).await.unwrap().is_empty());
    on.store.sync(&a, vec![(arrival(1, "u"), vec![room("r")])], NOW).await.unwrap();
    assert_eq!(users_in(&on.store, "r").await, ["u"]);
    assert_eq!(sessions_of(&on.store, "u").await, [("a".into(), 1, vec!["r".into()])]);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_once_more() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    on.server.command(&["script", "flush"]);
    assert_eq!(apply(&on.store, &a, enter(1, "u", "r", 1)).await, Verdict::Done);
    on.server.command(&["script", "flush"]);
    assert_eq!(users_in(&on.store, "r").await, ["u"]);
}

#[tokio::test]
#[ignore = "a measurement: run it by hand, with --nocapture, on a machine that does nothing else"]
async fn the_time_of_five_hundred_joins() {
    let on = OnServer::start().await;
    let a = begun(&on.store, "a").await;
    on.server.command(&["config", "resetstat"]);
    let mut times = Vec::new();
    for round in 0..20 {
        let words: Vec<Change> = (0..500)
            .map(|number| round * 500 + number)
            .map(|number| enter(number, &format!("user-{number}"), &format!("room-{}", number % 50), 0))
            .collect();
        let from = std::time::Instant::now();
        on.store.apply(&a, &words, NOW).await.unwrap();
        times.push(from.elapsed());
    }
    times.sort();
    println!("500 joins into 50 rooms: median {:?}, slowest {:?}", times[10], times[19]);
    println!("{}", on.server.command(&["info", "commandstats"]));
}
