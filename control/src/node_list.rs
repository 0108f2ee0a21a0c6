//! The nodes as callers see them: those that have their link here, and what the other controllers tell of theirs.
//!
//! Owns: which word counts where two tell of one node, and where a new client should go.
//! Must not: know a store, the feed or a clock.

use std::collections::BTreeMap;

use ::registry::{Kind, View};
use ahash::AHashMap;
use ringcast_proto::NodeId;
use ringcast_proto::pubsub::{NodeInfo, NodeState};

use crate::node_watch::is_listed;
use crate::presence::{Node, NodeCard, Presence};
use crate::presence_store::NodeRecord;

/// What the other controllers last told, and whom clients were sent to since.
#[derive(Debug, Default)]
pub(crate) struct ToldNodes {
    records: Vec<NodeRecord>,
    selected: AHashMap<NodeId, u64>,
}

impl ToldNodes {
    /// They told anew.
    pub(crate) fn tell(&mut self, records: Vec<NodeRecord>) {
        self.records = records;
        self.selected.clear();
    }

    /// What they told.
    pub(crate) fn records(&self) -> &[NodeRecord] {
        &self.records
    }

    /// All nodes, in the order of their ids. `fresh`: a list of all services that can be trusted, where there is one:
    /// a node of another controller that is not in it is left out, and has lost its link where that controller is not.
    pub(crate) fn list(&self, presence: &Presence, fresh: Option<&View>) -> Vec<NodeInfo> {
        let mut nodes: BTreeMap<&NodeId, ((u64, u64), NodeInfo)> = BTreeMap::new();
        for (_, node) in presence.nodes() {
            nodes.insert(&node.card.id, ((node.card.incarnation, node.link()), node_info(node)));
        }
        for record in &self.records {
            let card = &record.card;
            if fresh.is_some_and(|view| !is_listed(view, &card.id, card.incarnation)) {
                continue;
            }
            let turn = (card.incarnation, record.link);
            if nodes.get(&card.id).is_none_or(|(known, _)| *known < turn) {
                nodes.insert(&card.id, (turn, told_info(record, fresh)));
            }
        }
        nodes.into_values().map(|(_, info)| info).collect()
    }

    /// The node that a new client should go to, counted as sent there: the least loaded that takes clients.
    pub(crate) fn select(&mut self, presence: &Presence, fresh: Option<&View>) -> Option<NodeInfo> {
        let sent = |info: &NodeInfo| self.selected.get(info.node_id.as_str()).copied().unwrap_or(0);
        let load = |info: &NodeInfo| info.connections + sent(info);
        let free = |info: &NodeInfo| info.state() == NodeState::Ready && load(info) < info.capacity;
        let nodes = self.list(presence, fresh).into_iter().filter(free);
        let least = nodes.min_by(|a, b| {
            // a/b < c/d without dividing; the order of ids makes the choice the same for equal loads.
            let left = u128::from(load(a)) * u128::from(b.capacity);
            left.cmp(&(u128::from(load(b)) * u128::from(a.capacity)))
        })?;
        if let Ok(id) = NodeId::new(&least.node_id) {
            *self.selected.entry(id).or_default() += 1;
        }
        Some(least)
    }
}

/// A node that has, or had, its link here.
pub(crate) fn node_info(node: &Node) -> NodeInfo {
    info_of(&node.card, node.connections, node.state())
}

fn told_info(record: &NodeRecord, fresh: Option<&View>) -> NodeInfo {
    let answered = |view: &View| view.of(Kind::Controller).any(|entry| entry.id == record.controller);
    let state = match (record.linked && fresh.is_none_or(answered), record.draining) {
        (false, _) => NodeState::Lost,
        (true, true) => NodeState::Draining,
        (true, false) => NodeState::Ready,
    };
    info_of(&record.card, record.connections.max(record.sessions), state)
}

fn info_of(card: &NodeCard, connections: u64, state: NodeState) -> NodeInfo {
    NodeInfo {
        node_id: card.id.to_string(),
        incarnation: card.incarnation,
        grpc_address: card.grpc_address.clone(),
        public_ws_url: card.public_ws_url.clone(),
        connections,
        capacity: card.capacity,
        state: state.into(),
        version: card.version.clone(),
        driver: card.driver.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::registry::Entry;

    fn card(id: &str, incarnation: u64) -> NodeCard {
        NodeCard {
            id: NodeId::new(id).unwrap(),
            incarnation,
            grpc_address: format!("{id}:1"),
            public_ws_url: String::new(),
            capacity: 100,
            version: "1".into(),
            driver: "epoll".into(),
        }
    }

    fn record(id: &str, link: u64, connections: u64) -> NodeRecord {
        NodeRecord {
            card: card(id, 1),
            link,
            controller: "other".into(),
            whole: true,
            linked: true,
            draining: false,
            connections,
            sessions: 0,
        }
    }

    fn told(records: Vec<NodeRecord>) -> ToldNodes {
        ToldNodes { records, ..ToldNodes::default() }
    }

    fn view(controllers: &[&str], nodes: &[&str]) -> View {
        let entry = |kind, id: &&str| Entry {
            kind,
            id: (*id).to_owned(),
            incarnation: 1,
            grpc_address: String::new(),
            public_ws_url: String::new(),
        };
        let controllers = controllers.iter().map(|id| entry(Kind::Controller, id));
        let nodes = nodes.iter().map(|id| entry(Kind::Node, id));
        View { entries: controllers.chain(nodes).collect(), ..View::default() }
    }

    #[test]
    fn the_later_link_tells_of_a_node_and_each_node_is_there_once() {
        let mut presence = Presence::default();
        for id in ["a", "b"] {
            let at = presence.register(card(id, 1), 5, 1);
            presence.heartbeat(at, 7, false);
        }
        let told = told(vec![record("a", 4, 50), record("b", 6, 60), record("c", 1, 70)]);
        let nodes = told.list(&presence, None);
        let seen: Vec<_> = nodes.iter().map(|node| (node.node_id.as_str(), node.connections)).collect();
        assert_eq!(seen, [("a", 7), ("b", 60), ("c", 70)]);
    }

    #[test]
    fn what_a_fresh_list_does_not_name_is_not_told_and_a_dead_controllers_nodes_are_lost() {
        let told = told(vec![record("a", 1, 0), record("gone", 1, 0)]);
        let presence = Presence::default();
        let states = |view: &View| {
            let nodes = told.list(&presence, Some(view));
            nodes.iter().map(|node| (node.node_id.clone(), node.state())).collect::<Vec<_>>()
        };
        assert_eq!(states(&view(&["other"], &["a"])), [("a".to_owned(), NodeState::Ready)]);
        assert_eq!(states(&view(&["me"], &["a"])), [("a".to_owned(), NodeState::Lost)]);
    }

    #[test]
    fn clients_are_spread_over_the_nodes_of_all_controllers() {
        let mut presence = Presence::default();
        let own = presence.register(card("own", 1), 1, 1);
        presence.heartbeat(own, 10, false);
        let draining = NodeRecord { draining: true, ..record("draining", 1, 0) };
        let mut told = told(vec![record("theirs", 1, 12), draining]);
        let mut pick = || told.select(&presence, None).map(|node| node.node_id);
        let picked: Vec<String> = std::iter::from_fn(&mut pick).take(6).collect();
        assert_eq!(picked, ["own", "own", "own", "theirs", "own", "theirs"]);
        assert_eq!(std::iter::from_fn(pick).count(), 200 - 22 - 6, "none takes more than it can hold");
    }
}
