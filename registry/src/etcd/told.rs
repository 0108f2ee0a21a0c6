//! What was told in the log already: an outage is told once, not every second.

use std::time::{Duration, Instant};

/// At least this is between two tellings that differ: members of a cluster fail with different words.
const QUIET: Duration = Duration::from_secs(10);

/// The last that was told of one thing.
#[derive(Debug, Default)]
pub(crate) struct Told {
    last: Option<(String, Instant)>,
}

impl Told {
    /// Whether this is worth telling now; it counts as told then.
    pub(crate) fn is_news(&mut self, text: &str, now: Instant) -> bool {
        let known = self
            .last
            .as_ref()
            .is_some_and(|(told, at)| told == text || now.saturating_duration_since(*at) < QUIET);
        if !known {
            self.last = Some((text.to_owned(), now));
        }
        !known
    }

    /// All is well; whether anything else had been told.
    pub(crate) fn clear(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_and_others_not_at_once() {
        let (mut told, now) = (Told::default(), Instant::now());
        assert!(!told.clear());
        assert!(told.is_news("a", now));
        assert!(!told.is_news("a", now + QUIET * 9), "told again");
        assert!(!told.is_news("b", now + QUIET / 2), "told at once");
        assert!(told.is_news("b", now + QUIET));
        assert!(told.clear());
        assert!(told.is_news("b", now + QUIET));
    }
}
