//! The plane over epoll and non-blocking calls, for kernels and containers that refuse io_uring.
//!
//! Owns: the epoll instance, and every write until the kernel took its last byte. Must not: wait. Talks to: the
//! kernel.
//!
//! Writes are tried at once; what does not fit the socket's buffer goes on when the socket says that there is
//! room. Interest is edge-triggered and never changed, so an idle socket costs no call.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use connect_core::Write;
use ringcast_proto::{SessionId, ShardId};
use socket2::SockRef;

use crate::plane::{Driver, MAX_PIECES, Plane, PlaneCounters, PlaneEvent, Received, Receiving, shut_down};
use crate::socket_table::SocketTable;

/// Events that one call of the kernel gives at most.
const EVENTS_PER_WAIT: usize = 1024;

/// The plane's state of a socket.
#[derive(Debug, Default)]
struct Socket {
    /// The write under way.
    write: Option<Box<Progress>>,
    receiving: Receiving,
}

/// A write, and how many of its bytes the kernel took.
#[derive(Debug)]
struct Progress {
    write: Write,
    written: usize,
}

/// See the module.
pub(crate) struct EpollPlane {
    shard: ShardId,
    epoll: OwnedFd,
    sockets: SocketTable<Socket>,
    /// Events that came about outside [`Plane::poll`].
    events: Vec<PlaneEvent>,
    ready: Vec<libc::epoll_event>,
    /// The last wait was answered with as many events as fit.
    more_ready: bool,
    counters: PlaneCounters,
}

impl EpollPlane {
    /// Makes the epoll instance.
    pub(crate) fn new(shard: ShardId) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers; its result is checked before it is used as a descriptor.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            shard,
            // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
            epoll: unsafe { OwnedFd::from_raw_fd(fd) },
            sockets: SocketTable::new(),
            events: Vec::new(),
            ready: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_PER_WAIT],
            more_ready: false,
            counters: PlaneCounters::default(),
        })
    }

    fn watch(&self, session: SessionId, socket: &OwnedFd) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest as u32, u64: session.as_u64() };
        // SAFETY: both descriptors are open, and the event lives through the call.
        let result = unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &raw mut event)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes a write as far as the socket's buffer allows; the rest waits for room.
    fn go_on(&mut self, session: SessionId, mut progress: Progress) {
        let Some((fd, socket)) = self.sockets.get(session) else { return };
        let outcome = write_more(&SockRef::from(&fd), &mut progress);
        if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            socket.write = Some(Box::new(progress));
            return;
        }
        self.counters.writes_in_flight -= 1;
        self.events.push(PlaneEvent::Wrote { session, bytes: progress.written, failed: outcome.is_err() });
    }

    fn happened(&mut self, session: SessionId, mask: u32) {
        let Some((_, socket)) = self.sockets.get(session) else { return };
        let writable = libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP;
        let write = if mask & writable as u32 != 0 { socket.write.take() } else { None };
        let has = |flags: i32| mask & flags as u32 != 0;
        if socket.receiving.ended {
            if has(libc::EPOLLERR) {
                self.events.push(PlaneEvent::Broken { session });
            }
        } else if has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) {
            socket.receiving.end_told |= has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR);
            self.events.push(PlaneEvent::Readable { session });
        }
        if let Some(progress) = write {
            self.go_on(session, *progress);
        }
    }
}

/// Writes until all is written (`Ok`), the buffer is full (`WouldBlock`) or the socket fails.
fn write_more(socket: &SockRef<'_>, progress: &mut Progress) -> io::Result<()> {
    let total = progress.write.len();
    while progress.written < total {
        let mut skip = progress.written;
        let mut slices = progress.write.slices().filter_map(|slice| {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            (skipped < slice.len()).then(|| &slice[skipped..])
        });
        let Some(first) = slices.next() else { return Ok(()) };
        let result = match slices.next() {
            None => socket.send_with_flags(first, libc::MSG_NOSIGNAL),
            Some(second) => {
                let all = [first, second].into_iter().chain(slices).take(MAX_PIECES);
                socket
                    .send_vectored_with_flags(&all.map(IoSlice::new).collect::<Vec<_>>(), libc::MSG_NOSIGNAL)
            }
        };
        match result {
            Ok(written) => progress.written += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Plane for EpollPlane {
    fn driver(&self) -> Driver {
        Driver::Epoll
    }

    fn wants_nonblocking(&self) -> bool {
        true
    }

    fn register(&mut self, session: SessionId, socket: OwnedFd) {
        let watched = self.watch(session, &socket);
        self.sockets.insert(session, socket);
        if watched.is_err() {
            self.events.push(PlaneEvent::Broken { session });
        }
    }

    fn receive(&mut self, session: SessionId, buffer: &mut [u8]) -> io::Result<Received> {
        let Some((fd, socket)) = self.sockets.get(session) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.counters.receives += 1;
        socket.receiving.receive(fd, buffer)
    }

    fn send(&mut self, session: SessionId, write: Write) {
        let Some((_, socket)) = self.sockets.get(session) else { return };
        assert!(socket.write.is_none(), "a write of this session is under way");
        self.counters.writes_in_flight += 1;
        self.counters.sends += 1;
        self.go_on(session, Progress { write, written: 0 });
    }

    fn finish(&mut self, session: SessionId) {
        if let Some((fd, _)) = self.sockets.get(session) {
            shut_down(&fd, Shutdown::Write);
        }
    }

    fn end(&mut self, session: SessionId) {
        let Some((fd, socket)) = self.sockets.get(session) else { return };
        shut_down(&fd, Shutdown::Both);
        if let Some(progress) = socket.write.take() {
            self.counters.writes_in_flight -= 1;
            self.events.push(PlaneEvent::Wrote { session, bytes: progress.written, failed: true });
        }
        self.sockets.close(session);
        self.events.push(PlaneEvent::Gone { session });
    }

    fn end_all(&mut self) {
        for (slot, generation) in self.sockets.open_slots() {
            self.end(SessionId::new(self.shard, slot, generation));
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll(&mut self, events: &mut Vec<PlaneEvent>) -> io::Result<bool> {
        let mut ready = std::mem::take(&mut self.ready);
        self.counters.enters += 1;
        // SAFETY: the kernel writes no more events than the buffer holds, and it lives through the call.
        let count = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), ready.as_mut_ptr(), ready.len() as libc::c_int, 0)
        };
        let failure = (count < 0).then(io::Error::last_os_error);
        let count = usize::try_from(count).unwrap_or(0);
        for event in &ready[..count] {
            let libc::epoll_event { events: mask, u64: session } = *event;
            self.happened(SessionId::from_u64(session), mask);
        }
        self.more_ready = count == ready.len();
        self.ready = ready;
        events.append(&mut self.events);
        match failure {
            Some(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(self.more_ready),
        }
    }

    fn may_sleep(&mut self, listens: bool) -> bool {
        self.events.is_empty() && !(listens && self.more_ready)
    }

    fn woken(&mut self) {
        // The next poll takes what made it readable.
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn counters(&self) -> PlaneCounters {
        PlaneCounters {
            sockets: self.sockets.open() as u64,
            stale: self.sockets.stale(),
            ..self.counters.clone()
        }
    }
}
