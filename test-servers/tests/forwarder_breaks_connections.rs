//! Promise: a forwarder hands on bytes, and breaks connections in each way that a network does.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use test_servers::{Direction, Forwarder};

/// Long enough that a byte which can come has come.
const QUIET: Duration = Duration::from_millis(100);

struct Pair {
    listener: TcpListener,
    forwarder: Forwarder,
    client: TcpStream,
    target: TcpStream,
}

impl Pair {
    fn connect() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let forwarder = Forwarder::start(&listener.local_addr().unwrap().to_string());
        let client = TcpStream::connect(forwarder.address()).unwrap();
        let (target, _) = listener.accept().unwrap();
        Self { listener, forwarder, client, target }
    }
}

fn comes(mut stream: &TcpStream, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, wanted);
}

fn nothing_comes(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(QUIET)).unwrap();
    let error = stream.read(&mut [0]).expect_err("nothing was to come");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
}

fn is_reset(mut stream: &TcpStream) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn bytes_and_ends_go_both_ways() {
    let mut pair = Pair::connect();
    let many = vec![7; 3 << 20];
    std::thread::scope(|scope| {
        let (mut client, many) = (&pair.client, &many);
        scope.spawn(move || client.write_all(many).unwrap());
        comes(&pair.target, many);
    });
    pair.target.write_all(b"back").unwrap();
    comes(&pair.client, b"back");
    pair.client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(pair.target.read(&mut [0]).unwrap(), 0, "the end is handed on");
    pair.target.write_all(b"last").unwrap();
    comes(&pair.client, b"last");
    assert_eq!(pair.forwarder.connections(), 1);
}

#[test]
fn a_black_hole_holds_bytes_and_ends_until_it_is_healed() {
    let mut pair = Pair::connect();
    pair.forwarder.black_hole();
    pair.client.write_all(b"there").unwrap();
    pair.target.write_all(b"back").unwrap();
    pair.target.shutdown(std::net::Shutdown::Write).unwrap();
    nothing_comes(&pair.target);
    nothing_comes(&pair.client);
    let late = TcpStream::connect(pair.forwarder.address()).unwrap();
    nothing_comes(&late);
    pair.forwarder.heal();
    comes(&pair.target, b"there");
    comes(&pair.client, b"back");
    assert_eq!(pair.client.read(&mut [0]).unwrap(), 0);
    let (mut target, _) = pair.listener.accept().unwrap();
    target.write_all(b"late").unwrap();
    comes(&late, b"late");
}

#[test]
fn one_way_is_open_while_the_other_is_not() {
    let mut pair = Pair::connect();
    for (open, ours) in [(Direction::ToTarget, true), (Direction::FromTarget, false)] {
        pair.forwarder.one_way(open);
        pair.client.write_all(b"there").unwrap();
        pair.target.write_all(b"back").unwrap();
        if ours {
            comes(&pair.target, b"there");
            nothing_comes(&pair.client);
        } else {
            comes(&pair.client, b"back");
            nothing_comes(&pair.target);
        }
        pair.forwarder.heal();
        if ours {
            comes(&pair.client, b"back");
        } else {
            comes(&pair.target, b"there");
        }
    }
}

#[test]
fn a_cut_resets_both_sides_and_new_ones_are_taken() {
    let pair = Pair::connect();
    pair.forwarder.cut();
    is_reset(&pair.client);
    is_reset(&pair.target);
    let mut client = TcpStream::connect(pair.forwarder.address()).unwrap();
    let (target, _) = pair.listener.accept().unwrap();
    client.write_all(b"again").unwrap();
    comes(&target, b"again");
}

#[test]
fn who_connects_is_refused_until_it_is_healed() {
    let mut pair = Pair::connect();
    pair.forwarder.refuse();
    let error = TcpStream::connect(pair.forwarder.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    pair.client.write_all(b"still").unwrap();
    comes(&pair.target, b"still");
    pair.forwarder.heal();
    TcpStream::connect(pair.forwarder.address()).unwrap();
}

#[test]
fn another_target_gets_new_connections() {
    let pair = Pair::connect();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    pair.forwarder.retarget(&other.local_addr().unwrap().to_string());
    is_reset(&pair.client);
    let mut client = TcpStream::connect(pair.forwarder.address()).unwrap();
    let (target, _) = other.accept().unwrap();
    client.write_all(b"other").unwrap();
    comes(&target, b"other");
    drop(other);
    let client = TcpStream::connect(pair.forwarder.address()).unwrap();
    is_reset(&client);
}
