//! A TCP proxy that a test puts between two processes, and breaks.
//!
//! Owns: the orders to the loop (`forwarder_loop`), which runs on a thread of its own. When a call returns, what it
//! asked for holds.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::forwarder_loop::{Loop, Order};
use crate::ports::Port;

/// How long the loop may take to do what it is told: it never waits for a peer for longer than that.
const LIMIT: Duration = Duration::from_secs(10);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From those who connect to the target.
    ToTarget,
    /// From the target to those who have connected.
    FromTarget,
}

/// Listens on a port of its own, and hands on to its target what comes, until told otherwise.
#[derive(Debug)]
pub struct Forwarder {
    port: Port,
    orders: mpsc::Sender<Order>,
    /// A byte here and the loop looks for orders.
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Forwards to `target`, as `127.0.0.1:port`; nobody needs to listen there yet.
    #[track_caller]
    pub fn start(target: &str) -> Self {
        let target = parse(target);
        let port = Port::claim();
        let (orders, taken) = mpsc::channel();
        let made = UnixStream::pair().and_then(|(wake, woken)| {
            // Where the pipe is full, the loop has been woken.
            wake.set_nonblocking(true)?;
            let work = Loop::new(port.address(), target, woken, taken)?;
            let thread = std::thread::Builder::new().name("forwarder".into()).spawn(|| work.run())?;
            Ok((wake, thread))
        });
        let (wake, thread) = made.unwrap_or_else(|error| panic!("cannot start a forwarder: {error}"));
        Self { port, orders, wake, thread: Some(thread) }
    }

    /// Where it listens: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Resets all connections, on both sides. New ones are taken.
    #[track_caller]
    pub fn cut(&self) {
        self.order(Order::Cut);
    }

    /// No byte goes either way, nor the news that a side has gone; connections stay and new ones are taken.
    /// What was on its way arrives after `heal`, as TCP's repetitions would.
    #[track_caller]
    pub fn black_hole(&self) {
        self.order(|done| Order::Pass { to_target: false, from_target: false, done });
    }

    /// Bytes go this way only; the other way is a black hole.
    #[track_caller]
    pub fn one_way(&self, open: Direction) {
        let to_target = open == Direction::ToTarget;
        self.order(|done| Order::Pass { to_target, from_target: !to_target, done });
    }

    /// Everything goes both ways again, and new connections are taken.
    #[track_caller]
    pub fn heal(&self) {
        self.order(|done| Order::Pass { to_target: true, from_target: true, done });
    }

    /// New connections go to another target; those that are open are reset.
    #[track_caller]
    pub fn retarget(&self, target: &str) {
        let target = parse(target);
        self.order(|done| Order::Retarget(target, done));
    }

    /// Nobody listens any more: who connects is refused. Connections that are open stay as they are.
    #[track_caller]
    pub fn refuse(&self) {
        self.order(Order::Refuse);
    }

    /// How many connections are open.
    #[track_caller]
    pub fn connections(&self) -> usize {
        self.order(Order::Count)
    }

    #[track_caller]
    fn order<T>(&self, order: impl FnOnce(mpsc::Sender<T>) -> Order) -> T {
        let (done, answer) = mpsc::channel();
        let sent = self.orders.send(order(done)).is_ok();
        self.wake();
        match answer.recv_timeout(LIMIT) {
            Ok(answer) if sent => answer,
            _ => panic!("the forwarder on {} does not do what it is told", self.address()),
        }
    }

    fn wake(&self) {
        // Where the pipe is full, the loop has been woken; where it is closed, the loop has ended.
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // Whoever dropped it does not wait for an answer.
        let _ = self.orders.send(Order::End);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[track_caller]
fn parse(target: &str) -> SocketAddr {
    target.parse().unwrap_or_else(|_| panic!("a target is an address and a port, not {target:?}"))
}
