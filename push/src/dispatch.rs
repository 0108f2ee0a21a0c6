//! The one lock of the push manager, and what is done once it is let go: answers, figures, log lines.
//!
//! Owns: the lock around [`Board`], the deadline task. Must not: hold the lock across an await, or while a message
//! is encoded, a payload is freed or an answer is built.
//! Talks to: `push_service` and `push_stream` (pushes), `route_watch` (routes), `node_link` (batches, outcomes).
//!
//! Why one short lock and no task that owns everything: acceptance is a look-up, a slot in a table and an entry in
//! a queue, all under one lock, so the order of acceptance *is* the order in each node's queue, and a push that is
//! accepted after a feed number was acknowledged sees its routes. A task in between would give the same order for a
//! hop and a wake-up more on every call. What makes a push dear (checking, encoding, answering) happens outside;
//! what comes in numbers (a stream's pushes, a node's outcomes, a feed's changes) is taken under one hold, in
//! bounded chunks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ringcast_proto::pubsub::{DeliveryOutcome, NodeRoute, ReportMode, RoomRoute, UserRoute};
use telemetry::Traces;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::answer::{Answers, Waiter};
use crate::board::{Batch, Board, Due, Figures};
use crate::feeds::{FeedId, Looked};
use crate::links::{LinkStream, NewLink};
use crate::listing::Listing;
use crate::metrics::Metrics;
use crate::node_queue::Queued;
use crate::push_log::PushLog;
use crate::receipts::{LinkId, OpenPush};
use crate::request::Push;
use crate::routing::{Copied, Kept, Routes, UnknownNode};

/// See the module.
#[derive(Debug)]
pub(crate) struct Dispatch {
    board: Mutex<Board>,
    earlier_deadline: Notify,
    metrics: Arc<Metrics>,
    log: PushLog,
    traces: Traces,
}

impl Dispatch {
    /// With nothing known yet.
    pub(crate) fn new(metrics: Arc<Metrics>, traces: Traces) -> Self {
        Self {
            board: Mutex::new(Board::new(Instant::now())),
            earlier_deadline: Notify::new(),
            metrics,
            log: PushLog::new(),
            traces,
        }
    }

    /// Accepts pushes in their order, under one hold of the lock; each waiter gets exactly one answer.
    pub(crate) fn accept(&self, pushes: impl IntoIterator<Item = (Arc<Push>, Waiter)>) {
        let now = Instant::now();
        let mut due = Due::new();
        let mut earlier = false;
        {
            let mut board = self.lock();
            let stale = board.stale(now);
            for (push, waiter) in pushes {
                earlier |= board.accept(now, stale, push, waiter, &mut due);
            }
        }
        if earlier {
            self.earlier_deadline.notify_one();
        }
        self.answer(due);
    }

    /// Refuses all pushes from now on.
    pub(crate) fn stop_accepting(&self) {
        self.lock().stopping = true;
    }

    /// Takes the directory's list in.
    #[must_use]
    pub(crate) fn look(&self, listing: &Listing) -> Looked {
        self.lock().look(listing, Instant::now())
    }

    /// Whether pushes can be routed.
    pub(crate) fn is_ready(&self) -> bool {
        self.lock().feeds.is_ready()
    }

    /// A feed is alive, and all up to this number is in its table.
    pub(crate) fn hear(&self, feed: FeedId, number: u64) {
        self.lock().feeds.hear(feed, number, Instant::now());
    }

    /// A feed's stream is over.
    pub(crate) fn lose(&self, feed: FeedId) {
        self.lock().feeds.lose(feed, Instant::now());
    }

    /// What of a feed's table is to be kept beside a snapshot.
    pub(crate) fn to_keep(&self, feed: FeedId, snapshot: &Routes) -> Kept {
        self.lock().feeds.to_keep(feed, snapshot)
    }

    /// Copies a part of what is to be kept.
    pub(crate) fn copy(&self, feed: FeedId, part: usize, kept: &Kept) -> Option<Copied> {
        self.lock().feeds.copy(feed, part, kept)
    }

    /// A snapshot takes the place of a feed's table; links that have come to be, and the former table, to be dropped
    /// where that holds up nobody.
    #[must_use]
    pub(crate) fn install(&self, feed: FeedId, snapshot: Routes, number: u64) -> (Vec<NewLink>, Routes) {
        self.lock().install(feed, snapshot, number, Instant::now())
    }

    /// Changes nodes; links that have come to be. Whether it is an error that a node has been set aside too often, is
    /// for the feed to ask: the links are to be run in any case.
    #[must_use]
    pub(crate) fn set_nodes(&self, feed: FeedId, nodes: Vec<NodeRoute>) -> Vec<NewLink> {
        let now = Instant::now();
        let mut board = self.lock();
        nodes.into_iter().flat_map(|node| board.set_node(feed, node, now)).collect()
    }

    /// Which of these nodes a feed told the whole of before.
    pub(crate) fn told_whole(&self, feed: FeedId, nodes: &[NodeRoute]) -> Vec<bool> {
        let board = self.lock();
        nodes.iter().map(|node| board.feeds.told_whole(feed, node)).collect()
    }

    /// A feed is to be opened anew, because a node has been set aside too often in its table.
    pub(crate) fn is_crowded(&self, feed: FeedId) -> bool {
        self.lock().feeds.is_crowded(feed)
    }

    /// Changes rooms, under one hold of the lock.
    pub(crate) fn set_rooms(
        &self,
        feed: FeedId,
        mut rooms: impl Iterator<Item = RoomRoute>,
    ) -> Result<(), UnknownNode> {
        let mut board = self.lock();
        rooms.try_for_each(|room| board.feeds.set_room(feed, room))
    }

    /// Changes users, under one hold of the lock.
    pub(crate) fn set_users(
        &self,
        feed: FeedId,
        mut users: impl Iterator<Item = UserRoute>,
    ) -> Result<(), UnknownNode> {
        let mut board = self.lock();
        users.try_for_each(|user| board.feeds.set_user(feed, user))
    }

    /// Whether routes of nodes that are gone are to be swept.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.lock().feeds.is_sweeping()
    }

    /// Sweeps a part of the routes of the nodes that are gone; whether more is to be swept.
    pub(crate) fn sweep(&self) -> bool {
        self.lock().feeds.sweep()
    }

    /// A stream of a link is about to be opened. `None`: the link is no more.
    pub(crate) fn open_stream(&self, link: LinkId) -> Option<LinkStream> {
        self.lock().open_stream(link, Instant::now())
    }

    /// The node has welcomed the stream.
    pub(crate) fn raise_stream(&self, stream: &LinkStream) {
        self.lock().raise_stream(stream, Instant::now());
    }

    /// The stream is over.
    pub(crate) fn close_stream(&self, stream: &LinkStream) {
        let mut ended = Vec::new();
        self.lock().close_stream(stream, Instant::now(), &mut ended);
        self.finish(ended);
    }

    /// Hands the next pushes over to a stream.
    pub(crate) fn take_batch(&self, stream: &LinkStream, now: Instant) -> Batch {
        let mut late = Vec::new();
        let batch = self.lock().take_batch(stream, now, &mut late);
        self.withdraw(&late);
        batch
    }

    /// Nothing waits for a link, and nothing is to be heard on it.
    pub(crate) fn is_idle(&self, link: LinkId) -> bool {
        self.lock().is_idle(link)
    }

    /// Takes out of a link's queue what is too late to be sent, so that it does not fill it.
    pub(crate) fn drop_expired(&self, link: LinkId) {
        let expired = self.lock().take_expired(link, Instant::now());
        self.withdraw(&expired);
    }

    /// The link is no more.
    pub(crate) fn remove_link(&self, link: LinkId) {
        let mut ended = Vec::new();
        let left = self.lock().remove_link(link, &mut ended);
        self.withdraw(&left);
        self.finish(ended);
    }

    /// A node has answered.
    pub(crate) fn take_outcomes(&self, link: LinkId, outcomes: Vec<DeliveryOutcome>) {
        let mut ended = Vec::with_capacity(outcomes.len());
        let late = self.lock().answer(link, outcomes, Instant::now(), &mut ended);
        self.metrics.late_reports(late);
        self.finish(ended);
    }

    /// How all is doing.
    pub(crate) fn figures(&self) -> Figures {
        self.lock().figures(Instant::now())
    }

    /// Ends pushes at their deadlines, until stopped.
    pub(crate) async fn run_deadlines(&self, stop: CancellationToken) {
        loop {
            let next = self.lock().open.set_timer();
            let come = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.earlier_deadline.notified() => {}
                () = come => {
                    let mut ended = Vec::new();
                    self.lock().open.expire(Instant::now(), &mut ended);
                    self.finish(ended);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(&self, ended: Vec<OpenPush>) {
        if ended.is_empty() {
            return;
        }
        let now = Instant::now();
        self.answer(ended.into_iter().map(|push| {
            let (waiter, finished) = push.finish(now);
            (waiter, Ok(finished))
        }));
    }

    fn answer(&self, due: impl IntoIterator<Item = (Waiter, crate::answer::Answer)>) {
        let mut answers = Answers::default();
        for (waiter, mut answer) in due {
            match &mut answer {
                Ok(finished) => {
                    self.metrics.finished(finished);
                    self.log.finished(finished);
                    if let Some(trace) = finished.trace.take() {
                        trace.end(finished, &self.traces);
                    }
                }
                Err(refusal) => self.metrics.refused(refusal),
            }
            answers.give(waiter, answer);
        }
    }

    /// Counts what was told to be queued and is not sent any more. The others are counted by their reports.
    fn withdraw(&self, queued: &[Queued]) {
        let unheard = queued.iter().filter(|queued| queued.push.report_mode == ReportMode::None);
        self.metrics.withdrawn(unheard.map(|queued| u64::from(queued.routed)).sum());
    }
}
