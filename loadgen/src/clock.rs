//! The clock of a measurement.
//!
//! Owns: reading CLOCK_MONOTONIC, a timer that is true to some microseconds. Must not: know
//! what is measured.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Nanoseconds of CLOCK_MONOTONIC: the same clock in every process of one machine.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that the call fills in; CLOCK_MONOTONIC always exists on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Keeps the calling thread busy for so long: how a test makes the generator slow.
pub(crate) fn burn(time: Duration) {
    let end = monotonic_ns() + time.as_nanos() as u64;
    while monotonic_ns() < end {
        std::hint::spin_loop();
    }
}

/// Wakes a task at a time of CLOCK_MONOTONIC. The runtime's own timers are only good to a millisecond.
pub(crate) struct DueTimer(AsyncFd<OwnedFd>);

impl DueTimer {
    /// A timer on this runtime.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no memory arguments.
        let timer =
            unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned here alone.
        let timer = unsafe { OwnedFd::from_raw_fd(timer) };
        // SAFETY: it is the timer that is owned, open until it is dropped, and never replaced.
        Ok(Self(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE)? }))
    }

    /// Returns when this time has come.
    pub(crate) async fn until(&mut self, at_ns: u64) -> io::Result<()> {
        if monotonic_ns() >= at_ns {
            // Whatever else the runtime has to do gets its turn.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let nothing = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let at = libc::timespec {
            tv_sec: (at_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (at_ns % 1_000_000_000) as libc::c_long,
        };
        let when = libc::itimerspec { it_interval: nothing, it_value: at };
        let timer = self.0.as_raw_fd();
        // SAFETY: `when` is valid for the call; the old value is not asked for.
        let set = unsafe {
            libc::timerfd_settime(timer, libc::TFD_TIMER_ABSTIME, &raw const when, std::ptr::null_mut())
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let mut ready = self.0.readable().await?;
            let mut expired = 0_u64;
            // SAFETY: eight bytes at a valid address; the descriptor does not block.
            let count = unsafe { libc::read(timer, (&raw mut expired).cast(), 8) };
            if count == 8 || monotonic_ns() >= at_ns {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back() {
        let first = monotonic_ns();
        assert!(first > 0 && monotonic_ns() >= first);
    }

    #[tokio::test]
    async fn a_timer_is_never_early() {
        let mut timer = DueTimer::new().unwrap();
        for _ in 0..5 {
            let due = monotonic_ns() + 300_000;
            timer.until(due).await.unwrap();
            assert!(monotonic_ns() >= due);
        }
        timer.until(0).await.unwrap();
    }
}
