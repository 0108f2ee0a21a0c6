//! Presence, one rule a test. `model` plays all of them against each other.

use std::collections::BTreeMap;

use super::*;
use crate::routes::Routes;

/// A push manager's routes, made of what it heard.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Follower {
    /// Incarnation, link, and whether it is partial.
    pub(super) nodes: BTreeMap<String, (u64, u64, bool)>,
    pub(super) rooms: BTreeMap<(String, String), u32>,
    pub(super) users: BTreeMap<(String, String), u32>,
}

impl Follower {
    pub(super) fn hear(&mut self, routes: Routes) {
        for node in routes.nodes.into_iter().chain(routes.whole) {
            if node.gone {
                self.rooms.retain(|(_, on), _| *on != node.node_id);
                self.users.retain(|(_, on), _| *on != node.node_id);
                self.nodes.remove(&node.node_id);
            } else {
                self.nodes.insert(node.node_id, (node.incarnation, node.link, node.partial));
            }
        }
        let set = |map: &mut BTreeMap<_, u32>, key, sessions| match sessions {
            0 => drop(map.remove(&key)),
            _ => drop(map.insert(key, sessions)),
        };
        for route in routes.rooms {
            set(&mut self.rooms, (route.room_id, route.node_id), route.sessions);
        }
        for route in routes.users {
            set(&mut self.users, (route.user_id, route.node_id), route.sessions);
        }
    }
}

pub(super) fn card(id: &str, incarnation: u64) -> NodeCard {
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

pub(super) fn arrival(session: u64, user: &str) -> Arrival {
    Arrival {
        session: SessionId::from_u64(session),
        user: UserId::new(user).unwrap(),
        user_name: String::new(),
        metadata: HashMap::new(),
        connected_at: 0,
    }
}

fn room(id: &str) -> RoomId {
    RoomId::new(id).unwrap()
}

const NOW: Now = Now { ms: 0, unix_s: 0 };

/// Registers a node whose snapshot is empty.
fn node(presence: &mut Presence, id: &str, incarnation: u64) -> LinkRef {
    let at = presence.register(card(id, incarnation), 1, incarnation);
    assert!(presence.snapshot_part(at, Vec::new(), true, NOW));
    at
}

#[test]
fn two_hundred_joins_for_the_last_ten_seats() {
    let mut presence = Presence::default();
    let nodes = [node(&mut presence, "a", 1), node(&mut presence, "b", 1)];
    for number in 0..90 {
        let seat = presence.join(nodes[0], arrival(number, &format!("early{number}")), &room("r"), 100, NOW);
        assert_eq!(seat, Seat::Taken);
    }
    let got_in = (0..200).filter(|number| {
        let at = nodes[*number as usize % 2];
        let seat = presence.join(at, arrival(1000 + number, &format!("late{number}")), &room("r"), 100, NOW);
        seat == Seat::Taken
    });
    assert_eq!(got_in.count(), 10);
    assert_eq!(presence.figures().users, 100, "those who were refused hold no session");
}

#[test]
fn another_device_and_a_return_before_the_loss_take_no_second_seat() {
    let mut presence = Presence::default();
    let (a, b) = (node(&mut presence, "a", 1), node(&mut presence, "b", 1));
    let full = room("r");
    assert_eq!(presence.join(a, arrival(1, "u"), &full, 1, NOW), Seat::Taken);
    assert_eq!(presence.join(a, arrival(2, "other"), &full, 1, NOW), Seat::Full);
    assert_eq!(presence.join(a, arrival(3, "u"), &full, 1, NOW), Seat::Taken, "another device");
    presence.lose_link(a, NOW);
    assert_eq!(presence.join(b, arrival(1, "u"), &full, 1, NOW), Seat::Taken, "a return");
    presence.remove_node(a.node, false);
    assert_eq!(presence.join(b, arrival(2, "other"), &full, 1, NOW), Seat::Full, "the seat is held by one");
    presence.end(b, SessionId::from_u64(1));
    assert_eq!(presence.join(b, arrival(2, "other"), &full, 1, NOW), Seat::Taken);
}

#[test]
fn a_snapshot_of_what_was_known_changes_nothing() {
    let mut presence = Presence::default();
    let first = node(&mut presence, "a", 1);
    presence.join(first, arrival(1, "u"), &room("r"), 0, NOW);
    presence.take_changes();
    presence.lose_link(first, NOW);
    let lost = |changes: Routes| (changes.nodes.len(), changes.nodes[0].unlinked, changes.rooms.len());
    assert_eq!(lost(presence.take_changes()), (1, true, 0), "that the link is lost is told");
    let second = presence.register(card("a", 1), 1, 2);
    assert!(presence.snapshot_part(second, vec![(arrival(1, "u"), vec![room("r")])], true, NOW));
    assert_eq!(lost(presence.take_changes()), (1, false, 0), "and that it is back");
    assert!(!presence.is_current(first));
}

#[test]
fn a_snapshot_mends_rooms_and_ends_what_it_does_not_name() {
    let mut presence = Presence::default();
    let first = node(&mut presence, "a", 1);
    presence.join(first, arrival(1, "u"), &room("old"), 0, NOW);
    presence.join(first, arrival(2, "v"), &room("old"), 0, NOW);
    let mut follower = Follower::default();
    follower.hear(presence.take_changes());
    let second = presence.register(card("a", 1), 1, 2);
    assert!(presence.snapshot_part(second, vec![(arrival(1, "u"), vec![room("new")])], true, NOW));
    follower.hear(presence.take_changes());
    assert_eq!(follower.rooms, BTreeMap::from([(("new".to_owned(), "a".to_owned()), 1)]));
    assert_eq!(presence.take_emptied(), [room("old")]);
}

#[test]
fn a_node_is_gone_once_and_stands_for_its_routes() {
    let mut presence = Presence::default();
    let at = node(&mut presence, "a", 1);
    presence.join(at, arrival(1, "u"), &room("r"), 0, NOW);
    presence.take_changes();
    presence.lose_link(at, Now { ms: 5, unix_s: 0 });
    assert!(presence.lost(|_, since_ms| since_ms > 5).is_empty());
    assert_eq!(presence.lost(|card, since_ms| card.id.as_str() == "a" && since_ms == 5), [at.node]);
    assert!(presence.remove_node(at.node, true).is_some() && presence.remove_node(at.node, true).is_none());
    let changes = presence.take_changes();
    assert_eq!((changes.nodes.len(), changes.rooms.len(), changes.users.len()), (2, 0, 0));
    assert!(changes.nodes[0].unlinked && !changes.nodes[0].gone, "that its link is lost comes first");
    assert!(changes.nodes[1].gone && changes.nodes[1].moved);
    assert_eq!(presence.figures(), Figures::default());
}

#[test]
fn a_second_node_with_the_same_id_is_refused_while_the_first_is_known() {
    let mut presence = Presence::default();
    let at = node(&mut presence, "a", 5);
    assert_eq!(presence.may_register(&card("a", 6), 2), Err(RegisterRefusal::Live));
    presence.lose_link(at, NOW);
    assert_eq!(presence.may_register(&card("a", 4), 2), Err(RegisterRefusal::Former));
    assert_eq!(presence.superseded_by(&card("a", 4)), None);
    assert_eq!(presence.superseded_by(&card("a", 6)), Some(at.node));
}

#[test]
fn a_later_link_makes_a_node_partial_until_its_snapshot_is_whole_and_keeps_its_routes() {
    let mut presence = Presence::default();
    let mut follower = Follower::default();
    let first = presence.register(card("a", 1), 3, 1);
    follower.hear(presence.take_changes());
    assert_eq!(follower.nodes["a"], (1, 3, true));
    assert!(presence.snapshot_part(first, vec![(arrival(1, "u"), vec![room("r")])], true, NOW));
    let changes = presence.take_changes();
    assert_eq!((changes.nodes.len(), changes.rooms.len(), changes.whole.len()), (0, 1, 1));
    follower.hear(changes);
    assert_eq!(follower.nodes["a"], (1, 3, false));

    assert_eq!(presence.may_register(&card("a", 1), 2), Err(RegisterRefusal::Late));
    assert_eq!(presence.may_register(&card("a", 1), 4), Ok(()));
    let second = presence.register(card("a", 1), 4, 2);
    follower.hear(presence.take_changes());
    assert_eq!((follower.nodes["a"], follower.rooms.len()), ((1, 4, true), 1), "its routes stay meanwhile");
    assert!(presence.snapshot_part(second, Vec::new(), true, NOW));
    follower.hear(presence.take_changes());
    assert_eq!((follower.nodes["a"], follower.rooms.len()), ((1, 4, false), 0));
}

#[test]
fn sessions_of_a_user_come_newest_first_whatever_the_order_of_snapshots() {
    let mut presence = Presence::default();
    let at = presence.register(card("a", 1), 1, 1);
    let sessions = [(1, 20), (2, 30), (3, 10)]
        .map(|(id, connected_at)| (Arrival { connected_at, ..arrival(id, "u") }, vec![room("r")]));
    presence.snapshot_part(at, sessions.into(), true, NOW);
    let order: Vec<u64> =
        presence.sessions_of(&UserId::new("u").unwrap()).map(|session| session.session.as_u64()).collect();
    assert_eq!(order, [2, 1, 3]);
}

#[test]
fn new_clients_go_to_the_least_loaded_node_that_takes_them() {
    let mut presence = Presence::default();
    assert!(presence.select().is_none());
    let links = ["a", "b", "c", "d"].map(|id| node(&mut presence, id, 1));
    for (at, (connections, draining)) in links.iter().zip([(50, false), (10, false), (0, true), (5, false)]) {
        presence.heartbeat(*at, connections, draining);
    }
    presence.lose_link(links[3], NOW);
    let selected: Vec<String> =
        (0..140).map_while(|_| presence.select().map(|node| node.card.id.to_string())).collect();
    assert!(selected[..40].iter().all(|id| id == "b"), "the least loaded first");
    assert_eq!(selected.iter().filter(|id| *id == "a").count(), 50, "what was sent there is counted");
    presence.heartbeat(links[1], 99, false);
    assert_eq!(presence.select().map(|node| node.card.id.as_str()), Some("b"), "a heartbeat tells anew");
    assert!(presence.select().is_none(), "none has room left");
}
