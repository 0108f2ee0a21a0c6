//! One turn of a shard: tells its core everything that has happened, then does everything that the core asks.
//!
//! Owns: the core, the plane, the listener, and what could not be said to the bridge yet. Must not: wait; the loop
//! around it does. Talks to: `shard_loop`, which turns it; `shard_intake`, which brings the inputs.
//!
//! [`ShardDriver::step`] is the only function that tells the core anything, and it empties the core's outputs
//! before it returns. Everything of one wake-up is told before anything is sent, so that frames for the same
//! session share one write.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use connect_core::{AcceptRefused, ControlEvent, JoinDecision, Now, Outputs, Shard, Write};

use crate::acceptor::{Acceptor, refuse};
use crate::bridge::{FromShard, ShardEnd};
use crate::clock::Clock;
use crate::event_fd::EventFd;
use crate::http::NodeStatus;
use crate::lane::KEPT_ITEMS;
use crate::plane::Plane;
use crate::shard_intake::{Answer, Intake};
use crate::shard_stats::{DriverCounters, PUBLISH_INTERVAL_MS, ShardFigures};

/// Clients that one turn takes: a storm of connects must not keep the others waiting.
const ACCEPTS_PER_TURN: usize = 64;

/// A loop that is never idle looks for clients every so many turns.
const TURNS_PER_ACCEPT: u64 = 16;

/// With more words than this waiting for the bridge, joins are answered 503 here.
const BACKLOG_OF_JOINS: usize = 4096;

/// After a turn in which clients sent pongs and nothing else, sockets are not listened to for so many milliseconds:
/// the next pongs share one wake-up. A client that has something to say waits for so long at most; pushes do not.
const DOZE_MS: u64 = 4;

/// A turn that begins so many milliseconds after it should have, because the one before took so long or the cores were
/// busy, closes nobody for being late.
const LATE_MS: u64 = 1000;

/// When the bridge's lane is full, it is tried again after so many milliseconds.
const RETRY_BRIDGE_MS: u64 = 5;

/// See the module.
pub(crate) struct ShardDriver {
    core: Shard,
    plane: Box<dyn Plane>,
    acceptor: Option<Acceptor>,
    bridge: ShardEnd,
    intake: Intake,
    outputs: Outputs,
    /// What the lane to the bridge had no room for.
    backlog: VecDeque<FromShard>,
    drained_told: bool,
    clock: Clock,
    status: Arc<NodeStatus>,
    counters: DriverCounters,
    published_ms: u64,
    doze_until_ms: u64,
    /// Turns since the loop last slept.
    turns_awake: u64,
}

impl ShardDriver {
    /// A shard without sessions.
    pub(crate) fn new(
        core: Shard,
        plane: Box<dyn Plane>,
        acceptor: Acceptor,
        bridge: ShardEnd,
        clock: Clock,
        status: Arc<NodeStatus>,
    ) -> Self {
        Self {
            core,
            plane,
            acceptor: Some(acceptor),
            bridge,
            intake: Intake::new(clock),
            outputs: Outputs::default(),
            backlog: VecDeque::new(),
            drained_told: false,
            clock,
            status,
            counters: DriverCounters::default(),
            published_ms: 0,
            doze_until_ms: 0,
            turns_awake: 0,
        }
    }

    /// One turn: everything that has happened, then everything that is asked for. The completions of what it hands
    /// to the kernel are told in the next turn.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        self.counters.turns += 1;
        self.turns_awake += 1;
        self.accept(now);
        self.intake.gather(now, &self.bridge.to_shard, &mut *self.plane)?;
        let pongs_before = self.core.counters().pongs;
        while let Some(input) = self.intake.next(now, &mut *self.plane) {
            self.core.handle(now, input, &mut self.outputs);
        }
        let pongs = self.core.counters().pongs - pongs_before;
        if self.intake.received_only().is_some_and(|received| received == pongs) {
            self.doze_until_ms = now.monotonic_ms + DOZE_MS;
        }
        if let Some(deadline) = self.core.next_deadline()
            && deadline <= now.monotonic_ms
        {
            let on_time = !self.intake.is_behind() && now.monotonic_ms - deadline < LATE_MS;
            self.core.handle_deadline(now, on_time, &mut self.outputs);
        }
        self.act();
        self.plane.flush()?;
        if now.monotonic_ms >= self.published_ms + PUBLISH_INTERVAL_MS {
            self.publish(now);
        }
        Ok(())
    }

    /// Takes clients, where there may be any.
    fn accept(&mut self, now: Now) {
        let Some(acceptor) = &mut self.acceptor else { return };
        if self.turns_awake.is_multiple_of(TURNS_PER_ACCEPT) {
            acceptor.set_ready();
        }
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(client) = acceptor.next(now.monotonic_ms) else { break };
            match self.core.accept(now, &mut self.outputs) {
                Ok(session) => self.plane.register(session, client),
                Err(AcceptRefused::Full) => acceptor.leave_to_others(client, now.monotonic_ms),
                Err(AcceptRefused::Draining) => refuse(client),
            }
        }
    }

    /// Does what the core asks for and empties its outputs.
    fn act(&mut self) {
        for (session, request) in self.outputs.http.drain(..) {
            self.intake.answer(session, Answer::Http(self.status.answer(request)));
        }
        let behind = self.backlog.len() >= BACKLOG_OF_JOINS;
        let joins = self.intake.controller_reachable && !behind;
        for event in self.outputs.control.drain(..) {
            match event {
                ControlEvent::Join { session, .. } if !joins => {
                    self.counters.joins_unavailable += 1;
                    self.intake.answer(session.session, Answer::Join(JoinDecision::Unavailable));
                }
                event => self.backlog.push_back(FromShard::Control(event)),
            }
        }
        for (session, room) in self.outputs.members.drain(..) {
            // A bridge that is behind is not asked for what can be asked again.
            match behind {
                true => self.counters.members_unasked += 1,
                false => self.backlog.push_back(FromShard::Members(session, room)),
            }
        }
        self.backlog.extend(self.outputs.census.drain(..).map(FromShard::Census));
        self.backlog.extend(self.outputs.reports.drain(..).map(FromShard::Report));
        // Behind the census: a mark says that all which came of the words before it has been told.
        for _ in 0..std::mem::take(&mut self.intake.marks) {
            self.backlog.push_back(FromShard::Mark);
        }
        for session in self.outputs.writable.drain(..) {
            let mut write = Write::default();
            self.core.fill(session, &mut write);
            if !write.is_empty() {
                self.plane.send(session, write);
            }
        }
        self.outputs.finish.drain(..).for_each(|session| self.plane.finish(session));
        self.outputs.end.drain(..).for_each(|session| self.plane.end(session));
        if self.intake.draining {
            if let Some(acceptor) = self.acceptor.take() {
                acceptor.close();
            }
            if self.core.is_drained() && !std::mem::replace(&mut self.drained_told, true) {
                self.backlog.push_back(FromShard::Drained);
            }
        }
        if !self.backlog.is_empty() {
            self.bridge.from_shard.push_from(&mut self.backlog);
            if self.backlog.is_empty() && self.backlog.capacity() > KEPT_ITEMS {
                self.backlog = VecDeque::new();
            }
        }
    }

    fn publish(&mut self, now: Now) {
        self.published_ms = now.monotonic_ms;
        if let Some(acceptor) = &self.acceptor {
            self.counters.accept_errors = acceptor.errors();
        }
        self.counters.backlog = self.backlog.len() as u64;
        self.bridge.stats.publish(ShardFigures {
            core: self.core.counters().clone(),
            plane: self.plane.counters(),
            driver: self.counters.clone(),
        });
    }

    /// Whether the loop may sleep, and then until when at most, in milliseconds from now. The figures are published
    /// before it does.
    pub(crate) fn may_sleep(&mut self) -> Option<Sleep> {
        let now = self.clock.now();
        let now_ms = now.monotonic_ms;
        if !self.intake.is_empty() || self.acceptor.as_ref().is_some_and(|acceptor| acceptor.is_ready(now_ms))
        {
            return None;
        }
        let paused = self.acceptor.as_ref().and_then(|acceptor| acceptor.paused_until_ms(now_ms));
        let retry = (!self.backlog.is_empty()).then_some(now_ms + RETRY_BRIDGE_MS);
        let dozes = self.doze_until_ms > now_ms;
        let doze = dozes.then_some(self.doze_until_ms);
        let deadline = [self.core.next_deadline(), paused, retry, doze].into_iter().flatten().min();
        if deadline.is_some_and(|deadline| deadline <= now_ms)
            || !self.plane.may_sleep(!dozes)
            || !self.bridge.to_shard.may_sleep()
        {
            return None;
        }
        self.counters.sleeps += 1;
        self.turns_awake = 0;
        self.counters.dozes += u64::from(dozes);
        self.publish(now);
        Some(Sleep {
            at_most_ms: deadline.map(|deadline| deadline - now_ms),
            accepts: self.acceptor.is_some() && paused.is_none(),
            listens: !dozes,
        })
    }

    /// The loop was woken by the bridge.
    pub(crate) fn woken_by_bridge(&mut self) {
        self.bridge.to_shard.event().clear();
    }

    /// The loop was woken by the plane.
    pub(crate) fn woken_by_plane(&mut self) {
        self.plane.woken();
    }

    /// The loop was woken by clients that wait.
    pub(crate) fn woken_by_clients(&mut self) {
        if let Some(acceptor) = &mut self.acceptor {
            acceptor.set_ready();
        }
    }

    /// The listener, until the drain.
    pub(crate) fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.acceptor.as_ref().map(AsFd::as_fd)
    }

    /// What tells of the bridge.
    pub(crate) fn bridge_event(&self) -> &EventFd {
        self.bridge.to_shard.event()
    }

    /// What tells of the sockets.
    pub(crate) fn plane_fd(&self) -> BorrowedFd<'_> {
        self.plane.wake_fd()
    }

    /// The bridge asked to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.intake.stopping
    }

    /// Ends every socket and waits for no client. [`finish_stop`](Self::finish_stop) is to be called until it says
    /// that all are gone.
    pub(crate) fn begin_stop(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.close();
        }
        self.plane.end_all();
    }

    /// Whether the last completion is in.
    pub(crate) fn finish_stop(&mut self) -> io::Result<bool> {
        self.plane.flush()?;
        self.plane.poll(&mut Vec::new())?;
        let counters = self.plane.counters();
        Ok(counters.sockets == 0 && counters.writes_in_flight == 0)
    }
}

/// How the loop may sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sleep {
    /// For so many milliseconds at most.
    pub(crate) at_most_ms: Option<u64>,
    /// A client that connects ends it.
    pub(crate) accepts: bool,
    /// What sockets tell ends it.
    pub(crate) listens: bool,
}
