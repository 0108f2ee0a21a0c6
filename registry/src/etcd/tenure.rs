//! When a registration is made, renewed and lost. Pure: the time is passed in.
//!
//! Owns: the states of a lease as its holder knows them. Must not: ask etcd, or read a clock.
//! Talks to: `registrar`, which does what [`Tenure::step`] says and tells what came of it.

use std::time::{Duration, Instant};

use crate::Lease;

/// The longest time between two renewals, however long the lease: a service judges by its last renewal whether it is
/// cut off.
const RENEWAL: Duration = Duration::from_secs(3);

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A lease and a key are to be made.
    Register,
    /// The lease is to be renewed.
    Renew,
    /// Nothing before then.
    Wait(Instant),
}

/// One service's registration over time.
#[derive(Debug)]
pub(crate) struct Tenure {
    ttl: Duration,
    state: State,
    /// When etcd is asked next.
    next: Instant,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// There is a lease with our key, for all that is known.
    Held { renewed: Instant },
    /// There is none: since it was last renewed, where there was one before.
    Lost { renewed: Option<Instant> },
    /// Somebody else has the id.
    Taken,
}

impl Tenure {
    /// Nothing is registered, and that is to change at once.
    pub(crate) fn new(ttl: Duration, now: Instant) -> Self {
        Self { ttl, state: State::Lost { renewed: None }, next: now }
    }

    /// What is to be done at this time. A lease whose time has passed is given up here.
    pub(crate) fn step(&mut self, now: Instant) -> Step {
        if let State::Held { renewed } = self.state
            && now >= renewed + self.ttl
        {
            self.lost(now);
        }
        match self.state {
            _ if now < self.next => Step::Wait(self.wake()),
            State::Held { .. } => Step::Renew,
            State::Lost { .. } | State::Taken => Step::Register,
        }
    }

    /// A lease was asked for at `sent`, and it is there, with our key. The same for a renewal. It is renewed after
    /// three tenths of its time, 3 s at the latest, `early` before that, so that services do not all come at once.
    pub(crate) fn held(&mut self, sent: Instant, early: Duration) {
        self.state = State::Held { renewed: sent };
        self.next = sent + (self.ttl * 3 / 10).min(RENEWAL).saturating_sub(early);
    }

    /// The lease or the key is gone. It is made again at `again`.
    pub(crate) fn lost(&mut self, again: Instant) {
        if let State::Held { renewed } = self.state {
            self.state = State::Lost { renewed: Some(renewed) };
        }
        self.next = again;
    }

    /// Somebody else has the id. It is tried again at `again`.
    pub(crate) fn taken(&mut self, again: Instant) {
        self.state = State::Taken;
        self.next = again;
    }

    /// etcd did not do it. It is asked again at `again`.
    pub(crate) fn failed(&mut self, again: Instant) {
        self.next = again;
    }

    /// Whether the id was somebody else's when it was last asked for.
    pub(crate) fn is_taken(&self) -> bool {
        matches!(self.state, State::Taken)
    }

    /// Whether there is a lease with our key, for all that is known.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    /// What the service is told.
    pub(crate) fn lease(&self) -> Lease {
        match self.state {
            State::Held { renewed } => Lease::Held { renewed },
            State::Lost { renewed: Some(renewed) } => Lease::Lost { renewed },
            State::Lost { renewed: None } => Lease::Waiting,
            State::Taken => Lease::Taken,
        }
    }

    /// When something is to be done: also when the lease runs out.
    fn wake(&self) -> Instant {
        match self.state {
            State::Held { renewed } => self.next.min(renewed + self.ttl),
            State::Lost { .. } | State::Taken => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn held(now: Instant) -> Tenure {
        let mut tenure = Tenure::new(TTL, now);
        tenure.held(now, Duration::ZERO);
        tenure
    }

    #[test]
    fn it_is_registered_at_once_and_renewed_every_three_seconds_at_the_latest() {
        let now = Instant::now();
        let mut tenure = Tenure::new(TTL, now);
        assert_eq!((tenure.step(now), tenure.lease()), (Step::Register, Lease::Waiting));
        tenure.held(now, Duration::ZERO);
        assert_eq!(tenure.lease(), Lease::Held { renewed: now });
        assert_eq!(tenure.step(now), Step::Wait(now + 3 * SECOND));
        assert_eq!(tenure.step(now + 3 * SECOND), Step::Renew);
        let sent = now + 3 * SECOND;
        tenure.held(sent, SECOND / 2);
        assert_eq!(tenure.step(sent + SECOND), Step::Wait(sent + 5 * SECOND / 2));
        assert_eq!(tenure.lease(), Lease::Held { renewed: sent });
        let mut long = Tenure::new(6 * TTL, now);
        long.held(now, Duration::ZERO);
        assert_eq!(long.step(now), Step::Wait(now + 3 * SECOND));
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_and_the_lease_is_held_until_its_time_has_passed() {
        let now = Instant::now();
        let mut tenure = held(now);
        for second in 3..10 {
            let at = now + second * SECOND;
            assert_eq!(tenure.step(at), Step::Renew, "at {second} s");
            tenure.failed(at + SECOND);
            assert_eq!(tenure.lease(), Lease::Held { renewed: now });
        }
        assert_eq!(tenure.step(now + TTL), Step::Register);
        assert_eq!(tenure.lease(), Lease::Lost { renewed: now });
    }

    #[test]
    fn a_wait_ends_when_the_lease_runs_out() {
        let now = Instant::now();
        let mut tenure = held(now);
        tenure.failed(now + 2 * TTL);
        assert_eq!(tenure.step(now + SECOND), Step::Wait(now + TTL));
        assert_eq!(tenure.step(now + TTL), Step::Register);
    }

    #[test]
    fn a_lease_that_is_lost_is_made_again_and_never_told_younger_than_it_is() {
        let now = Instant::now();
        let mut tenure = held(now);
        tenure.lost(now + SECOND);
        assert_eq!(tenure.lease(), Lease::Lost { renewed: now });
        assert_eq!(tenure.step(now), Step::Wait(now + SECOND));
        assert_eq!(tenure.step(now + SECOND), Step::Register);
        tenure.failed(now + 2 * SECOND);
        assert_eq!(tenure.lease(), Lease::Lost { renewed: now }, "a failure is no renewal");
        tenure.held(now + 2 * SECOND, Duration::ZERO);
        assert_eq!(tenure.lease(), Lease::Held { renewed: now + 2 * SECOND });
    }

    #[test]
    fn an_id_that_is_taken_is_tried_again_until_it_is_free() {
        let now = Instant::now();
        let mut tenure = held(now);
        tenure.lost(now);
        tenure.taken(now + SECOND);
        assert_eq!((tenure.lease(), tenure.step(now)), (Lease::Taken, Step::Wait(now + SECOND)));
        tenure.failed(now + 2 * SECOND);
        assert_eq!(tenure.lease(), Lease::Taken, "who does not answer frees no id");
        assert_eq!(tenure.step(now + 2 * SECOND), Step::Register);
        tenure.held(now + 2 * SECOND, Duration::ZERO);
        assert_eq!(tenure.lease(), Lease::Held { renewed: now + 2 * SECOND });
    }
}
