//! What a shard counts. Plain numbers: one thread writes them, the driver publishes them.
//!
//! Owns: the numbers and their names. Must not: decide anything, nor be read back by what is counted.

use crate::close::CloseReason;
use crate::event::DropReason;

/// The statuses with which a request is refused; [`Counters::refused`] is indexed by their place here.
pub const REFUSAL_STATUSES: [u16; 14] =
    [400, 404, 405, 408, 409, 411, 413, 414, 417, 426, 431, 501, 503, 505];

/// The counts of a shard since its start, and its gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Gauge: slots in use, from accept to gone.
    pub connections: u64,
    /// Gauge: sessions that are live in the node's presence.
    pub joined: u64,
    /// Gauge: WebSockets on `/echo`.
    pub echoing: u64,
    /// Gauge: users with a live session here.
    pub users: u64,
    /// Gauge: rooms with a live session here.
    pub rooms: u64,
    /// Gauge: pushes whose report is still to come.
    pub open_deliveries: u64,
    /// Sockets taken.
    pub accepted: u64,
    /// Sockets refused: the table was full.
    pub refused_full: u64,
    /// Sockets refused: the shard was draining.
    pub refused_draining: u64,
    /// Requests refused, by the place of their status in [`REFUSAL_STATUSES`].
    pub refused: [u64; REFUSAL_STATUSES.len()],
    /// Requests refused with any other status.
    pub refused_otherwise: u64,
    /// WebSockets ended, by [`CloseReason`]; counted when the end begins.
    pub closes: [u64; CloseReason::ALL.len()],
    /// Bytes read.
    pub bytes_read: u64,
    /// Messages of clients.
    pub messages: u64,
    /// Messages that were commands.
    pub commands: u64,
    /// Pings sent.
    pub pings: u64,
    /// Pongs received.
    pub pongs: u64,
    /// Sessions whose time was over while the shard was behind, so that they got longer.
    pub deferred: u64,
    /// Joins asked of the controller, probes included.
    pub joins_asked: u64,
    /// Pushes taken from the bridge.
    pub pushes: u64,
    /// Sessions found for them: the sum of `written`, `dropped` and what is still queued.
    pub members: u64,
    /// Pushes whose last byte the kernel took, in sessions.
    pub written: u64,
    /// Pushes dropped, in sessions, by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Of `written`: those that had been reported as queued.
    pub late_written: u64,
    /// Of `dropped`: those that had been reported as queued.
    pub late_dropped: [u64; DropReason::ALL.len()],
    /// Frames whose last byte the kernel took, of every kind.
    pub frames_written: u64,
    /// Bytes that the kernel took.
    pub bytes_written: u64,
    /// Writes handed to the driver.
    pub writes: u64,
    /// Frames that needed no write of their own, because they shared one.
    pub coalesced_frames: u64,
    /// Inputs for a session that was over, or not waiting for such an input.
    pub stale: u64,
}

impl Counters {
    /// Counts a refused request.
    pub(crate) fn count_refusal(&mut self, status: u16) {
        match REFUSAL_STATUSES.iter().position(|&known| known == status) {
            Some(place) => self.refused[place] += 1,
            None => self.refused_otherwise += 1,
        }
    }

    /// Sessions for which a push is still queued.
    pub fn queued(&self) -> u64 {
        self.members - self.written - self.dropped.iter().sum::<u64>()
    }
}
