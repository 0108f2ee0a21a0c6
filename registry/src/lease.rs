//! How a registration is doing.

use std::time::{Duration, Instant};

/// How a registration is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// There is no registry: nothing to lose.
    Fixed,
    /// Not registered yet.
    Waiting,
    /// Registered; when the lease was last renewed.
    Held {
        /// When the renewal was sent; the lease lives for its time from then on, and perhaps no longer.
        renewed: Instant,
    },
    /// It was held, and ran out before it could be renewed, or was lost with its key. It is being made again.
    Lost {
        /// When it was last renewed.
        renewed: Instant,
    },
    /// Another live service has the id. It is tried again until that one is gone.
    Taken,
}

impl Lease {
    /// Whether the others surely still list the service, where a lease lives for `ttl`.
    pub fn is_live(&self, now: Instant, ttl: Duration) -> bool {
        match *self {
            Self::Fixed => true,
            Self::Held { renewed } | Self::Lost { renewed } => now.saturating_duration_since(renewed) < ttl,
            Self::Waiting | Self::Taken => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_live_for_its_time_from_the_last_renewal() {
        let ttl = Duration::from_secs(10);
        let renewed = Instant::now();
        let late = renewed + ttl;
        for lease in [Lease::Held { renewed }, Lease::Lost { renewed }] {
            assert!(lease.is_live(late - Duration::from_millis(1), ttl) && !lease.is_live(late, ttl));
        }
        assert!(Lease::Fixed.is_live(late, ttl));
        assert!(!Lease::Waiting.is_live(renewed, ttl) && !Lease::Taken.is_live(renewed, ttl));
    }
}
