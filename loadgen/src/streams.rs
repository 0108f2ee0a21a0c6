//! The streams of pushes of a run: who may get them, and how many have left so far.
//!
//! Owns: the numbers of the streams and their counters, which publishers raise and clients read. Must not: know
//! sockets or schedules. Talks to: `press` (counts what leaves), `measured` (asks whom a stream is for), `judgement`.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Whom the pushes of a range are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A stream a room: stream n is for room n of the group.
    Room,
    /// A stream a client: stream n is for client n of the group.
    User,
    /// One stream, for everyone.
    All,
}

/// A client, as far as streams go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Who {
    /// Its group in the scenario.
    pub(crate) group: u16,
    /// Its number in the group.
    pub(crate) number: u32,
    /// Its room's number in the group.
    pub(crate) room: u32,
}

/// Streams of one load: as many as it has rooms or users.
#[derive(Debug)]
pub(crate) struct StreamRange {
    /// The number of the first stream.
    pub(crate) first: u32,
    /// Whom they are for.
    pub(crate) audience: Audience,
    /// The group of the rooms or users.
    pub(crate) group: u16,
    /// The load that they belong to; its measurements are kept apart.
    pub(crate) load: usize,
    /// Their latency counts; without it they only warm the system up.
    pub(crate) measured: bool,
    /// They are accepted in the order in which they leave, so that a late one is an error.
    pub(crate) ordered: bool,
    /// The next number of each stream.
    next: Box<[AtomicU64]>,
}

impl StreamRange {
    /// How many streams there are.
    pub(crate) fn count(&self) -> u32 {
        self.next.len() as u32
    }

    /// The stream that this client gets, if any.
    pub(crate) fn stream_of(&self, who: Who) -> Option<u32> {
        let at = match self.audience {
            Audience::All => 0,
            Audience::Room if who.group == self.group => who.room,
            Audience::User if who.group == self.group => who.number,
            Audience::Room | Audience::User => return None,
        };
        (at < self.count()).then(|| self.first + at)
    }

    /// Counts one more push of a stream, which is about to leave; its number.
    pub(crate) fn take_number(&self, stream: u32) -> u64 {
        self.next[(stream - self.first) as usize].fetch_add(1, SeqCst)
    }

    /// How many pushes of a stream have left.
    pub(crate) fn published(&self, stream: u32) -> u64 {
        self.next[(stream - self.first) as usize].load(SeqCst)
    }
}

/// All streams of a run.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    ranges: Vec<StreamRange>,
}

impl Streams {
    /// Adds the streams of a load; the number of its range.
    pub(crate) fn add(
        &mut self,
        audience: Audience,
        group: u16,
        count: u32,
        load: usize,
        measured: bool,
        ordered: bool,
    ) -> usize {
        let first = self.ranges.last().map_or(1, |last| last.first + last.count());
        let next = (0..count.max(1)).map(|_| AtomicU64::new(0)).collect();
        self.ranges.push(StreamRange { first, audience, group, load, measured, ordered, next });
        self.ranges.len() - 1
    }

    /// All ranges, in the order of their numbers.
    pub(crate) fn ranges(&self) -> &[StreamRange] {
        &self.ranges
    }

    /// The range of a stream; `None` where no load of this run has it.
    pub(crate) fn range_of(&self, stream: u32) -> Option<&StreamRange> {
        self.ranges.iter().find(|range| stream.wrapping_sub(range.first) < range.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_for_whom_it_is_for() {
        let mut streams = Streams::default();
        let rooms = streams.add(Audience::Room, 0, 3, 0, true, true);
        let users = streams.add(Audience::User, 1, 2, 1, true, true);
        streams.add(Audience::All, 0, 1, 2, true, true);
        let (rooms, users) = (&streams.ranges()[rooms], &streams.ranges()[users]);
        let member = Who { group: 0, number: 0, room: 2 };
        assert_eq!((rooms.stream_of(member), users.stream_of(member)), (Some(3), None));
        assert_eq!(rooms.stream_of(Who { room: 3, ..member }), None);
        assert_eq!(users.stream_of(Who { group: 1, number: 1, room: 0 }), Some(5));
        assert_eq!(streams.range_of(6).map(|range| range.audience), Some(Audience::All));
        assert!(streams.range_of(0).is_none() && streams.range_of(7).is_none());
        assert_eq!((rooms.take_number(2), rooms.take_number(2), rooms.published(2)), (0, 1, 2));
    }
}
