//! What all controllers tell together: a table of routes for each of them, the nodes that they tell of, and where a
//! push goes by their union.
//!
//! Owns: which table's word on a node holds, when what a feed told before is forgotten, which links there are, whether
//! the routes are stale. Pure: no lock, clock or task; time is handed in. Must not: know streams, queues or open pushes.
//! Talks to: `board`, which holds it; `routing` (the tables), `links`.
//!
//! A node has its link to one controller at a time, and each link has a larger number than the one before. So of two
//! tables that tell of one start of a node, the one by the larger number knows more, once it has told the whole of it:
//! then the other counts no more. Until then both hold, for what one does not tell yet the other still does. What a feed
//! ceases to tell while nobody has told the whole of it is set aside in its table and holds, too: the controller has
//! gone, or the node has, and only the second takes members away. A later start of a node ends all that was told of an
//! earlier one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use hashbrown::HashMap;
use registry::Entry;
use ringcast_proto::pubsub::{NodeRoute, RoomRoute, UserRoute};

use crate::links::{Links, NewLink};
use crate::listing::Listing;
use crate::receipts::LinkId;
use crate::routing::{Copied, Kept, Node, Routes, UnknownNode};
use crate::staleness::{Following, Sight, Staleness};

/// How long a node that the list lacks is routed to while its link is up, and how long one whose link is down keeps
/// what was set aside.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// How long a push manager that has just started waits for a controller before it serves without it.
const FIRST_WAIT: Duration = Duration::from_secs(3);

/// A controller's feed, as long as its table is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FeedId(u32);

/// What one controller tells, or told last.
#[derive(Debug)]
pub(crate) struct Table {
    feed: FeedId,
    controller: Entry,
    /// The controller is in the list. One that is not is kept for what is set aside in its table.
    listed: bool,
    /// When it came into the list.
    entered: Instant,
    following: Following,
    /// Its routes.
    pub(crate) routes: Routes,
}

/// A node that some table holds.
#[derive(Debug)]
struct KnownNode {
    id: Arc<str>,
    /// The latest start that anybody told of.
    incarnation: u64,
    address: String,
    /// Our link to it, while any table holds this start.
    link: Option<LinkId>,
    /// When this start was first told of.
    known_since: Instant,
    /// Since when the list lacks it.
    missing_since: Option<Instant>,
    /// It is not routed to, by what the list and the link say.
    out: bool,
}

impl KnownNode {
    /// By the list and the link: it is lost where the list lacks it, and its link is down or it has been so for long.
    fn is_out(&self, links: &Links, now: Instant) -> bool {
        self.missing_since.is_some_and(|since| {
            now.saturating_duration_since(since) >= LOST_AFTER || self.is_down_for(Duration::ZERO, links, now)
        })
    }

    fn is_down_for(&self, time: Duration, links: &Links, now: Instant) -> bool {
        let down = self.link.map_or(Some(Duration::MAX), |link| links.down_for(link, now));
        down.is_some_and(|down| down >= time)
    }
}

/// What a look at the list brought.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Controllers that are to be followed from now on. Who followed another start of one is to have ended before.
    pub(crate) follow: Vec<(FeedId, Entry)>,
    /// Links that have come to be.
    pub(crate) new: Vec<NewLink>,
    /// Tables that are not needed any more, to be dropped where it holds up nobody.
    pub(crate) former: Vec<Routes>,
}

/// How one feed is doing.
#[derive(Debug)]
pub(crate) struct FeedFigures {
    /// Its controller.
    pub(crate) controller: String,
    /// The last number, while it is followed.
    pub(crate) number: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Feeds {
    tables: Vec<Table>,
    nodes: HashMap<Arc<str>, KnownNode, RandomState>,
    feeds: u32,
    sight: Sight,
    /// The list is fixed and holds one controller: that one knows who is gone, and nobody serves without it.
    alone: bool,
    started: Instant,
    /// The first routes are in; once set it stays.
    ready: bool,
}

impl Feeds {
    /// Nothing is known yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            tables: Vec::new(),
            nodes: HashMap::default(),
            feeds: 0,
            sight: Sight { as_of: Some(now), unlisted: None },
            alone: false,
            started: now,
            ready: false,
        }
    }

    /// Whether pushes can be routed: some controller is followed, and so were all others, or there was time.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The tables.
    pub(crate) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Whether two places in the tables may be of one node.
    pub(crate) fn may_repeat(&self) -> bool {
        match &*self.tables {
            [one] => one.routes.set_aside_count() > 0,
            tables => tables.len() > 1,
        }
    }

    /// Why the routes are stale, where they are. A controller that has left the list counts until others have told its
    /// nodes: it may have confirmed joins that we never heard of.
    pub(crate) fn staleness(&self, now: Instant) -> Staleness {
        Staleness::of(self.tables.iter().map(|table| table.following), &self.sight, now)
    }

    /// How many rooms have a member, added up over the tables.
    pub(crate) fn room_count(&self) -> usize {
        self.tables.iter().map(|table| table.routes.room_count()).sum()
    }

    /// How many users hold a connection, added up over the tables.
    pub(crate) fn user_count(&self) -> usize {
        self.tables.iter().map(|table| table.routes.user_count()).sum()
    }

    /// How many nodes are routed to.
    pub(crate) fn node_count(&self) -> usize {
        self.nodes.values().filter(|node| node.link.is_some() && !node.out).count()
    }

    /// How many nodes are set aside, added up over the tables.
    pub(crate) fn set_aside_count(&self) -> usize {
        self.tables.iter().map(|table| table.routes.set_aside_count()).sum()
    }

    /// How the feeds of the controllers in the list are doing.
    pub(crate) fn figures(&self) -> Vec<FeedFigures> {
        let listed = self.tables.iter().filter(|table| table.listed);
        let figures = listed.map(|table| FeedFigures {
            controller: table.controller.id.clone(),
            number: match table.following {
                Following::Followed { number, .. } => Some(number),
                Following::Lost { .. } => None,
            },
        });
        figures.collect()
    }

    // The list.

    /// Takes the list in: who is to be followed, whose table is left, which nodes are there.
    pub(crate) fn look(&mut self, listing: &Listing, links: &mut Links, now: Instant) -> Looked {
        self.sight = Sight {
            as_of: (!listing.fixed).then(|| listing.as_of.unwrap_or(self.started)),
            unlisted: (!listing.has_us).then(|| self.sight.unlisted.unwrap_or(now)),
        };
        self.alone = listing.is_one_fixed();
        let mut looked = Looked { follow: self.enter(listing, now), ..Looked::default() };
        let mut touched = self.leave(listing, now);
        touched.extend(self.judge_nodes(listing, links, now));
        for id in touched {
            self.settle(&id, links, now, &mut looked.new);
        }
        self.vouch(links);
        let unused = |table: &mut Table| !table.listed && table.routes.is_empty();
        looked.former.extend(self.tables.extract_if(.., unused).map(|table| table.routes));
        self.check_ready(now);
        looked
    }

    /// Controllers that have come, or come back. The table of one that is known stays as it is until the snapshot.
    fn enter(&mut self, listing: &Listing, now: Instant) -> Vec<(FeedId, Entry)> {
        let mut follow = Vec::new();
        for entry in &listing.controllers {
            let feed = match self.tables.iter_mut().find(|table| table.controller.id == entry.id) {
                Some(table) if table.listed && table.controller == *entry => continue,
                Some(table) => {
                    table.following = table.following.broken(now);
                    if !table.listed {
                        table.entered = now;
                    }
                    table.listed = true;
                    table.controller = entry.clone();
                    table.feed
                }
                None => {
                    self.feeds += 1;
                    let feed = FeedId(self.feeds);
                    self.tables.push(Table {
                        feed,
                        controller: entry.clone(),
                        listed: true,
                        entered: now,
                        following: Following::Lost { since: now },
                        routes: Routes::default(),
                    });
                    feed
                }
            };
            follow.push((feed, entry.clone()));
        }
        follow
    }

    /// What the controllers that are not in the list any more told is set aside; the nodes that they told of. Whatever
    /// such a one goes on to confirm, we do not hear of it.
    fn leave(&mut self, listing: &Listing, now: Instant) -> Vec<Arc<str>> {
        let mut touched = Vec::new();
        for table in self.tables.iter_mut().filter(|table| table.listed) {
            if listing.controllers.iter().any(|entry| entry.id == table.controller.id) {
                continue;
            }
            table.listed = false;
            table.following = table.following.broken(now);
            let ids: Vec<_> = table.routes.ids().cloned().collect();
            ids.iter().for_each(|id| table.routes.set_aside(id));
            touched.extend(ids);
        }
        touched
    }

    /// Which nodes the list lacks; those for which that changes anything.
    fn judge_nodes(&mut self, listing: &Listing, links: &Links, now: Instant) -> Vec<Arc<str>> {
        let mut touched = Vec::new();
        if listing.fixed && self.set_aside_count() == 0 {
            return touched;
        }
        for node in self.nodes.values_mut() {
            let missing = listing.lacks(&node.id, node.incarnation, node.known_since, now);
            node.missing_since = missing.then(|| node.missing_since.unwrap_or(now));
            let lost = (listing.fixed || missing) && node.is_down_for(LOST_AFTER, links, now);
            // Whoever is telling of it has it, alive.
            if lost && self.tables.iter().all(|table| table.routes.told(&node.id).is_none()) {
                self.tables.iter_mut().for_each(|table| table.routes.drop_set_aside(&node.id, |_| true));
            }
            if lost || node.out != node.is_out(links, now) {
                touched.push(node.id.clone());
            }
        }
        // Whatever the order in the map: a world with a seed plays the same every time.
        touched.sort_unstable();
        touched
    }

    /// Vouches for the nodes that are routed to, but for those of which a controller that is followed says that it has
    /// lost the link, and no other one that it has a later one. Members of such a node leave a lease later, so by then
    /// it is to have closed its clients.
    fn vouch(&self, links: &Links) {
        for node in self.nodes.values() {
            let Some(link) = node.link else { continue };
            let followed = self.tables.iter().filter(|table| table.following.is_followed());
            let told = followed.filter_map(|table| table.routes.told(&node.id));
            let of_this_start = told.filter(|told| told.incarnation == node.incarnation);
            let lost = of_this_start.max_by_key(|told| told.told_by).is_some_and(|told| told.unlinked);
            links.vouch(link, !(node.out || lost));
        }
    }

    fn check_ready(&mut self, now: Instant) {
        let alone = self.alone;
        let listed = || self.tables.iter().filter(|table| table.listed);
        let waited = |table: &Table| !alone && now.saturating_duration_since(table.entered) >= FIRST_WAIT;
        self.ready |= listed().any(|table| table.following.is_followed())
            && listed().all(|table| table.following.is_followed() || waited(table));
    }

    // The feeds.

    /// A feed is alive, and all up to this number is in its table.
    pub(crate) fn hear(&mut self, feed: FeedId, number: u64, now: Instant) {
        if let Some(table) = self.table_mut(feed).filter(|table| table.following.is_followed()) {
            table.following = Following::Followed { number, heard: now };
        }
    }

    /// A feed's stream is over. Its table stays as it is.
    pub(crate) fn lose(&mut self, feed: FeedId, now: Instant) {
        if let Some(table) = self.table_mut(feed) {
            table.following = table.following.broken(now);
        }
    }

    /// The nodes of a feed's table whose routes are to be kept beside a snapshot that is to take its place: those that
    /// it does not tell the whole of, and no other feed either.
    pub(crate) fn to_keep(&self, feed: FeedId, snapshot: &Routes) -> Kept {
        let Some(table) = self.table(feed) else { return Kept::default() };
        let whole = |by: &Routes, node: &Node| {
            by.told(&node.id).is_some_and(|told| {
                told.incarnation == node.incarnation && !told.partial && told.told_by >= node.told_by
            })
        };
        table.routes.keep(|node| {
            let told = snapshot.told(&node.id);
            let latest = self.nodes.get(&node.id).map(|known| known.incarnation);
            let is_former = latest.max(told.map(|told| told.incarnation)) > Some(node.incarnation);
            let mut others = self.tables.iter().filter(|other| other.feed != feed);
            // The only controller there is knows who is gone.
            let is_gone = told.is_none() && self.alone;
            !(is_former || is_gone || whole(snapshot, node) || others.any(|other| whole(&other.routes, node)))
        })
    }

    /// Copies a part of what is to be kept.
    pub(crate) fn copy(&self, feed: FeedId, part: usize, kept: &Kept) -> Option<Copied> {
        self.table(feed).map(|table| table.routes.copy(part, kept))
    }

    /// A snapshot takes the place of a feed's table, which is given back with the links that have come to be.
    pub(crate) fn install(
        &mut self,
        feed: FeedId,
        mut snapshot: Routes,
        number: u64,
        links: &mut Links,
        now: Instant,
    ) -> (Vec<NewLink>, Routes) {
        let mut new = Vec::new();
        let Some(table) = self.table_mut(feed) else { return (new, snapshot) };
        if snapshot.set_aside_count() > 0 {
            // What was copied into it may have ended since.
            for id in snapshot.ids().cloned().collect::<Vec<_>>() {
                let holds = |start: u64| table.routes.all(&id).any(|node| node.incarnation == start);
                snapshot.drop_set_aside(&id, |node| !holds(node.incarnation));
            }
        }
        let former = std::mem::replace(&mut table.routes, snapshot);
        table.following = Following::Followed { number, heard: now };
        let ids: Vec<_> = table.routes.ids().chain(former.ids()).cloned().collect();
        for id in ids {
            self.settle(&id, links, now, &mut new);
        }
        self.check_ready(now);
        (new, former)
    }

    /// A feed tells of a node that came, changed or went; links that have come to be are added to `new`.
    pub(crate) fn set_node(
        &mut self,
        feed: FeedId,
        route: NodeRoute,
        links: &mut Links,
        now: Instant,
        new: &mut Vec<NewLink>,
    ) {
        let id = Arc::from(route.node_id.as_str());
        if route.gone {
            self.let_go(feed, &route);
        } else if let Some(table) = self.table_mut(feed) {
            table.routes.tell(route);
        }
        self.settle(&id, links, now, new);
    }

    /// A node is gone from a feed. Where it lives on, by the feed's word or by a later link that another one tells of,
    /// what was told is set aside. Else it is gone, and so is what was set aside of it, up to the link that is lost.
    fn let_go(&mut self, feed: FeedId, route: &NodeRoute) {
        let id = &route.node_id;
        let Some(table) = self.table(feed) else { return };
        let told = table.routes.told(id).map(|told| (told.incarnation, told.told_by));
        let (incarnation, link) = told.unwrap_or((route.incarnation, route.link));
        let mut others = self.tables.iter().filter(|other| other.feed != feed);
        let elsewhere = others.any(|other| {
            other.routes.told(id).is_some_and(|told| told.incarnation == incarnation && told.told_by > link)
        });
        if route.moved || elsewhere {
            if let Some(table) = self.table_mut(feed) {
                table.routes.set_aside(id);
            }
            return;
        }
        if let Some(table) = self.table_mut(feed) {
            table.routes.forget(id);
        }
        for table in &mut self.tables {
            table.routes.drop_set_aside(id, |node| node.incarnation <= incarnation && node.told_by <= link);
        }
    }

    /// A feed tells a room's sessions on a node.
    pub(crate) fn set_room(&mut self, feed: FeedId, route: RoomRoute) -> Result<(), UnknownNode> {
        self.table_mut(feed).map_or(Ok(()), |table| table.routes.set_room(route))
    }

    /// A feed tells a user's sessions on a node.
    pub(crate) fn set_user(&mut self, feed: FeedId, route: UserRoute) -> Result<(), UnknownNode> {
        self.table_mut(feed).map_or(Ok(()), |table| table.routes.set_user(route))
    }

    /// Whether a feed told the whole of this start of a node, by this link or a later one.
    pub(crate) fn told_whole(&self, feed: FeedId, route: &NodeRoute) -> bool {
        let told = self.table(feed).and_then(|table| table.routes.told(&route.node_id));
        told.is_some_and(|told| {
            told.incarnation == route.incarnation && told.told_by >= route.link && !told.partial
        })
    }

    /// A feed is to be opened anew, because a node has been set aside too often in its table.
    pub(crate) fn is_crowded(&self, feed: FeedId) -> bool {
        self.table(feed).is_some_and(|table| table.routes.is_crowded())
    }

    /// Sweeps a part of the routes of the nodes that are gone; whether more is to be swept.
    pub(crate) fn sweep(&mut self) -> bool {
        if let Some(table) = self.tables.iter_mut().find(|table| table.routes.is_sweeping()) {
            table.routes.sweep();
        }
        self.is_sweeping()
    }

    /// Whether anything is to be swept.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.tables.iter().any(|table| table.routes.is_sweeping())
    }

    // The nodes.

    /// A link has come up or gone down.
    pub(crate) fn turn(&mut self, id: &str, links: &mut Links, now: Instant) {
        if self.nodes.get(id).is_some_and(|node| node.missing_since.is_some()) {
            self.aim(id, links, now);
        }
    }

    /// Brings a node in order after any change of what is told of it: what nobody needs any more is forgotten, its link
    /// is the one that it should have, and every table knows whether it is routed to.
    fn settle(&mut self, id: &Arc<str>, links: &mut Links, now: Instant, new: &mut Vec<NewLink>) {
        let told = self.tables.iter().filter_map(|table| table.routes.told(id)).max_by_key(|node| {
            // Its address is the one that was told by its latest link.
            (node.incarnation, node.told_by)
        });
        let told = told.map(|node| (node.incarnation, node.address.clone()));
        let node = match (self.nodes.get_mut(id), told) {
            (None, None) => return,
            (None, Some((incarnation, address))) => {
                self.nodes.entry(id.clone()).insert(KnownNode::new(id, incarnation, address, now)).into_mut()
            }
            (Some(node), told) => {
                node.hear(told, links, now);
                node
            }
        };
        let latest = node.incarnation;
        let whole = whole_link(&self.tables, id, latest);
        for table in &mut self.tables {
            let over = |node: &Node| node.incarnation < latest || whole >= Some(node.told_by);
            table.routes.drop_set_aside(id, over);
        }
        let all = || self.tables.iter().flat_map(|table| table.routes.all(id));
        if all().any(|held| held.incarnation == latest) {
            if node.link.is_none() {
                let link = links.add(id.clone(), latest, node.address.clone(), now);
                node.link = Some(link.link);
                new.push(link);
            }
        } else {
            node.link.take().into_iter().for_each(|link| links.retire(link));
            if all().next().is_none() {
                self.nodes.remove(id);
                return;
            }
        }
        self.aim(id, links, now);
    }

    /// Tells every table whether its word on a node holds, and the link whether the node is lost.
    fn aim(&mut self, id: &str, links: &mut Links, now: Instant) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.out = node.is_out(links, now);
        let (latest, link) = (node.incarnation, node.link);
        link.into_iter().for_each(|link| links.withhold(link, node.out));
        let whole = whole_link(&self.tables, id, latest);
        for table in &mut self.tables {
            table.routes.aim(id, |node| {
                let holds = node.incarnation == latest && whole <= Some(node.told_by);
                link.filter(|_| holds)
            });
        }
    }

    fn table(&self, feed: FeedId) -> Option<&Table> {
        self.tables.iter().find(|table| table.feed == feed)
    }

    fn table_mut(&mut self, feed: FeedId) -> Option<&mut Table> {
        self.tables.iter_mut().find(|table| table.feed == feed)
    }
}

impl KnownNode {
    fn new(id: &Arc<str>, incarnation: u64, address: String, now: Instant) -> Self {
        let id = id.clone();
        Self { id, incarnation, address, link: None, known_since: now, missing_since: None, out: false }
    }

    /// Takes in the latest start that is told, and its address. A link to another start or address is retired.
    fn hear(&mut self, told: Option<(u64, String)>, links: &Links, now: Instant) {
        let Some((incarnation, address)) = told.filter(|(told, _)| *told >= self.incarnation) else { return };
        if incarnation > self.incarnation {
            (self.known_since, self.missing_since) = (now, None);
        } else if address == self.address {
            return;
        }
        (self.incarnation, self.address) = (incarnation, address);
        self.link.take().into_iter().for_each(|link| links.retire(link));
    }
}

/// The largest link by which the whole of a start of a node is told.
fn whole_link(tables: &[Table], id: &str, incarnation: u64) -> Option<u64> {
    let told = tables.iter().filter_map(|table| table.routes.told(id));
    told.filter(|node| node.incarnation == incarnation && !node.partial).map(|node| node.told_by).max()
}
