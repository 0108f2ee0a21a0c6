//! Ctrl+C, SIGTERM and a closed terminal, taken as a wish that every wait looks at, so that what was set is put back.
//!
//! Owns: the wish. Must not: end the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

static STOP: AtomicBool = AtomicBool::new(false);

/// How often a wait looks whether it is over.
const POLL: Duration = Duration::from_millis(10);

/// From now on SIGINT, SIGTERM and SIGHUP only note the wish to stop.
pub fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
                signal(SignalKind::hangup()),
            ) else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                STOP.store(true, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}

/// An error once it is wished that this ends.
pub fn check() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Lets this much time pass, unless it is wished that this ends.
pub fn pass(time: Duration) -> Result<()> {
    let until = Instant::now() + time;
    loop {
        check()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// Waits until this is true; an error where it is not in time, naming what was waited for.
pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let until = Instant::now() + timeout;
    while !condition() {
        check()?;
        if Instant::now() > until {
            bail!("{what}: not within {timeout:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
