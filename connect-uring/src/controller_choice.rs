//! Which controller a node goes to next.
//!
//! Owns: the order of a round. Must not: connect, or know how a round goes. Talks to: `control_link`.
//!
//! A round is a search for a controller: it goes over all that are listed, in an order of its own for each node and each
//! round. The nodes of a controller that dies spread over those that are left.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use registry::{Kind, View};

/// A list that is older says nothing of who is gone.
const FRESH: Duration = Duration::from_secs(3);

/// How long a controller that answers may be missing from the list: then the others have given it up.
const MISSING: Duration = Duration::from_secs(5);

/// The rounds of one node.
#[derive(Debug)]
pub(crate) struct Rounds {
    node_id: String,
    round: u64,
    left: VecDeque<String>,
}

impl Rounds {
    /// No round yet.
    pub(crate) fn new(node_id: &str) -> Self {
        Self { node_id: node_id.to_owned(), round: 0, left: VecDeque::new() }
    }

    /// A round begins; `last` is the controller that was just lost, and comes last in it.
    pub(crate) fn begin(&mut self, view: &View, last: Option<&str>) {
        self.round += 1;
        let mut order: Vec<&str> = addresses(view).collect();
        order.sort_by_cached_key(|address| (Some(*address) == last, self.place(address)));
        order.dedup();
        self.left = order.into_iter().map(str::to_owned).collect();
    }

    /// The next controller of the round that is still listed.
    pub(crate) fn next(&mut self, view: &View) -> Option<String> {
        std::iter::from_fn(|| self.left.pop_front()).find(|next| addresses(view).any(|listed| listed == next))
    }

    fn place(&self, address: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.node_id, self.round, address).hash(&mut hasher);
        hasher.finish()
    }
}

fn addresses(view: &View) -> impl Iterator<Item = &str> {
    view.of(Kind::Controller).map(|controller| controller.grpc_address.as_str())
}

/// Whether the controller that a node has its link to is still one of the system's.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    missing_since: Option<Instant>,
}

impl Listed {
    /// `true` where a fresh list has had others, and not this one, for so long that the node moves.
    #[must_use]
    pub(crate) fn given_up(&mut self, view: &View, address: &str, now: Instant) -> bool {
        let mut listed = addresses(view).peekable();
        let missing = view.age(now) <= FRESH && listed.peek().is_some() && !listed.any(|one| one == address);
        if !missing {
            self.missing_since = None;
            return false;
        }
        now.saturating_duration_since(*self.missing_since.get_or_insert(now)) >= MISSING
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use registry::Entry;
    use std::collections::HashMap;

    fn view(addresses: &[&str], as_of: Option<Instant>) -> View {
        let entry = |address: &&str| Entry {
            kind: Kind::Controller,
            id: (*address).to_owned(),
            incarnation: 1,
            grpc_address: (*address).to_owned(),
            public_ws_url: String::new(),
        };
        View { entries: addresses.iter().map(entry).collect(), as_of, fixed: as_of.is_none() }
    }

    fn round(rounds: &mut Rounds, view: &View, last: Option<&str>) -> Vec<String> {
        rounds.begin(view, last);
        std::iter::from_fn(|| rounds.next(view)).collect()
    }

    #[test]
    fn a_round_names_each_controller_once_and_the_lost_one_last() {
        let view = view(&["a:1", "b:1", "c:1"], None);
        let mut rounds = Rounds::new("node-1");
        for _ in 0..20 {
            let mut order = round(&mut rounds, &view, Some("b:1"));
            assert_eq!(order.pop().as_deref(), Some("b:1"));
            order.sort();
            assert_eq!(order, ["a:1", "c:1"]);
        }
    }

    #[test]
    fn nodes_of_a_lost_controller_spread_over_the_others() {
        let view = view(&["a:1", "b:1", "c:1", "d:1"], None);
        let mut first = HashMap::new();
        for node in 0..300 {
            let order = round(&mut Rounds::new(&format!("node-{node}")), &view, Some("a:1"));
            *first.entry(order[0].clone()).or_insert(0) += 1;
        }
        assert_eq!(first.len(), 3);
        assert!(first.values().all(|&nodes| (60..140).contains(&nodes)), "{first:?}");
    }

    #[test]
    fn a_controller_that_is_gone_meanwhile_is_left_out() {
        let mut rounds = Rounds::new("node-1");
        rounds.begin(&view(&["a:1", "b:1"], None), None);
        let left = view(&["b:1"], None);
        assert_eq!(rounds.next(&left).as_deref(), Some("b:1"));
        assert_eq!(rounds.next(&left), None);
    }

    #[test]
    fn a_controller_is_given_up_only_by_a_list_that_is_fresh_for_so_long() {
        let now = Instant::now();
        let at = |ms: u64| now + Duration::from_millis(ms);
        let (others, all) = (&["b:1"][..], &["a:1", "b:1"][..]);
        let mut listed = Listed::default();
        assert!(!listed.given_up(&view(others, Some(now)), "a:1", now));
        assert!(!listed.given_up(&view(others, Some(at(4000))), "a:1", at(4900)));
        assert!(listed.given_up(&view(others, Some(at(4900))), "a:1", at(5000)));
        assert!(!listed.given_up(&view(all, Some(at(6000))), "a:1", at(6000)), "it is back");
        assert!(!listed.given_up(&view(others, Some(at(6000))), "a:1", at(10_000)), "the list is old");
        assert!(!listed.given_up(&view(&[], Some(at(20_000))), "a:1", at(20_000)), "there is nobody else");
    }
}
