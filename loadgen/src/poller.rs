//! epoll, the eventfd that wakes it, and one socket option: the only unsafe code of the clients.
//!
//! Owns: the two descriptors. Must not: know connections. Talks to: `worker`.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
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

/// Wakes a [`Poller`] from another thread.
pub(crate) struct Waker(OwnedFd);

impl Poller {
    /// A poller and what wakes it.
    pub(crate) fn new() -> io::Result<(Self, Waker)> {
        // SAFETY: the call has no memory arguments; a descriptor that it returns is new and owned here alone.
        let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC)) }?;
        // SAFETY: as above.
        let wake = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }?;
        let waker = Waker(wake.try_clone()?);
        let poller = Self { epoll, wake, events: Vec::with_capacity(BATCH) };
        poller.add(poller.wake.as_raw_fd(), WAKE)?;
        Ok((poller, waker))
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

    /// Waits at most this long and puts the tokens of ready sockets into `ready`.
    pub(crate) fn wait(&mut self, timeout: Duration, ready: &mut Vec<u64>) {
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
        ready.extend(self.events.iter().map(|event| event.u64).filter(|token| *token != WAKE));
        let mut counter = 0_u64;
        // SAFETY: eight bytes at a valid address; the descriptor does not block.
        unsafe { libc::read(self.wake.as_raw_fd(), (&raw mut counter).cast(), 8) };
    }
}

impl Waker {
    /// Ends the poller's wait.
    pub(crate) fn wake(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes at a valid address. A full counter means that a wake-up is waiting already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

/// Lets the kernel choose the port when the other end is known: ports are then used once for each pair of
/// addresses, not once for each source.
pub(crate) fn choose_port_at_connect(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is valid for the call, and its size is what is said.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
