//! Promise: a server lives as long as the value that stands for it, whichever thread made it; when the process is
//! killed the server ends, too, and the next test removes its folder.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use test_servers::{Redis, RedisOptions};

/// Set where this test is the one that is to be killed.
const VICTIM: &str = "TEST_SERVERS_VICTIM";

/// How long an end may take.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_killed_process_takes_its_servers_along() {
    let with_folder = || Redis::with(RedisOptions { tls: true, ..RedisOptions::default() });
    if std::env::var_os(VICTIM).is_some() {
        let redis = with_folder();
        let folder = redis.certificates().unwrap().authority.parent().unwrap();
        println!("\n>{} {}", redis.address(), folder.display());
        // Not for ever, should the test that is to kill this one be killed itself.
        std::thread::sleep(3 * LIMIT);
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim.args(["--exact", "a_killed_process_takes_its_servers_along", "--nocapture"]);
    let mut victim = victim.env(VICTIM, "1").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let line = lines.find_map(|line| line.strip_prefix('>').map(str::to_owned)).unwrap();
    let (address, folder) = line.split_once(' ').unwrap();
    assert!(TcpStream::connect(address).is_ok());
    assert!(Path::new(folder).is_dir());
    victim.kill().unwrap();
    victim.wait().unwrap();
    let killed = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(killed.elapsed() < LIMIT, "the server of a killed test lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(with_folder());
    assert!(!Path::new(folder).exists());
}

#[test]
fn a_server_outlives_the_thread_that_made_it_and_ends_with_its_value() {
    let redis = std::thread::spawn(Redis::plain).join().unwrap();
    assert_eq!(redis.command(&["ping"]), "PONG");
    let address = redis.address();
    drop(redis);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_server_listens_in_the_network_of_the_thread_that_made_it() {
    let inside = std::thread::spawn(|| {
        // SAFETY: the call takes no memory; it concerns this thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            // Without the right to, there is one network only.
            return None;
        }
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        // Answers, so it is in this network.
        Some(Redis::plain())
    });
    let _inside = inside.join().unwrap();
    // The thread above may have been the first of all that makes a server; what others make is in theirs.
    let outside = Redis::plain();
    assert!(TcpStream::connect(outside.address()).is_ok());
}
