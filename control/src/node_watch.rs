//! What is to become of nodes that lost their link, moved to another controller, or have nobody any more.
//!
//! Owns: these decisions. Must not: carry them out (`links` and `sharing` do), know a clock or a store.

use std::time::{Duration, Instant};

use ::registry::{Kind, View};
use ahash::AHashMap;
use ringcast_proto::NodeId;

use crate::join_gate::FRESH_FOR;
use crate::presence_store::{NodeAt, NodeRecord};

/// A node that nobody has is taken out when it was so for this long.
const NOBODYS_FOR: Duration = Duration::from_millis(900);

/// What a record says of a node that this controller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// Nobody else has it.
    Here,
    /// It has made a later link, to another controller, which does not know all of it yet.
    Moving,
    /// Another controller knows all of it.
    Moved,
    /// A later incarnation of it is registered elsewhere.
    Succeeded,
}

/// Looks at a record of a node that is known here in an incarnation, over a link.
pub(crate) fn whereabouts(incarnation: u64, link: u64, record: &NodeRecord, controller: &str) -> Whereabouts {
    if record.controller == controller {
        return Whereabouts::Here;
    }
    match record.card.incarnation {
        known if known > incarnation => Whereabouts::Succeeded,
        known if known < incarnation || record.link <= link => Whereabouts::Here,
        _ if record.whole => Whereabouts::Moved,
        _ => Whereabouts::Moving,
    }
}

/// Whether a node whose link is lost is gone: a lease after the loss, for so long it may have clients that it has not
/// closed yet, for all that we know. With a registry also only when a list that was true after the loss, and is fresh,
/// does not name it; while there is no such list it stays.
pub(crate) fn is_gone(
    node: &NodeId,
    incarnation: u64,
    lost_for: Duration,
    lease: Duration,
    view: &View,
    now: Instant,
) -> bool {
    let age = view.age(now);
    let unlisted = age <= FRESH_FOR && age < lost_for && !is_listed(view, node, incarnation);
    lost_for >= lease && (view.fixed || unlisted)
}

/// Whether a list names a node in an incarnation.
pub(crate) fn is_listed(view: &View, node: &NodeId, incarnation: u64) -> bool {
    view.of(Kind::Node).any(|entry| entry.id == node.as_str() && entry.incarnation == incarnation)
}

/// Finds the nodes that nobody has.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    since: AHashMap<(NodeId, u64), Instant>,
}

impl Reaper {
    /// Looks at all records. `held`: the nodes, by id and incarnation, that this controller holds itself. Returns the
    /// nodes that are in no fresh list, and whose controller is not either, for the second time.
    pub(crate) fn look(
        &mut self,
        records: &[NodeRecord],
        view: &View,
        controller: &str,
        held: impl Fn(&NodeId, u64) -> bool,
        now: Instant,
    ) -> Vec<NodeAt> {
        if view.fixed || view.age(now) > FRESH_FOR {
            // Nothing is known, and what was known does not follow on from here.
            self.since.clear();
            return Vec::new();
        }
        let mut since = AHashMap::new();
        let mut reaped = Vec::new();
        for record in records {
            let card = &record.card;
            let answered = record.controller != controller
                && view.of(Kind::Controller).any(|entry| entry.id == record.controller);
            if answered || held(&card.id, card.incarnation) || is_listed(view, &card.id, card.incarnation) {
                continue;
            }
            let key = (card.id.clone(), card.incarnation);
            let first = self.since.get(&key).copied().unwrap_or(now);
            if now.saturating_duration_since(first) >= NOBODYS_FOR {
                reaped.push(record.at());
            }
            since.insert(key, first);
        }
        self.since = since;
        reaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::NodeCard;
    use ::registry::Entry;

    const SECOND: Duration = Duration::from_secs(1);
    const LEASE: Duration = Duration::from_secs(10);

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn record(id: &str, incarnation: u64, link: u64, controller: &str, whole: bool) -> NodeRecord {
        let card = NodeCard {
            id: node(id),
            incarnation,
            grpc_address: String::new(),
            public_ws_url: String::new(),
            capacity: 0,
            version: String::new(),
            driver: String::new(),
        };
        NodeRecord {
            card,
            link,
            controller: controller.into(),
            whole,
            linked: true,
            draining: false,
            connections: 0,
            sessions: 0,
        }
    }

    fn view(entries: &[(Kind, &str, u64)], as_of: Instant) -> View {
        let entry = |(kind, id, incarnation): &(Kind, &str, u64)| Entry {
            kind: *kind,
            id: (*id).to_owned(),
            incarnation: *incarnation,
            grpc_address: String::new(),
            public_ws_url: String::new(),
        };
        View { entries: entries.iter().map(entry).collect(), as_of: Some(as_of), fixed: false }
    }

    #[test]
    fn a_node_has_moved_when_another_controller_knows_all_of_it_over_a_later_link() {
        let seen = |record: &NodeRecord| whereabouts(5, 3, record, "me");
        assert_eq!(seen(&record("n", 5, 4, "other", true)), Whereabouts::Moved);
        assert_eq!(seen(&record("n", 5, 4, "other", false)), Whereabouts::Moving);
        assert_eq!(seen(&record("n", 5, 3, "other", true)), Whereabouts::Here);
        assert_eq!(seen(&record("n", 5, 4, "me", true)), Whereabouts::Here, "our own, read late");
        assert_eq!(seen(&record("n", 6, 1, "other", false)), Whereabouts::Succeeded);
        assert_eq!(seen(&record("n", 4, 9, "other", true)), Whereabouts::Here, "a former incarnation");
    }

    #[test]
    fn at_fixed_addresses_a_lost_node_is_gone_after_the_lease() {
        let (fixed, now) = (View { fixed: true, ..View::default() }, Instant::now());
        assert!(!is_gone(&node("n"), 1, LEASE - SECOND, LEASE, &fixed, now));
        assert!(is_gone(&node("n"), 1, LEASE, LEASE, &fixed, now));
    }

    #[test]
    fn with_a_registry_a_lost_node_is_gone_when_a_later_fresh_list_does_not_name_it() {
        let now = Instant::now() + SECOND * 100;
        let gone = |lost_for, view: &View| is_gone(&node("n"), 1, lost_for, LEASE, view, now);
        let without = view(&[(Kind::Controller, "n", 1), (Kind::Node, "n", 2)], now - SECOND);
        assert!(gone(LEASE, &without));
        assert!(!gone(LEASE - Duration::from_millis(1), &without), "it may have clients still");
        let old = view(&[], now - SECOND * 2);
        assert!(
            !is_gone(&node("n"), 1, SECOND * 2, SECOND, &old, now),
            "the list may be older than the loss"
        );
        assert!(!gone(SECOND * 60, &view(&[(Kind::Node, "n", 1)], now)), "it is alive");
        assert!(!gone(SECOND * 60, &view(&[], now - SECOND * 4)), "nobody knows");
        assert!(!gone(SECOND * 60, &View::default()), "nobody ever knew");
    }

    #[test]
    fn a_node_that_nobody_has_is_found_at_the_second_look() {
        let start = Instant::now();
        let mut reaper = Reaper::default();
        let records = [record("orphan", 1, 1, "dead", true)];
        let orphan = || records[0].at();
        let mut look = |at: Duration, entries: &[(Kind, &str, u64)]| {
            let now = start + at;
            reaper.look(&records, &view(entries, now), "me", |_, _| false, now)
        };
        assert!(look(SECOND, &[]).is_empty(), "one look is none");
        assert_eq!(look(SECOND * 2, &[]), [orphan()]);
        assert_eq!(look(SECOND * 3, &[]), [orphan()], "a removal that failed is tried again");
        assert!(look(SECOND * 4, &[(Kind::Node, "orphan", 1)]).is_empty(), "it is back in the list");
        assert!(look(SECOND * 5, &[]).is_empty(), "the looks begin anew");
        assert!(
            look(SECOND * 6, &[(Kind::Controller, "dead", 1)]).is_empty(),
            "its controller will see to it"
        );
        assert!(look(SECOND * 7, &[]).is_empty());
        assert_eq!(look(SECOND * 8, &[(Kind::Node, "orphan", 2)]), [orphan()], "a successor is another");
    }

    #[test]
    fn nothing_is_reaped_that_is_held_here_or_by_an_old_list() {
        let start = Instant::now();
        let mut reaper = Reaper::default();
        let records = [record("n", 1, 1, "me", true)];
        for second in 1..4 {
            let now = start + SECOND * second;
            assert!(reaper.look(&records, &view(&[], now), "me", |_, _| true, now).is_empty());
        }
        for second in 4..8 {
            let now = start + SECOND * 10 + SECOND * second;
            assert!(reaper.look(&records, &view(&[], start), "me", |_, _| false, now).is_empty());
            let fixed = View { fixed: true, ..View::default() };
            assert!(reaper.look(&records, &fixed, "me", |_, _| false, now).is_empty());
        }
        let now = start + SECOND * 30;
        assert!(reaper.look(&records, &view(&[], now), "me", |_, _| false, now).is_empty());
        let now = now + SECOND;
        assert_eq!(
            reaper.look(&records, &view(&[], now), "me", |_, _| false, now).len(),
            1,
            "its own, forgotten"
        );
    }
}
