//! A queue from one thread to another: a mutex, and an eventfd that is written only when the reader may sleep.
//!
//! Owns: the queue and the rule that no wake-up is lost. Must not: know what passes, or how much of it is too
//! much. Talks to: `bridge`, which gives each direction its bounds.
//!
//! The reader takes what is there, and before it sleeps asks [`Lane::may_sleep`]; only then does the next writer
//! pay for an eventfd, once. A reader that is told of levels, as io_uring's poll does it, clears the eventfd after it has
//! been woken by it; one that is told of edges need not.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::event_fd::EventFd;

/// A queue with one reader.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    queue: Mutex<Queue<T>>,
    event: EventFd,
}

/// What a writer sees while it holds the lane.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: VecDeque<T>,
    weight: usize,
    reader_sleeps: bool,
}

impl<T> Queue<T> {
    /// Items that wait.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The sum of their weights.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// Adds one at the end.
    pub(crate) fn push(&mut self, item: T, weight: usize) {
        self.items.push_back(item);
        self.weight += weight;
    }
}

impl<T> Lane<T> {
    /// An empty lane. Both sides must have the eventfd in their table of descriptors: make the lane before either
    /// of them unshares it.
    pub(crate) fn new() -> io::Result<Self> {
        let queue = Queue { items: VecDeque::new(), weight: 0, reader_sleeps: false };
        Ok(Self { queue: Mutex::new(queue), event: EventFd::new()? })
    }

    /// Adds a batch under one lock, with one wake-up at most.
    pub(crate) fn push_with<R>(&self, push: impl FnOnce(&mut Queue<T>) -> R) -> R {
        let mut queue = self.lock();
        let result = push(&mut queue);
        let wake = !queue.items.is_empty() && std::mem::take(&mut queue.reader_sleeps);
        drop(queue);
        if wake {
            self.event.signal();
        }
        result
    }

    /// Takes all that waits, in order.
    pub(crate) fn drain_into(&self, taken: &mut VecDeque<T>) {
        let mut queue = self.lock();
        queue.weight = 0;
        if taken.is_empty() {
            std::mem::swap(&mut queue.items, taken);
        } else {
            taken.append(&mut queue.items);
        }
    }

    /// Whether the reader may sleep on [`Lane::event`]: then the next item wakes it. False when items wait.
    pub(crate) fn may_sleep(&self) -> bool {
        let mut queue = self.lock();
        queue.reader_sleeps = queue.items.is_empty();
        queue.reader_sleeps
    }

    /// What the reader sleeps on.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// A thread that panicked with the lane in its hands left a queue that is whole: nothing is done between two
    /// changes of it that could panic.
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    /// How often the eventfd was signalled since it was last read.
    fn signals<T>(lane: &Lane<T>) -> u64 {
        let mut count = [0_u8; 8];
        // SAFETY: the buffer is eight bytes long and lives through the call.
        let read = unsafe { libc::read(lane.event().as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
        if read < 0 {
            assert_eq!(io::Error::last_os_error().kind(), ErrorKind::WouldBlock);
            return 0;
        }
        u64::from_ne_bytes(count)
    }

    #[test]
    fn a_batch_wakes_a_sleeping_reader_once() {
        let lane = Lane::new().unwrap();
        lane.push_with(|queue| queue.push(1, 0));
        assert_eq!(signals(&lane), 0, "nobody slept");
        assert!(!lane.may_sleep(), "an item waits");
        let mut taken = VecDeque::new();
        lane.drain_into(&mut taken);
        assert!(lane.may_sleep());
        lane.push_with(|queue| (2..100).for_each(|item| queue.push(item, 0)));
        lane.push_with(|queue| queue.push(100, 0));
        assert_eq!(signals(&lane), 1);
        lane.drain_into(&mut taken);
        assert_eq!(taken, (1..=100).collect::<VecDeque<_>>());
    }

    #[test]
    fn no_wake_up_is_lost_between_two_threads() {
        const ITEMS: u64 = 200_000;
        let lane = Arc::new(Lane::new().unwrap());
        let writer = std::thread::spawn({
            let lane = Arc::clone(&lane);
            move || (0..ITEMS).for_each(|item| lane.push_with(|queue| queue.push(item, 0)))
        });
        let (mut taken, mut expected) = (VecDeque::new(), 0);
        while expected < ITEMS {
            lane.drain_into(&mut taken);
            for item in taken.drain(..) {
                assert_eq!(item, expected);
                expected += 1;
            }
            if expected < ITEMS && lane.may_sleep() {
                let mut poll =
                    libc::pollfd { fd: lane.event().as_raw_fd(), events: libc::POLLIN, revents: 0 };
                // SAFETY: one pollfd is passed, and it lives through the call.
                assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 10_000) }, 1, "a wake-up was lost");
                lane.event().clear();
            }
        }
        writer.join().unwrap();
    }
}
