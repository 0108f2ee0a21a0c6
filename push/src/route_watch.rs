//! Follows every controller of the directory's list: a task for each, begun and ended as the list changes.
//!
//! Owns: which feeds are followed, how often the list is looked at. Must not: read a feed, or judge what it tells.
//! Talks to: the directory, `feed_follower` (the tasks), `dispatch` (the list), `node_link` (new links).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use registry::{Directory, Entry};
use tokio::sync::{Notify, watch};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::dispatch::Dispatch;
use crate::feed_follower::Follower;
use crate::feeds::FeedId;
use crate::links::NewLink;
use crate::listing::Listing;
use crate::metrics::Metrics;
use crate::node_link::NodeLinks;
use crate::routing::Routes;

/// How often the list is looked at where it does not change: it grows older, and so does what it lacks.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What those who follow share.
#[derive(Debug)]
pub(crate) struct Following {
    /// Where the routes are kept.
    pub(crate) dispatch: Arc<Dispatch>,
    /// The links that follow the nodes.
    pub(crate) links: NodeLinks,
    /// Counts losses.
    pub(crate) metrics: Arc<Metrics>,
    /// Who follows, as the directory tells of it.
    pub(crate) us: Entry,
    /// Set true when pushes can be routed.
    pub(crate) ready: watch::Sender<bool>,
    /// Routes of nodes that are gone are to be swept.
    pub(crate) to_sweep: Notify,
}

impl Following {
    /// Runs links that have come to be, drops tables that are not needed any more, has swept what is gone, and says
    /// whether pushes can be routed.
    pub(crate) fn follow_up(&self, new: Vec<NewLink>, former: Vec<Routes>) {
        new.into_iter().for_each(|link| self.links.start(link));
        if !former.is_empty() {
            tokio::task::spawn_blocking(move || drop(former));
        }
        if self.dispatch.is_sweeping() {
            self.to_sweep.notify_one();
        }
        if !*self.ready.borrow() && self.dispatch.is_ready() {
            self.ready.send_replace(true);
        }
    }

    /// Sweeps what is to be swept, until it is dropped.
    pub(crate) async fn run_sweeps(self: Arc<Self>) {
        loop {
            self.to_sweep.notified().await;
            while self.dispatch.sweep() {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct RouteWatch {
    /// What the feeds' tasks share.
    pub(crate) following: Arc<Following>,
    /// Who is there.
    pub(crate) directory: Directory,
    /// Where the feeds' tasks are awaited.
    pub(crate) tasks: TaskTracker,
}

impl RouteWatch {
    /// Follows until it is dropped.
    pub(crate) async fn run(self) {
        let mut changes = self.directory.watch();
        let mut followed = HashMap::new();
        loop {
            changes.mark_unchanged();
            self.look(&mut followed).await;
            tokio::select! {
                // A directory that is over changes no more.
                Ok(()) = changes.changed() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Ends the feeds of controllers that are not in the list as they were, and follows those that are new in it.
    async fn look(&self, followed: &mut HashMap<String, (Entry, AbortOnDropHandle<()>)>) {
        let Following { dispatch, us, .. } = &*self.following;
        let listing = Listing::of(&self.directory.view(), us);
        for (_, (controller, task)) in followed.extract_if(|_, (it, _)| !listing.controllers.contains(it)) {
            task.abort();
            // It may be in the middle of a step; what it does then is over before its table changes hands.
            let _ = task.await;
            tracing::info!(
                controller = controller.id,
                "a controller left the list, or is another start of it"
            );
        }
        let looked = dispatch.look(&listing);
        for (feed, controller) in looked.follow {
            let task = self.tasks.spawn(self.follower(feed, &controller).run());
            followed.insert(controller.id.clone(), (controller, AbortOnDropHandle::new(task)));
        }
        self.following.follow_up(looked.new, looked.former);
    }

    fn follower(&self, feed: FeedId, controller: &Entry) -> Follower {
        Follower {
            following: self.following.clone(),
            feed,
            address: controller.grpc_address.clone(),
            // A fixed list knows addresses only.
            controller_id: (!self.directory.is_fixed()).then(|| controller.id.clone()),
        }
    }
}
