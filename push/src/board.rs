//! All that the push manager knows at a moment: routes, the links' queues, the open pushes.
//!
//! Owns: the acceptance of a push, and how feeds, links and deadlines change what is open. Pure: no lock, clock or
//! task; time is handed in. Talks to: `dispatch`, which holds it under the one lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{DeliveryOutcome, NodeRoute, ReportMode, delivery};
use smallvec::SmallVec;

use crate::answer::{Answer, Nobody, Waiter};
use crate::feeds::{FeedFigures, FeedId, Feeds, Looked};
use crate::links::{LinkStream, Links, NewLink};
use crate::listing::Listing;
use crate::node_queue::Queued;
use crate::push_trace::PushTrace;
use crate::receipts::{LinkId, MAX_OPEN, OpenPush, OpenPushes, Part, PartState};
use crate::request::{Push, Refusal};
use crate::routing::{Routed, Routes};
use crate::staleness::Staleness;

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
    /// Nodes of which former routes are set aside.
    pub(crate) set_aside: usize,
    /// The feeds.
    pub(crate) feeds: Vec<FeedFigures>,
    /// For how long the routes have been stale.
    pub(crate) stale: Duration,
    /// Why they are.
    pub(crate) staleness: Staleness,
    /// The links.
    pub(crate) links: Vec<LinkFigures>,
}

/// Answers that are due, given once the lock is let go.
pub(crate) type Due = SmallVec<[(Waiter, Answer); 1]>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Board {
    /// What the controllers tell.
    pub(crate) feeds: Feeds,
    pub(crate) links: Links,
    seen: Seen,
    /// The pushes whose fate is open.
    pub(crate) open: OpenPushes,
    /// New pushes are refused.
    pub(crate) stopping: bool,
}

impl Board {
    /// Nothing is known yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            feeds: Feeds::new(now),
            links: Links::default(),
            seen: Seen::default(),
            open: OpenPushes::new(now),
            stopping: false,
        }
    }

    /// Accepts a push: routes it, puts it into the queues of its nodes, keeps it open until all is known. `stale` is
    /// for how long the routes have been so. Where it is answered at once, the answer is added to `due`. Whether its
    /// deadline is before the one that the timer is set for.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        stale: Duration,
        push: Arc<Push>,
        waiter: Waiter,
        due: &mut Due,
    ) -> bool {
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
            routes_stale_ms: stale.as_millis().try_into().unwrap_or(u32::MAX),
            nobody,
            by_node: reports,
            parts,
            waiter,
            trace: push.span.as_deref().map(|span| Box::new(PushTrace::new(span, now))),
        };
        let deadline = now + push.deadline;
        let id = if reports { self.open.next_id() } else { self.open.next_unheard_id() };
        for (at, part) in open.parts.iter_mut().enumerate() {
            let queued = Queued { id, part: at as u32, routed: part.routed, deadline, push: push.clone() };
            match self.links.get_mut(part.link) {
                None => part.shed(),
                Some(link) if link.is_out(now) => part.close(),
                Some(link) => match link.add(queued) {
                    false => part.shed(),
                    true if reports => {}
                    true => part.leave_queued(),
                },
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
        } else if !self.feeds.is_ready() {
            Some(Refusal::not_ready())
        } else if self.open.len() >= MAX_OPEN {
            Some(Refusal::overloaded())
        } else {
            None
        }
    }

    /// Where a push goes, and what it means where that is nowhere.
    pub(crate) fn parts_for(&mut self, push: &Push) -> (SmallVec<[Part; 1]>, Nobody) {
        self.seen.push += 1;
        let seen = self.feeds.may_repeat().then_some(&mut self.seen);
        let mut gathering = Gathering { parts: SmallVec::new(), seen };
        let tables = self.feeds.tables().iter().map(|table| &table.routes);
        let nobody = match &push.target {
            delivery::Target::RoomId(id) => {
                let mut is_known = false;
                for places in tables.filter_map(|routes| routes.room(id)) {
                    is_known = true;
                    gathering.add(places);
                }
                match (is_known, gathering.parts.is_empty()) {
                    (false, _) => Nobody::RoomUnknown,
                    (true, false) if !push.exclude.is_empty() => Nobody::AllExcluded,
                    (true, _) => Nobody::RoomEmpty,
                }
            }
            delivery::Target::UserId(id) => {
                tables.for_each(|routes| gathering.add(routes.user(id)));
                Nobody::UserOffline
            }
            delivery::Target::Broadcast(_) => {
                tables.for_each(|routes| gathering.add(routes.everyone()));
                Nobody::NoConnection
            }
        };
        (gathering.parts, nobody)
    }

    /// For how long the routes have been stale; zero while they are not.
    pub(crate) fn stale(&self, now: Instant) -> Duration {
        self.feeds.staleness(now).duration(now)
    }

    // The feeds.

    /// Takes the directory's list in.
    pub(crate) fn look(&mut self, listing: &Listing, now: Instant) -> Looked {
        self.feeds.look(listing, &mut self.links, now)
    }

    /// A snapshot takes the place of a feed's table. Links to nodes that are as they were go on. The former table is
    /// given back, to be dropped where it holds up nobody.
    pub(crate) fn install(
        &mut self,
        feed: FeedId,
        snapshot: Routes,
        number: u64,
        now: Instant,
    ) -> (Vec<NewLink>, Routes) {
        self.feeds.install(feed, snapshot, number, &mut self.links, now)
    }

    /// A feed tells of a node that came, changed or went.
    pub(crate) fn set_node(&mut self, feed: FeedId, route: NodeRoute, now: Instant) -> Vec<NewLink> {
        let mut new = Vec::new();
        self.feeds.set_node(feed, route, &mut self.links, now, &mut new);
        new
    }

    // The links.

    /// A stream is about to be opened; one before it gets nothing any more.
    pub(crate) fn open_stream(&mut self, link: LinkId, now: Instant) -> Option<LinkStream> {
        self.links.open_stream(link, now)
    }

    /// The node has welcomed the stream: it takes pushes from now on.
    pub(crate) fn raise_stream(&mut self, stream: &LinkStream, now: Instant) {
        self.links.raise_stream(stream);
        self.turn(stream.link, now);
    }

    /// The stream is over. What was handed over and not answered is unknown; the queue stays.
    pub(crate) fn close_stream(&mut self, stream: &LinkStream, now: Instant, ended: &mut Vec<OpenPush>) {
        self.links.close_stream(stream, now);
        self.turn(stream.link, now);
        self.open.lose_handed(stream.link, ended);
    }

    fn turn(&mut self, link: LinkId, now: Instant) {
        if let Some(node) = self.links.get(link).map(|link| link.node.clone()) {
            self.feeds.turn(&node, &mut self.links, now);
        }
    }

    /// Hands the next pushes over to a stream. What is too late to be sent goes to `late`.
    pub(crate) fn take_batch(&mut self, stream: &LinkStream, now: Instant, late: &mut Vec<Queued>) -> Batch {
        let Some(link) = self.links.get_mut(stream.link) else { return Batch::Ended };
        if !link.is_on(stream) {
            return Batch::Ended;
        }
        while link.is_up() {
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
        self.links.get(link).is_none_or(|link| link.queue.len() == 0) && !self.open.awaits(link)
    }

    /// Takes out of a link's queue what is too late to be sent.
    pub(crate) fn take_expired(&mut self, link: LinkId, now: Instant) -> Vec<Queued> {
        self.links.get_mut(link).map(|link| link.queue.take_expired(now)).unwrap_or_default()
    }

    /// The link is no more. What waits for it is shed and given back.
    pub(crate) fn remove_link(&mut self, link: LinkId, ended: &mut Vec<OpenPush>) -> Vec<Queued> {
        self.open.remove_link(link, ended);
        let Some(mut state) = self.links.remove(link) else { return Vec::new() };
        state.queue.take_all()
    }

    /// A node has answered. Pushes that end by it are added to `ended`; how many answers were too late.
    pub(crate) fn answer(
        &mut self,
        link: LinkId,
        outcomes: Vec<DeliveryOutcome>,
        now: Instant,
        ended: &mut Vec<OpenPush>,
    ) -> usize {
        let mut late = 0;
        for outcome in outcomes {
            let known = outcome.outcomes.unwrap_or_default();
            late += usize::from(!self.open.answer(outcome.delivery_id, link, known, now, ended));
        }
        late
    }

    /// How all is doing.
    pub(crate) fn figures(&self, now: Instant) -> Figures {
        let links = self.links.iter().map(|link| LinkFigures {
            node: link.node.clone(),
            up: link.is_up(),
            queued: link.queue.len(),
            bytes: link.queue.bytes(),
        });
        let staleness = self.feeds.staleness(now);
        Figures {
            open: self.open.len(),
            rooms: self.feeds.room_count(),
            users: self.feeds.user_count(),
            nodes: self.feeds.node_count(),
            set_aside: self.feeds.set_aside_count(),
            feeds: self.feeds.figures(),
            stale: staleness.duration(now),
            staleness,
            links: links.collect(),
        }
    }
}

/// Which links the push that is being routed has a part on already, for tables that may name a node twice. Each push
/// has a number of its own here, so that nothing needs to be cleared.
#[derive(Debug, Default)]
struct Seen {
    push: u64,
    /// Link → the last push that had a part on it, and which of its parts that is.
    parts: Vec<(u64, u32)>,
}

impl Seen {
    /// The part of this push that is on a link already; else the next one will be.
    fn part_on(&mut self, link: LinkId, next: usize) -> Option<usize> {
        let at = link.0 as usize;
        if self.parts.len() <= at {
            self.parts.resize(at + 1, (0, 0));
        }
        let (push, part) = &mut self.parts[at];
        if *push == self.push {
            return Some(*part as usize);
        }
        (*push, *part) = (self.push, next as u32);
        None
    }
}

/// The parts of a push, gathered from the tables.
struct Gathering<'a> {
    parts: SmallVec<[Part; 1]>,
    seen: Option<&'a mut Seen>,
}

impl Gathering<'_> {
    /// Adds a table's answer. A node that is there already stays once, with the larger number of sessions: places hold
    /// counts and no sessions, so where two tables each know a part, this is less than both together. It is told only
    /// of a node that does not answer itself.
    fn add<'a>(&mut self, routed: impl Iterator<Item = Routed<'a>>) {
        let part = |routed: Routed<'_>| Part {
            link: routed.link,
            node: routed.node.clone(),
            routed: routed.sessions,
            state: PartState::Waiting,
        };
        let Some(seen) = &mut self.seen else {
            self.parts.extend(routed.map(part));
            return;
        };
        for routed in routed {
            match seen.part_on(routed.link, self.parts.len()) {
                Some(at) => self.parts[at].routed = self.parts[at].routed.max(routed.sessions),
                None => self.parts.push(part(routed)),
            }
        }
    }
}
