//! A shard's figures, readable from other threads without a word to the shard.
//!
//! Owns: the published copy. Must not: be counted in: the shard counts in plain numbers of its own and copies them
//! here by relaxed stores, at most every [`PUBLISH_INTERVAL_MS`] and whenever it is about to sleep. Talks to:
//! `shard_driver`, which writes; `http` and `metrics`, which read.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use connect_core::Counters;

use crate::plane::PlaneCounters;

/// How old the figures of a busy shard may be, in milliseconds.
pub(crate) const PUBLISH_INTERVAL_MS: u64 = 10;

/// What a shard counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShardFigures {
    /// Sessions, rooms and pushes.
    pub(crate) core: Counters,
    /// Sockets.
    pub(crate) plane: PlaneCounters,
    /// The driver around them.
    pub(crate) driver: DriverCounters,
}

/// What the shard's driver counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DriverCounters {
    /// Turns of the loop.
    pub(crate) turns: u64,
    /// Times that the loop slept.
    pub(crate) sleeps: u64,
    /// Of these: times that it let clients wait, because they only sent pongs.
    pub(crate) dozes: u64,
    /// Accepts that failed for want of descriptors or memory.
    pub(crate) accept_errors: u64,
    /// Joins answered 503 here: no controller, or the bridge is behind.
    pub(crate) joins_unavailable: u64,
    /// Questions for the members of a room that were dropped because the bridge is behind.
    pub(crate) members_unasked: u64,
    /// Gauge: items for the bridge that its lane had no room for.
    pub(crate) backlog: u64,
}

/// How many numbers there are: all three structs hold nothing but `u64`.
const NUMBERS: usize = size_of::<ShardFigures>() / size_of::<u64>();

/// The published figures. Each is right; two of them may be of different turns.
#[derive(Debug)]
pub(crate) struct ShardStats([AtomicU64; NUMBERS]);

impl Default for ShardStats {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl ShardStats {
    /// Publishes the figures. One thread only.
    pub(crate) fn publish(&self, mut figures: ShardFigures) {
        let mut cells = self.0.iter();
        figures.each(|number| {
            if let Some(cell) = cells.next() {
                cell.store(*number, Ordering::Relaxed);
            }
        });
    }

    /// What was published last.
    pub(crate) fn read(&self) -> ShardFigures {
        let mut figures = ShardFigures::default();
        let mut cells = self.0.iter();
        figures.each(|number| *number = cells.next().map_or(0, |cell| cell.load(Ordering::Relaxed)));
        figures
    }
}

impl ShardFigures {
    /// Visits every number, always in the same order. The patterns name every field, so that a new one cannot be
    /// forgotten here.
    fn each(&mut self, mut visit: impl FnMut(&mut u64)) {
        let Self { core, plane, driver } = self;
        let Counters {
            connections,
            joined,
            echoing,
            users,
            rooms,
            open_deliveries,
            accepted,
            refused_full,
            refused_draining,
            refused,
            refused_otherwise,
            closes,
            bytes_read,
            messages,
            commands,
            pings,
            pongs,
            deferred,
            joins_asked,
            pushes,
            members,
            written,
            dropped,
            late_written,
            late_dropped,
            frames_written,
            bytes_written,
            writes,
            coalesced_frames,
            stale,
        } = core;
        let gauges = [connections, joined, echoing, users, rooms, open_deliveries];
        let clients = [accepted, refused_full, refused_draining, refused_otherwise, bytes_read, messages];
        let pushed = [commands, pings, pongs, deferred, joins_asked, pushes, members, written, late_written];
        let out = [frames_written, bytes_written, writes, coalesced_frames, stale];
        gauges.into_iter().chain(clients).chain(pushed).chain(out).for_each(&mut visit);
        refused.iter_mut().chain(closes).chain(dropped).chain(late_dropped).for_each(&mut visit);
        let PlaneCounters {
            sockets,
            writes_in_flight,
            receives,
            sends,
            enters,
            polls_rearmed,
            completion_overflows,
            stale,
        } = plane;
        let io =
            [sockets, writes_in_flight, receives, sends, enters, polls_rearmed, completion_overflows, stale];
        io.into_iter().for_each(&mut visit);
        let DriverCounters {
            turns,
            sleeps,
            dozes,
            accept_errors,
            joins_unavailable,
            members_unasked,
            backlog,
        } = driver;
        [turns, sleeps, dozes, accept_errors, joins_unavailable, members_unasked, backlog]
            .into_iter()
            .for_each(visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_arrives_in_its_place() {
        let mut figures = ShardFigures::default();
        let mut next = 0;
        figures.each(|number| {
            next += 1;
            *number = next;
        });
        assert_eq!(next as usize, NUMBERS, "a number is not visited, or one is no u64");
        let stats = ShardStats::default();
        stats.publish(figures.clone());
        assert_eq!(stats.read(), figures);
    }
}
