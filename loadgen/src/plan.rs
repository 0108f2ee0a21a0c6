//! What a fleet is to do.
//!
//! Owns: the plan and its defaults. Must not: do any of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How a client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// A close frame with code 1000, then the server's answer is awaited.
    Close,
    /// `shutdown(SHUT_WR)` without a close frame; goes on reading.
    HalfClose,
    /// A TCP reset.
    Reset,
    /// Reads and writes nothing any more, pings stay unanswered; the socket stays open.
    Silence,
    /// Never reads again, so that the server's bytes pile up; the socket stays open.
    Deaf,
}

/// Names a client by its number.
pub type Naming = Arc<dyn Fn(usize) -> String + Send + Sync>;

/// A fleet of clients: how many, how fast, who they are.
#[derive(Clone)]
pub struct FleetPlan {
    /// The node's HTTP port.
    pub addr: SocketAddr,
    /// Clients in all.
    pub count: usize,
    /// Connects a second, on a fixed schedule that waits for nobody.
    pub rate: f64,
    /// The user of a client.
    pub user: Naming,
    /// The room of a client.
    pub room: Naming,
    /// Added to the query as it is, such as `&device=phone`.
    pub query: String,
    /// Connects that may be open at a time while their 101 is awaited, and, where clients leave at once, clients
    /// in all. The schedule waits where this many are, and the wait shows in the connect time.
    pub max_open: usize,
    /// Clients go this way as soon as they have joined.
    pub leave_when_joined: Option<Leave>,
    /// SO_RCVBUF of every client, in bytes; `None`: as the kernel has it. Small ones make slow clients cheap.
    pub receive_buffer: Option<usize>,
    /// How long a client waits for its 101.
    pub connect_timeout: Duration,
}

impl FleetPlan {
    /// `count` clients with users `{user_prefix}0`, `{user_prefix}1`... in rooms by number, 2,000 connects a
    /// second.
    pub fn new(
        addr: SocketAddr,
        count: usize,
        user_prefix: &str,
        room: impl Fn(usize) -> String + Send + Sync + 'static,
    ) -> Self {
        let prefix = user_prefix.to_owned();
        Self {
            addr,
            count,
            rate: 2_000.0,
            user: Arc::new(move |number| format!("{prefix}{number}")),
            room: Arc::new(room),
            query: String::new(),
            max_open: 1_000,
            leave_when_joined: None,
            receive_buffer: None,
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// Connects a second.
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = rate;
        self
    }

    /// Every client goes this way as soon as it has joined; at most `max_open` are there at a time.
    pub fn leaving(mut self, leave: Leave, max_open: usize) -> Self {
        self.leave_when_joined = Some(leave);
        self.max_open = max_open;
        self
    }

    /// SO_RCVBUF of every client, in bytes.
    pub fn receive_buffer(mut self, bytes: usize) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }
}
