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
use std::str::FromStr;

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

/// Which driver is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DriverChoice {
    /// io_uring where the kernel gives it, else epoll.
    #[default]
    Auto,
    /// io_uring, or no start.
    IoUring,
    /// epoll.
    Epoll,
}

impl FromStr for DriverChoice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "io_uring" => Ok(Self::IoUring),
            "epoll" => Ok(Self::Epoll),
            _ => Err("give auto, io_uring or epoll"),
        }
    }
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

    /// Receives what is there. `Ok(0)` is the end of the peer's stream; `WouldBlock` means that all has been
    /// received, and the next bytes will be told by [`PlaneEvent::Readable`].
    fn receive(&mut self, session: SessionId, buffer: &mut [u8]) -> io::Result<usize>;

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

    /// Adds what has happened, at least one event where there are any, and some thousands at most.
    fn poll(&mut self, events: &mut Vec<PlaneEvent>) -> io::Result<()>;

    /// Whether nothing is left to do until [`Plane::wake_fd`] polls as readable.
    fn may_sleep(&mut self) -> bool;

    /// What to sleep on.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// What it counted.
    fn counters(&self) -> PlaneCounters;
}

/// `recv(2)` without waiting, tried again when a signal interrupts it.
pub(crate) fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the buffer lives through the call and the kernel writes no more than its length.
        let received = unsafe {
            libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
        };
        if received >= 0 {
            return Ok(received as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
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
