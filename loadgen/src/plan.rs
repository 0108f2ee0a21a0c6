//! What a fleet is to do.
//!
//! Owns: the plan and its defaults. Must not: do any of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::spans::SpanBook;
use crate::streams::{Streams, Who};

/// The request of a client of Ringcast.
pub const RINGCAST_PATH: &str = "/ws?user_id={user}&user_name={user}&room_id={room}";

/// Clients that one thread serves, where the plan says nothing else: below the usual limit of open files, and
/// below the ports of one source address.
pub const CLIENTS_PER_THREAD: usize = 16_000;

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

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// As soon as something is there.
    #[default]
    Prompt,
    /// At most so many bytes a second, ten times a second.
    Slow(u32),
    /// Never, once it has joined.
    Deaf,
}

/// Clients whose connection ended without their will come back.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reconnect {
    /// The shortest wait.
    pub min: Duration,
    /// The longest: the wait is drawn evenly between both (full jitter).
    pub max: Duration,
}

/// Clients ask their node whether it is still there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heartbeat {
    /// How often a client sends a ping.
    pub every: Duration,
    /// A connection on which nothing came for so long is given up.
    pub timeout: Duration,
}

/// Names a client by its number.
pub type Naming = Arc<dyn Fn(usize) -> String + Send + Sync>;

/// A fleet of clients: how many, how fast, who they are.
#[derive(Clone)]
pub struct FleetPlan {
    /// The nodes' HTTP ports; client n goes to the n-th, around, and one further each time it comes back.
    pub addrs: Vec<SocketAddr>,
    /// All clients go to the node of this place first, and only those that come back to the others.
    pub begin_at: Option<usize>,
    /// Clients in all.
    pub count: usize,
    /// Connects a second, on a fixed schedule that waits for nobody; infinite: each as soon as `max_open` lets it, and
    /// its time counts from there.
    pub rate: f64,
    /// The user of a client.
    pub user: Naming,
    /// The room of a client.
    pub room: Naming,
    /// The path of the upgrade, in which `{user}` and `{room}` are replaced.
    pub path: String,
    /// Added to the path as it is, such as `&device=phone`.
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
    /// Threads, each with its own table of descriptors; 0: one for each [`CLIENTS_PER_THREAD`].
    pub threads: usize,
    /// Whether and when clients come back.
    pub reconnect: Option<Reconnect>,
    /// Whether clients find out a node that is silent; `None`: they wait for ever, as their TCP does.
    pub heartbeat: Option<Heartbeat>,
    /// Keeps what each client saw, for [`Fleet::journal`](crate::Fleet::journal). It grows with every receipt.
    pub journal: bool,
    /// How a client reads; `None`: all promptly.
    pub manner: Option<Arc<dyn Fn(usize) -> Manner + Send + Sync>>,
    /// Burnt for each frame: makes the generator slow on purpose.
    pub handicap: Duration,
    /// What a run knows of its clients beyond their names.
    pub(crate) run: Option<InRun>,
}

/// What ties a fleet to a run.
#[derive(Clone)]
pub(crate) struct InRun {
    /// The fleet's group in the scenario.
    pub(crate) group: u16,
    /// The number of a client's room in the group.
    pub(crate) room_of: Arc<dyn Fn(usize) -> u32 + Send + Sync>,
    /// Which pushes there are.
    pub(crate) streams: Arc<Streams>,
    /// Where the first and the last receiver of each push are found.
    pub(crate) spans: Arc<SpanBook>,
    /// How many loads are measured apart.
    pub(crate) loads: usize,
}

impl InRun {
    /// The client of this number.
    pub(crate) fn who(&self, number: usize) -> Who {
        Who { group: self.group, number: number as u32, room: (self.room_of)(number) }
    }
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
            addrs: vec![addr],
            begin_at: None,
            count,
            rate: 2_000.0,
            user: Arc::new(move |number| format!("{prefix}{number}")),
            room: Arc::new(room),
            path: RINGCAST_PATH.into(),
            query: String::new(),
            max_open: 1_000,
            leave_when_joined: None,
            receive_buffer: None,
            connect_timeout: Duration::from_secs(10),
            threads: 0,
            reconnect: None,
            heartbeat: None,
            journal: false,
            manner: None,
            handicap: Duration::ZERO,
            run: None,
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

    /// The path of the upgrade, such as `/sub?room={room}`.
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Threads.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How many threads it takes.
    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => self.count.div_ceil(CLIENTS_PER_THREAD).max(1),
            threads => threads.min(self.count.max(1)),
        }
    }

    /// How this client reads.
    pub(crate) fn manner_of(&self, number: usize) -> Manner {
        self.manner.as_ref().map_or(Manner::Prompt, |manner| manner(number))
    }
}
