//! One feed's table: what steps and sweeps make of it, and what is kept of it.

use ringcast_proto::pubsub::{NodeRoute, RoomRoute, UserRoute};

use crate::places::PARTS;
use crate::receipts::LinkId;
use crate::routing::{MAX_EMPTY_ROOMS, MAX_SET_ASIDE, Routes};

fn node(id: &str, incarnation: u64) -> NodeRoute {
    NodeRoute { node_id: id.into(), incarnation, grpc_address: format!("{id}:1"), ..Default::default() }
}

fn room(id: &str, node: &str, sessions: u32) -> RoomRoute {
    RoomRoute { room_id: id.into(), node_id: node.into(), sessions }
}

fn user(id: &str, node: &str, sessions: u32) -> UserRoute {
    UserRoute { user_id: id.into(), node_id: node.into(), sessions }
}

/// Tells of a node and routes to it; every start of every node has a link of its own.
fn tell(routes: &mut Routes, id: &str, incarnation: u64) {
    routes.tell(node(id, incarnation));
    let link = LinkId(u32::from(id.as_bytes()[0]) * 100);
    routes.aim(id, |node| Some(LinkId(link.0 + node.incarnation as u32)));
}

fn routes(nodes: &[&str]) -> Routes {
    let mut routes = Routes::default();
    nodes.iter().for_each(|id| tell(&mut routes, id, 1));
    routes
}

fn sweep_all(routes: &mut Routes) {
    while routes.is_sweeping() {
        routes.sweep();
    }
}

fn of_room(routes: &Routes, id: &str) -> Option<Vec<(String, u32)>> {
    let mut all: Vec<_> = routes.room(id)?.map(|routed| (routed.node.to_string(), routed.sessions)).collect();
    all.sort();
    Some(all)
}

fn everyone(routes: &Routes) -> Vec<(String, u32)> {
    routes.everyone().map(|routed| (routed.node.to_string(), routed.sessions)).collect()
}

#[test]
fn counts_follow_the_feed() {
    let mut routes = routes(&["a", "b", "c"]);
    routes.set_room(room("r", "a", 2)).unwrap();
    routes.set_room(room("r", "b", 1)).unwrap();
    routes.set_room(room("r", "c", 5)).unwrap();
    routes.set_room(room("r", "a", 3)).unwrap();
    routes.set_room(room("r", "b", 0)).unwrap();
    assert_eq!(of_room(&routes, "r"), Some(vec![("a".into(), 3), ("c".into(), 5)]));
    routes.set_user(user("u", "a", 2)).unwrap();
    routes.set_user(user("v", "a", 1)).unwrap();
    routes.set_user(user("u", "a", 1)).unwrap();
    assert_eq!(everyone(&routes), [("a".into(), 2)]);
    assert_eq!((routes.room_count(), routes.user_count()), (1, 2));
    routes.set_user(user("u", "a", 0)).unwrap();
    assert_eq!(routes.user("u").count(), 0);
    assert_eq!((everyone(&routes), routes.user_count()), (vec![("a".into(), 1)], 1));
}

#[test]
fn an_empty_room_is_told_from_an_unknown_one() {
    let mut routes = routes(&["a"]);
    routes.set_room(room("r", "a", 1)).unwrap();
    routes.set_room(room("r", "a", 0)).unwrap();
    assert_eq!(of_room(&routes, "r"), Some(vec![]));
    assert_eq!(of_room(&routes, "s"), None);
    assert_eq!(routes.room_count(), 0);
    for n in 0..MAX_EMPTY_ROOMS {
        routes.set_room(room(&n.to_string(), "a", 1)).unwrap();
        routes.set_room(room(&n.to_string(), "a", 0)).unwrap();
    }
    assert_eq!(of_room(&routes, "r"), None, "what is remembered has a bound");
    assert_eq!(of_room(&routes, "0"), Some(vec![]));
}

#[test]
fn a_lost_node_is_passed_over_at_once_and_its_index_waits_for_the_sweep() {
    let mut routes = routes(&["a", "b"]);
    for n in 0..2_000 {
        routes.set_room(room(&n.to_string(), "a", 1)).unwrap();
        routes.set_user(user(&n.to_string(), "a", 1)).unwrap();
    }
    routes.set_room(room("7", "b", 4)).unwrap();
    routes.forget("a");
    assert_eq!(of_room(&routes, "7"), Some(vec![("b".into(), 4)]));
    assert_eq!((routes.user("7").count(), routes.everyone().count()), (0, 0));

    tell(&mut routes, "c", 1);
    assert_eq!(of_room(&routes, "8"), Some(vec![]), "the index of the lost node is still named by entries");
    sweep_all(&mut routes);
    assert_eq!((routes.room_count(), routes.user_count()), (1, 0));
    tell(&mut routes, "d", 1);
    assert_eq!(of_room(&routes, "8"), Some(vec![]), "the new node has no room of the old one");
}

#[test]
fn a_later_start_begins_without_routes_and_a_new_address_keeps_them() {
    let mut routes = routes(&["a"]);
    routes.set_room(room("r", "a", 2)).unwrap();
    routes.tell(NodeRoute { grpc_address: "elsewhere:1".into(), link: 4, partial: true, ..node("a", 1) });
    let told = routes.told("a").unwrap();
    assert_eq!((told.address.as_str(), told.told_by, told.partial), ("elsewhere:1", 4, true));
    assert_eq!(of_room(&routes, "r"), Some(vec![("a".into(), 2)]));
    tell(&mut routes, "a", 2);
    assert_eq!(of_room(&routes, "r"), Some(vec![]));
}

#[test]
fn a_route_to_a_node_that_was_not_announced_is_refused() {
    let mut routes = routes(&["a", "b"]);
    assert!(routes.set_room(room("r", "z", 1)).is_err());
    assert!(routes.set_user(user("u", "z", 1)).is_err());
    assert!(routes.set_room(room("r", "z", 0)).is_ok(), "a last word on a node that has gone");
    routes.set_aside("b");
    assert!(routes.set_room(room("r", "b", 1)).is_err(), "what is set aside changes no more");
}

#[test]
fn what_is_set_aside_stays_until_it_is_dropped() {
    let mut routes = routes(&["a"]);
    routes.set_room(room("r", "a", 2)).unwrap();
    routes.set_user(user("u", "a", 1)).unwrap();
    routes.set_aside("a");
    assert_eq!(of_room(&routes, "r"), Some(vec![("a".into(), 2)]));
    assert_eq!(everyone(&routes), [("a".into(), 1)]);
    assert_eq!((routes.told("a").is_none(), routes.set_aside_count()), (true, 1));

    tell(&mut routes, "a", 1);
    routes.set_room(room("r", "a", 1)).unwrap();
    routes.set_room(room("r", "a", 0)).unwrap();
    assert_eq!(of_room(&routes, "r"), Some(vec![("a".into(), 2)]), "the feed speaks of its own telling only");
    routes.drop_set_aside("a", |node| node.incarnation == 1);
    assert_eq!(of_room(&routes, "r"), Some(vec![]));
    assert_eq!(routes.set_aside_count(), 0);
    sweep_all(&mut routes);
    assert_eq!((routes.room_count(), routes.user_count()), (0, 0));
}

#[test]
fn a_node_that_is_set_aside_again_and_again_is_noticed() {
    let mut routes = Routes::default();
    for _ in 0..MAX_SET_ASIDE {
        tell(&mut routes, "a", 1);
        routes.set_aside("a");
        assert!(!routes.is_crowded());
    }
    tell(&mut routes, "a", 1);
    routes.set_aside("a");
    assert!(routes.is_crowded());
}

#[test]
fn what_is_kept_is_copied_into_the_next_table_and_becomes_one() {
    let mut former = routes(&["a", "b", "c"]);
    for n in 0..3_000 {
        former.set_room(room(&n.to_string(), "a", 3)).unwrap();
        former.set_user(user(&n.to_string(), "b", 1)).unwrap();
        former.set_user(user(&n.to_string(), "c", 1)).unwrap();
    }
    former.set_aside("a");
    tell(&mut former, "a", 1);
    former.set_room(room("1", "a", 5)).unwrap();
    former.set_room(room("2", "a", 1)).unwrap();
    former.set_room(room("later", "a", 1)).unwrap();

    let mut next = routes(&["b"]);
    next.set_user(user("1", "b", 2)).unwrap();
    let mut kept = former.keep(|node| &*node.id != "b");
    assert!(!kept.is_empty());
    next.adopt(&mut kept);
    for part in 0..PARTS {
        next.paste(former.copy(part, &kept));
    }
    for id in ["a", "c"] {
        next.aim(id, |_| Some(LinkId(u32::from(id.as_bytes()[0]))));
    }
    assert_eq!(next.set_aside_count(), 2, "two tellings of one start are one");
    let of = |id: &str| of_room(&next, id).unwrap_or_default();
    assert_eq!(of("0"), [("a".into(), 3)]);
    assert_eq!((of("1"), of("2")), (vec![("a".into(), 5)], vec![("a".into(), 3)]), "the larger number holds");
    assert_eq!(of("later"), [("a".into(), 1)]);
    assert_eq!(everyone(&next), [("b".into(), 2), ("c".into(), 3_000)], "b is told anew and not copied");
}
