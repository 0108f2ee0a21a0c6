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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ringcast_proto::pubsub::{MessageContent, ReportMode, delivery};

    use super::*;

    fn queued(id: u64, bytes: usize, deadline: Instant) -> Queued {
        let push = Push {
            target: delivery::Target::Broadcast(true),
            exclude: Vec::new(),
            content: MessageContent { data: vec![0; bytes].into(), ..Default::default() },
            message_id: String::new(),
            deadline: Duration::ZERO,
            report_mode: ReportMode::Full,
            span: None,
        };
        Queued { id, part: 0, routed: 1, deadline, push: Arc::new(push) }
    }

    fn ids(batch: &[Queued]) -> Vec<u64> {
        batch.iter().map(|queued| queued.id).collect()
    }

    #[test]
    fn its_bounds_are_count_and_bytes_and_it_takes_again_when_emptied() {
        let now = Instant::now();
        let mut queue = NodeQueue::default();
        for id in 0..MAX_QUEUED as u64 {
            queue.add(queued(id, 0, now)).unwrap();
        }
        assert!(queue.add(queued(0, 0, now)).is_err());
        assert_eq!(queue.take_all().len(), MAX_QUEUED);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));

        queue.add(queued(0, MAX_QUEUED_BYTES + 1, now)).expect("an empty queue takes any push");
        assert!(queue.add(queued(1, 0, now)).is_err());
        assert_eq!(ids(&queue.take_batch()), [0]);
        assert_eq!(queue.bytes(), 0);
        queue.add(queued(1, 0, now)).unwrap();
    }

    #[test]
    fn a_batch_is_bounded_in_order_and_never_empty_while_something_waits() {
        let now = Instant::now();
        let mut queue = NodeQueue::default();
        for id in 0..1500 {
            queue.add(queued(id, 10, now)).unwrap();
        }
        assert!(ids(&queue.take_batch()).into_iter().eq(0..1024));
        assert!(ids(&queue.take_batch()).into_iter().eq(1024..1500));
        for (id, bytes) in [(1, 600_000), (2, 600_000), (3, 2_000_000), (4, 1)] {
            queue.add(queued(id, bytes, now)).unwrap();
        }
        let batches: Vec<_> = (0..4).map(|_| ids(&queue.take_batch())).collect();
        assert_eq!(batches, [vec![1], vec![2], vec![3], vec![4]]);
        assert!(queue.take_batch().is_empty());
    }

    #[test]
    fn what_has_expired_leaves_and_the_rest_keeps_its_order() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut queue = NodeQueue::default();
        for (id, deadline) in [(1, later), (2, now), (3, later), (4, now)] {
            queue.add(queued(id, 100, deadline)).unwrap();
        }
        let before = queue.bytes();
        assert_eq!(ids(&queue.take_expired(now)), [2, 4]);
        assert_eq!(queue.bytes() * 2, before);
        assert_eq!(ids(&queue.take_batch()), [1, 3]);
    }
}
