//! The numbered route feed: every change of routes is a step with a number, every follower hears every step after
//! its snapshot without a gap, and tells up to which number its routes are.
//!
//! Owns: the numbers, the followers, how far each has acknowledged, when one is cut off.
//! Must not: know why routes change, or wait: a step is queued for a follower within bounds, or the follower goes.
//! Talks to: `registry`, which holds it under its lock together with the presence that the snapshots are made of;
//! `feed_service`, which carries the queues to the followers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringcast_proto::pubsub::{RouteUpdate, RouteUpdateKind};
use tokio::sync::mpsc;
use tonic::Status;

use crate::refusal;
use crate::routes::{Routes, entries};

/// How much may wait for one follower, in entries; a step counts one more. About 30 MB with ids of ordinary
/// length. Too small cuts followers off in a storm, too large lets a stuck one hold memory.
pub(crate) const MAX_QUEUED_ENTRIES: usize = 256 * 1024;

/// The number before the first change, so that the 0 of a follower's hello acknowledges nothing.
const FIRST_NUMBER: u64 = 1;

/// What a follower's stream carries next.
#[derive(Debug)]
pub(crate) enum FeedItem {
    /// All routes, in parts; the first item.
    Snapshot(Vec<RouteUpdate>),
    /// A step.
    Step(Arc<RouteUpdate>),
    /// The follower is cut off; nothing follows.
    End(Status),
}

/// The sending end of a follower's queue, with what waits in it.
#[derive(Debug, Clone)]
pub(crate) struct FollowerQueue {
    items: mpsc::UnboundedSender<FeedItem>,
    queued: Arc<AtomicUsize>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct FollowerItems {
    items: mpsc::UnboundedReceiver<FeedItem>,
    queued: Arc<AtomicUsize>,
}

/// A queue for one follower; [`Feed`] keeps it within its bound.
pub(crate) fn follower_queue() -> (FollowerQueue, FollowerItems) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicUsize::new(0));
    (FollowerQueue { items: sender, queued: queued.clone() }, FollowerItems { items: receiver, queued })
}

impl FollowerQueue {
    /// Ends the stream with a status.
    pub(crate) fn end(&self, status: Status) {
        // A receiver that is gone has ended by itself.
        let _ = self.items.send(FeedItem::End(status));
    }

    /// Queues a step, where that keeps the bound.
    fn push(&self, step: &Arc<RouteUpdate>) -> bool {
        let weight = entries(step) + 1;
        let before = self.queued.fetch_add(weight, Ordering::Relaxed);
        before + weight <= MAX_QUEUED_ENTRIES && self.items.send(FeedItem::Step(step.clone())).is_ok()
    }
}

impl FollowerItems {
    /// The next item; `None` when the feed has let go of the queue.
    pub(crate) async fn next(&mut self) -> Option<FeedItem> {
        let item = self.items.recv().await;
        if let Some(FeedItem::Step(step)) = &item {
            self.queued.fetch_sub(entries(step) + 1, Ordering::Relaxed);
        }
        item
    }
}

/// A follower's number, unique in this controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FollowerId(u64);

#[derive(Debug)]
struct Follower {
    manager: String,
    queue: FollowerQueue,
    /// It has been sent its snapshot, so joins wait for it.
    live: bool,
    acknowledged: u64,
    /// Since when it owes an acknowledgement and gave no sign, in monotonic milliseconds.
    owes_since_ms: u64,
}

/// The feed.
#[derive(Debug)]
pub(crate) struct Feed {
    controller_id: String,
    number: u64,
    followers: BTreeMap<FollowerId, Follower>,
    next_follower: u64,
    cut_off: u64,
}

impl Feed {
    /// A feed that nobody follows yet; its snapshots tell whose it is.
    pub(crate) fn new(controller_id: String) -> Self {
        let followers = BTreeMap::new();
        Self { controller_id, number: FIRST_NUMBER, followers, next_follower: 0, cut_off: 0 }
    }

    /// The number of the last step.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How many followers there are.
    pub(crate) fn followers(&self) -> usize {
        self.followers.len()
    }

    /// Whether a push manager follows and has been sent its snapshot.
    pub(crate) fn is_followed_by(&self, manager: &str) -> bool {
        self.followers.values().any(|follower| follower.live && follower.manager == manager)
    }

    /// How many followers have been cut off since the start.
    pub(crate) fn cut_offs(&self) -> u64 {
        self.cut_off
    }

    /// Takes a follower in. It hears nothing before [`start`](Self::start).
    pub(crate) fn follow(&mut self, manager: String, queue: FollowerQueue) -> FollowerId {
        let id = FollowerId(self.next_follower);
        self.next_follower += 1;
        let follower = Follower { manager, queue, live: false, acknowledged: 0, owes_since_ms: 0 };
        self.followers.insert(id, follower);
        id
    }

    /// The followers that still wait for their snapshot.
    pub(crate) fn waiting(&self) -> Vec<FollowerId> {
        self.followers.iter().filter(|(_, follower)| !follower.live).map(|(id, _)| *id).collect()
    }

    /// Gives a follower its snapshot, which must be of the routes after the last step.
    pub(crate) fn start(&mut self, id: FollowerId, snapshot: Routes, now_ms: u64) {
        let Some(follower) = self.followers.get_mut(&id) else { return };
        let mut parts = snapshot.into_steps(RouteUpdateKind::SnapshotPart);
        for part in &mut parts {
            part.number = self.number;
            part.controller_id.clone_from(&self.controller_id);
        }
        if let Some(last) = parts.last_mut() {
            last.kind = RouteUpdateKind::SnapshotEnd.into();
        }
        follower.live = follower.queue.items.send(FeedItem::Snapshot(parts)).is_ok();
        follower.owes_since_ms = now_ms;
        if !follower.live {
            self.followers.remove(&id);
        }
    }

    /// Sends changes as the next step, or steps where they are many. Nothing changed: no step.
    pub(crate) fn publish(&mut self, changes: Routes, now_ms: u64) {
        if changes.is_empty() {
            return;
        }
        for mut step in changes.into_steps(RouteUpdateKind::Change) {
            for follower in self.followers.values_mut() {
                if follower.acknowledged >= self.number {
                    follower.owes_since_ms = now_ms;
                }
            }
            self.number += 1;
            step.number = self.number;
            let step = Arc::new(step);
            let overrun = |follower: &Follower| follower.live && !follower.queue.push(&step);
            let overrun: Vec<FollowerId> =
                self.followers.iter().filter(|(_, follower)| overrun(follower)).map(|(id, _)| *id).collect();
            for id in overrun {
                self.cut(id, "more changes waited for it than its queue holds");
            }
        }
    }

    /// A follower has taken in everything up to a number. Returns false for a follower that is not there, or that
    /// acknowledges what was never sent, which cuts it off.
    pub(crate) fn acknowledge(&mut self, id: FollowerId, number: u64, now_ms: u64) -> bool {
        let sent = self.number;
        let Some(follower) = self.followers.get_mut(&id) else { return false };
        if number > sent || (number > 0 && !follower.live) {
            self.cut(id, "it acknowledged a number that was not sent");
            return false;
        }
        if number > follower.acknowledged {
            follower.acknowledged = number;
            follower.owes_since_ms = now_ms;
        }
        true
    }

    /// A follower is still reading its snapshot, which may take its time.
    pub(crate) fn progress(&mut self, id: FollowerId, now_ms: u64) {
        if let Some(follower) = self.followers.get_mut(&id) {
            follower.owes_since_ms = now_ms;
        }
    }

    /// A follower's stream has ended.
    pub(crate) fn leave(&mut self, id: FollowerId) {
        if let Some(follower) = self.followers.remove(&id) {
            tracing::info!(manager = follower.manager, "a push manager left the route feed");
        }
    }

    /// Cuts off the followers that have owed an acknowledgement for the limit's time without a sign.
    pub(crate) fn cut_stalled(&mut self, now_ms: u64, limit_ms: u64) {
        let number = self.number;
        let stalled = |follower: &Follower| {
            follower.live && follower.acknowledged < number && now_ms >= follower.owes_since_ms + limit_ms
        };
        let stalled: Vec<FollowerId> =
            self.followers.iter().filter(|(_, follower)| stalled(follower)).map(|(id, _)| *id).collect();
        for id in stalled {
            self.cut(id, "it did not acknowledge in time");
        }
    }

    /// Ends every follower's stream.
    pub(crate) fn end_all(&mut self, status: &Status) {
        for follower in std::mem::take(&mut self.followers).into_values() {
            follower.queue.end(status.clone());
        }
    }

    /// Up to which number every live follower's routes are; without a follower there is nobody to wait for.
    pub(crate) fn acknowledged_by_all(&self) -> u64 {
        let live = self.followers.values().filter(|follower| follower.live);
        live.map(|follower| follower.acknowledged).min().unwrap_or(u64::MAX)
    }

    fn cut(&mut self, id: FollowerId, why: &str) {
        let Some(follower) = self.followers.remove(&id) else { return };
        tracing::warn!(manager = follower.manager, why, "a push manager was cut off from the route feed");
        self.cut_off += 1;
        follower.queue.end(refusal::follower_cut_off(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringcast_proto::pubsub::RoomRoute;

    fn feed() -> Feed {
        Feed::new("c".into())
    }

    fn change(sessions: u32) -> Routes {
        let route = RoomRoute { room_id: "r".into(), node_id: "n".into(), sessions };
        Routes { rooms: vec![route], ..Routes::default() }
    }

    fn follower(feed: &mut Feed) -> (FollowerId, FollowerItems) {
        let (queue, items) = follower_queue();
        let id = feed.follow("pm".into(), queue);
        feed.start(id, Routes::default(), 0);
        (id, items)
    }

    #[tokio::test]
    async fn a_follower_hears_its_snapshot_and_every_later_step_without_a_gap() {
        let mut feed = feed();
        feed.publish(change(1), 0);
        let (_, mut items) = follower(&mut feed);
        feed.publish(Routes::default(), 0);
        feed.publish(change(2), 0);
        feed.publish(change(3), 0);
        let Some(FeedItem::Snapshot(parts)) = items.next().await else { panic!("a snapshot comes first") };
        let mut numbers = vec![parts[0].number];
        assert_eq!(parts[0].kind(), RouteUpdateKind::SnapshotEnd);
        assert_eq!(parts[0].controller_id, "c");
        for _ in 0..2 {
            let Some(FeedItem::Step(step)) = items.next().await else { panic!("two steps follow") };
            numbers.push(step.number);
        }
        assert_eq!(numbers, [2, 3, 4], "nothing changed makes no step");
    }

    #[test]
    fn the_slowest_live_follower_says_what_is_acknowledged() {
        let mut feed = feed();
        assert_eq!(feed.acknowledged_by_all(), u64::MAX);
        let (quick, _items) = follower(&mut feed);
        let (slow, _items) = follower(&mut feed);
        feed.publish(change(1), 0);
        assert!(feed.acknowledge(quick, 2, 0) && feed.acknowledge(slow, 1, 0));
        assert_eq!(feed.acknowledged_by_all(), 1);
        feed.leave(slow);
        assert_eq!(feed.acknowledged_by_all(), 2);
        let (queue, _items) = follower_queue();
        feed.follow("not started".into(), queue);
        assert_eq!(feed.acknowledged_by_all(), 2, "one without its snapshot routes nothing yet");
    }

    #[tokio::test]
    async fn a_follower_that_owes_too_long_is_cut_off() {
        let mut feed = feed();
        let (id, mut items) = follower(&mut feed);
        feed.cut_stalled(1_999, 2_000);
        assert_eq!(feed.followers(), 1);
        assert!(feed.acknowledge(id, 1, 1_999));
        feed.cut_stalled(60_000, 2_000);
        assert_eq!(feed.followers(), 1, "one that owes nothing may be silent");
        feed.publish(change(1), 60_000);
        feed.cut_stalled(61_999, 2_000);
        feed.publish(change(2), 61_999);
        feed.cut_stalled(62_000, 2_000);
        assert_eq!((feed.followers(), feed.cut_offs()), (0, 1), "a later step gives no more time");
        while let Some(item) = items.next().await {
            if let FeedItem::End(status) = item {
                assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
                return;
            }
        }
        panic!("the follower was not told");
    }

    #[test]
    fn an_overrun_follower_is_cut_off_and_the_others_go_on() {
        let mut feed = feed();
        let (_, _stuck) = follower(&mut feed);
        let mut steps = 0;
        while feed.followers() == 1 {
            feed.publish(change(steps), 0);
            steps += 1;
            assert!(steps as usize <= MAX_QUEUED_ENTRIES, "nothing bounds the queue");
        }
        assert_eq!(steps as usize, MAX_QUEUED_ENTRIES / 2 + 1);
        assert_eq!(feed.acknowledged_by_all(), u64::MAX);
    }

    #[test]
    fn an_acknowledgement_of_what_was_not_sent_cuts_off() {
        let mut feed = feed();
        let (id, _items) = follower(&mut feed);
        assert!(!feed.acknowledge(id, 2, 0));
        assert_eq!(feed.cut_offs(), 1);
    }
}
