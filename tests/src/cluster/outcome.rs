//! What a scenario comes to: its measured times, and the bounds that its verdict is held to.
//!
//! Owns: both forms, and the check. Must not: measure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::oracle::Verdict;

/// Measured times of one round, by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures(BTreeMap<String, Duration>);

impl Figures {
    /// Notes a time; of several of the same the longest counts.
    pub fn note(&mut self, what: impl Into<String>, time: Duration) {
        let known = self.0.entry(what.into()).or_default();
        *known = time.max(*known);
    }

    /// The times of several rounds, each sorted.
    pub(super) fn together(rounds: &[Self]) -> BTreeMap<&str, Vec<Duration>> {
        let mut all = BTreeMap::<_, Vec<Duration>>::new();
        for (what, time) in rounds.iter().flat_map(|round| &round.0) {
            all.entry(what.as_str()).or_default().push(*time);
        }
        all.values_mut().for_each(|times| times.sort_unstable());
        all
    }
}

/// What a scenario may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The share of receipts that had to be which may be lost, if that is announced, 0 to 1.
    pub announced: f64,
    /// Until every client is connected again.
    pub back: Duration,
    /// After that, until each controller's presence is right.
    pub presence: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { announced: 0.0, back: Duration::from_secs(15), presence: Duration::from_secs(15) }
    }
}

impl Bounds {
    /// With so large a share of announced losses.
    pub fn announced(share: f64) -> Self {
        Self { announced: share, ..Self::default() }
    }

    /// What is wrong by them, in words; empty: all is well.
    pub(super) fn check(&self, verdict: &Verdict) -> Vec<String> {
        let mut wrongs = verdict.wrongs();
        let most = (verdict.expected as f64 * self.announced).ceil() as u64;
        if verdict.announced() > most {
            wrongs.push(format!(
                "{} announced losses of {} receipts, {most} allowed: {:?}",
                verdict.announced(),
                verdict.expected,
                verdict.announced
            ));
        }
        if verdict.expected == 0 {
            wrongs.push("nothing was to be received: the round says nothing".into());
        }
        wrongs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_losses_are_bounded_and_an_empty_round_says_nothing() {
        let verdict = |announced| Verdict {
            expected: 100,
            announced: BTreeMap::from([("unknown", announced)]),
            ..Verdict::default()
        };
        assert!(Bounds::announced(0.1).check(&verdict(10)).is_empty());
        assert_eq!(Bounds::announced(0.1).check(&verdict(11)).len(), 1);
        assert_eq!(Bounds::default().check(&Verdict::default()).len(), 1);
    }

    #[test]
    fn rounds_come_together_by_what_they_measured() {
        let round = |ms: [u64; 2]| {
            let mut figures = Figures::default();
            ms.into_iter().for_each(|ms| figures.note("back", Duration::from_millis(ms)));
            figures
        };
        let rounds = [round([5, 9]), round([7, 1])];
        let together = Figures::together(&rounds);
        assert_eq!(together["back"], [Duration::from_millis(7), Duration::from_millis(9)]);
    }
}
