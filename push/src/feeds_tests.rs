//! What several feeds come to together: which node is routed to, when what one feed told is forgotten, when the routes
//! are stale.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use registry::{Entry, Kind, View};
use ringcast_proto::pubsub::{
    MessageContent, NodeRoute, ReportMode, RoomRoute, RouteUpdate, UserRoute, delivery::Target,
};

use crate::board::Board;
use crate::feed_follower::gather;
use crate::feeds::FeedId;
use crate::links::{LinkStream, NewLink};
use crate::listing::Listing;
use crate::places::PARTS;
use crate::request::Push;
use crate::routing::Routes;

/// A controller as the directory tells of it.
pub(crate) fn controller(id: &str, incarnation: u64) -> Entry {
    entry(Kind::Controller, id, incarnation)
}

/// Any service as the directory tells of it.
pub(crate) fn entry(kind: Kind, id: &str, incarnation: u64) -> Entry {
    Entry { kind, id: id.into(), incarnation, grpc_address: format!("{id}:1"), public_ws_url: String::new() }
}

/// A push that nobody waits for.
pub(crate) fn push(target: Target) -> Push {
    Push {
        target,
        exclude: Vec::new(),
        content: MessageContent::default(),
        message_id: String::new(),
        deadline: Duration::from_secs(1),
        report_mode: ReportMode::Full,
        span: None,
    }
}

/// The nodes whose members a push's report has to count, whether they are handed the push or not.
pub(crate) fn counted(board: &mut Board, target: Target) -> Vec<String> {
    let (parts, _) = board.parts_for(&push(target));
    parts.iter().map(|part| part.node.to_string()).collect()
}

/// The nodes that a push goes to, with the sessions that the routes count there.
pub(crate) fn routed(board: &mut Board, target: Target) -> Vec<(String, u32)> {
    let (parts, _) = board.parts_for(&push(target));
    // The others' members are dropped, and told so.
    let handed =
        parts.iter().filter(|part| board.links.get(part.link).is_some_and(|link| !link.is_withheld()));
    let mut nodes: Vec<_> = handed.map(|part| (part.node.to_string(), part.routed)).collect();
    nodes.sort();
    nodes
}

/// How a controller tells of a node: by which of its links.
pub(crate) fn told(id: &str, incarnation: u64, link: u64) -> NodeRoute {
    let (node_id, grpc_address) = (id.into(), format!("{id}:1"));
    NodeRoute { node_id, incarnation, grpc_address, link, ..Default::default() }
}

fn partly(route: NodeRoute) -> NodeRoute {
    NodeRoute { partial: true, ..route }
}

fn gone(route: NodeRoute) -> NodeRoute {
    NodeRoute { gone: true, ..route }
}

fn moved(route: NodeRoute) -> NodeRoute {
    NodeRoute { gone: true, moved: true, ..route }
}

fn room(id: &str, node: &str, sessions: u32) -> RoomRoute {
    RoomRoute { room_id: id.into(), node_id: node.into(), sessions }
}

/// A board with a directory that a test writes.
struct Desk {
    board: Board,
    now: Instant,
    view: View,
    feeds: BTreeMap<String, FeedId>,
    links: Vec<NewLink>,
    streams: BTreeMap<String, LinkStream>,
}

impl Desk {
    /// With these controllers listed, and none followed yet.
    fn of(controllers: &[&str], fixed: bool) -> Self {
        let now = Instant::now();
        let us = entry(Kind::PushManager, "p", 1);
        let entries = controllers.iter().map(|id| controller(id, 1)).chain([us]).collect();
        let view = View { entries, as_of: None, fixed };
        let (feeds, streams) = (BTreeMap::new(), BTreeMap::new());
        let mut desk = Self { board: Board::new(now), now, view, feeds, links: Vec::new(), streams };
        desk.look();
        desk
    }

    /// With `a` and `b`, both followed, in a directory that lists the node `n`.
    fn of_two() -> Self {
        let mut desk = Self::of(&["a", "b"], false);
        desk.list(Kind::Node, "n", 1);
        desk.snapshot("a", vec![], vec![]);
        desk.snapshot("b", vec![], vec![]);
        desk
    }

    fn list(&mut self, kind: Kind, id: &str, incarnation: u64) {
        self.view.entries.retain(|entry| (entry.kind, entry.id.as_str()) != (kind, id));
        self.view.entries.push(entry(kind, id, incarnation));
        self.look();
    }

    fn unlist(&mut self, kind: Kind, id: &str) {
        self.view.entries.retain(|entry| (entry.kind, entry.id.as_str()) != (kind, id));
        self.look();
    }

    /// A look at a list that is true now.
    fn look(&mut self) {
        self.now += Duration::from_millis(1);
        self.view.as_of = (!self.view.fixed).then_some(self.now);
        self.look_again();
    }

    /// A look at the list as it was read before.
    fn look_again(&mut self) {
        let listing = Listing::of(&self.view, &entry(Kind::PushManager, "p", 1));
        let looked = self.board.look(&listing, self.now);
        self.feeds.extend(looked.follow.into_iter().map(|(feed, entry)| (entry.id, feed)));
        self.run(looked.new);
        self.sweep();
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn snapshot(&mut self, controller: &str, nodes: Vec<NodeRoute>, rooms: Vec<RoomRoute>) {
        let feed = self.feeds[controller];
        let mut routes = Routes::default();
        gather(&mut routes, RouteUpdate { nodes, rooms, ..Default::default() }).unwrap();
        let mut kept = self.board.feeds.to_keep(feed, &routes);
        routes.adopt(&mut kept);
        for part in 0..PARTS {
            routes.paste(self.board.feeds.copy(feed, part, &kept).unwrap());
        }
        let (new, _) = self.board.install(feed, routes, 1, self.now);
        self.run(new);
        self.sweep();
    }

    fn node(&mut self, controller: &str, route: NodeRoute) {
        let new = self.board.set_node(self.feeds[controller], route, self.now);
        self.run(new);
        self.sweep();
    }

    fn room(&mut self, controller: &str, id: &str, node: &str, sessions: u32) {
        self.board.feeds.set_room(self.feeds[controller], room(id, node, sessions)).unwrap();
    }

    fn lose(&mut self, controller: &str) {
        self.board.feeds.lose(self.feeds[controller], self.now);
    }

    fn hear(&mut self, controller: &str) {
        self.board.feeds.hear(self.feeds[controller], 1, self.now);
    }

    fn sweep(&mut self) {
        while self.board.feeds.sweep() {}
    }

    fn run(&mut self, new: Vec<NewLink>) {
        for link in new {
            let stream = self.board.open_stream(link.link, self.now).unwrap();
            self.board.raise_stream(&stream, self.now);
            self.streams.insert(link.node.to_string(), stream);
            self.links.push(link);
        }
    }

    /// Our stream to a node breaks.
    fn cut(&mut self, node: &str) {
        self.board.close_stream(&self.streams[node], self.now, &mut Vec::new());
    }

    /// It is there again.
    fn mend(&mut self, node: &str) {
        let stream = self.board.open_stream(self.streams[node].link, self.now).unwrap();
        self.board.raise_stream(&stream, self.now);
        self.streams.insert(node.into(), stream);
    }

    fn routed(&mut self, room: &str) -> Vec<(String, u32)> {
        routed(&mut self.board, Target::RoomId(room.into()))
    }

    fn stale_ms(&self) -> u128 {
        self.board.figures(self.now).stale.as_millis()
    }

    fn set_aside(&self) -> usize {
        self.board.figures(self.now).set_aside
    }
}

fn on(nodes: &[(&str, u32)]) -> Vec<(String, u32)> {
    nodes.iter().map(|(node, sessions)| (node.to_string(), *sessions)).collect()
}

#[test]
fn two_feeds_tell_of_different_nodes_and_a_push_goes_to_all() {
    let mut desk = Desk::of(&["a", "b"], true);
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.snapshot("b", vec![told("m", 1, 1)], vec![room("r", "m", 3), room("s", "m", 1)]);
    assert_eq!(desk.routed("r"), on(&[("m", 3), ("n", 2)]));
    assert_eq!(desk.routed("s"), on(&[("m", 1)]));
    for (controller, node) in [("a", "n"), ("b", "m")] {
        let route = UserRoute { user_id: "u".into(), node_id: node.into(), sessions: 1 };
        desk.board.feeds.set_user(desk.feeds[controller], route).unwrap();
    }
    assert_eq!(routed(&mut desk.board, Target::UserId("u".into())), on(&[("m", 1), ("n", 1)]));
    assert_eq!(routed(&mut desk.board, Target::Broadcast(true)), on(&[("m", 1), ("n", 1)]));
    assert_eq!((desk.links.len(), desk.stale_ms()), (2, 0));
}

#[test]
fn a_node_moves_without_an_instant_at_which_its_members_are_not_routed() {
    let mut desk = Desk::of_two();
    desk.node("a", told("n", 1, 1));
    desk.room("a", "r", "n", 2);
    let both = on(&[("n", 2)]);
    desk.node("b", partly(told("n", 1, 2)));
    assert_eq!(desk.routed("r"), both, "what b does not tell yet a still does");
    desk.room("b", "r", "n", 1);
    assert_eq!(desk.routed("r"), both, "once, with the larger number");
    desk.node("a", moved(told("n", 1, 1)));
    assert_eq!((desk.routed("r"), desk.set_aside()), (both, 1));
    desk.room("b", "r", "n", 2);
    desk.node("b", told("n", 1, 2));
    assert_eq!((desk.routed("r"), desk.set_aside()), (on(&[("n", 2)]), 0));
    desk.room("b", "r", "n", 1);
    assert_eq!(desk.routed("r"), on(&[("n", 1)]), "only b's word counts now");
    assert_eq!(desk.links.len(), 1, "our link to the node was not touched by its move");
    assert!(!desk.links[0].retired.is_cancelled());
}

#[test]
fn the_later_link_counts_once_it_is_whole_whatever_the_other_feed_still_tells() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 5), room("left", "n", 1)]);
    desk.snapshot("b", vec![told("n", 1, 2)], vec![room("r", "n", 3)]);
    assert_eq!((desk.routed("r"), desk.routed("left")), (on(&[("n", 3)]), vec![]));
    // The node is back at a, which has kept what it knew.
    desk.node("a", partly(told("n", 1, 3)));
    desk.room("a", "new", "n", 1);
    assert_eq!((desk.routed("r"), desk.routed("new")), (on(&[("n", 5)]), on(&[("n", 1)])));
    desk.room("a", "left", "n", 0);
    desk.room("a", "r", "n", 3);
    desk.node("a", told("n", 1, 3));
    desk.node("b", moved(told("n", 1, 2)));
    assert_eq!((desk.routed("r"), desk.routed("left"), desk.set_aside()), (on(&[("n", 3)]), vec![], 0));
}

#[test]
fn a_controller_that_comes_back_without_a_node_leaves_its_routes_until_another_tells_it() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.lose("a");
    assert_eq!(desk.routed("r"), on(&[("n", 2)]), "what a lost feed told stays");
    desk.list(Kind::Controller, "a", 2);
    desk.snapshot("a", vec![], vec![]);
    assert_eq!((desk.routed("r"), desk.set_aside()), (on(&[("n", 2)]), 1));
    desk.snapshot("a", vec![], vec![]);
    assert_eq!((desk.routed("r"), desk.set_aside()), (on(&[("n", 2)]), 1), "through another snapshot, too");
    desk.node("b", partly(told("n", 1, 2)));
    assert_eq!(desk.routed("r"), on(&[("n", 2)]));
    desk.room("b", "r", "n", 2);
    desk.node("b", told("n", 1, 2));
    assert_eq!((desk.routed("r"), desk.set_aside()), (on(&[("n", 2)]), 0));
}

#[test]
fn a_controller_that_leaves_the_list_leaves_its_routes_until_another_tells_its_nodes() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.unlist(Kind::Controller, "a");
    assert_eq!((desk.routed("r"), desk.set_aside(), desk.stale_ms()), (on(&[("n", 2)]), 1, 1));
    desk.snapshot("b", vec![told("n", 1, 2)], vec![room("r", "n", 1)]);
    desk.look();
    assert_eq!((desk.routed("r"), desk.set_aside(), desk.stale_ms()), (on(&[("n", 1)]), 0, 0));
    assert_eq!(desk.board.feeds.tables().len(), 1, "the table of the one that left is not kept");
    // It comes back as if it had never been there.
    desk.list(Kind::Controller, "a", 2);
    desk.snapshot("a", vec![], vec![]);
    assert_eq!(desk.routed("r"), on(&[("n", 1)]));
}

#[test]
fn a_partial_snapshot_keeps_what_the_former_one_told() {
    for fixed in [true, false] {
        let mut desk = Desk::of(&["a"], fixed);
        desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2), room("s", "n", 1)]);
        desk.lose("a");
        desk.snapshot("a", vec![partly(told("n", 1, 2))], vec![room("s", "n", 1), room("t", "n", 1)]);
        assert_eq!((desk.routed("r"), desk.routed("t")), (on(&[("n", 2)]), on(&[("n", 1)])));
        // And once more before it is whole: what each of them told holds.
        desk.snapshot("a", vec![partly(told("n", 1, 3))], vec![]);
        assert_eq!((desk.routed("r"), desk.routed("t")), (on(&[("n", 2)]), on(&[("n", 1)])));
        desk.room("a", "t", "n", 1);
        desk.node("a", told("n", 1, 3));
        assert_eq!((desk.routed("r"), desk.routed("t"), desk.set_aside()), (vec![], on(&[("n", 1)]), 0));
    }
}

#[test]
fn the_only_controller_of_a_fixed_list_knows_who_is_gone() {
    let mut desk = Desk::of(&["a"], true);
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.lose("a");
    desk.snapshot("a", vec![], vec![]);
    assert_eq!((desk.routed("r"), desk.set_aside()), (vec![], 0));
}

#[test]
fn gone_for_good_removes_what_was_set_aside_up_to_its_link() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.unlist(Kind::Controller, "a");
    desk.node("b", gone(told("n", 1, 0)));
    assert_eq!(desk.routed("r"), on(&[("n", 2)]), "b lost an earlier link than the one that a told of");
    desk.node("b", gone(told("n", 1, 1)));
    assert_eq!((desk.routed("r"), desk.set_aside()), (vec![], 0));
    assert!(desk.links[0].retired.is_cancelled());
}

#[test]
fn gone_from_one_feed_is_not_gone_where_another_tells_a_later_link() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.node("b", partly(told("n", 1, 2)));
    desk.node("a", gone(told("n", 1, 1)));
    assert_eq!(desk.routed("r"), on(&[("n", 2)]), "b has not told all yet");
    desk.node("b", gone(told("n", 1, 2)));
    assert_eq!((desk.routed("r"), desk.set_aside()), (vec![], 0));
}

#[test]
fn a_superseded_start_gets_nothing_whoever_tells_of_it() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 7)], vec![room("r", "n", 2)]);
    desk.node("b", partly(told("n", 2, 1)));
    assert_eq!(desk.routed("r"), vec![], "what was on the former start is gone with it");
    desk.room("b", "r", "n", 1);
    desk.room("a", "r", "n", 3);
    desk.snapshot("a", vec![told("n", 1, 7)], vec![room("s", "n", 2)]);
    assert_eq!((desk.routed("r"), desk.routed("s"), desk.set_aside()), (on(&[("n", 1)]), vec![], 0));
    let links: Vec<_> =
        desk.links.iter().map(|link| (link.incarnation, link.retired.is_cancelled())).collect();
    assert_eq!(links, [(1, true), (2, false)]);
    desk.node("b", gone(told("n", 2, 1)));
    assert_eq!((desk.routed("r"), desk.routed("s")), (vec![], vec![]), "the former one does not come back");
}

#[test]
fn a_node_that_the_list_lacks_is_out_where_its_link_is_down_or_after_a_while() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.cut("n");
    desk.look();
    assert_eq!(desk.routed("r"), on(&[("n", 2)]), "it is listed: its link may be back at once");
    desk.unlist(Kind::Node, "n");
    assert_eq!(desk.routed("r"), vec![]);
    let (parts, _) = desk.board.parts_for(&push(Target::RoomId("r".into())));
    assert_eq!(
        parts.iter().map(|part| part.routed).sum::<u32>(),
        2,
        "a controller has it: its members count"
    );
    desk.mend("n");
    assert_eq!(desk.routed("r"), on(&[("n", 2)]), "alive by its link, and the feed's word was not forgotten");
    for _ in 0..9 {
        desk.pass(1000);
        desk.look();
        assert_eq!(desk.routed("r"), on(&[("n", 2)]));
    }
    desk.pass(1000);
    desk.look();
    assert_eq!(desk.routed("r"), vec![], "for 10 s without a lease");
    desk.pass(3000);
    desk.look_again();
    assert_eq!(desk.routed("r"), vec![]);
    desk.pass(1000);
    desk.look_again();
    assert_eq!(desk.routed("r"), on(&[("n", 2)]), "the registry is out of reach: the link alone counts");
    desk.list(Kind::Node, "n", 1);
    desk.look();
    assert_eq!(desk.routed("r"), on(&[("n", 2)]));
}

#[test]
fn a_list_from_before_a_node_was_told_says_nothing_of_it() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("new", 1, 1)], vec![room("r", "new", 1)]);
    desk.cut("new");
    desk.look_again();
    assert_eq!(desk.routed("r"), on(&[("new", 1)]), "its entry may be younger than the list");
    desk.look();
    assert_eq!(desk.routed("r"), vec![]);
}

#[test]
fn what_is_set_aside_of_a_node_that_is_dead_is_forgotten() {
    for fixed in [true, false] {
        let mut desk = Desk::of(&["a", "b"], fixed);
        desk.list(Kind::Node, "n", 1);
        desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
        desk.snapshot("b", vec![], vec![]);
        desk.snapshot("a", vec![], vec![]);
        desk.cut("n");
        if !fixed {
            desk.pass(20_000);
            desk.look();
            assert_eq!(desk.set_aside(), 1, "it is listed, so it lives");
            desk.unlist(Kind::Node, "n");
        }
        desk.pass(9_000);
        desk.look();
        assert_eq!((desk.set_aside(), desk.routed("r").len()), (usize::from(fixed), usize::from(fixed)));
        desk.pass(1_000);
        desk.look();
        assert_eq!((desk.set_aside(), desk.routed("r")), (0, vec![]), "fixed: {fixed}");
    }
}

#[test]
fn at_fixed_addresses_a_node_stays_as_long_as_a_feed_tells_of_it() {
    let mut desk = Desk::of(&["a", "b"], true);
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.cut("n");
    desk.pass(60_000);
    desk.look();
    assert_eq!(desk.routed("r"), on(&[("n", 2)]));
}

#[test]
fn a_new_address_of_a_node_is_a_new_link_and_keeps_the_routes() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 2)]);
    desk.node("b", partly(NodeRoute { grpc_address: "elsewhere:1".into(), ..told("n", 1, 2) }));
    assert_eq!(desk.routed("r"), on(&[("n", 2)]));
    let links: Vec<_> =
        desk.links.iter().map(|link| (link.address.as_str(), link.retired.is_cancelled())).collect();
    assert_eq!(links, [("n:1", true), ("elsewhere:1", false)]);
}

#[test]
fn one_broken_feed_of_two_is_stale_until_its_snapshot_is_in() {
    let mut desk = Desk::of_two();
    assert_eq!(desk.stale_ms(), 0);
    desk.lose("a");
    desk.pass(500);
    desk.look();
    desk.hear("b");
    desk.hear("a");
    assert_eq!(desk.stale_ms(), 501, "a word of a feed that is not followed changes nothing");
    desk.snapshot("a", vec![], vec![]);
    assert_eq!(desk.stale_ms(), 0);
    desk.list(Kind::Controller, "c", 1);
    assert_eq!(desk.stale_ms(), 1, "a controller that is not followed yet");
    desk.snapshot("c", vec![], vec![]);
    assert_eq!(desk.stale_ms(), 0);
    desk.list(Kind::Controller, "c", 2);
    assert_eq!(desk.stale_ms(), 1, "another start of it");
}

#[test]
fn a_controller_that_was_lost_before_it_left_is_stale_until_others_tell_its_nodes() {
    let mut desk = Desk::of_two();
    desk.snapshot("a", vec![told("n", 1, 1)], vec![room("r", "n", 1)]);
    desk.lose("a");
    desk.pass(20);
    desk.unlist(Kind::Controller, "a");
    assert_eq!(desk.stale_ms(), 21);
    desk.node("b", partly(told("n", 1, 2)));
    assert_eq!(desk.stale_ms(), 21);
    desk.node("b", told("n", 1, 2));
    desk.look();
    assert_eq!(desk.stale_ms(), 0);
}

#[test]
fn an_old_list_and_one_without_us_are_stale() {
    let mut desk = Desk::of_two();
    desk.pass(3001);
    desk.look_again();
    desk.hear("a");
    desk.hear("b");
    assert_eq!(desk.stale_ms(), 3001);
    desk.look();
    assert_eq!(desk.stale_ms(), 0);
    desk.unlist(Kind::PushManager, "p");
    desk.pass(50);
    assert_eq!(desk.stale_ms(), 50);
}

#[test]
fn without_the_only_controller_of_a_fixed_list_routes_are_stale_at_once() {
    let mut desk = Desk::of(&["a"], true);
    desk.snapshot("a", vec![], vec![]);
    assert_eq!(desk.stale_ms(), 0);
    desk.lose("a");
    assert_eq!(desk.stale_ms(), 1, "it confirms joins without us as soon as it has seen the break");
}

#[test]
fn it_is_ready_once_every_controller_is_followed_or_was_tried_for_3_s() {
    let mut desk = Desk::of(&["a", "b"], false);
    assert!(!desk.board.feeds.is_ready());
    desk.pass(60_000);
    desk.look();
    assert!(!desk.board.feeds.is_ready(), "without any routes there is nothing to serve");
    desk.snapshot("a", vec![], vec![]);
    assert!(desk.board.feeds.is_ready());
    assert!(desk.stale_ms() > 0, "it serves and says so");

    let mut desk = Desk::of(&["a", "b"], false);
    desk.snapshot("a", vec![], vec![]);
    assert!(!desk.board.feeds.is_ready(), "b had no time yet");
    desk.snapshot("b", vec![], vec![]);
    assert!(desk.board.feeds.is_ready());
    desk.lose("a");
    desk.lose("b");
    assert!(desk.board.feeds.is_ready(), "what was known stays");
}
