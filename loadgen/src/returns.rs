//! Who comes back, and when: after a loss, or because clients churn.
//!
//! Owns: the waits and the churn's schedule. Must not: touch a connection. Talks to: `worker`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::monotonic_ns;
use crate::plan::Reconnect;

/// How long a client that churns stays away.
const CHURN_AWAY_NS: u64 = 500_000_000;

/// Churning clients between two looks at the sockets.
const AT_A_TIME: u64 = 128;

/// The waits of one thread.
#[derive(Default)]
pub(crate) struct Returns {
    waits: BinaryHeap<Reverse<(u64, usize)>>,
    /// Clients a second, the time of the first, and how many have gone.
    churn: Option<(f64, u64, u64)>,
}

impl Returns {
    /// This client comes back after a wait drawn evenly between both bounds.
    pub(crate) fn after(&mut self, local: usize, reconnect: Reconnect) {
        let (min, max) = (reconnect.min.as_nanos() as u64, reconnect.max.as_nanos() as u64);
        self.waits.push(Reverse((monotonic_ns() + fastrand::u64(min..=max.max(min)), local)));
    }

    /// This client comes back soon.
    pub(crate) fn soon(&mut self, local: usize) {
        self.waits.push(Reverse((monotonic_ns() + CHURN_AWAY_NS, local)));
    }

    /// So many clients a second leave from now on.
    pub(crate) fn churn(&mut self, per_second: f64) {
        self.churn = (per_second > 0.0).then(|| (per_second, monotonic_ns(), 0));
    }

    /// When something is due next.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        let back = self.waits.peek().map(|Reverse((at, _))| *at);
        let churn = self.churn.map(|(rate, start, gone)| start + (gone as f64 * 1e9 / rate) as u64);
        [back, churn].into_iter().flatten().min()
    }

    /// A client whose time has come, and when that was.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<(u64, usize)> {
        self.waits.peek().filter(|Reverse((at, _))| *at <= now_ns)?;
        self.waits.pop().map(|Reverse(due)| due)
    }

    /// How many clients leave now.
    pub(crate) fn churn_due(&mut self, now_ns: u64) -> u64 {
        let Some((rate, start, gone)) = &mut self.churn else { return 0 };
        let asked = (now_ns.saturating_sub(*start) as f64 * *rate / 1e9) as u64 + 1;
        let due = asked.saturating_sub(*gone).min(AT_A_TIME);
        *gone += due;
        due
    }
}
