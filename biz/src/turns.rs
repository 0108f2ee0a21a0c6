//! Which push manager is asked next.
//!
//! Owns: the order of the addresses, and which are left out for a while. Must not: call anyone or look at a clock.
//!
//! Pushes go to all in turn, from one on that chance chose, so that many short-lived callers spread too. One that
//! could not be reached, or would take nothing, is asked last for a while.

use std::time::{Duration, Instant};

/// How long one is left out.
const LEFT_OUT: Duration = Duration::from_secs(2);

/// The turns of all pushes of this process.
#[derive(Debug)]
pub(crate) struct Turns {
    next: usize,
    /// Of each, until when it is left out.
    left_out: Vec<Option<Instant>>,
}

impl Turns {
    /// Of so many; the first push goes to `start`.
    pub(crate) fn new(count: usize, start: usize) -> Self {
        Self { next: start % count.max(1), left_out: vec![None; count] }
    }

    /// The next in turn that this push has not asked yet; those that are left out come last. `None`: all were asked.
    pub(crate) fn take(&mut self, asked: &[usize], now: Instant) -> Option<usize> {
        let count = self.left_out.len();
        let in_turn =
            (0..count).map(|ahead| (self.next + ahead) % count).filter(|place| !asked.contains(place));
        let is_left_out = |place: &usize| self.left_out[*place].is_some_and(|until| until > now);
        let place = in_turn.min_by_key(is_left_out)?;
        self.next = (place + 1) % count;
        Some(place)
    }

    /// This one could not be reached, or would take nothing.
    pub(crate) fn leave_out(&mut self, place: usize, now: Instant) {
        self.left_out[place] = Some(now + LEFT_OUT);
    }

    /// This one answered.
    pub(crate) fn take_in(&mut self, place: usize) {
        self.left_out[place] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_go_to_all_in_turn_from_the_start_on() {
        let (mut turns, now) = (Turns::new(3, 7), Instant::now());
        let taken: Vec<_> = (0..4).map(|_| turns.take(&[], now)).collect();
        assert_eq!(taken, [Some(1), Some(2), Some(0), Some(1)]);
    }

    #[test]
    fn a_push_asks_each_once() {
        let (mut turns, now) = (Turns::new(2, 0), Instant::now());
        assert_eq!(turns.take(&[], now), Some(0));
        assert_eq!(turns.take(&[0], now), Some(1));
        assert_eq!(turns.take(&[0, 1], now), None);
    }

    #[test]
    fn one_that_failed_comes_last_for_a_while() {
        let (mut turns, now) = (Turns::new(3, 0), Instant::now());
        turns.leave_out(0, now);
        assert_eq!(
            (turns.take(&[], now), turns.take(&[], now), turns.take(&[], now)),
            (Some(1), Some(2), Some(1))
        );
        assert_eq!(turns.take(&[1, 2], now), Some(0), "better than none");
        assert_eq!(turns.take(&[1, 2], now + LEFT_OUT), Some(0));
        turns.leave_out(2, now);
        turns.take_in(2);
        assert_eq!(turns.take(&[0, 1], now), Some(2));
    }
}
