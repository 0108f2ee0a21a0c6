//! What one connection saw.
//!
//! Owns: telling first receipts, doubles and late ones apart. Must not: know sockets or clocks. An idle connection
//! has no tally of streams; a stream without losses costs one entry.

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

impl Ended {
    /// In a word: `left`, `refused 409`, `closed 1012`, `broken: ...`.
    pub fn name(&self) -> String {
        match self {
            Self::Left => "left".into(),
            Self::Refused { status } => format!("refused {status}"),
            Self::ClosedByServer { code, .. } => format!("closed {code}"),
            Self::Broken { error } => format!("broken: {error}"),
        }
    }
}

/// What a connection saw of one stream of pushes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamTally {
    /// The stream's number.
    pub stream: u32,
    /// Receipts beyond the first.
    pub duplicates: u64,
    /// Receipts that came after a later one.
    pub reordered: u64,
    /// Pushes received, each counted once.
    pub received: u64,
    /// The first number that had to come: those before it left before the connection was joined.
    pub start: u64,
    /// The number that would come next.
    pub next: u64,
    /// Numbers below `next` that never came.
    pub(crate) gaps: Vec<Range<u64>>,
}

impl StreamTally {
    /// Of a connection to which everything from `start` on has to come.
    pub(crate) fn from(stream: u32, start: u64) -> Self {
        Self { stream, start, next: start, ..Self::default() }
    }

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
        if self.received == 0 {
            // It was sent before the join was seen here, and it came: so must those after it.
            self.start = seq;
            self.next = seq + 1;
            self.received = 1;
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

/// Takes a stamped frame in; returns whether it was the first receipt of this push, and whether it came late.
pub(crate) fn note(streams: &mut Vec<StreamTally>, stamp: Stamp) -> Receipt {
    let at = match streams.iter().position(|tally| tally.stream == stamp.stream) {
        Some(at) => at,
        None => {
            // One more, not twice as many: most connections see one or two.
            streams.reserve_exact(1);
            streams.push(StreamTally::from(stamp.stream, 0));
            streams.len() - 1
        }
    };
    let late = streams[at].reordered;
    let first = streams[at].note(stamp.seq);
    Receipt { first, late: streams[at].reordered > late }
}

/// What a receipt was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    /// The first of its push.
    pub(crate) first: bool,
    /// After a later push of its stream.
    pub(crate) late: bool,
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

    #[test]
    fn what_left_before_the_join_is_not_lost() {
        let mut tally = StreamTally::from(1, 10);
        assert_eq!(tally.lost(12), 2);
        assert!(tally.note(11));
        assert_eq!((tally.lost(12), tally.start), (1, 10), "10 had to come");
        let mut early = StreamTally::from(1, 10);
        assert!(early.note(8) && early.note(10));
        assert_eq!((early.lost(11), early.start), (1, 8), "9 had to come, since 8 did");
    }
}
