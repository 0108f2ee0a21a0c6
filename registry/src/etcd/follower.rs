//! Follows the list of all services: it is compared with etcd every second, and whenever a watch hints at a change.
//!
//! Owns: the view and its age. Must not: trust the watch, which may hang or miss what was compacted.
//! Talks to: `members`, `listing`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{GetOptions, ResponseHeader, WatchOptions, WatchStream};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};

use super::listing::{Key, Listing, MAX_ENTRIES, Position};
use super::members::{AskError, Members};
use super::told::Told;
use crate::View;

/// What all keys begin with.
const PREFIX: &str = "/ringcast/";

/// How often the list is compared with etcd. Routes are stale when it was not for 3 s.
const EVERY: Duration = Duration::from_secs(1);

/// The least time between two comparisons, however many hints there are. It is longer where a comparison takes long:
/// when very many services start, they must not keep etcd from registering them.
const GAP: Duration = Duration::from_millis(50);

/// How many times as long as the comparison itself the gap is.
const GAP_FACTOR: u32 = 10;

/// The largest list that is read, in bytes: `MAX_ENTRIES` of the largest ones fit.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;

/// The task that keeps the view.
pub(crate) struct Follower {
    members: Arc<Members>,
    listing: Listing,
    view: watch::Sender<Arc<View>>,
    wipes: watch::Sender<u64>,
    /// The watch, and the member that has it.
    hints: Option<(usize, WatchStream)>,
    /// What was listed is surely of the data that etcd has: it may have lost all of it, and be at the same position by
    /// chance, where it was away in between.
    continuous: bool,
    outage: Told,
    refused: Told,
}

/// Why the view stays as old as it is.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("etcd has more than {MAX_ENTRIES} keys below {PREFIX}: delete those that are no services")]
    TooMany,
    #[error("etcd answered without a header")]
    NoHeader,
}

impl Follower {
    pub(crate) fn new(
        members: Arc<Members>,
        grace: Duration,
        view: watch::Sender<Arc<View>>,
        wipes: watch::Sender<u64>,
    ) -> Self {
        Self {
            members,
            listing: Listing::new(grace),
            view,
            wipes,
            hints: None,
            continuous: false,
            outage: Told::default(),
            refused: Told::default(),
        }
    }

    /// Follows for ever.
    pub(crate) async fn run(mut self) {
        loop {
            let began = Instant::now();
            match self.compare().await {
                Ok((member, position)) => {
                    if self.outage.clear() {
                        tracing::info!("the list of services is read from etcd again");
                    }
                    self.watch_on(member, position).await;
                }
                Err(error) => {
                    // What the watch says then is worth nothing: it may have ended unseen.
                    self.hints = None;
                    self.continuous = false;
                    let text = error.to_string();
                    if self.outage.is_news(&text, Instant::now()) {
                        tracing::warn!("{text}; going on with the list of services as it was");
                    }
                }
            }
            self.wait(began).await;
        }
    }

    /// Makes the view true, and says who answered. Where nothing was written since the last list, it is still so.
    async fn compare(&mut self) -> Result<(usize, Position), ReadError> {
        // No key has this name: what counts is at which position the answer is.
        let (member, (sent, header)) = self
            .members
            .ask(|client| async move {
                let sent = Instant::now();
                let mut answer = client.kv_client().get(PREFIX, None).await?;
                Ok((sent, answer.take_header()))
            })
            .await?;
        let position = position(header)?;
        if self.continuous && self.listing.is_at(position) {
            self.publish(sent);
            return Ok((member, position));
        }
        self.list().await
    }

    async fn list(&mut self) -> Result<(usize, Position), ReadError> {
        let limit = i64::try_from(MAX_ENTRIES).unwrap_or(i64::MAX);
        let (member, (sent, mut answer)) = self
            .members
            .ask(|client| async move {
                let sent = Instant::now();
                let options = GetOptions::new().with_prefix().with_limit(limit);
                let mut client = client.kv_client().max_decoding_message_size(MAX_LIST_BYTES);
                Ok((sent, client.get(PREFIX, Some(options)).await?))
            })
            .await?;
        if answer.more() {
            return Err(ReadError::TooMany);
        }
        let position = position(answer.take_header())?;
        let keys = answer.kvs().iter();
        let keys = keys.map(|pair| Key { name: pair.key(), value: pair.value(), lease: pair.lease() });
        let (is_wiped, refused) = self.listing.take(Instant::now(), position, keys);
        match refused {
            Some(text) if self.refused.is_news(&text, Instant::now()) => tracing::warn!("{text}"),
            Some(_) => {}
            None => {
                self.refused.clear();
            }
        }
        self.publish(sent);
        self.continuous = true;
        if is_wiped {
            tracing::warn!("etcd has lost its data; every service registers again");
            self.wipes.send_modify(|wipes| *wipes += 1);
        }
        Ok((member, position))
    }

    /// Tells the view, which was true at `sent`. Only another list is a change.
    fn publish(&mut self, sent: Instant) {
        let entries = self.listing.entries(Instant::now());
        self.view.send_if_modified(|view| {
            let is_other = view.entries != entries || view.as_of.is_none();
            *view = Arc::new(View { entries, as_of: Some(sent), fixed: false });
            is_other
        });
    }

    /// Has a watch on the member that answers, so that it is seen when that one stops.
    async fn watch_on(&mut self, member: usize, position: Position) {
        if self.hints.as_ref().is_some_and(|(watched, _)| *watched == member) {
            return;
        }
        let watched = self
            .members
            .ask_one(member, |client| async move {
                let next = WatchOptions::new().with_prefix().with_start_revision(position.revision + 1);
                client.watch_client().watch(PREFIX, Some(next)).await
            })
            .await;
        // Without a watch a change is seen within a second.
        self.hints = watched.ok().map(|stream| (member, stream));
    }

    /// Waits until the list is to be compared again.
    async fn wait(&mut self, began: Instant) {
        let next = (began + EVERY).into();
        let gap = GAP.max(began.elapsed() * GAP_FACTOR).min(EVERY);
        if let Some((_, stream)) = &mut self.hints {
            match timeout_at(next, is_change(stream)).await {
                Ok(true) => return sleep_until((began + gap).into()).await,
                // It has ended, perhaps because it was compacted.
                Ok(false) => self.hints = None,
                Err(_) => return,
            }
        }
        sleep_until(next).await;
    }
}

/// Waits for the next hint at a change; false: the watch has ended.
async fn is_change(stream: &mut WatchStream) -> bool {
    loop {
        match stream.message().await {
            Ok(Some(message)) if message.canceled() => return false,
            Ok(Some(message)) if message.events().is_empty() => {}
            Ok(Some(_)) => return true,
            Ok(None) | Err(_) => return false,
        }
    }
}

fn position(header: Option<ResponseHeader>) -> Result<Position, ReadError> {
    let header = header.ok_or(ReadError::NoHeader)?;
    Ok(Position { cluster: header.cluster_id(), term: header.raft_term(), revision: header.revision() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::EtcdStore;
    use test_servers::Etcd;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_watch_on_what_was_compacted_away_ends() {
        let etcd = Etcd::start(1);
        for round in 0..3 {
            etcd.put("/elsewhere", &round.to_string());
        }
        etcd.compact();
        let store = EtcdStore { endpoints: etcd.endpoints(), ..EtcdStore::default() };
        let members = Members::new(&store).unwrap();
        let watch = async |client: etcd_client::Client| {
            let past = WatchOptions::new().with_prefix().with_start_revision(1);
            client.watch_client().watch(PREFIX, Some(past)).await
        };
        let mut stream = members.ask_one(0, watch).await.unwrap();
        let hint = tokio::time::timeout(Duration::from_secs(10), is_change(&mut stream)).await;
        assert_eq!(hint, Ok(false), "it would never tell of a change");
    }
}
