//! Promise: a forwarder that has nothing to do does nothing, whatever state its connections are in. The only test of
//! its file, for it measures what its process uses.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use test_servers::{Direction, Forwarder};

/// What this process has used of the processors.
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure lives through the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
}

fn rests(what: &str) {
    let (span, before) = (Duration::from_millis(200), used());
    // What is measured is how much of this time is used.
    std::thread::sleep(span);
    let used = used() - before;
    assert!(used < span / 4, "{what}: {used:?} of {span:?}");
}

#[test]
fn a_forwarder_with_nothing_to_do_uses_no_processor() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forwarder = Forwarder::start(&listener.local_addr().unwrap().to_string());
    let connect = || {
        let client = TcpStream::connect(forwarder.address()).unwrap();
        (client, listener.accept().unwrap().0)
    };
    let (client, _target) = connect();
    rests("an idle connection");
    client.shutdown(Shutdown::Write).unwrap();
    rests("a half-closed connection");
    let (client, _target) = connect();
    let (_client, target) = connect();
    forwarder.one_way(Direction::FromTarget);
    drop(client);
    rests("a client that is gone on the way that is shut");
    forwarder.black_hole();
    drop(target);
    let unheard = TcpStream::connect(forwarder.address()).unwrap();
    rests("a target that is gone in a black hole");
    drop(unheard);
    rests("a black hole that a client has left");
    forwarder.refuse();
    rests("a listener that is closed");
}
