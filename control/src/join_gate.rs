//! Whether joins may be confirmed: only while no push manager can be ignorant of this controller without saying so.
//!
//! Owns: that decision, from the lease, the list of push managers and who follows. Must not: know a clock, the
//! directory or the feed.
//!
//! A push manager that follows acknowledges every join, and one whose list of controllers is older than 3 s tells its
//! callers that its routes are stale. What is left is one whose list is newer and does not name this controller: in
//! the first seconds after it was registered, or when its lease may have run out.

use std::time::Duration;

use ::registry::Lease;

/// For how long after its registration a controller may be missing in a list that does not say that it is old: a push
/// manager's list may be 3 s old, and reading it takes its time.
pub(crate) const NEW_FOR: Duration = Duration::from_secs(4);

/// A list that is older is not fresh.
pub(crate) const FRESH_FOR: Duration = Duration::from_secs(3);

/// A lease of 10 s that was not renewed for longer may run out before a join is confirmed, which takes 2 s at most.
pub(crate) const LEASE_HOLDS_FOR: Duration = Duration::from_secs(8);

/// What is done with a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Gate {
    /// It is decided.
    #[default]
    Open,
    /// It waits.
    Hold,
    /// It is refused: the caller may try again, perhaps elsewhere.
    Refuse,
}

/// How this controller stands in the directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// The lease as it is told.
    pub(crate) lease: LeaseAge,
    /// Since when it has been registered without a break.
    pub(crate) registered_for: Duration,
    /// The age of the list of push managers.
    pub(crate) view_age: Duration,
    /// Every push manager of that list follows.
    pub(crate) all_follow: bool,
}

/// A lease, with how long ago it was renewed instead of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseAge {
    /// There is no registry.
    Fixed,
    /// Never held.
    Waiting,
    /// Held, renewed this long ago.
    Held(Duration),
    /// Held once: nobody may know of this controller any more.
    Lost,
    /// Another controller has the id.
    Taken,
}

impl LeaseAge {
    /// The lease as it is at a time.
    pub(crate) fn of(lease: Lease, now: std::time::Instant) -> Self {
        match lease {
            Lease::Fixed => Self::Fixed,
            Lease::Waiting => Self::Waiting,
            Lease::Held { renewed } => Self::Held(now.saturating_duration_since(renewed)),
            Lease::Lost { .. } => Self::Lost,
            Lease::Taken => Self::Taken,
        }
    }
}

/// Decides.
pub(crate) fn gate(standing: &Standing) -> Gate {
    let Standing { lease, registered_for, view_age, all_follow } = *standing;
    let holds = matches!(lease, LeaseAge::Held(ago) if ago <= LEASE_HOLDS_FOR);
    match lease {
        LeaseAge::Fixed => Gate::Open,
        LeaseAge::Waiting => Gate::Hold,
        LeaseAge::Taken => Gate::Refuse,
        LeaseAge::Held(_) | LeaseAge::Lost if !holds => match all_follow {
            true => Gate::Open,
            false => Gate::Refuse,
        },
        LeaseAge::Held(_) | LeaseAge::Lost if registered_for >= NEW_FOR => Gate::Open,
        LeaseAge::Held(_) | LeaseAge::Lost => match view_age <= FRESH_FOR && all_follow {
            true => Gate::Open,
            false => Gate::Hold,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn standing(lease: LeaseAge) -> Standing {
        Standing { lease, registered_for: SECOND, view_age: SECOND, all_follow: true }
    }

    #[test]
    fn without_a_registry_every_join_is_decided() {
        let alone = Standing { all_follow: false, view_age: Duration::MAX, ..standing(LeaseAge::Fixed) };
        assert_eq!(gate(&alone), Gate::Open);
    }

    #[test]
    fn nobody_joins_before_the_controller_is_registered_or_where_another_one_is() {
        assert_eq!(gate(&standing(LeaseAge::Waiting)), Gate::Hold);
        assert_eq!(gate(&standing(LeaseAge::Taken)), Gate::Refuse);
    }

    #[test]
    fn at_first_joins_wait_until_every_push_manager_of_a_fresh_list_follows() {
        let new = standing(LeaseAge::Held(SECOND));
        assert_eq!(gate(&new), Gate::Open);
        assert_eq!(gate(&Standing { all_follow: false, ..new }), Gate::Hold);
        assert_eq!(
            gate(&Standing { view_age: SECOND * 4, ..new }),
            Gate::Hold,
            "who knows who is missing there"
        );
        let later = Standing { registered_for: NEW_FOR, all_follow: false, view_age: SECOND * 60, ..new };
        assert_eq!(gate(&later), Gate::Open, "whoever does not know it by now says that it is stale");
    }

    #[test]
    fn without_a_lease_joins_need_every_push_manager_of_the_last_list() {
        for lease in [LeaseAge::Held(SECOND * 9), LeaseAge::Lost] {
            let lost = Standing { view_age: SECOND * 60, registered_for: SECOND * 60, ..standing(lease) };
            assert_eq!(gate(&lost), Gate::Open);
            assert_eq!(gate(&Standing { all_follow: false, ..lost }), Gate::Refuse);
        }
        let renewed = Standing {
            lease: LeaseAge::Held(SECOND * 8),
            registered_for: SECOND * 60,
            all_follow: false,
            ..standing(LeaseAge::Lost)
        };
        assert_eq!(gate(&renewed), Gate::Open);
    }
}
