//! The links to the nodes as the board sees them: each one's queue, its current stream, and since when it is down.
//!
//! Owns: the table of links, the numbers of their streams. Pure: no lock, clock or task; time is handed in.
//! Must not: know routes or open pushes. Talks to: `board` (streams, queues), `feeds` (which links there are to be).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::node_queue::{NodeQueue, Queued};
use crate::receipts::LinkId;

/// A link that has been down for longer is out of routing: what is for it is dropped at once, not at its deadline.
const OUT_AFTER: Duration = Duration::from_secs(2);

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
    /// The node is to be told that it is not alone.
    pub(crate) vouched: Arc<AtomicBool>,
}

/// A link.
#[derive(Debug)]
pub(crate) struct Link {
    /// Its node.
    pub(crate) node: Arc<str>,
    /// Pushes that wait for its stream.
    pub(crate) queue: NodeQueue,
    retired: CancellationToken,
    /// The current stream; it takes pushes while the link is up.
    epoch: u64,
    work: Arc<Notify>,
    /// Since when it is not up.
    down_since: Option<Instant>,
    /// The node is lost by what the directory lists.
    withheld: bool,
    /// Shared with its streams, so that they need no lock.
    vouched: Arc<AtomicBool>,
}

impl Link {
    /// Adds a push to the queue; false: the queue is full.
    pub(crate) fn add(&mut self, queued: Queued) -> bool {
        let added = self.queue.add(queued).is_ok();
        // A stream that finds the queue empty waits; one that has taken a batch comes back by itself.
        if added && self.queue.len() == 1 {
            self.work.notify_one();
        }
        added
    }

    /// Its stream takes pushes.
    pub(crate) fn is_up(&self) -> bool {
        self.down_since.is_none()
    }

    /// It is not routed to: it has been down for too long, or its node is lost. What is for the node's members is
    /// dropped, and told: a controller may have the node still, and its clients may be there.
    pub(crate) fn is_out(&self, now: Instant) -> bool {
        let down = self.down_since.is_some_and(|since| now.saturating_duration_since(since) > OUT_AFTER);
        down || self.withheld
    }

    /// The node is lost by what the directory lists.
    #[cfg(test)]
    pub(crate) fn is_withheld(&self) -> bool {
        self.withheld
    }

    /// Whether a stream is its current one.
    pub(crate) fn is_on(&self, stream: &LinkStream) -> bool {
        self.epoch == stream.epoch
    }

    fn go_down(&mut self, now: Instant) {
        self.vouched.store(false, Relaxed);
        self.down_since.get_or_insert(now);
        self.work.notify_one();
    }
}

/// The links.
#[derive(Debug, Default)]
pub(crate) struct Links {
    links: Vec<Option<Link>>,
    epochs: u64,
}

impl Links {
    /// All that there are.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().flatten()
    }

    /// A link, where it is still there.
    pub(crate) fn get(&self, link: LinkId) -> Option<&Link> {
        self.links.get(link.0 as usize)?.as_ref()
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.links.get_mut(link.0 as usize)?.as_mut()
    }

    /// For how long a link has been down; `None`: it is up. One that is no more is as good as down for ever.
    pub(crate) fn down_for(&self, link: LinkId, now: Instant) -> Option<Duration> {
        match self.get(link) {
            Some(link) => link.down_since.map(|since| now.saturating_duration_since(since)),
            None => Some(Duration::MAX),
        }
    }

    /// Adds a link to a node; it is down until its stream is raised.
    pub(crate) fn add(&mut self, node: Arc<str>, incarnation: u64, address: String, now: Instant) -> NewLink {
        let at = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        let retired = CancellationToken::new();
        let new = NewLink { link: LinkId(at as u32), node, incarnation, address, retired };
        let link = Link {
            node: new.node.clone(),
            queue: NodeQueue::default(),
            retired: new.retired.clone(),
            epoch: 0,
            work: Arc::new(Notify::new()),
            down_since: Some(now),
            withheld: false,
            vouched: Arc::default(),
        };
        match self.links.get_mut(at) {
            Some(place) => *place = Some(link),
            None => self.links.push(Some(link)),
        }
        new
    }

    /// The node of a link is lost, or not, by what the directory lists.
    pub(crate) fn withhold(&mut self, link: LinkId, withheld: bool) {
        if let Some(link) = self.get_mut(link) {
            link.withheld = withheld;
        }
    }

    /// Whether the node of a link is to be told that it is not alone, which only a stream that is up does.
    pub(crate) fn vouch(&self, link: LinkId, vouched: bool) {
        if let Some(link) = self.get(link) {
            link.vouched.store(vouched && link.is_up(), Relaxed);
        }
    }

    /// Nothing is routed to a link any more; it ends when nothing is under way on it.
    pub(crate) fn retire(&self, link: LinkId) {
        if let Some(link) = self.get(link) {
            link.retired.cancel();
        }
    }

    /// Takes a link out.
    pub(crate) fn remove(&mut self, link: LinkId) -> Option<Link> {
        self.links.get_mut(link.0 as usize)?.take()
    }

    /// A stream is about to be opened; one before it gets nothing any more.
    pub(crate) fn open_stream(&mut self, link: LinkId, now: Instant) -> Option<LinkStream> {
        self.epochs += 1;
        let epoch = self.epochs;
        let state = self.get_mut(link)?;
        state.go_down(now);
        state.epoch = epoch;
        // Its own signal: the former stream might take one that is meant for this.
        state.work = Arc::new(Notify::new());
        let (work, vouched) = (state.work.clone(), state.vouched.clone());
        Some(LinkStream { link, epoch, work, vouched })
    }

    /// The node has welcomed the stream: it takes pushes from now on.
    pub(crate) fn raise_stream(&mut self, stream: &LinkStream) {
        if let Some(link) = self.get_mut(stream.link).filter(|link| link.is_on(stream)) {
            link.down_since = None;
            link.work.notify_one();
        }
    }

    /// The stream is over; the queue stays.
    pub(crate) fn close_stream(&mut self, stream: &LinkStream, now: Instant) {
        if let Some(link) = self.get_mut(stream.link) {
            link.go_down(now);
            link.epoch = 0;
        }
    }
}
