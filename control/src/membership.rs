//! This controller among the others: its lease in the directory, who else is there.
//!
//! Owns: what is asked of the directory and its list. Must not: decide what follows (`join_gate` and `node_watch` do).
//! Talks to: the directory of crate `registry`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::registry::{Directory, Entry, Kind, Lease, Registration, View};
use tokio::sync::watch;

use crate::feed::Feed;
use crate::join_gate::{FRESH_FOR, Gate, LeaseAge, Standing, gate};

/// This controller's place.
#[derive(Debug)]
pub(crate) struct Membership {
    directory: Directory,
    lease: watch::Receiver<Lease>,
    id: String,
    address: String,
    /// For how long another one may have the id: the lease of a former start of this one runs out before.
    patience: Duration,
}

/// Since when the controller has been registered without a break.
#[derive(Debug, Default)]
pub(crate) struct Tenure {
    since: Option<Instant>,
    held: bool,
}

impl Tenure {
    /// The lease as others see it. One that is held, and of which a fresh list knows nothing, was taken from us: the key
    /// was deleted, or the registry wiped, which our next renewal will find out.
    fn as_seen(&self, lease: Lease, listed: bool) -> Lease {
        match lease {
            Lease::Held { .. } if !listed && self.since.is_none() => Lease::Waiting,
            Lease::Held { renewed } if !listed => Lease::Lost { renewed },
            other => other,
        }
    }

    /// Looks at the lease. Returns for how long it has been held; a lease that is lost counts on until it is held
    /// again, which begins anew: others may have missed this controller meanwhile.
    fn look(&mut self, lease: Lease, now: Instant) -> Duration {
        match lease {
            Lease::Held { .. } if self.held => {}
            Lease::Held { .. } => {
                self.held = true;
                self.since = Some(now);
            }
            Lease::Lost { .. } => self.held = false,
            Lease::Fixed | Lease::Waiting | Lease::Taken => *self = Self::default(),
        }
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

impl Membership {
    /// Registers the controller of this entry; it stays registered for as long as the registration is kept.
    pub(crate) fn register(directory: Directory, entry: Entry, patience: Duration) -> (Self, Registration) {
        let (id, address) = (entry.id.clone(), entry.grpc_address.clone());
        let registration = directory.register(entry);
        let lease = registration.watch();
        (Self { directory, lease, id, address, patience }, registration)
    }

    /// Waits until it is certain that another live controller has the id.
    pub(crate) async fn id_is_taken(&self) {
        let mut lease = self.lease.clone();
        loop {
            if lease.wait_for(|lease| *lease == Lease::Taken).await.is_err() {
                // Nobody will say any more.
                return std::future::pending().await;
            }
            let free = lease.wait_for(|lease| *lease != Lease::Taken);
            if tokio::time::timeout(self.patience, free).await.is_err() {
                return;
            }
        }
    }

    /// All services, as far as is known.
    pub(crate) fn view(&self) -> Arc<View> {
        self.directory.view()
    }

    /// The same where the list is not a setting and can be trusted.
    pub(crate) fn fresh_view(&self) -> Option<Arc<View>> {
        let view = self.directory.view();
        (!view.fixed && view.age(Instant::now()) <= FRESH_FOR).then_some(view)
    }

    /// The gRPC addresses of the other controllers.
    pub(crate) fn peers(&self) -> Vec<String> {
        let view = self.directory.view();
        let others = view
            .of(Kind::Controller)
            .filter(|other| other.id != self.id && other.grpc_address != self.address);
        others.map(|other| other.grpc_address.clone()).collect()
    }

    /// What is done with joins now.
    pub(crate) fn gate(&self, feed: &Feed, tenure: &mut Tenure) -> Gate {
        let lease = *self.lease.borrow();
        if lease == Lease::Fixed {
            return Gate::Open;
        }
        let (now, view) = (Instant::now(), self.directory.view());
        let listed = view.of(Kind::Controller).any(|us| us.id == self.id);
        let lease = tenure.as_seen(lease, listed || view.age(now) > FRESH_FOR);
        gate(&Standing {
            lease: LeaseAge::of(lease, now),
            registered_for: tenure.look(lease, now),
            view_age: view.age(now),
            all_follow: view.of(Kind::PushManager).all(|manager| feed.is_followed_by(&manager.id)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_held_again_begins_anew() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut tenure = Tenure::default();
        let held = Lease::Held { renewed: start };
        assert_eq!(tenure.look(Lease::Waiting, start), Duration::ZERO);
        assert_eq!(tenure.look(held, start), Duration::ZERO);
        assert_eq!(tenure.look(held, start + second * 5), second * 5);
        assert_eq!(tenure.look(Lease::Lost { renewed: start }, start + second * 9), second * 9);
        assert_eq!(tenure.look(held, start + second * 12), Duration::ZERO);
        assert_eq!(tenure.look(held, start + second * 13), second);
    }

    #[test]
    fn a_lease_that_no_fresh_list_knows_of_is_as_good_as_lost() {
        let start = Instant::now();
        let (mut tenure, held) = (Tenure::default(), Lease::Held { renewed: start });
        assert_eq!(tenure.as_seen(held, false), Lease::Waiting, "it is not listed yet");
        assert_eq!(tenure.as_seen(held, true), held);
        tenure.look(held, start);
        assert_eq!(tenure.as_seen(held, false), Lease::Lost { renewed: start });
        assert_eq!(tenure.as_seen(Lease::Fixed, false), Lease::Fixed);
    }

    #[test]
    fn at_fixed_addresses_the_others_are_those_that_were_named() {
        let directory = Directory::fixed(vec!["me:1".into(), "other:1".into()]);
        let entry = Entry {
            kind: Kind::Controller,
            id: "c".into(),
            incarnation: 1,
            grpc_address: "me:1".into(),
            public_ws_url: String::new(),
        };
        let (membership, _registration) = Membership::register(directory, entry, Duration::ZERO);
        assert_eq!(membership.peers(), ["other:1"]);
        assert_eq!(membership.gate(&Feed::new("c".into()), &mut Tenure::default()), Gate::Open);
        assert!(membership.fresh_view().is_none());
    }
}
