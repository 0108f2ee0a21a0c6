//! Promise: a fleet sees what a server does wrong. The server is tungstenite, so that our codec is not its own judge.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use loadgen::{Ended, Fleet, FleetPlan, Heartbeat, Leave, Seen, Stamp, monotonic_ns};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(10);

/// Serves one client with this function.
fn serve(work: impl FnOnce(WebSocket<TcpStream>) + Send + 'static) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        work(tungstenite::accept(socket).unwrap());
    });
    (addr, thread)
}

fn fleet(addr: SocketAddr) -> Fleet {
    Fleet::connect(FleetPlan::new(addr, 1, "user", |_| "room".into())).unwrap()
}

fn frame(seq: u64, intended_ns: u64) -> Message {
    let payload = Stamp { stream: 5, seq, intended_ns }.payload(200);
    Message::text(format!(r#"{{"data":{{"content":"{}"}}}}"#, String::from_utf8(payload).unwrap()))
}

#[test]
fn doubles_losses_and_disorder_are_told_apart() {
    let (addr, server) = serve(|mut socket| {
        let late = monotonic_ns() - 50_000_000;
        for seq in [0, 1, 1, 4, 3] {
            socket.send(frame(seq, late)).unwrap();
        }
        socket.send(Message::Ping("are you there?".into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong("are you there?".into()));
        socket.close(Some(CloseFrame { code: 1012.into(), reason: "restart".into() })).unwrap();
        while socket.read().is_ok() {}
    });
    let fleet = fleet(addr);
    fleet.run_until(PATIENCE, |totals| totals.over() == 1).unwrap();
    server.join().unwrap();
    let report = fleet.report().unwrap();
    let member = &report.connections[0];
    let tally = member.stream(5);
    assert_eq!((tally.received, tally.duplicates, tally.reordered), (4, 1, 1));
    assert_eq!((tally.missing_between(), tally.lost(7)), (1, 3));
    assert_eq!(member.ended, Some(Ended::ClosedByServer { code: 1012, reason: "restart".into() }));
    assert_eq!((member.pings, report.disorder()), (1, (1, 1)));
    assert_eq!((report.latency.count(), report.pushes.len()), (4, 4));
    let earliest = report.latency.percentile_ms(0.0);
    assert!(earliest >= 49.9, "latency counts from the intended time: {earliest} ms");
}

#[test]
fn a_frame_in_many_pieces_is_one_frame() {
    let (addr, server) = serve(|mut socket| {
        let text = format!("{}{}", "x".repeat(700_000), frame(0, monotonic_ns()));
        socket.send(Message::text(text)).unwrap();
        assert!(socket.read().unwrap().is_close());
        while socket.read().is_ok() {}
    });
    let fleet = fleet(addr);
    fleet.run_until(PATIENCE, |totals| totals.received == 1).unwrap();
    fleet.leave(0..1, Leave::Close);
    fleet.run_until(PATIENCE, |totals| totals.left == 1).unwrap();
    server.join().unwrap();
}

#[test]
fn a_stream_that_ends_without_a_close_is_broken() {
    let (addr, server) = serve(drop);
    let fleet = fleet(addr);
    fleet.run_until(PATIENCE, |totals| totals.broken == 1).unwrap();
    server.join().unwrap();
    assert_eq!(fleet.totals().joined, 1);
}

#[test]
fn a_refusal_is_told_by_its_status() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        #[allow(clippy::result_large_err)] // The type is tungstenite's.
        let refuse = |_: &Request, response: Response| -> Result<Response, ErrorResponse> {
            let (mut parts, ()) = response.into_parts();
            parts.status = 409.try_into().unwrap();
            Err(ErrorResponse::from_parts(parts, Some("full".into())))
        };
        assert!(tungstenite::accept_hdr(listener.accept().unwrap().0, refuse).is_err());
    });
    let fleet = fleet(addr);
    fleet.run_until(PATIENCE, |totals| totals.refused == 1).unwrap();
    server.join().unwrap();
    assert_eq!(fleet.report().unwrap().connections[0].ended, Some(Ended::Refused { status: 409 }));
}

#[test]
fn nobody_there_is_an_end_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let fleet = fleet(addr);
    fleet.run_until(PATIENCE, |totals| totals.broken == 1).unwrap();
    assert_eq!(fleet.totals().joined, 0);
}

#[test]
fn a_journal_holds_all_that_a_client_saw_in_its_order() {
    let (addr, server) = serve(|mut socket| {
        for seq in [0, 1, 1] {
            socket.send(frame(seq, 1)).unwrap();
        }
        socket.close(Some(CloseFrame { code: 1012.into(), reason: "restart".into() })).unwrap();
        while socket.read().is_ok() {}
    });
    let mut plan = FleetPlan::new(addr, 1, "user", |_| "room".into());
    plan.journal = true;
    let fleet = Fleet::connect(plan).unwrap();
    fleet.run_until(PATIENCE, |totals| totals.over() == 1).unwrap();
    server.join().unwrap();
    let journal = fleet.journal().unwrap();
    let got = |seq| Seen::Got { stream: 5, seq };
    let how = Box::new(Ended::ClosedByServer { code: 1012, reason: "restart".into() });
    let expected = [Seen::Joined { node: 0 }, got(0), got(1), got(1), Seen::Ended { node: 0, how }];
    assert_eq!(journal.iter().map(|entry| entry.seen.clone()).collect::<Vec<_>>(), expected);
    assert!(journal.is_sorted_by_key(|entry| entry.at_ns), "{journal:?}");
    assert!(journal.iter().all(|entry| (entry.client, entry.connection) == (0, 0)), "{journal:?}");
    assert!(fleet.journal().unwrap().is_empty(), "it is handed out once");
}

#[test]
fn a_client_with_a_heartbeat_gives_a_silent_server_up() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (addr, server) = serve(move |mut socket| {
        assert_eq!(socket.read().unwrap(), Message::Ping("".into()), "it asks");
        // Pongs go out with the next read, and there is none.
        held.recv().unwrap();
    });
    let mut plan = FleetPlan::new(addr, 1, "user", |_| "room".into());
    plan.heartbeat =
        Some(Heartbeat { every: Duration::from_millis(100), timeout: Duration::from_millis(400) });
    let fleet = Fleet::connect(plan).unwrap();
    let totals = fleet.run_until(PATIENCE, |totals| totals.over() == 1).unwrap();
    assert_eq!((totals.joined, totals.broken), (1, 1));
    let report = fleet.report().unwrap();
    assert_eq!(report.endings().into_keys().collect::<Vec<_>>(), ["broken: the node is silent"]);
    release.send(()).unwrap();
    server.join().unwrap();
}
