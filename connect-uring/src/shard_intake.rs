//! Everything that is to be told to a shard's core, one input after the other.
//!
//! Owns: what was taken from the bridge and the plane and is not told yet, and the shares that keep one source from
//! starving the others. Must not: decide anything about a session. Talks to: `shard_driver`, which passes each
//! input on to the core.

use std::collections::VecDeque;
use std::io::ErrorKind;

use connect_core::{HttpAnswer, Input, JoinDecision, Now};
use ringcast_proto::SessionId;

use crate::bridge::{ToShard, ToShardLane};
use crate::clock::Clock;
use crate::plane::{Plane, PlaneEvent};

/// What one receive takes at most; one buffer serves all sessions.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Receives of one session in a turn of the loop: a client that floods waits for the others after 256 KiB.
const RECEIVES_PER_TURN: u32 = 4;

/// How long a turn takes items of the bridge: sockets wait meanwhile.
const INBOX_MS_PER_TURN: u64 = 5;

/// An answer that was made here, beside the bridge.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To a plain HTTP request.
    Http(HttpAnswer),
    /// To a join that cannot be asked now.
    Join(JoinDecision),
}

/// See the module.
pub(crate) struct Intake {
    clock: Clock,
    inbox: VecDeque<ToShard>,
    inbox_until_ms: u64,
    /// The item that the last input borrowed from.
    current: Option<ToShard>,
    answers: VecDeque<(SessionId, Answer)>,
    /// In reverse: the next one is the last.
    events: Vec<PlaneEvent>,
    /// The session that is being received from, and how often it may be still.
    receiving: Option<(SessionId, u32)>,
    /// Sessions that had more to receive than their share.
    unread: Vec<SessionId>,
    scratch: Box<[u8]>,
    /// Sockets had more to tell than one turn takes.
    more: bool,
    /// What sockets told in this turn, and how many of that were receives of bytes.
    told: u64,
    received: u64,
    /// A controller is there to be asked for joins.
    pub(crate) controller_reachable: bool,
    /// Marks of the bridge that were passed in this turn.
    pub(crate) marks: u32,
    /// The drain has begun.
    pub(crate) draining: bool,
    /// The loop is to end.
    pub(crate) stopping: bool,
}

impl Intake {
    /// Nothing to tell yet.
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            inbox: VecDeque::new(),
            inbox_until_ms: 0,
            current: None,
            answers: VecDeque::new(),
            events: Vec::new(),
            receiving: None,
            unread: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            more: false,
            told: 0,
            received: 0,
            controller_reachable: false,
            marks: 0,
            draining: false,
            stopping: false,
        }
    }

    /// Begins a turn: takes what has come.
    pub(crate) fn gather(
        &mut self,
        now: Now,
        lane: &ToShardLane,
        plane: &mut dyn Plane,
    ) -> std::io::Result<()> {
        lane.drain_into(&mut self.inbox);
        self.inbox_until_ms = now.monotonic_ms + INBOX_MS_PER_TURN;
        debug_assert!(self.events.is_empty(), "a turn tells all events");
        (self.told, self.received) = (0, 0);
        self.more = plane.poll(&mut self.events)?;
        self.events.extend(self.unread.drain(..).map(|session| PlaneEvent::Readable { session }));
        self.events.reverse();
        Ok(())
    }

    /// Adds an answer that the core is to be told.
    pub(crate) fn answer(&mut self, session: SessionId, answer: Answer) {
        self.answers.push_back((session, answer));
    }

    /// Nothing is left to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.inbox.is_empty() && self.answers.is_empty() && self.unread.is_empty()
    }

    /// Not all that was said until this turn began is told when it ends.
    pub(crate) fn is_behind(&self) -> bool {
        // Who has more to receive than his share was heard: he must not keep others' time from running out.
        self.more || !self.inbox.is_empty()
    }

    /// How many receives of bytes this turn had, where sockets told of nothing else.
    pub(crate) fn received_only(&self) -> Option<u64> {
        (self.told > 0 && self.told == self.received).then_some(self.received)
    }

    /// The next input of this turn.
    pub(crate) fn next(&mut self, now: Now, plane: &mut dyn Plane) -> Option<Input<'_>> {
        if let Some((session, answer)) = self.answers.pop_front() {
            return Some(match answer {
                Answer::Http(answer) => Input::HttpAnswered { session, answer },
                Answer::Join(decision) => Input::JoinAnswered { session, decision },
            });
        }
        while self.takes_from_inbox() {
            match self.inbox.pop_front()? {
                ToShard::Deliver(delivery) => return Some(Input::Deliver(delivery)),
                ToShard::JoinAnswered { session, decision } => {
                    return Some(Input::JoinAnswered { session, decision });
                }
                ToShard::Reply { session, frame } => return Some(Input::Reply { session, frame }),
                ToShard::Snapshot => return Some(Input::Snapshot),
                ToShard::Drain { over_ms } => {
                    self.draining = true;
                    return Some(Input::Drain { until_ms: now.monotonic_ms + over_ms });
                }
                ToShard::Fence(on) => return Some(Input::Fence { on }),
                item @ ToShard::ChangeRooms { .. } => {
                    self.current = Some(item);
                    return self.change_rooms();
                }
                ToShard::ControllerReachable(reachable) => self.controller_reachable = reachable,
                ToShard::Mark => self.marks += 1,
                ToShard::Stop => self.stopping = true,
            }
        }
        self.next_event(plane)
    }

    fn takes_from_inbox(&self) -> bool {
        !self.inbox.is_empty() && self.clock.monotonic_ms() < self.inbox_until_ms
    }

    fn change_rooms(&self) -> Option<Input<'_>> {
        match self.current.as_ref()? {
            ToShard::ChangeRooms { command, sessions, room, add } => {
                Some(Input::ChangeRooms { command: *command, sessions, room, add: *add })
            }
            _ => None,
        }
    }

    fn next_event(&mut self, plane: &mut dyn Plane) -> Option<Input<'_>> {
        let (session, received) = loop {
            if let Some((session, left)) = self.receiving.take() {
                match plane.receive(session, &mut self.scratch) {
                    Ok(received) => {
                        self.told += 1;
                        if received.more && left > 1 {
                            self.receiving = Some((session, left - 1));
                        } else if received.more {
                            self.unread.push(session);
                        }
                        break (session, received.bytes);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => {
                        self.told += 1;
                        return Some(Input::Broken { session });
                    }
                }
            }
            let event = self.events.pop()?;
            self.told += u64::from(!matches!(event, PlaneEvent::Readable { .. }));
            match event {
                PlaneEvent::Readable { session } => self.receiving = Some((session, RECEIVES_PER_TURN)),
                PlaneEvent::Wrote { session, bytes, failed } => {
                    return Some(Input::Wrote { session, bytes, failed });
                }
                PlaneEvent::Broken { session } => return Some(Input::Broken { session }),
                PlaneEvent::Gone { session } => return Some(Input::Gone { session }),
            }
        };
        self.received += u64::from(received > 0);
        Some(match received {
            0 => Input::ReceiveEnded { session },
            bytes => Input::Received { session, bytes: &self.scratch[..bytes] },
        })
    }
}
