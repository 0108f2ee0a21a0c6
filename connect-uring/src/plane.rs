//! What the two planes offer: the I/O of a shard's sockets, told as events.
//!
//! Owns: the vocabulary, and the calls on a socket that both planes make. Must not: know what the bytes mean.
//! Talks to: `shard_driver`, which drives a plane; `plane_uring` and `plane_epoll`, which are the two.
//!
//! A socket is registered under its session and stays until [`Plane::end`]. What the kernel may still read is held
//! until its completion is in; the last completion of an ended socket closes it, and only then
//! [`PlaneEvent::Gone`] sets its slot free. A session that is not registered any more names nothing: asking
//! something for it is counted and does nothing.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use connect_core::Write;
use ringcast_proto::SessionId;

/// The most pieces of one write that go to the kernel together (UIO_MAXIOV).
pub(crate) const MAX_PIECES: usize = 1024;

/// What happened to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaneEvent {
    /// There is something to receive: bytes, the end, or an error.
    Readable {
        /// The session.
        session: SessionId,
    },
    /// The write is over; one for each [`Plane::send`].
    Wrote {
        /// The session.
        session: SessionId,
        /// How many of its bytes the kernel took.
        bytes: usize,
        /// The socket takes nothing more.
        failed: bool,
    },
    /// Nothing more can be received or written.
    Broken {
        /// The session.
        session: SessionId,
    },
    /// The socket is closed; the last event of a session.
    Gone {
        /// The session.
        session: SessionId,
    },
}

/// How a shard's sockets are driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Driver {
    /// By a ring of the shard.
    IoUring,
    /// By epoll and non-blocking calls.
    Epoll,
}

impl Driver {
    /// Its name in settings, `/stats` and metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What one call received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    /// Bytes; 0 is the end of the peer's stream.
    pub(crate) bytes: usize,
    /// There may be more. Otherwise the next bytes, or the end, will be told.
    pub(crate) more: bool,
}

/// What a plane counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PlaneCounters {
    /// Gauge: sockets, from register to gone.
    pub(crate) sockets: u64,
    /// Gauge: writes that the kernel has and has not completed.
    pub(crate) writes_in_flight: u64,
    /// Receive calls.
    pub(crate) receives: u64,
    /// Writes handed to the kernel.
    pub(crate) sends: u64,
    /// System calls that submit or fetch events: `io_uring_enter`, `epoll_wait`.
    pub(crate) enters: u64,
    /// Polls of io_uring that ended by themselves and were armed again.
    pub(crate) polls_rearmed: u64,
    /// Times that the completion queue was found full.
    pub(crate) completion_overflows: u64,
    /// Completions or calls for a session that was gone.
    pub(crate) stale: u64,
}

/// The I/O of a shard's sockets. Nothing here blocks.
pub(crate) trait Plane {
    /// Which of the two it is.
    fn driver(&self) -> Driver;

    /// Whether sockets are to be registered with O_NONBLOCK. A ring wants them without: with it the kernel gives
    /// a write back that would have to wait.
    fn wants_nonblocking(&self) -> bool;

    /// Takes a connected stream socket and begins to tell when it is readable.
    ///
    /// # Panics
    ///
    /// When the slot is in use: its [`PlaneEvent::Gone`] is not out yet.
    fn register(&mut self, session: SessionId, socket: OwnedFd);

    /// Receives what is there. `WouldBlock` means that all has been received, and the next bytes will be told by
    /// [`PlaneEvent::Readable`].
    fn receive(&mut self, session: SessionId, buffer: &mut [u8]) -> io::Result<Received>;

    /// Begins a write, answered by one [`PlaneEvent::Wrote`].
    ///
    /// # Panics
    ///
    /// When a write of the session is under way.
    fn send(&mut self, session: SessionId, write: Write);

    /// Tells the peer that nothing more will come (SHUT_WR). No write may be under way.
    fn finish(&mut self, session: SessionId);

    /// Ends the socket both ways; a write under way is still answered, and the last event is
    /// [`PlaneEvent::Gone`].
    fn end(&mut self, session: SessionId);

    /// Ends every socket.
    fn end_all(&mut self);

    /// Hands everything that was begun to the kernel.
    fn flush(&mut self) -> io::Result<()>;

    /// Adds what has happened, at least one event where there are any, and some thousands at most. True where that
    /// was not all.
    fn poll(&mut self, events: &mut Vec<PlaneEvent>) -> io::Result<bool>;

    /// Whether nothing is left to do until [`Plane::wake_fd`] polls as readable. A loop that does not listen to the
    /// plane in this sleep asks only whether something that it began itself is left: what the peers did may wait.
    fn may_sleep(&mut self, listens: bool) -> bool;

    /// [`Plane::wake_fd`] has ended a sleep.
    fn woken(&mut self);

    /// What to sleep on.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// What it counted.
    fn counters(&self) -> PlaneCounters;
}

/// What a plane knows of the receiving side of a socket.
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    /// The peer's end was received.
    pub(crate) ended: bool,
    /// The last event told of an end or an error behind the bytes.
    pub(crate) end_told: bool,
}

impl Receiving {
    /// `recv(2)` without waiting, tried again when a signal interrupts it. A buffer that was not filled has taken
    /// everything: bytes that come later are told by another event.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
        if self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            // SAFETY: the buffer lives through the call and the kernel writes no more than its length.
            let result = unsafe {
                libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
            };
            if let Ok(bytes) = usize::try_from(result) {
                self.ended = bytes == 0;
                return Ok(Received { bytes, more: !self.ended && (bytes == buffer.len() || self.end_told) });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// `shutdown(2)`. An error means that the connection is gone already.
pub(crate) fn shut_down(socket: &impl AsFd, how: std::net::Shutdown) {
    let _ = socket2::SockRef::from(socket).shutdown(how);
}

#[cfg(test)]
#[path = "plane_tests.rs"]
mod tests;
