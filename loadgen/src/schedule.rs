//! When pushes are meant to leave.
//!
//! Owns: the arithmetic of due times. Must not: wait. Talks to: `press`, which keeps the times.

use serde::{Deserialize, Serialize};

/// How the times between pushes are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrival {
    /// All alike.
    #[default]
    Constant,
    /// Exponentially distributed: pushes come independently of one another, as those of many callers do.
    Poisson,
}

/// The times of one load's pushes, as nanoseconds from its start.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    gap_ns: f64,
    arrival: Arrival,
    burst: u32,
    chance: fastrand::Rng,
    /// The next time, and how many pushes are still to leave at it.
    next_ns: f64,
    left: u32,
    given: u64,
    end: End,
}

/// Where a schedule ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum End {
    /// After so many pushes.
    Count(u64),
    /// After so many nanoseconds.
    Time(u64),
}

impl Schedule {
    /// `rate` pushes a second on average, in bursts of `burst` that are due at the same moment. The same seed gives
    /// the same times.
    pub(crate) fn new(rate: f64, arrival: Arrival, burst: u32, seed: u64, end: End) -> Self {
        let burst = burst.max(1);
        let gap_ns = 1e9 * f64::from(burst) / rate.max(1e-6);
        Self {
            gap_ns,
            arrival,
            burst,
            chance: fastrand::Rng::with_seed(seed),
            next_ns: 0.0,
            left: burst,
            given: 0,
            end,
        }
    }

    /// When the next push is due; `None`: there is none.
    pub(crate) fn peek(&self) -> Option<u64> {
        let due = self.next_ns as u64;
        let open = match self.end {
            End::Count(count) => self.given < count,
            End::Time(end_ns) => due < end_ns,
        };
        open.then_some(due)
    }

    /// Takes the next push, where it is due by now; its number and its time.
    pub(crate) fn pop_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due = self.peek().filter(|due| *due <= now_ns)?;
        let number = self.given;
        self.given += 1;
        self.left -= 1;
        if self.left == 0 {
            self.left = self.burst;
            self.next_ns = match self.arrival {
                // By multiplication, so that no error adds up.
                Arrival::Constant => (self.given / u64::from(self.burst)) as f64 * self.gap_ns,
                Arrival::Poisson => self.next_ns - self.gap_ns * (1.0 - self.chance.f64()).ln(),
            };
        }
        Some((number, due))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(mut schedule: Schedule) -> Vec<u64> {
        std::iter::from_fn(|| schedule.pop_due(u64::MAX)).map(|(_, due)| due).collect()
    }

    #[test]
    fn a_constant_schedule_is_even() {
        let schedule = Schedule::new(1000.0, Arrival::Constant, 1, 0, End::Count(4));
        assert_eq!(times(schedule), [0, 1_000_000, 2_000_000, 3_000_000]);
        let bursts = Schedule::new(1000.0, Arrival::Constant, 2, 0, End::Time(4_000_000));
        assert_eq!(times(bursts), [0, 0, 2_000_000, 2_000_000]);
    }

    #[test]
    fn poisson_keeps_the_rate_and_the_seed() {
        let poisson =
            |seed| times(Schedule::new(1000.0, Arrival::Poisson, 1, seed, End::Time(60_000_000_000)));
        let (first, again, other) = (poisson(1), poisson(1), poisson(2));
        assert!(first == again && first != other);
        assert!((58_000..62_000).contains(&first.len()), "{} in 60 s", first.len());
        let gaps: Vec<f64> = first.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((0.95..1.05).contains(&(deviation / mean)), "exponential gaps deviate by their mean");
    }

    #[test]
    fn what_is_not_due_stays() {
        let mut schedule = Schedule::new(1000.0, Arrival::Constant, 1, 0, End::Count(2));
        assert_eq!(schedule.pop_due(0), Some((0, 0)));
        assert_eq!((schedule.pop_due(999_999), schedule.peek()), (None, Some(1_000_000)));
        assert_eq!(schedule.pop_due(1_000_000), Some((1, 1_000_000)));
        assert_eq!(schedule.peek(), None);
    }
}
