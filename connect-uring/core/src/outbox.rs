//! What waits to be written to one session, in order.
//!
//! Owns: queued frames, how much of the first has been written, what is in flight. Must not: decide what becomes
//! of a session. Talks to: `delivery` through the frames' tallies; the caller credits what leaves.
//!
//! An idle session holds nothing here; the first frame stands in the session itself, the rest in a box that goes
//! back to the shard's pool. A frame stays queued until the kernel has taken its last byte.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::delivery::{Parcel, Role};
use crate::event::{Piece, Write};

/// Waiting frames are copied into one piece where there are several and all of them together are at most this
/// long, in bytes; past it gathering them by reference is cheaper.
pub(crate) const COPY_BYTES: usize = 4096;

/// The most pieces of one write.
pub(crate) const MAX_PIECES: usize = 64;

/// A write ends with the piece that reaches this many bytes, so that what is in flight, and cannot be dropped
/// any more, stays small. A single frame is never cut.
pub(crate) const WRITE_BYTES: usize = 64 * 1024;

/// Boxes that a shard keeps for its next backlog.
const POOLED: usize = 1024;

/// A box that has grown past this many entries is given back.
const POOLED_ENTRIES: usize = 64;

/// What stands behind the first frame.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    entries: VecDeque<Rc<Parcel>>,
    /// How many entries have left the front.
    left: u64,
    /// Which entry, counted from the first that ever stood here, is the newest pong.
    pong: Option<u64>,
}

/// Boxes for backlogs, so that a burst does not allocate for each session each time.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    // Boxed all the same: what moves in and out of a session is the box.
    #[allow(clippy::vec_box)]
    free: Vec<Box<Rest>>,
}

impl Pool {
    fn take(&mut self) -> Box<Rest> {
        self.free.pop().unwrap_or_default()
    }

    fn give(&mut self, mut rest: Box<Rest>) {
        if self.free.len() < POOLED && rest.entries.capacity() <= POOLED_ENTRIES {
            rest.entries.clear();
            rest.left = 0;
            rest.pong = None;
            self.free.push(rest);
        }
    }
}

/// The queue of one session.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    first: Option<Rc<Parcel>>,
    rest: Option<Box<Rest>>,
    /// The frames' lengths in all.
    bytes: u32,
    /// How much of the first frame has been written.
    offset: u32,
    /// How many bytes the write under way holds; 0: there is none.
    handed: u32,
    /// How many frames, from the first on, the write under way holds the last byte of.
    in_flight: u16,
}

/// What one write took from an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Frames that it completes.
    pub(crate) frames: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

impl Outbox {
    /// Nothing is queued or in flight.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// A write is under way.
    #[inline]
    pub(crate) fn is_writing(&self) -> bool {
        self.handed > 0
    }

    /// There are bytes to write and no write is under way.
    #[inline]
    pub(crate) fn wants_write(&self) -> bool {
        self.handed == 0 && self.first.is_some()
    }

    /// How many frames are queued.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.entries.len())
    }

    /// Whether a frame of this length is within the bound: an empty outbox always takes one frame, the bound
    /// counts from the second on.
    #[inline]
    pub(crate) fn has_room(&self, len: usize, bound: u32) -> bool {
        match &self.first {
            None => true,
            Some(first) => self.bytes as usize - first.len() + len <= bound as usize,
        }
    }

    /// Adds a frame at the end.
    #[inline]
    pub(crate) fn push(&mut self, parcel: Rc<Parcel>, pool: &mut Pool) {
        debug_assert!(parcel.len() > 0);
        self.bytes += parcel.len() as u32;
        if self.first.is_none() {
            self.first = Some(parcel);
        } else {
            self.rest.get_or_insert_with(|| pool.take()).entries.push_back(parcel);
        }
    }

    /// Adds a pong, in the place of one that still waits: only the last ping needs an answer (RFC 6455, 5.5.3),
    /// and a queue of pongs would grow without bound at a peer that does not read.
    pub(crate) fn push_pong(&mut self, parcel: Rc<Parcel>, pool: &mut Pool) {
        let len = parcel.len() as u32;
        let untouched = self.in_flight == 0 && self.handed == 0 && self.offset == 0;
        if untouched
            && let Some(first) = &mut self.first
            && matches!(first.role, Role::Pong)
        {
            self.bytes = self.bytes - first.len() as u32 + len;
            *first = parcel;
            return;
        }
        let in_flight_behind = u64::from(self.in_flight.saturating_sub(1));
        if let Some(rest) = &mut self.rest
            && let Some(pong) = rest.pong
            && pong >= rest.left + in_flight_behind
            && let Some(waiting) = rest.entries.get_mut((pong - rest.left) as usize)
        {
            self.bytes = self.bytes - waiting.len() as u32 + len;
            *waiting = parcel;
            return;
        }
        self.push(parcel, pool);
        if let Some(rest) = &mut self.rest
            && let Some(last) = rest.entries.len().checked_sub(1)
        {
            rest.pong = Some(rest.left + last as u64);
        }
    }

    /// Hands out the next write.
    pub(crate) fn fill(&mut self, write: &mut Write) -> Filled {
        debug_assert!(self.wants_write());
        if self.rest.is_none()
            && let Some(only) = &self.first
        {
            // The usual case, a fan-out to idle sessions, is kept short.
            write.skip = self.offset as usize;
            write.pieces.push(Piece::Shared(Rc::clone(&only.frame)));
            self.handed = self.bytes - self.offset;
            self.in_flight = 1;
            return Filled { frames: 1, bytes: u64::from(self.handed) };
        }
        let waiting = (self.bytes - self.offset) as usize;
        let entries = self.first.iter().chain(self.rest.iter().flat_map(|rest| &rest.entries));
        let skip = self.offset as usize;
        let mut frames = 0;
        let bytes = if waiting <= COPY_BYTES {
            let mut run = SmallVec::<[u8; COPY_BYTES]>::new();
            for parcel in entries {
                let from = if frames == 0 { skip } else { 0 };
                run.extend_from_slice(&parcel.frame[from..]);
                frames += 1;
            }
            write.pieces.push(Piece::Own(Rc::from(run.as_slice())));
            waiting
        } else {
            write.skip = skip;
            let mut bytes = 0;
            for parcel in entries {
                bytes += parcel.len() - if frames == 0 { skip } else { 0 };
                write.pieces.push(Piece::Shared(Rc::clone(&parcel.frame)));
                frames += 1;
                if bytes >= WRITE_BYTES || frames == MAX_PIECES {
                    break;
                }
            }
            bytes
        };
        self.handed = bytes as u32;
        self.in_flight = frames as u16;
        Filled { frames: frames as u64, bytes: bytes as u64 }
    }

    /// The write is over and the kernel took this many bytes of it. Hands each frame that is now written to
    /// `written`.
    #[inline]
    pub(crate) fn wrote(&mut self, bytes: usize, pool: &mut Pool, mut written: impl FnMut(&Parcel)) {
        debug_assert!(bytes <= self.handed as usize, "more was written than was handed out");
        if self.rest.is_none()
            && bytes == self.handed as usize
            && let Some(only) = self.first.take()
        {
            *self = Self::default();
            written(&only);
            return;
        }
        let mut offset = self.offset as usize + bytes.min(self.handed as usize);
        self.handed = 0;
        self.in_flight = 0;
        while let Some(first) = &self.first
            && offset >= first.len()
        {
            offset -= first.len();
            if let Some(first) = self.pop(pool) {
                written(&first);
            }
        }
        self.offset = offset as u32;
    }

    /// Takes out what is neither in flight nor begun and hands it to `dropped`. What is begun must be finished,
    /// or what follows it would be read as a part of it; a head stays too.
    pub(crate) fn drop_waiting(&mut self, pool: &mut Pool, mut dropped: impl FnMut(&Parcel)) {
        let stays = |first: &Rc<Parcel>| self.offset > 0 || matches!(first.role, Role::Head);
        let kept = usize::from(self.in_flight).max(usize::from(self.first.as_ref().is_some_and(stays)));
        while self.len() > kept {
            let last = match &mut self.rest {
                Some(rest) => rest.entries.pop_back(),
                None => self.first.take(),
            };
            self.return_empty_rest(pool);
            if let Some(last) = last {
                self.bytes -= last.len() as u32;
                dropped(&last);
            }
        }
        if let Some(rest) = &mut self.rest {
            // A pong that stays is in flight: no other frame may take its number.
            rest.pong = None;
        }
    }

    /// Takes out everything: nothing more will be written.
    pub(crate) fn drop_all(&mut self, pool: &mut Pool, mut dropped: impl FnMut(&Parcel)) {
        while let Some(first) = self.pop(pool) {
            dropped(&first);
        }
        *self = Self::default();
    }

    fn pop(&mut self, pool: &mut Pool) -> Option<Rc<Parcel>> {
        let first = self.first.take()?;
        self.bytes -= first.len() as u32;
        if let Some(rest) = &mut self.rest {
            self.first = rest.entries.pop_front();
            rest.left += 1;
            self.return_empty_rest(pool);
        }
        Some(first)
    }

    fn return_empty_rest(&mut self, pool: &mut Pool) {
        if let Some(rest) = self.rest.take_if(|rest| rest.entries.is_empty()) {
            pool.give(rest);
        }
    }

    /// The sums are true and what is in flight is queued.
    #[cfg(any(test, debug_assertions, feature = "checks"))]
    pub(crate) fn check_invariants(&self) {
        let entries = || self.first.iter().chain(self.rest.iter().flat_map(|rest| &rest.entries));
        assert_eq!(self.bytes as usize, entries().map(|parcel| parcel.len()).sum::<usize>(), "bytes queued");
        assert!(self.first.is_some() || self.rest.is_none(), "the first frame stands first");
        assert!(self.rest.as_ref().is_none_or(|rest| !rest.entries.is_empty()), "an empty box is given back");
        assert!(self.first.as_ref().map_or(self.offset == 0, |first| (self.offset as usize) < first.len()));
        assert!(usize::from(self.in_flight) <= self.len());
        assert_eq!(self.in_flight == 0, self.handed == 0, "a write holds frames");
        let in_flight: usize = entries().take(usize::from(self.in_flight)).map(|parcel| parcel.len()).sum();
        assert!(
            self.handed == 0 || in_flight == (self.offset + self.handed) as usize,
            "a write holds whole frames"
        );
    }

    /// Bytes queued from the second frame on: what the bound bounds.
    #[cfg(any(debug_assertions, feature = "checks"))]
    pub(crate) fn bounded_bytes(&self) -> usize {
        self.bytes as usize - self.first.as_ref().map_or(0, |first| first.len())
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
