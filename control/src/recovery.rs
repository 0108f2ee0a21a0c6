//! After a restart: whom the controller waits for before it publishes routes or removes anything.
//!
//! Owns: that list and its deadline. Must not: know a clock; the time is passed in.

use ahash::AHashSet;
use ringcast_proto::NodeId;

/// The wait for the nodes that were known.
#[derive(Debug)]
pub(crate) struct Recovery {
    missing: AHashSet<NodeId>,
    until_ms: u64,
    over: bool,
}

impl Recovery {
    /// Waits for these nodes, until then at most, in monotonic milliseconds.
    pub(crate) fn new(nodes: impl IntoIterator<Item = NodeId>, until_ms: u64) -> Self {
        Self { missing: nodes.into_iter().collect(), until_ms, over: false }
    }

    /// A node is back with its whole snapshot, or has left for good.
    pub(crate) fn settled(&mut self, node: &NodeId) {
        self.missing.remove(node);
    }

    /// The nodes that are still waited for.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &NodeId> {
        self.missing.iter()
    }

    /// The wait is over, and was found to be.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the wait ends now; true once. Returns the nodes that did not come back.
    pub(crate) fn end(&mut self, now_ms: u64) -> Option<Vec<NodeId>> {
        if self.over || (!self.missing.is_empty() && now_ms < self.until_ms) {
            return None;
        }
        self.over = true;
        Some(self.missing.drain().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn waits_for_all_or_for_the_lease() {
        let mut none = Recovery::new([], 10);
        assert_eq!(none.end(0), Some(vec![]), "nobody to wait for");
        assert_eq!(none.end(0), None, "ends once");

        let mut all = Recovery::new([node("a"), node("b")], 10);
        all.settled(&node("a"));
        assert_eq!(all.end(0), None);
        all.settled(&node("b"));
        assert_eq!(all.end(0), Some(vec![]));

        let mut late = Recovery::new([node("a"), node("b")], 10);
        late.settled(&node("b"));
        assert_eq!(late.missing().collect::<Vec<_>>(), [&node("a")]);
        assert_eq!(late.end(9), None);
        assert_eq!(late.end(10), Some(vec![node("a")]));
        assert!(late.is_over());
    }
}
