//! The pushes that wait for one node's stream: ordered, bounded by count and by bytes.
//!
//! Owns: the queue and its bounds. Pure: no lock, clock or task. Talks to: `dispatch`, which fills it under its
//! lock and takes batches from it for `node_link`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::request::Push;

/// How many pushes may wait for a node.
pub(crate) const MAX_QUEUED: usize = 65_536;

/// How many bytes of pushes may wait for a node. An empty queue takes any push.
pub(crate) const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;

/// How many pushes one message to a node carries at most.
const MAX_BATCH: usize = 1024;

/// From how many bytes on a message to a node is full.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// A push on its way to a node.
#[derive(Debug)]
pub(crate) struct Queued {
    /// Its number on the node's stream, and in the table of open pushes.
    pub(crate) id: u64,
    /// Which part of the open push this node is.
    pub(crate) part: u32,
    /// How many sessions the routes counted there.
    pub(crate) routed: u32,
    /// When it is too late to send it.
    pub(crate) deadline: Instant,
    /// What to push.
    pub(crate) push: Arc<Push>,
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct NodeQueue {
    waiting: VecDeque<Queued>,
    bytes: usize,
}

impl NodeQueue {
    /// Adds a push at the end, or gives it back where the queue is full.
    pub(crate) fn add(&mut self, queued: Queued) -> Result<(), Queued> {
        let bytes = self.bytes + queued.push.size();
        if self.waiting.len() >= MAX_QUEUED || (bytes > MAX_QUEUED_BYTES && !self.waiting.is_empty()) {
            return Err(queued);
        }
        self.bytes = bytes;
        self.waiting.push_back(queued);
        Ok(())
    }

    /// Takes what fits into one message, in order.
    pub(crate) fn take_batch(&mut self) -> Vec<Queued> {
        let mut bytes = 0;
        let mut fits = 0;
        for queued in self.waiting.iter().take(MAX_BATCH) {
            bytes += queued.push.size();
            if fits > 0 && bytes > MAX_BATCH_BYTES {
                break;
            }
            fits += 1;
        }
        let batch: Vec<_> = self.waiting.drain(..fits).collect();
        self.bytes -= batch.iter().map(|queued| queued.push.size()).sum::<usize>();
        batch
    }

    /// Takes out all whose deadline has passed.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<Queued> {
        let expired: VecDeque<Queued>;
        (expired, self.waiting) = self.waiting.drain(..).partition(|queued| queued.deadline <= now);
        self.bytes -= expired.iter().map(|queued| queued.push.size()).sum::<usize>();
        expired.into()
    }

    /// Takes out all.
    pub(crate) fn take_all(&mut self) -> Vec<Queued> {
        self.bytes = 0;
        self.waiting.drain(..).collect()
    }

    /// How many pushes wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many bytes of pushes wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
