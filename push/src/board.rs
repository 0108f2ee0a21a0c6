//! All that the push manager knows at a moment: routes, the links' queues, the open pushes.
//!
//! Owns: the acceptance of a push, and how feed, links and deadlines change what is open. Pure: no lock, clock or
//! task; time is handed in. Talks to: `dispatch`, which holds it under the one lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{DeliveryOutcome, NodeRoute, ReportMode, RoomRoute, UserRoute, delivery};
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answer, Nobody, Waiter};
use crate::node_queue::{NodeQueue, Queued};
use crate::receipts::{LinkId, MAX_OPEN, OpenPush, OpenPushes, Part, PartState};
use crate::request::{Push, Refusal};
use crate::routing::{NodeChange, NodeIndex, Routes, UnknownNode};

/// From which silence of the feed on routes count as stale. Heartbeats come every 250 ms.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// A link that has come to be, for the task that is to run it.
#[derive(Debug, Clone)]
pub(crate) struct NewLink {
    /// Its number.
    pub(crate) link: LinkId,
    /// The node.
    pub(crate) node: Arc<str>,
    /// Which start of the node.
    pub(crate) incarnation: u64,
    /// Where it is.
    pub(crate) address: String,
    /// Nothing is routed to it any more: end it when nothing is under way.
    pub(crate) retired: CancellationToken,
}

/// One stream of a link, from its opening until it breaks.
#[derive(Debug, Clone)]
pub(crate) struct LinkStream {
    /// The link.
    pub(crate) link: LinkId,
    /// Which of all streams it is; an earlier one gets nothing any more.
    pub(crate) epoch: u64,
    /// Something is in the queue, or the stream is over.
    pub(crate) work: Arc<Notify>,
}

/// What a stream is to send next.
#[derive(Debug)]
pub(crate) enum Batch {
    /// These.
    Pushes(Vec<Queued>),
    /// Nothing yet: await `work`.
    Nothing,
    /// The stream is over.
    Ended,
}

#[derive(Debug)]
struct Link {
    new: NewLink,
    queue: NodeQueue,
    /// The current stream; it takes pushes once it is `up`.
    epoch: u64,
    work: Arc<Notify>,
    up: bool,
}

impl Link {
    /// Adds a push to the queue; false: the queue is full.
    fn add(&mut self, queued: Queued) -> bool {
        let added = self.queue.add(queued).is_ok();
        // A stream that finds the queue empty waits; one that has taken a batch comes back by itself.
        if added && self.queue.len() == 1 {
            self.work.notify_one();
        }
        added
    }
}

#[derive(Debug)]
struct Feed {
    number: u64,
    heard: Instant,
}

/// How one link is doing.
#[derive(Debug)]
pub(crate) struct LinkFigures {
    /// Its node.
    pub(crate) node: Arc<str>,
    /// Its stream is up.
    pub(crate) up: bool,
    /// Pushes in its queue.
    pub(crate) queued: usize,
    /// Bytes in its queue.
    pub(crate) bytes: usize,
}

/// How all is doing.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Pushes that are open.
    pub(crate) open: usize,
    /// Rooms with a member.
    pub(crate) rooms: usize,
    /// Users with a connection.
    pub(crate) users: usize,
    /// Nodes that are routed to.
    pub(crate) nodes: usize,
    /// The feed's last number.
    pub(crate) feed_number: u64,
    /// For how long the routes have been stale.
    pub(crate) stale: Duration,
    /// The links.
    pub(crate) links: Vec<LinkFigures>,
}

/// Answers that are due, given once the lock is let go.
pub(crate) type Due = SmallVec<[(Waiter, Answer); 1]>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    routes: Routes,
    feed: Option<Feed>,
    /// By node index.
    link_of: Vec<Option<LinkId>>,
    links: Vec<Option<Link>>,
    epochs: u64,
    /// The pushes whose fate is open.
    pub(crate) open: OpenPushes,
    /// New pushes are refused.
    pub(crate) stopping: bool,
}

impl Board {
    /// Nothing is known yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            routes: Routes::default(),
            feed: None,
            link_of: Vec::new(),
            links: Vec::new(),
            epochs: 0,
            open: OpenPushes::new(now),
            stopping: false,
        }
    }

    /// Accepts a push: routes it, puts it into the queues of its nodes, keeps it open until all is known. Where
    /// it is answered at once, the answer is added to `due`. Whether its deadline is before the one that
    /// the timer is set for.
    pub(crate) fn accept(&mut self, now: Instant, push: Arc<Push>, waiter: Waiter, due: &mut Due) -> bool {
        if let Some(refusal) = self.refusal() {
            due.push((waiter, Err(refusal)));
            return false;
        }
        let (parts, nobody) = self.parts_for(&push);
        let reports = push.report_mode == ReportMode::Full;
        let mut open = OpenPush {
            scope: push.scope(),
            message_id: push.message_id.clone(),
            accepted: now,
            routes_stale_ms: self.stale(now).as_millis().try_into().unwrap_or(u32::MAX),
            nobody,
            by_node: reports,
            parts,
            waiter,
        };
        let deadline = now + push.deadline;
        let id = if reports { self.open.next_id() } else { self.open.next_unheard_id() };
        for (at, part) in open.parts.iter_mut().enumerate() {
            let queued = Queued { id, part: at as u32, routed: part.routed, deadline, push: push.clone() };
            let link = get_mut(&mut self.links, part.link);
            if !link.is_some_and(|link| link.add(queued)) {
                part.shed();
            } else if !reports {
                part.leave_queued();
            }
        }
        if open.is_known() {
            let (waiter, finished) = open.finish(now);
            due.push((waiter, Ok(finished)));
            return false;
        }
        self.open.open(id, open, deadline)
    }

    fn refusal(&self) -> Option<Refusal> {
        if self.stopping {
            Some(Refusal::stopping())
        } else if self.feed.is_none() {
            Some(Refusal::not_ready())
        } else if self.open.len() >= MAX_OPEN {
            Some(Refusal::overloaded())
        } else {
            None
        }
    }

    fn parts_for(&self, push: &Push) -> (SmallVec<[Part; 1]>, Nobody) {
        let part = |(index, routed): (NodeIndex, u32)| {
            let link = self.link_of.get(index.0 as usize).copied().flatten()?;
            Some(Part { link, node: self.routes.node(index).id.clone(), routed, state: PartState::Waiting })
        };
        match &push.target {
            delivery::Target::RoomId(id) => match self.routes.room(id) {
                None => (SmallVec::new(), Nobody::RoomUnknown),
                Some(places) => {
                    let parts: SmallVec<_> = places.filter_map(part).collect();
                    let excluded = !push.exclude.is_empty() && !parts.is_empty();
                    (parts, if excluded { Nobody::AllExcluded } else { Nobody::RoomEmpty })
                }
            },
            delivery::Target::UserId(id) => {
                (self.routes.user(id).filter_map(part).collect(), Nobody::UserOffline)
            }
            delivery::Target::Broadcast(_) => {
                (self.routes.everyone().filter_map(part).collect(), Nobody::NoConnection)
            }
        }
    }

    /// For how long the routes have been stale; zero while they are not.
    fn stale(&self, now: Instant) -> Duration {
        let silence =
            self.feed.as_ref().map_or(Duration::ZERO, |feed| now.saturating_duration_since(feed.heard));
        if silence > STALE_AFTER { silence } else { Duration::ZERO }
    }

    // The feed.

    /// The feed is alive, and all up to this number is in the routes.
    pub(crate) fn hear(&mut self, number: u64, now: Instant) {
        if let Some(feed) = &mut self.feed {
            *feed = Feed { number, heard: now };
        }
    }

    /// A snapshot replaces all routes. Links to nodes that are as they were go on. The former routes are given
    /// back, to be dropped where it holds up nobody.
    pub(crate) fn install(&mut self, routes: Routes, number: u64, now: Instant) -> (Vec<NewLink>, Routes) {
        let former = std::mem::replace(&mut self.routes, routes);
        self.feed = Some(Feed { number, heard: now });
        let mut unused: Vec<LinkId> = self.link_of.drain(..).flatten().collect();
        let mut new = Vec::new();
        for index in self.routes.nodes().collect::<Vec<_>>() {
            let node = self.routes.node(index);
            let same = |&link: &LinkId| {
                get(&self.links, link).is_some_and(|Link { new: of, .. }| {
                    of.node == node.id && of.incarnation == node.incarnation && of.address == node.address
                })
            };
            match unused.iter().position(same) {
                Some(at) => {
                    let link = unused.swap_remove(at);
                    self.assign(index, Some(link));
                }
                None => new.push(self.add_link(index)),
            }
        }
        unused.into_iter().for_each(|link| self.retire(link));
        (new, former)
    }

    /// A node came, moved or went.
    pub(crate) fn set_node(&mut self, route: NodeRoute) -> Vec<NewLink> {
        let mut changes = Vec::new();
        self.routes.set_node(route, &mut changes);
        let mut new = Vec::new();
        for change in changes {
            let (NodeChange::Came(index) | NodeChange::Moved(index) | NodeChange::Gone(index)) = change;
            if let Some(former) = self.assign(index, None) {
                self.retire(former);
            }
            if !matches!(change, NodeChange::Gone(_)) {
                new.push(self.add_link(index));
            }
        }
        new
    }

    /// A room's sessions on a node.
    pub(crate) fn set_room(&mut self, route: RoomRoute) -> Result<(), UnknownNode> {
        self.routes.set_room(route)
    }

    /// A user's sessions on a node.
    pub(crate) fn set_user(&mut self, route: UserRoute) -> Result<(), UnknownNode> {
        self.routes.set_user(route)
    }

    /// Sweeps a part of the routes of the nodes that are gone; whether more is to be swept.
    pub(crate) fn sweep(&mut self) -> bool {
        self.routes.sweep()
    }

    fn assign(&mut self, index: NodeIndex, link: Option<LinkId>) -> Option<LinkId> {
        let at = index.0 as usize;
        if self.link_of.len() <= at {
            self.link_of.resize(at + 1, None);
        }
        std::mem::replace(&mut self.link_of[at], link)
    }

    fn add_link(&mut self, index: NodeIndex) -> NewLink {
        let at = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        let link = LinkId(at as u32);
        let node = self.routes.node(index);
        let new = NewLink {
            link,
            node: node.id.clone(),
            incarnation: node.incarnation,
            address: node.address.clone(),
            retired: CancellationToken::new(),
        };
        let state = Link {
            new: new.clone(),
            queue: NodeQueue::default(),
            epoch: 0,
            work: Arc::new(Notify::new()),
            up: false,
        };
        match self.links.get_mut(at) {
            Some(place) => *place = Some(state),
            None => self.links.push(Some(state)),
        }
        self.assign(index, Some(link));
        new
    }

    fn retire(&mut self, link: LinkId) {
        if let Some(link) = get(&self.links, link) {
            link.new.retired.cancel();
        }
    }

    // The links.

    /// A stream is about to be opened; one before it gets nothing any more.
    pub(crate) fn open_stream(&mut self, link: LinkId) -> Option<LinkStream> {
        self.epochs += 1;
        let state = get_mut(&mut self.links, link)?;
        state.work.notify_one();
        state.up = false;
        state.epoch = self.epochs;
        // Its own signal: the former stream might take one that is meant for this.
        state.work = Arc::new(Notify::new());
        Some(LinkStream { link, epoch: state.epoch, work: state.work.clone() })
    }

    /// The node has welcomed the stream: it takes pushes from now on.
    pub(crate) fn raise_stream(&mut self, stream: &LinkStream) {
        if let Some(link) = get_mut(&mut self.links, stream.link) {
            link.up = link.epoch == stream.epoch;
            link.work.notify_one();
        }
    }

    /// The stream is over. What was handed over and not answered is unknown; the queue stays.
    pub(crate) fn close_stream(&mut self, stream: &LinkStream, ended: &mut Vec<OpenPush>) {
        if let Some(link) = get_mut(&mut self.links, stream.link) {
            link.up = false;
            link.epoch = 0;
            link.work.notify_one();
        }
        self.open.lose_handed(stream.link, ended);
    }

    /// Hands the next pushes over to a stream. What is too late to be sent goes to `late`.
    pub(crate) fn take_batch(&mut self, stream: &LinkStream, now: Instant, late: &mut Vec<Queued>) -> Batch {
        let Some(link) = get_mut(&mut self.links, stream.link) else { return Batch::Ended };
        if link.epoch != stream.epoch {
            return Batch::Ended;
        }
        while link.up {
            let mut batch = link.queue.take_batch();
            if batch.is_empty() {
                break;
            }
            let open = &mut self.open;
            late.extend(batch.extract_if(.., |queued| {
                let unheard = queued.push.report_mode == ReportMode::None;
                queued.deadline <= now || !(unheard || open.hand_over(queued.id, queued.part))
            }));
            if !batch.is_empty() {
                return Batch::Pushes(batch);
            }
        }
        Batch::Nothing
    }

    /// Nothing waits for a link, and nothing is to be heard on it.
    pub(crate) fn is_idle(&self, link: LinkId) -> bool {
        get(&self.links, link).is_none_or(|link| link.queue.len() == 0) && !self.open.awaits(link)
    }

    /// Takes out of a link's queue what is too late to be sent.
    pub(crate) fn take_expired(&mut self, link: LinkId, now: Instant) -> Vec<Queued> {
        get_mut(&mut self.links, link).map(|link| link.queue.take_expired(now)).unwrap_or_default()
    }

    /// The link is no more. What waits for it is shed and given back.
    pub(crate) fn remove_link(&mut self, link: LinkId, ended: &mut Vec<OpenPush>) -> Vec<Queued> {
        self.open.remove_link(link, ended);
        for of_node in &mut self.link_of {
            if *of_node == Some(link) {
                *of_node = None;
            }
        }
        let state = self.links.get_mut(link.0 as usize).and_then(Option::take);
        state.map(|mut state| state.queue.take_all()).unwrap_or_default()
    }

    /// A node has answered. Pushes that end by it are added to `ended`; how many answers were too late.
    pub(crate) fn answer(
        &mut self,
        link: LinkId,
        outcomes: Vec<DeliveryOutcome>,
        ended: &mut Vec<OpenPush>,
    ) -> usize {
        let mut late = 0;
        for outcome in outcomes {
            let known = outcome.outcomes.unwrap_or_default();
            late += usize::from(!self.open.answer(outcome.delivery_id, link, known, ended));
        }
        late
    }

    /// How all is doing.
    pub(crate) fn figures(&self, now: Instant) -> Figures {
        let links = self.links.iter().flatten().map(|link| LinkFigures {
            node: link.new.node.clone(),
            up: link.up,
            queued: link.queue.len(),
            bytes: link.queue.bytes(),
        });
        Figures {
            open: self.open.len(),
            rooms: self.routes.room_count(),
            users: self.routes.user_count(),
            nodes: self.routes.nodes().count(),
            feed_number: self.feed.as_ref().map_or(0, |feed| feed.number),
            stale: self.stale(now),
            links: links.collect(),
        }
    }
}

fn get(links: &[Option<Link>], link: LinkId) -> Option<&Link> {
    links.get(link.0 as usize)?.as_ref()
}

fn get_mut(links: &mut [Option<Link>], link: LinkId) -> Option<&mut Link> {
    links.get_mut(link.0 as usize)?.as_mut()
}
