//! What both planes promise, each over real sockets.

use std::io::{ErrorKind, Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use connect_core::{Piece, Write};
use ringcast_proto::{SessionId, ShardId};
use socket2::SockRef;

use crate::kernel_check::{explain_refusal, raise_open_files};
use crate::plane::{Plane, PlaneEvent};
use crate::plane_epoll::EpollPlane;
use crate::plane_uring::UringPlane;

const SHARD: ShardId = ShardId(7);
const PATIENCE: Duration = Duration::from_secs(10);

/// A plane with the events that it has told so far.
struct Rig {
    plane: Box<dyn Plane>,
    events: Vec<PlaneEvent>,
    listener: TcpListener,
}

/// Runs a test on the plane of each driver; that of io_uring with a ring so small that a fan-out fills it.
fn on_both(test: impl Fn(Rig)) {
    raise_open_files().unwrap();
    let rig = |plane| Rig { plane, events: Vec::new(), listener: TcpListener::bind("127.0.0.1:0").unwrap() };
    test(rig(Box::new(EpollPlane::new(SHARD).unwrap())));
    match UringPlane::with_entries(SHARD, 256, 512, &mut |line| println!("{line}")) {
        Ok(plane) => test(rig(Box::new(plane))),
        Err(error) => println!("only the epoll plane is tested: {}", explain_refusal(&error)),
    }
}

fn session(slot: u32, generation: u32) -> SessionId {
    SessionId::new(SHARD, slot, generation)
}

fn write_of(pieces: &[&[u8]]) -> Write {
    let pieces = pieces.iter().map(|piece| Piece::Shared(Rc::new(Bytes::copy_from_slice(piece)))).collect();
    Write { pieces, skip: 0 }
}

impl Rig {
    /// A connected pair: our end, which the plane takes, and the client's.
    fn pair(&self) -> (OwnedFd, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (ours, _) = self.listener.accept().unwrap();
        ours.set_nonblocking(self.plane.wants_nonblocking()).unwrap();
        (ours.into(), client)
    }

    fn connect(&mut self, session: SessionId) -> TcpStream {
        let (ours, client) = self.pair();
        self.plane.register(session, ours);
        client
    }

    /// Goes on until an event is told, sleeping on the plane's descriptor as the loop does.
    fn until(&mut self, mut done: impl FnMut(&[PlaneEvent]) -> bool) {
        loop {
            self.plane.flush().unwrap();
            self.plane.poll(&mut self.events).unwrap();
            if done(&self.events) {
                return;
            }
            if self.plane.may_sleep(true) {
                let mut poll =
                    libc::pollfd { fd: self.plane.wake_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one pollfd is passed, and it lives through the call.
                let woken = unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) };
                assert_eq!(woken, 1, "nothing woke the plane; it told {:?}", self.events);
                self.plane.woken();
            }
        }
    }

    fn until_event(&mut self, event: PlaneEvent) {
        self.until(|events| events.contains(&event));
    }

    /// Receives from a session until it has given `bytes` bytes.
    fn receive(&mut self, session: SessionId, bytes: usize) -> Vec<u8> {
        let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
        while received.len() < bytes {
            match self.plane.receive(session, &mut buffer) {
                Ok(got) => received.extend_from_slice(&buffer[..got.bytes]),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    self.events.retain(|event| *event != PlaneEvent::Readable { session });
                    self.until_event(PlaneEvent::Readable { session });
                }
            }
        }
        received
    }

    /// The events of one session, readiness left out.
    fn outcomes(&self, of: SessionId) -> Vec<PlaneEvent> {
        let outcomes = self.events.iter().filter(|event| match event {
            PlaneEvent::Readable { .. } => false,
            PlaneEvent::Wrote { session, .. }
            | PlaneEvent::Broken { session }
            | PlaneEvent::Gone { session } => *session == of,
        });
        outcomes.copied().collect()
    }
}

#[test]
fn bytes_arrive_both_ways() {
    on_both(|mut rig| {
        let session = session(3, 9);
        let mut client = rig.connect(session);
        for round in 0..100_u8 {
            client.write_all(&[round; 100]).unwrap();
            assert_eq!(rig.receive(session, 100), [round; 100]);
            rig.plane.send(session, write_of(&[b"one", b"", &[round; 7]]));
            rig.until_event(PlaneEvent::Wrote { session, bytes: 10, failed: false });
            rig.events.clear();
            let mut got = [0; 10];
            client.read_exact(&mut got).unwrap();
            assert_eq!(&got[..3], b"one");
            assert_eq!(got[3..], [round; 7]);
        }
    });
}

#[test]
fn what_was_written_already_is_skipped() {
    on_both(|mut rig| {
        let session = session(0, 0);
        let mut client = rig.connect(session);
        rig.plane.send(session, Write { skip: 4, ..write_of(&[b"123456", b"789"]) });
        rig.until_event(PlaneEvent::Wrote { session, bytes: 5, failed: false });
        let mut got = [0; 5];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"56789");
    });
}

#[test]
fn a_write_that_does_not_fit_goes_on_when_the_peer_reads() {
    on_both(|mut rig| {
        let session = session(0, 1);
        for pieces in [1, 2500] {
            let mut client = rig.connect(session);
            let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
            let parts: Vec<&[u8]> = bytes.chunks(bytes.len() / pieces).collect();
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                client.read_to_end(&mut got).unwrap();
                got
            });
            // A write of very many pieces may be answered in part; what is left is sent then.
            let mut written = 0;
            while written < bytes.len() {
                rig.events.clear();
                let (first, skip) = (written / parts[0].len(), written % parts[0].len());
                rig.plane.send(session, Write { skip, ..write_of(&parts[first..]) });
                rig.until(|events| events.iter().any(|event| matches!(event, PlaneEvent::Wrote { .. })));
                match rig.outcomes(session)[..] {
                    [PlaneEvent::Wrote { bytes, failed: false, .. }] => written += bytes,
                    ref other => panic!("{other:?}"),
                }
            }
            rig.plane.finish(session);
            assert!(reader.join().unwrap() == bytes);
            rig.plane.end(session);
            rig.until_event(PlaneEvent::Gone { session });
            rig.events.clear();
        }
    });
}

#[test]
fn an_end_in_the_middle_of_a_write_is_answered_once_and_then_the_socket_is_closed() {
    on_both(|mut rig| {
        for (slot, pieces) in [(0, 1), (1, 5)] {
            let session = session(slot, 5);
            let mut client = rig.connect(session);
            let chunk = vec![1; 30_000_000 / pieces];
            rig.plane.send(session, write_of(&vec![chunk.as_slice(); pieces]));
            rig.plane.flush().unwrap();
            rig.plane.poll(&mut rig.events).unwrap();
            assert_eq!(rig.outcomes(session), [], "the peer reads nothing, the write must wait");
            rig.plane.end(session);
            rig.plane.end(session);
            rig.until_event(PlaneEvent::Gone { session });
            match rig.outcomes(session)[..] {
                // The kernel had taken some of it: either it says how much, or that it failed.
                [PlaneEvent::Wrote { bytes, failed, .. }, PlaneEvent::Gone { .. }] => {
                    assert!(failed || bytes < 30_000_000, "{bytes} {failed}");
                }
                ref other => panic!("{other:?}"),
            }
            let mut got = Vec::new();
            let _ = client.read_to_end(&mut got);
            assert!(got.len() < 30_000_000, "the socket was closed in the middle");
            let counters = rig.plane.counters();
            assert_eq!((counters.sockets, counters.writes_in_flight), (0, 0));
        }
    });
}

#[test]
fn a_write_and_an_end_in_one_breath_are_both_answered() {
    on_both(|mut rig| {
        let session = session(2, 2);
        let mut client = rig.connect(session);
        rig.plane.send(session, write_of(&[b"last words"]));
        rig.plane.end(session);
        rig.until_event(PlaneEvent::Gone { session });
        match rig.outcomes(session)[..] {
            [PlaneEvent::Wrote { .. }, PlaneEvent::Gone { .. }] => {}
            ref other => panic!("{other:?}"),
        }
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert!(b"last words".starts_with(&got));
    });
}

#[test]
fn a_slot_is_used_again_after_gone_and_stale_words_change_nothing() {
    on_both(|mut rig| {
        let (old, new) = (session(4, 1), session(4, 2));
        let mut old_client = rig.connect(old);
        rig.plane.end(old);
        rig.until_event(PlaneEvent::Gone { session: old });
        assert_eq!(old_client.read(&mut [0; 8]).unwrap(), 0, "the socket is closed");

        let mut client = rig.connect(new);
        let stale = rig.plane.counters().stale;
        rig.plane.send(old, write_of(&[b"for the old one"]));
        rig.plane.finish(old);
        rig.plane.end(old);
        assert_eq!(rig.plane.receive(old, &mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(rig.plane.counters().stale, stale + 4);
        rig.plane.send(new, write_of(&[b"new"]));
        rig.until_event(PlaneEvent::Wrote { session: new, bytes: 3, failed: false });
        let mut got = [0; 3];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"new");
    });
}

#[test]
fn a_slot_in_use_takes_no_other_socket() {
    on_both(|mut rig| {
        let _client = rig.connect(session(0, 1));
        let (ours, _other) = rig.pair();
        let plane = std::panic::AssertUnwindSafe(|| rig.plane.register(session(0, 2), ours));
        assert!(std::panic::catch_unwind(plane).is_err());
    });
}

#[test]
fn a_slot_of_the_ring_is_kept_until_the_last_completion() {
    let Ok(plane) = UringPlane::with_entries(SHARD, 256, 512, &mut |_| {}) else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rig = Rig { plane: Box::new(plane), events: Vec::new(), listener };
    let _client = rig.connect(session(0, 1));
    rig.plane.end(session(0, 1));
    let (ours, _other) = rig.pair();
    let plane = std::panic::AssertUnwindSafe(|| rig.plane.register(session(0, 2), ours));
    assert!(std::panic::catch_unwind(plane).is_err(), "the poll of the old socket is still with the kernel");
}

#[test]
fn a_thousand_sockets_get_one_shared_frame() {
    on_both(|mut rig| {
        let sessions: Vec<_> = (0..1000).map(|slot| session(slot, 1)).collect();
        let mut clients: Vec<_> = sessions.iter().map(|session| rig.connect(*session)).collect();
        let frame = Rc::new(Bytes::from(vec![42; 128]));
        for _ in 0..3 {
            rig.events.clear();
            for session in &sessions {
                let piece = Piece::Shared(Rc::clone(&frame));
                rig.plane.send(*session, Write { pieces: [piece].into_iter().collect(), skip: 0 });
            }
            let wrote = |events: &[PlaneEvent]| {
                events.iter().filter(|event| matches!(event, PlaneEvent::Wrote { .. })).count()
            };
            rig.until(|events| wrote(events) >= sessions.len());
            for session in &sessions {
                let expected = PlaneEvent::Wrote { session: *session, bytes: 128, failed: false };
                assert_eq!(rig.outcomes(*session), [expected]);
            }
            for client in &mut clients {
                let mut got = [0; 128];
                client.read_exact(&mut got).unwrap();
                assert_eq!(got, [42; 128]);
            }
        }
        assert_eq!(Rc::strong_count(&frame), 1, "nothing is held after the completions");
    });
}

#[test]
fn sockets_that_become_readable_together_are_all_told_of() {
    on_both(|mut rig| {
        let sessions: Vec<_> = (0..1000).map(|slot| session(slot, 1)).collect();
        let mut clients: Vec<_> = sessions.iter().map(|session| rig.connect(*session)).collect();
        for round in 0..3_u8 {
            rig.events.clear();
            // The ring has room for 512 completions: the others end their polls, which must be armed again.
            clients.iter_mut().for_each(|client| client.write_all(&[round]).unwrap());
            let readable = |events: &[PlaneEvent]| {
                sessions.iter().all(|&session| events.contains(&PlaneEvent::Readable { session }))
            };
            rig.until(readable);
            for session in &sessions {
                assert_eq!(rig.receive(*session, 1), [round]);
            }
        }
    });
}

#[test]
fn a_reset_is_told() {
    on_both(|mut rig| {
        let session = session(0, 0);
        let client = rig.connect(session);
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        rig.until_event(PlaneEvent::Readable { session });
        let error = rig.plane.receive(session, &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        rig.plane.send(session, write_of(&[b"too late"]));
        rig.until_event(PlaneEvent::Wrote { session, bytes: 0, failed: true });
        rig.plane.end(session);
        rig.until_event(PlaneEvent::Gone { session });
    });
}

#[test]
fn a_half_close_leaves_the_other_half() {
    on_both(|mut rig| {
        let session = session(0, 0);
        let mut client = rig.connect(session);
        client.write_all(b"bye").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rig.receive(session, 3), b"bye");
        rig.until(|events| events.contains(&PlaneEvent::Readable { session }));
        while rig.plane.receive(session, &mut [0; 8]).is_err() {
            rig.events.clear();
            rig.until_event(PlaneEvent::Readable { session });
        }
        rig.plane.send(session, write_of(&[b"and to you"]));
        rig.until_event(PlaneEvent::Wrote { session, bytes: 10, failed: false });
        rig.plane.finish(session);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"and to you");
        rig.plane.end(session);
        rig.until_event(PlaneEvent::Gone { session });
    });
}

#[test]
fn an_end_right_behind_bytes_is_received_with_them() {
    on_both(|mut rig| {
        for slot in 0..100 {
            let session = session(slot, 0);
            let mut client = rig.connect(session);
            client.write_all(b"bye").unwrap();
            drop(client);
            let mut received = Vec::new();
            loop {
                rig.events.clear();
                rig.until_event(PlaneEvent::Readable { session });
                let mut buffer = [0; 64];
                // As the driver does it: another call only when there may be more.
                while let Ok(got) = rig.plane.receive(session, &mut buffer) {
                    received.push(got.bytes);
                    if !got.more {
                        break;
                    }
                }
                if received.last() == Some(&0) {
                    break;
                }
            }
            assert_eq!(received, [3, 0]);
        }
    });
}

#[test]
fn a_reset_after_a_half_close_is_told() {
    on_both(|mut rig| {
        let session = session(0, 0);
        let client = rig.connect(session);
        client.shutdown(std::net::Shutdown::Write).unwrap();
        rig.until_event(PlaneEvent::Readable { session });
        assert_eq!(rig.plane.receive(session, &mut [0; 8]).unwrap().bytes, 0);
        // Bytes that the client never reads turn its close into a reset.
        rig.plane.send(session, write_of(&[b"unread"]));
        rig.until_event(PlaneEvent::Wrote { session, bytes: 6, failed: false });
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        rig.until_event(PlaneEvent::Broken { session });
    });
}

#[test]
fn all_sockets_end_together() {
    on_both(|mut rig| {
        let clients: Vec<_> = (0..500).map(|slot| rig.connect(session(slot, 3))).collect();
        rig.plane.end_all();
        rig.until(|events| {
            events.iter().filter(|event| matches!(event, PlaneEvent::Gone { .. })).count() == 500
        });
        assert_eq!(rig.plane.counters().sockets, 0);
        for mut client in clients {
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        }
    });
}
