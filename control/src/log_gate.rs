//! Lets one log line a second through, so that what others cause cannot flood the log.
//!
//! Owns: the pace. Must not: log by itself.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    state: Mutex<(Option<Instant>, u64)>,
}

impl LogGate {
    /// Whether to log now; if so, how many lines were left out since the last one.
    pub(crate) fn open(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now - last < PACE) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_makes_one_line() {
        let gate = LogGate::default();
        assert_eq!((0..1000).filter(|_| gate.open().is_some()).count(), 1);
        gate.state.lock().unwrap().0 = Some(Instant::now() - PACE);
        assert_eq!(gate.open(), Some(999));
    }
}
