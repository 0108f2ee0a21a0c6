//! One session: where it is in its life, what it has joined, what waits for it.
//!
//! Owns: the session's own state, small enough that a million of them fit. Must not: reach for another session.
//! Talks to: `shard`, which moves it from phase to phase.
//!
//! A life: Head (reads the request) → Asked (the join is with the controller, the 101 is held) → Live → Closing
//! (close frame sent) → Finishing (our side is shut) → Ended (the driver closes the socket) → Vacant. A plain
//! request goes from Head by Asking (the driver makes the answer) and Answering to Finishing.

use crate::deadlines::NO_TICK;
use crate::handshake::{AcceptKey, JoinQuery};
use crate::message::MessageReader;
use crate::outbox::Outbox;
use crate::room::Membership;

/// One slot of the table. The first cache line holds what a fan-out touches.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Session {
    /// What waits to be written.
    pub(crate) outbox: Outbox,
    /// Where it is in its life.
    pub(crate) phase: Phase,
    /// Its place among its user's sessions; [`Membership::NONE`] while it has not joined.
    pub(crate) user: Membership,
    /// Which use of the slot this is.
    pub(crate) generation: u32,
    /// It stands in the outputs of this wake-up as writable.
    pub(crate) announced: bool,
    /// A ping was sent and nothing was heard since.
    pub(crate) awaits_pong: bool,
    /// The peer has shut its side.
    pub(crate) peer_ended: bool,
    /// Its rooms.
    pub(crate) rooms: Rooms,
    /// When it is to be looked at, in monotonic milliseconds.
    pub(crate) deadline_ms: u64,
    /// The tick of its entry in the wheel.
    pub(crate) tick: u32,
    /// The user's name.
    pub(crate) name: Box<str>,
    /// What it gave beside its name; most give nothing.
    pub(crate) metadata: Option<Box<Metadata>>,
    /// When it connected, in milliseconds since the Unix epoch.
    pub(crate) connected_unix_ms: i64,
}

/// Names and values that the client gave.
pub(crate) type Metadata = Vec<(String, String)>;

/// A reader is kept only while a message is unfinished.
pub(crate) type Unfinished = Option<Box<MessageReader>>;

/// Where a session is in its life.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The slot is free.
    Vacant,
    /// The request head is being read; holds what has come of it.
    Head(Unread),
    /// The join is with the controller.
    Asked(Box<Asked>),
    /// The driver makes the answer to a plain request.
    Asking,
    /// The answer to a plain request is being written.
    Answering,
    /// A WebSocket in a room.
    Live(Unfinished),
    /// A WebSocket that sends back what it gets.
    Echo(Unfinished),
    /// Our close frame is on its way, and the peer's answer is waited for.
    Closing(Unfinished),
    /// Our close frame is on its way; what the peer sends is of no interest any more.
    Parting,
    /// All is written and our side shut; the peer's end is waited for.
    Finishing,
    /// The driver ends the socket.
    Ended,
}

/// A part of a request head. Most heads come whole: no buffer for those.
// Boxed, or every phase would be as large as a vector.
#[allow(clippy::box_collection)]
pub(crate) type Unread = Option<Box<Vec<u8>>>;

/// A join that waits for its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Who wants to join what.
    pub(crate) query: JoinQuery,
    /// The upgrade; `None`: a probe.
    pub(crate) upgrade: Option<AcceptKey>,
    /// Of which trace it is a part, as the client said.
    pub(crate) traceparent: Option<Box<str>>,
    /// What came behind the request.
    pub(crate) early: Vec<u8>,
}

/// The rooms of a session; nearly all have one.
#[derive(Debug)]
pub(crate) enum Rooms {
    /// At most one; [`Membership::NONE`]: none.
    One(Membership),
    /// Several.
    // Boxed: a vector would make every session larger.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<Membership>>),
}

impl Rooms {
    /// No room.
    pub(crate) const NONE: Self = Self::One(Membership::NONE);

    /// All of them.
    pub(crate) fn as_slice(&self) -> &[Membership] {
        match self {
            Self::One(membership) if *membership == Membership::NONE => &[],
            Self::One(membership) => std::slice::from_ref(membership),
            Self::Many(memberships) => memberships,
        }
    }

    /// The membership in this room.
    pub(crate) fn find(&self, room: u32) -> Option<Membership> {
        self.as_slice().iter().find(|membership| membership.group == room).copied()
    }

    /// Adds one.
    pub(crate) fn add(&mut self, membership: Membership) {
        match self {
            Self::One(first) if *first == Membership::NONE => *first = membership,
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, membership])),
            Self::Many(memberships) => memberships.push(membership),
        }
    }

    /// Takes the membership in this room away.
    pub(crate) fn remove(&mut self, room: u32) {
        match self {
            Self::One(first) if first.group == room => *first = Membership::NONE,
            Self::One(_) => {}
            Self::Many(memberships) => {
                memberships.retain(|membership| membership.group != room);
                if let [last] = memberships[..] {
                    *self = Self::One(last);
                }
            }
        }
    }

    /// The session stands in another place of this room's list now.
    pub(crate) fn moved(&mut self, to: Membership) {
        let memberships = match self {
            Self::One(first) => std::slice::from_mut(first),
            Self::Many(memberships) => memberships,
        };
        if let Some(membership) = memberships.iter_mut().find(|membership| membership.group == to.group) {
            membership.place = to.place;
        }
    }
}

// Of the goal of 400 bytes a joined session this is the largest part.
const _: () = assert!(size_of::<Session>() == 128);

impl Session {
    /// A free slot that was never used.
    pub(crate) fn vacant() -> Self {
        Self {
            outbox: Outbox::default(),
            phase: Phase::Vacant,
            user: Membership::NONE,
            generation: 0,
            announced: false,
            awaits_pong: false,
            peer_ended: false,
            rooms: Rooms::NONE,
            deadline_ms: u64::MAX,
            tick: NO_TICK,
            name: Box::default(),
            metadata: None,
            connected_unix_ms: 0,
        }
    }

    /// It is in the node's presence: pushes reach it.
    #[inline]
    pub(crate) fn is_joined(&self) -> bool {
        matches!(self.phase, Phase::Live(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(group: u32, place: u32) -> Membership {
        Membership { group, place }
    }

    #[test]
    fn rooms_grow_from_none_to_many_and_back() {
        let mut rooms = Rooms::NONE;
        assert_eq!(rooms.as_slice(), []);
        rooms.add(at(3, 0));
        rooms.moved(at(3, 9));
        assert_eq!((rooms.as_slice(), rooms.find(4)), (&[at(3, 9)][..], None));
        rooms.add(at(4, 1));
        rooms.add(at(5, 2));
        rooms.moved(at(4, 7));
        assert_eq!(rooms.find(4), Some(at(4, 7)));
        rooms.remove(3);
        rooms.remove(3);
        rooms.remove(5);
        assert!(matches!(rooms, Rooms::One(last) if last == at(4, 7)));
        rooms.remove(5);
        rooms.remove(4);
        assert_eq!(rooms.as_slice(), []);
    }
}
