//! epoll, and the eventfd that wakes it.
//!
//! Owns: the two descriptors. Must not: know connections. Talks to: `worker`.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

/// Events that one call takes at most.
const BATCH: usize = 1024;

/// The token of the wake-up descriptor.
const WAKE: u64 = u64::MAX;

/// Edge-triggered readiness of many sockets.
pub(crate) struct Poller {
    epoll: OwnedFd,
    wake: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// A socket that can do something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    /// Its token.
    pub(crate) token: u64,
    /// The other end has finished, or the connection failed: read to the end, no further event may come.
    pub(crate) ends: bool,
}

/// Wakes a [`Poller`] from another thread.
pub(crate) struct Waker(OwnedFd);

impl Waker {
    /// A waker, for whose descriptor a poller is then made.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: the call has no memory arguments; a descriptor that it returns is new and owned here alone.
        Ok(Self(unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }?))
    }

    /// The descriptor's number.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Ends the poller's wait.
    pub(crate) fn wake(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes at a valid address. A full counter means that a wake-up is waiting already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

impl Poller {
    /// A poller that this eventfd wakes.
    pub(crate) fn new(wake: OwnedFd) -> io::Result<Self> {
        // SAFETY: the call has no memory arguments; a descriptor that it returns is new and owned here alone.
        let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }?;
        let poller = Self { epoll, wake, events: Vec::with_capacity(BATCH) };
        poller.add(poller.wake.as_raw_fd(), WAKE)?;
        Ok(poller)
    }

    /// Watches a socket for both directions, edge-triggered, until it is closed.
    pub(crate) fn add(&self, socket: RawFd, token: u64) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: `event` is valid for the call, which copies it.
        let done =
            unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits at most this long and puts the sockets that are ready into `ready`.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<Ready>) {
        ready.clear();
        let timeout_ms = timeout.as_micros().div_ceil(1000).min(1000) as libc::c_int;
        // SAFETY: the buffer has room for BATCH events, and no more are asked for.
        let count = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                BATCH as libc::c_int,
                timeout_ms,
            )
        };
        // SAFETY: the kernel has filled in `count` events; on an error (only EINTR can happen) it is none.
        unsafe { self.events.set_len(usize::try_from(count).unwrap_or(0)) };
        for event in &self.events {
            let (events, token) = (event.events, event.u64);
            if token == WAKE {
                let mut counter = 0_u64;
                // SAFETY: eight bytes at a valid address; the descriptor does not block.
                unsafe { libc::read(self.wake.as_raw_fd(), (&raw mut counter).cast(), 8) };
            } else {
                let ending = libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR;
                ready.push(Ready { token, ends: events & ending as u32 != 0 });
            }
        }
    }
}

/// Owns a new descriptor, or tells why there is none.
///
/// # Safety
/// `raw` is -1 or a descriptor that nothing else owns.
unsafe fn owned(raw: RawFd) -> io::Result<OwnedFd> {
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
