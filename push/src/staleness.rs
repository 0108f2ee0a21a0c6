//! Since when the routes may lack what a controller has confirmed.
//!
//! Owns: what counts as stale. Pure: time is handed in. Talks to: `feeds`, which knows the facts.
//!
//! A controller confirms a join once those who follow it have acknowledged it. So the routes may lack a confirmed join
//! while a controller that is there is not followed, while one that is followed says nothing (it may have given up on
//! us), and while the list of controllers may lack one, or lacks ourselves, so that a new controller does not wait for
//! us. Each of these has a time from which on it may be so.

use std::time::{Duration, Instant};

/// From which silence of a feed on routes count as stale. Heartbeats come every 250 ms.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// From which age of the directory's list on routes count as stale. It is read every second.
pub(crate) const OLD_AFTER: Duration = Duration::from_secs(3);

/// How one controller of the directory's list is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Following {
    /// Its snapshot is in, and every step since.
    Followed {
        /// The number of the last step.
        number: u64,
        /// When anything was heard last.
        heard: Instant,
    },
    /// It is not followed.
    Lost {
        /// Since its stream broke, or since it came into the list.
        since: Instant,
    },
}

impl Following {
    /// What it is after the feed's stream broke.
    pub(crate) fn broken(self, now: Instant) -> Self {
        match self {
            Self::Followed { heard, .. } => {
                let silent = now.saturating_duration_since(heard) > SILENT_AFTER;
                Self::Lost { since: if silent { heard } else { now } }
            }
            lost @ Self::Lost { .. } => lost,
        }
    }

    /// Its snapshot is in.
    pub(crate) fn is_followed(self) -> bool {
        matches!(self, Self::Followed { .. })
    }
}

/// The directory's list, as far as it counts here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// When it was last known to be true; before it was ever read, when we started. `None`: it is fixed.
    pub(crate) as_of: Option<Instant>,
    /// Since when it lacks ourselves.
    pub(crate) unlisted: Option<Instant>,
}

/// Why the routes are stale, each with the time since when.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Staleness {
    /// A controller of the list is not followed.
    pub(crate) lost: Option<Instant>,
    /// A feed is silent.
    pub(crate) silent: Option<Instant>,
    /// The list is old.
    pub(crate) old_list: Option<Instant>,
    /// The list lacks ourselves.
    pub(crate) unlisted: Option<Instant>,
}

impl Staleness {
    /// By the controllers of the list and the list itself.
    pub(crate) fn of(feeds: impl Iterator<Item = Following>, sight: &Sight, now: Instant) -> Self {
        let longer = |since: Instant, bound: Duration| now.saturating_duration_since(since) > bound;
        let mut found = Self {
            old_list: sight.as_of.filter(|&as_of| longer(as_of, OLD_AFTER)),
            unlisted: sight.unlisted,
            ..Self::default()
        };
        for feed in feeds {
            match feed {
                Following::Followed { heard, .. } => {
                    let silent = longer(heard, SILENT_AFTER).then_some(heard);
                    found.silent = earlier(found.silent, silent);
                }
                Following::Lost { since } => found.lost = earlier(found.lost, Some(since)),
            }
        }
        found
    }

    /// For how long the routes have been stale; zero while they are not, and else at least a millisecond, which is what
    /// reports count in.
    pub(crate) fn duration(&self, now: Instant) -> Duration {
        let since = [self.lost, self.silent, self.old_list, self.unlisted].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| {
            now.saturating_duration_since(since).max(Duration::from_millis(1))
        })
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sight(as_of: Instant) -> Sight {
        Sight { as_of: Some(as_of), unlisted: None }
    }

    fn stale(feeds: &[Following], sight: &Sight, now: Instant) -> Duration {
        Staleness::of(feeds.iter().copied(), sight, now).duration(now)
    }

    #[test]
    fn silence_counts_from_the_last_word_once_it_is_longer_than_a_second() {
        let start = Instant::now();
        let feed = [Following::Followed { number: 1, heard: start }];
        let at = |after| stale(&feed, &sight(start + after), start + after);
        assert_eq!((at(ms(1000)), at(ms(1001))), (ms(0), ms(1001)));
    }

    #[test]
    fn one_broken_feed_of_two_is_stale_from_its_break() {
        let start = Instant::now();
        let one = Following::Followed { number: 1, heard: start };
        let broken = one.broken(start + ms(200));
        let now = start + ms(700);
        let other = Following::Followed { number: 9, heard: now };
        assert_eq!(stale(&[one, other], &sight(now), now), ms(0));
        assert_eq!(stale(&[broken, other], &sight(now), now), ms(500));
        assert_eq!(stale(&[broken, other], &sight(now), start + ms(200)), ms(1), "never told as zero");
        assert_eq!(broken.broken(now), broken, "a failed attempt to follow again makes it no younger");
    }

    #[test]
    fn a_feed_that_broke_after_a_silence_is_stale_since_the_silence() {
        let start = Instant::now();
        let broken = Following::Followed { number: 1, heard: start }.broken(start + ms(2000));
        assert_eq!(stale(&[broken], &sight(start + ms(2000)), start + ms(2000)), ms(2000));
    }

    #[test]
    fn a_controller_that_was_never_followed_is_stale_since_it_is_listed() {
        let start = Instant::now();
        let feed = [Following::Lost { since: start }];
        assert_eq!(stale(&feed, &sight(start), start + ms(30)), ms(30));
    }

    #[test]
    fn an_old_list_is_stale_and_a_fixed_one_never() {
        let start = Instant::now();
        let now = start + ms(3001);
        let feed = [Following::Followed { number: 1, heard: now }];
        assert_eq!(stale(&feed, &sight(start + ms(1)), now), ms(0));
        assert_eq!(stale(&feed, &sight(start), now), ms(3001));
        assert_eq!(stale(&feed, &Sight { as_of: None, ..sight(start) }, now), ms(0));
    }

    #[test]
    fn a_list_without_ourselves_is_stale() {
        let start = Instant::now();
        let now = start + ms(400);
        let feed = [Following::Followed { number: 1, heard: now }];
        assert_eq!(stale(&feed, &Sight { unlisted: Some(start), ..sight(now) }, now), ms(400));
    }

    #[test]
    fn the_oldest_reason_counts() {
        let start = Instant::now();
        let now = start + ms(9000);
        let feeds = [
            Following::Followed { number: 1, heard: start + ms(7000) },
            Following::Lost { since: start + ms(5000) },
        ];
        assert_eq!(stale(&feeds, &sight(start + ms(4000)), now), ms(5000));
    }
}
