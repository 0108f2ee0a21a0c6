//! Clients' connections in time: from the join to the end, each at one node.
//!
//! Owns: what entries say of a connection's life. Must not: know pushes.

use std::time::Duration;

use loadgen::{Ended, Entry, Seen};

/// How long a node may take a connection for alive whose client has given it up as silent: an interval of pings, the
/// time for the answer, and some more.
const UNNOTICED: Duration = Duration::from_secs(40);

/// A connection that was joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Which of the client's connections.
    pub connection: u32,
    /// The node's place.
    pub node: u16,
    /// When the client knew that it had joined.
    pub from_ns: u64,
    /// Until when it surely was alive; the largest value: it is.
    pub to_ns: u64,
    /// When the client knew that it was over; the largest value: it is not.
    pub ended_ns: u64,
    /// Until when the node may have taken it for alive.
    pub lingers_ns: u64,
    /// How it ended.
    pub how: Option<Ended>,
}

impl Span {
    /// It was there the whole time.
    pub fn covers(&self, from_ns: u64, to_ns: u64) -> bool {
        self.from_ns < from_ns && to_ns < self.to_ns
    }

    /// The node may have taken it for alive for a part of it.
    pub fn touches(&self, from_ns: u64, to_ns: u64) -> bool {
        self.from_ns < to_ns && from_ns < self.lingers_ns
    }
}

/// The connections of all clients.
#[derive(Debug, Default)]
pub struct Spans {
    by_client: Vec<Vec<Span>>,
    /// How the last attempt of each client ended.
    last: Vec<Option<Ended>>,
}

impl Spans {
    /// Of so many clients. A connection that was given up as silent may have been dead for `silence` before.
    pub fn new(entries: &[Entry], clients: usize, silence: Duration) -> Self {
        let mut spans = Self { by_client: vec![Vec::new(); clients], last: vec![None; clients] };
        for entry in entries {
            let client = entry.client as usize;
            if client >= clients {
                continue;
            }
            match &entry.seen {
                Seen::Joined { node } => {
                    spans.last[client] = None;
                    spans.by_client[client].push(Span {
                        connection: entry.connection,
                        node: *node,
                        from_ns: entry.at_ns,
                        to_ns: u64::MAX,
                        ended_ns: u64::MAX,
                        lingers_ns: u64::MAX,
                        how: None,
                    });
                }
                Seen::Ended { how, .. } => {
                    spans.last[client] = Some((**how).clone());
                    let open = spans.by_client[client].last_mut();
                    if let Some(span) = open.filter(|span| span.connection == entry.connection) {
                        span.ended_ns = entry.at_ns;
                        let (before, after) =
                            if is_silence(how) { (silence, UNNOTICED) } else { Default::default() };
                        span.to_ns = entry.at_ns.saturating_sub(before.as_nanos() as u64);
                        span.lingers_ns = entry.at_ns.saturating_add(after.as_nanos() as u64);
                        span.how = Some((**how).clone());
                    }
                }
                Seen::Got { .. } => {}
            }
        }
        spans
    }

    /// A client's connections, in their order.
    pub fn of(&self, client: usize) -> &[Span] {
        self.by_client.get(client).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a client's last connection is there.
    pub fn is_connected(&self, client: usize) -> bool {
        self.of(client).last().is_some_and(|span| span.ended_ns == u64::MAX)
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        (0..self.by_client.len()).filter(|client| self.is_connected(*client)).count()
    }

    /// How many clients are connected, by node.
    pub fn connected_by_node(&self, nodes: usize) -> Vec<usize> {
        let mut connected = vec![0; nodes];
        for client in 0..self.by_client.len() {
            let there = self.of(client).last().filter(|span| span.ended_ns == u64::MAX);
            if let Some(place) = there.and_then(|span| connected.get_mut(usize::from(span.node))) {
                *place += 1;
            }
        }
        connected
    }

    /// Connections that ended since then without their clients' will.
    pub fn ended_since(&self, since_ns: u64) -> impl Iterator<Item = &Span> {
        let over = move |span: &&Span| {
            span.how.as_ref().is_some_and(|how| *how != Ended::Left) && span.ended_ns >= since_ns
        };
        self.by_client.iter().flatten().filter(over)
    }

    /// How long each client that lost its connection since then was away, those that are not back left out.
    pub fn away_since(&self, since_ns: u64) -> Vec<Duration> {
        let mut away = Vec::new();
        for spans in &self.by_client {
            for pair in spans.windows(2).filter(|pair| pair[0].ended_ns >= since_ns) {
                away.push(Duration::from_nanos(pair[1].from_ns.saturating_sub(pair[0].ended_ns)));
            }
        }
        away.sort_unstable();
        away
    }

    /// How a client's last attempt ended, for people.
    pub fn last_word(&self, client: usize) -> String {
        match self.last.get(client) {
            Some(Some(ended)) => ended.name(),
            _ => "no word of it".into(),
        }
    }
}

/// The client gave it up, because nothing came.
fn is_silence(how: &Ended) -> bool {
    matches!(how, Ended::Broken { error } if error.contains("silent"))
}
