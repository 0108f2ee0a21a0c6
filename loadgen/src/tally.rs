//! What one connection saw: its pushes by stream, told apart into first, late, double and missing, and how it
//! ended.
//!
//! Owns: the judgement of sequences. Must not: touch a socket.

use std::ops::Range;

use crate::payload::Stamp;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The server closed it with this code and reason.
    ClosedByServer {
        /// The close code, 1005 where the frame held none.
        code: u16,
        /// The reason's text.
        reason: String,
    },
    /// The plan, or a command, ended it.
    Left,
    /// The upgrade was answered with this status instead of 101.
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The connection broke: no close frame came before the end of the stream, or the system failed it.
    Broken {
        /// What was seen.
        error: String,
    },
}

/// What a connection saw of one stream of pushes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamTally {
    /// The stream's number.
    pub stream: u32,
    /// Pushes received, each counted once.
    pub received: u64,
    /// Receipts beyond the first.
    pub duplicates: u64,
    /// Receipts that came after a later one.
    pub reordered: u64,
    /// The number that would come next.
    pub next: u64,
    /// Numbers below `next` that never came.
    pub(crate) gaps: Vec<Range<u64>>,
}

impl StreamTally {
    /// Takes one receipt in; returns whether it was the first of its number.
    fn note(&mut self, seq: u64) -> bool {
        if seq >= self.next {
            if seq > self.next {
                self.gaps.push(self.next..seq);
            }
            self.next = seq + 1;
            self.received += 1;
            return true;
        }
        let Some(at) = self.gaps.iter().position(|gap| gap.contains(&seq)) else {
            self.duplicates += 1;
            return false;
        };
        let gap = self.gaps.swap_remove(at);
        self.gaps.extend([gap.start..seq, seq + 1..gap.end].into_iter().filter(|rest| !rest.is_empty()));
        self.reordered += 1;
        self.received += 1;
        true
    }

    /// Numbers that never came, of `published` in all.
    pub fn lost(&self, published: u64) -> u64 {
        self.missing_between() + published.saturating_sub(self.next)
    }

    /// Numbers that never came although a later one did.
    pub fn missing_between(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.end - gap.start).sum()
    }
}

/// What a connection saw in all.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) frames: u64,
    pub(crate) pings: u64,
    pub(crate) streams: Vec<StreamTally>,
    pub(crate) joined_after_ns: Option<u64>,
    pub(crate) ended: Option<Ended>,
}

impl Tally {
    /// Takes a stamped frame in; returns whether it was the first receipt of this push.
    pub(crate) fn note(&mut self, stamp: Stamp) -> bool {
        let at = match self.streams.iter().position(|tally| tally.stream == stamp.stream) {
            Some(at) => at,
            None => {
                self.streams.push(StreamTally { stream: stamp.stream, ..StreamTally::default() });
                self.streams.len() - 1
            }
        };
        self.streams[at].note(stamp.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_are_told_apart() {
        let mut tally = StreamTally::default();
        let firsts: Vec<bool> = [0, 1, 5, 3, 3, 1, 6].into_iter().map(|seq| tally.note(seq)).collect();
        assert_eq!(firsts, [true, true, true, true, false, false, true]);
        assert_eq!((tally.received, tally.duplicates, tally.reordered), (5, 2, 1));
        assert_eq!(tally.missing_between(), 2, "2 and 4 never came");
        assert_eq!(tally.lost(10), 5, "2, 4, 7, 8 and 9 never came");
    }
}
