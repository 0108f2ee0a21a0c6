//! Promise: a Redis can be ended, held, paused and emptied; behind sentinels and in a cluster a replica stands in
//! for a primary that was ended.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use test_servers::{Redis, RedisOptions};

#[test]
fn a_server_that_was_killed_has_its_data_unless_it_is_to_be_empty() {
    let mut redis = Redis::plain();
    redis.command(&["set", "a", "1"]);
    redis.command(&["hset", "b", "field", "2"]);
    assert_eq!(redis.keys("*"), ["a", "b"]);
    redis.kill();
    assert!(redis.try_command(&["ping"]).is_err());
    redis.start_again();
    assert_eq!(redis.command(&["get", "a"]), "1");
    assert!(redis.try_command(&["hget", "a", "field"]).is_err(), "an error of the server is one");
    redis.start_again_empty();
    assert_eq!(redis.keys("*"), [""; 0]);
}

#[test]
fn a_held_or_paused_server_answers_later() {
    let mut redis = Redis::plain();
    redis.stop();
    let (said, answer) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let mut stream = std::net::TcpStream::connect(redis.address()).unwrap();
        scope.spawn(move || {
            use std::io::{Read as _, Write as _};
            stream.write_all(b"PING\r\n").unwrap();
            let mut bytes = [0; 7];
            stream.read_exact(&mut bytes).unwrap();
            said.send(bytes).unwrap();
        });
        let quiet = std::time::Duration::from_millis(100);
        assert!(answer.recv_timeout(quiet).is_err(), "it is held");
        redis.cont();
        assert_eq!(&answer.recv().unwrap(), b"+PONG\r\n");
    });
    let asked = std::time::Instant::now();
    redis.pause(300);
    redis.command(&["ping"]);
    assert!(asked.elapsed() >= std::time::Duration::from_millis(250), "{:?}", asked.elapsed());
}

#[test]
fn only_who_has_the_password_gets_in_and_only_by_tls() {
    let redis = Redis::with(RedisOptions { password: Some("secret".into()), tls: true });
    assert_eq!(redis.command(&["set", "a", "1"]), "OK");
    let authority = &redis.certificates().unwrap().authority;
    let cli = |tls: bool| {
        let mut cli = std::process::Command::new("redis-cli");
        cli.args(["-p", &redis.port().to_string()]).env_remove("REDISCLI_AUTH");
        if tls {
            cli.arg("--tls").arg("--cacert").arg(authority);
        }
        let output = cli.args(["get", "a"]).output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    assert!(cli(true).contains("NOAUTH"), "{}", cli(true));
    assert!(cli(false).contains("Error"), "{}", cli(false));
}

#[test]
fn sentinels_name_the_replica_when_the_primary_is_killed() {
    let mut redis = Redis::sentinel();
    assert_eq!(redis.addresses().len(), 3);
    assert_eq!(redis.primary(), 0);
    redis.command(&["set", "a", "1"]);
    redis.command(&["wait", "1", "5000"]);
    assert_eq!(redis.failover(), 1);
    assert_eq!(redis.command(&["get", "a"]), "1");
    redis.command(&["set", "b", "2"]);
    assert_eq!(redis.keys("*"), ["a", "b"]);
    redis.servers()[0].start_again();
    assert_eq!(redis.primary(), 1, "who comes back is not the primary");
}

#[test]
fn a_cluster_serves_all_slots_also_after_a_primary_is_killed() {
    let mut redis = Redis::cluster();
    assert_eq!(redis.addresses().len(), 6);
    assert_eq!(redis.primaries(), [0, 1, 2]);
    let keys: Vec<String> = (0..30).map(|i| format!("key-{i:02}")).collect();
    for key in &keys {
        redis.command(&["set", key, "1"]);
    }
    for server in redis.servers() {
        assert!(!server.keys("*").is_empty(), "each has a part");
    }
    let old = redis.failover("key-00");
    assert!(!redis.primaries().contains(&old));
    assert_ne!(redis.primary_of("key-00"), old);
    for key in &keys {
        redis.command(&["set", key, "2"]);
    }
    assert_eq!(redis.keys("*"), keys);
}
