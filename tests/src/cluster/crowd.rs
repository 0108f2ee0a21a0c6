//! The clients of a scenario: they join, record all that they see, and come back over the nodes when they are lost.
//!
//! Owns: who they are, their records. Must not: judge. Talks to: loadgen's fleet.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use loadgen::{Entry, Fleet, FleetPlan, Heartbeat, Leave, Reconnect};

use crate::eventually;
use crate::oracle::{Client, Spans};

/// Clients of a room.
const ROOM_SIZE: usize = 20;

/// One client in so many is a second device of the user before.
const SECOND_DEVICE: usize = 10;

/// How often a client asks whether its node is there, and how long it waits for any word.
const HEARTBEAT: Heartbeat = Heartbeat { every: Duration::from_secs(2), timeout: Duration::from_secs(6) };

/// How long a client waits for its 101, which a node may hold for 5 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);

/// Connects a second at the start.
const JOINS_PER_SECOND: f64 = 1_000.0;

/// How long a connection that was given up as silent may have been dead before.
pub(super) const SILENCE: Duration =
    HEARTBEAT.timeout.saturating_add(HEARTBEAT.every).saturating_add(HEARTBEAT.every);

/// The clients.
pub struct Crowd {
    /// Who they are, by their numbers.
    pub clients: Vec<Client>,
    fleet: Fleet,
    entries: Vec<Entry>,
    nodes: usize,
}

impl Crowd {
    /// So many begin to connect, to the nodes in turn, or all to one; one that is lost waits up to `jitter` before each
    /// attempt.
    pub fn connect(nodes: &[SocketAddr], count: usize, jitter: Duration, begin_at: Option<usize>) -> Self {
        let mut plan = FleetPlan::new(nodes[0], count, "", |number| client(number).room);
        plan.user = std::sync::Arc::new(|number| client(number).user);
        plan.addrs = nodes.to_vec();
        plan.begin_at = begin_at;
        plan.rate = JOINS_PER_SECOND;
        plan.connect_timeout = CONNECT_TIMEOUT;
        plan.reconnect = Some(Reconnect { min: Duration::ZERO, max: jitter });
        plan.heartbeat = Some(HEARTBEAT);
        plan.journal = true;
        let fleet = Fleet::connect(plan).unwrap_or_else(|error| panic!("the clients: {error:#}"));
        Self { clients: (0..count).map(client).collect(), fleet, entries: Vec::new(), nodes: nodes.len() }
    }

    /// All that the clients saw so far.
    pub fn entries(&mut self) -> &[Entry] {
        let more = self.fleet.journal().unwrap_or_else(|error| panic!("the clients' journal: {error:#}"));
        self.entries.extend(more);
        &self.entries
    }

    /// Their connections so far.
    pub fn spans(&mut self) -> Spans {
        let clients = self.clients.len();
        Spans::new(self.entries(), clients, SILENCE)
    }

    /// How many are connected to each node.
    pub fn by_node(&mut self) -> Vec<usize> {
        let nodes = self.nodes;
        self.spans().connected_by_node(nodes)
    }

    /// Waits until all are connected.
    pub async fn all_connected(&self, within: Duration) {
        let count = self.clients.len();
        eventually(&format!("all {count} clients are connected"), within, async || {
            let totals = self.fleet.totals();
            if totals.live == count { Ok(()) } else { Err(totals) }
        })
        .await;
    }

    /// How many are connected now.
    pub fn live(&self) -> usize {
        self.fleet.totals().live
    }

    /// Attempts to connect that were answered with a refusal, so far.
    pub fn refused(&self) -> usize {
        self.fleet.totals().refused
    }

    /// These reset their connections and come back.
    pub fn rejoin(&self, numbers: Range<usize>) {
        self.fleet.lose(numbers);
    }

    /// These go for good.
    pub fn leave(&self, numbers: Range<usize>) {
        self.fleet.leave(numbers, Leave::Close);
    }

    /// All go for good; returns when all are gone.
    pub async fn leave_all(&self) {
        self.leave(0..self.clients.len());
        eventually("all clients are gone", Duration::from_secs(20), async || {
            let totals = self.fleet.totals();
            if totals.live + totals.mute == 0 { Ok(()) } else { Err(totals) }
        })
        .await;
    }

    /// The rooms.
    pub fn rooms(&self) -> usize {
        self.clients.len().div_ceil(ROOM_SIZE)
    }
}

/// The name of a room.
pub(super) fn room(number: usize) -> String {
    format!("room-{number}")
}

/// The client of a number. A second device is in the same room as the first, on the next node.
fn client(number: usize) -> Client {
    let is_second = number % SECOND_DEVICE == SECOND_DEVICE - 1;
    Client { user: format!("user-{}", number - usize::from(is_second)), room: room(number / ROOM_SIZE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_devices_are_in_the_room_of_the_first() {
        assert_eq!(client(8), client(9));
        assert_ne!(client(9).user, client(10).user);
        assert_eq!((client(19).room, client(20).room), (room(0), room(1)));
    }
}
