//! The board's side of the simulated world: the list that it looks at, and the feeds that it follows, as `route_watch` and
//! `feed_follower` do it, but in pieces, with anything in between.

use registry::{Kind, View};
use ringcast_proto::pubsub::{NodeRoute, RouteUpdate};

use super::{CONTROLLERS, Follower, NODES, ROOMS, World, node_id};
use crate::feed_follower::{gather, hold_back};
use crate::feeds::FeedId;
use crate::feeds_tests::{controller, entry};
use crate::links::NewLink;
use crate::listing::Listing;
use crate::places::PARTS;
use crate::routing::Routes;

/// How many parts of a table are copied at a time.
const COPY: usize = 100;

impl World {
    fn listing(&self) -> Listing {
        let controllers = self.controllers.iter().enumerate().filter(|(_, it)| it.listed);
        let controllers = controllers.map(|(c, it)| controller(&format!("c{c}"), it.incarnation));
        let nodes = self.nodes.iter().enumerate().filter(|(_, it)| it.listed && !it.hidden);
        let nodes = nodes.map(|(n, it)| entry(Kind::Node, &node_id(n), it.incarnation));
        let us = entry(Kind::PushManager, "p", 1);
        let entries = controllers.chain(nodes).chain([us.clone()]).collect();
        Listing::of(&View { entries, as_of: Some(self.now), fixed: false }, &us)
    }

    pub(super) fn look(&mut self) {
        let listing = self.listing();
        for c in 0..CONTROLLERS {
            let entry = controller(&format!("c{c}"), self.controllers[c].incarnation);
            let stays = listing.controllers.contains(&entry);
            let known = std::mem::replace(&mut self.controllers[c].known, false);
            if self.controllers[c].feed.is_some() && !(stays && known) {
                // Whoever follows a controller that leaves is ended, and says nothing more to the board.
                self.cut_feed(c);
                if stays {
                    self.lose_feed(c);
                }
            }
            self.controllers[c].known = stays && self.controllers[c].alive;
            if !stays {
                self.controllers[c].feed = None;
            }
        }
        let looked = self.board.look(&listing, self.now);
        for (feed, entry) in looked.follow {
            let c: usize = entry.id[1..].parse().unwrap();
            self.controllers[c].feed = Some(feed);
        }
        self.run(looked.new);
        for c in 0..CONTROLLERS {
            self.confirm(c);
        }
    }

    /// The board's list lacks a node that may be alive, or has it again.
    pub(super) fn hide_node(&mut self, n: usize) {
        self.nodes[n].hidden ^= true;
        self.look();
    }

    /// The board's link to a node that may be alive goes down, or comes up.
    pub(super) fn turn_link(&mut self, n: usize, up: bool) {
        let node = &self.nodes[n];
        let links = self.links.iter_mut().filter(|(link, _)| {
            *link.node == *node_id(n) && link.incarnation == node.incarnation && !link.retired.is_cancelled()
        });
        for (link, stream) in links {
            if !up {
                self.board.close_stream(stream, self.now, &mut Vec::new());
            } else if node.alive {
                *stream = self.board.open_stream(link.link, self.now).unwrap();
                self.board.raise_stream(stream, self.now);
            }
        }
    }

    pub(super) fn run(&mut self, new: Vec<NewLink>) {
        for link in new {
            let stream = self.board.open_stream(link.link, self.now).unwrap();
            let is_there = |n: &usize| {
                let node = &self.nodes[*n];
                *link.node == *node_id(*n) && node.alive && node.incarnation == link.incarnation
            };
            if (0..NODES).any(|n| is_there(&n)) {
                self.board.raise_stream(&stream, self.now);
            }
            self.links.push((link, stream));
        }
        self.check();
    }

    pub(super) fn break_feed(&mut self, c: usize) {
        self.cut_feed(c);
        self.lose_feed(c);
        self.confirm(c);
    }

    /// The feed's stream is over for the controller.
    fn cut_feed(&mut self, c: usize) {
        let controller = &mut self.controllers[c];
        if !matches!(controller.follower, Follower::Off) {
            controller.follower = Follower::Off;
            controller.steps.clear();
            self.hit("break");
        }
    }

    /// And for the board.
    fn lose_feed(&mut self, c: usize) {
        if let Some(feed) = self.controllers[c].feed {
            self.board.feeds.lose(feed, self.now);
        }
    }

    /// The board opens a feed: its snapshot is made now, and every later step follows.
    pub(super) fn follow(&mut self, c: usize) {
        let controller = &mut self.controllers[c];
        let is_off = matches!(controller.follower, Follower::Off);
        if !(controller.alive && controller.known && controller.feed.is_some() && is_off) {
            return;
        }
        let mut snapshot = RouteUpdate { number: controller.number, ..Default::default() };
        for (&n, record) in &controller.records {
            let known = record.sessions.keys().map(|&session| (n, record.link, session, controller.number));
            controller.joins.extend(known);
            snapshot.nodes.push(record.route(n));
            snapshot.rooms.extend((0..ROOMS).map(|room| record.room(n, room)));
            snapshot.users.extend(record.sessions.keys().map(|&session| record.user(n, session)));
        }
        controller.follower = Follower::Snapshot(snapshot);
    }

    /// The board goes on with a feed, by one step or a part of one.
    pub(super) fn advance(&mut self, c: usize) {
        let Some(feed) = self.controllers[c].feed else { return };
        match std::mem::replace(&mut self.controllers[c].follower, Follower::Off) {
            Follower::Off => return self.follow(c),
            Follower::Snapshot(snapshot) => {
                let (mut routes, number) = (Box::new(Routes::default()), snapshot.number);
                gather(&mut routes, snapshot).unwrap();
                let mut kept = self.board.feeds.to_keep(feed, &routes);
                if !kept.is_empty() {
                    self.hit("kept");
                }
                routes.adopt(&mut kept);
                self.controllers[c].follower = Follower::Copying { routes, kept, part: 0, number };
            }
            Follower::Copying { mut routes, kept, part, number } => {
                let until = (part + COPY).min(PARTS);
                for part in part..until {
                    routes.paste(self.board.feeds.copy(feed, part, &kept).unwrap());
                }
                self.controllers[c].follower = match until {
                    PARTS => {
                        let (new, _) = self.board.install(feed, *routes, number, self.now);
                        self.run(new);
                        Follower::Following
                    }
                    part => Follower::Copying { routes, kept, part, number },
                };
            }
            Follower::Following => {
                self.controllers[c].follower = Follower::Following;
                self.apply(c, feed);
            }
        }
        self.confirm(c);
    }

    /// As the follower of a feed does it, with a look at the promise after each hold of the lock.
    fn apply(&mut self, c: usize, feed: FeedId) {
        let number = self.controllers[c].number;
        let Some(mut step) = self.controllers[c].steps.pop_front() else {
            return self.board.feeds.hear(feed, number, self.now);
        };
        let number = step.number;
        let told_whole: Vec<_> =
            step.nodes.iter().map(|node| self.board.feeds.told_whole(feed, node)).collect();
        let whole = hold_back(&mut step.nodes, &told_whole);
        self.set_nodes(feed, step.nodes);
        for room in step.rooms {
            self.board.feeds.set_room(feed, room).unwrap();
        }
        self.check();
        for user in step.users {
            self.board.feeds.set_user(feed, user).unwrap();
        }
        self.check();
        self.set_nodes(feed, whole);
        if self.board.feeds.is_crowded(feed) {
            self.hit("crowded");
            return self.break_feed(c);
        }
        self.board.feeds.hear(feed, number, self.now);
    }

    fn set_nodes(&mut self, feed: FeedId, nodes: Vec<NodeRoute>) {
        for node in nodes {
            let new = self.board.set_node(feed, node, self.now);
            self.run(new);
        }
    }
}
