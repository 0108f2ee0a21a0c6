//! When a node fences itself: when for 8 s nobody of its own system gave a sign of life, neither the registry by a
//! renewed lease, nor the controller of its link, nor a push manager that vouches for it. Its clients would look
//! connected and get nothing.
//!
//! A sign is what tells that the node is heard, too. A push manager that calls in vain, because its words arrive and the
//! node's do not, gives none; nor does one that knows the node to be lost to the controllers, which take its members
//! out a lease (10 s) after they lost its link.
//!
//! Owns: that decision, and when each was last known to be there. Must not: read a clock, or close anyone. Talks to:
//! `fence_watch`, which asks; `control_link` and `push_intake`, which note what they hear.
//!
//! One sign is enough: a registry that is away, or controllers that are, fence nobody. A node that never had a sign has
//! no clients to close.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long nobody may give a sign of life.
const ALONE: Duration = Duration::from_secs(8);

/// A look that comes later than this after the one before it tells of a node that was held up itself.
const HELD_UP: Duration = Duration::from_secs(2);

/// For how long a node that was held up takes in what came meanwhile before it judges.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Whether the node is fenced.
#[derive(Debug, Default)]
pub(crate) struct Fence {
    up: bool,
    looked: Option<Instant>,
    /// Nobody is judged before.
    not_before: Option<Instant>,
}

impl Fence {
    /// Judges by when the last sign of life came, from whomever. `Some` where the fence goes up (`true`) or down.
    #[must_use]
    pub(crate) fn judge(&mut self, now: Instant, last_sign: Option<Instant>) -> Option<bool> {
        let looked = self.looked.replace(now);
        if looked.is_some_and(|looked| now.saturating_duration_since(looked) > HELD_UP) {
            self.not_before = Some(now + CATCH_UP);
        }
        let alone = last_sign.is_some_and(|sign| now.saturating_duration_since(sign) >= ALONE);
        let early = self.not_before.is_some_and(|until| now < until);
        if alone == self.up || (alone && early) {
            return None;
        }
        self.up = alone;
        Some(alone)
    }
}

/// When controllers and push managers were last known to be there. Copies share all state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signs(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    controller: Option<Instant>,
    push_manager: Option<Instant>,
}

impl Signs {
    /// The controller that the node is registered with said something.
    pub(crate) fn controller(&self, then: Instant) {
        later(&mut self.heard().controller, then);
    }

    /// A push manager vouched for the node.
    pub(crate) fn push_manager(&self, then: Instant) {
        later(&mut self.heard().push_manager, then);
    }

    /// The last sign of either.
    pub(crate) fn last(&self) -> Option<Instant> {
        let heard = self.heard();
        heard.controller.max(heard.push_manager)
    }

    // Only the bridge's one thread comes here, so the lock is always free; tonic wants its services `Send`.
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An earlier sign takes nothing from a later one.
fn later(known: &mut Option<Instant>, then: Instant) {
    *known = (*known).max(Some(then));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fence that is looked at four times a second.
    struct Watch {
        fence: Fence,
        start: Instant,
        now_ms: u64,
    }

    impl Watch {
        fn new() -> Self {
            Self { fence: Fence::default(), start: Instant::now(), now_ms: 0 }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// Looks until then; gives each change with its time.
        fn until(&mut self, end_ms: u64, last_sign_ms: Option<u64>) -> Vec<(u64, bool)> {
            let mut changes = Vec::new();
            while self.now_ms < end_ms {
                self.now_ms += 250;
                let sign = last_sign_ms.map(|ms| self.at(ms));
                let change = self.fence.judge(self.at(self.now_ms), sign);
                changes.extend(change.map(|up| (self.now_ms, up)));
            }
            changes
        }
    }

    #[test]
    fn a_node_is_fenced_eight_seconds_after_the_last_sign_and_free_with_the_next() {
        let mut watch = Watch::new();
        assert_eq!(watch.until(1000, Some(900)), []);
        assert_eq!(watch.until(20_000, Some(1000)), [(9000, true)]);
        assert_eq!(watch.until(21_000, Some(20_100)), [(20_250, false)]);
        assert_eq!(watch.until(40_000, Some(21_000)), [(29_000, true)], "and again");
    }

    #[test]
    fn a_node_that_never_had_anyone_is_not_fenced() {
        assert_eq!(Watch::new().until(60_000, None), []);
    }

    #[test]
    fn a_node_that_was_held_up_takes_in_what_came_before_it_judges() {
        let mut watch = Watch::new();
        watch.until(1000, Some(1000));
        // Half a minute of nothing, the node's own doing.
        watch.now_ms = 31_000;
        assert_eq!(watch.until(32_000, Some(1000)), []);
        assert_eq!(watch.until(39_000, Some(32_000)), [], "what had come was read in time");
        watch.now_ms = 70_000;
        assert_eq!(watch.until(80_000, Some(39_000)), [(72_250, true)], "nothing had come");
    }

    #[test]
    fn one_sign_is_enough_and_the_latest_counts() {
        let (signs, start) = (Signs::default(), Instant::now());
        assert_eq!(signs.last(), None);
        let later = start + Duration::from_secs(5);
        signs.push_manager(later);
        signs.controller(start);
        signs.push_manager(start);
        assert_eq!(signs.last(), Some(later), "an earlier sign takes nothing away");
        signs.controller(later + Duration::from_secs(1));
        assert_eq!(signs.last(), Some(later + Duration::from_secs(1)));
    }
}
