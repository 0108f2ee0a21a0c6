//! Waiting for conditions.
//!
//! Owns: the poll and its bound. Must not: sleep for a guess.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until a probe gives something, at most this long; panics with `what` and the probe's last word after.
pub async fn eventually<T, E: std::fmt::Debug>(
    what: &str,
    timeout: Duration,
    probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    eventually_every(POLL, what, timeout, probe).await
}

/// The same for what costs more to look at, so that looking does not slow down what is waited for.
pub async fn eventually_every<T, E: std::fmt::Debug>(
    poll: Duration,
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let last = match tokio::time::timeout(left.max(poll), probe()).await {
            Ok(Ok(found)) => return found,
            Ok(Err(last)) => format!("{last:?}"),
            Err(_) => "no answer".into(),
        };
        assert!(Instant::now() < deadline, "{what}: not within {timeout:?}; last seen: {last}");
        tokio::time::sleep(poll).await;
    }
}

/// Holds the machine for one measuring test: no other test that asks for it runs meanwhile, in whatever process.
#[must_use]
pub struct Alone(File);

/// Waits for the machine.
pub fn alone() -> Alone {
    let path = std::env::temp_dir().join("ringcast-tests.lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // SAFETY: the descriptor is open; the call blocks until whoever holds the lock ends, which is bounded.
    let done = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    assert_eq!(done, 0, "the lock on {}", path.display());
    Alone(file)
}

impl Drop for Alone {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}
