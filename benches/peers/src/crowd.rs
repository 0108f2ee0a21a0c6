//! The subscribers: one epoll thread that connects, joins, receives, answers pings and judges every frame.
//!
//! Owns: the thread, the sockets, the books. Must not: cost more than it must; it shares no core with the server, but
//! with the publisher. Talks to: `upgrade`, the core's client codec, `run` through shared counters.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use connect_core::client::{ServerFrames, client_frame};
use connect_core::frame::OpCode;
use loadgen::{Stamp, monotonic_ns};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::latency::Latency;
use crate::scenario::Scenario;
use crate::upgrade::{judge_answer, subscribe_request};

/// Connects that may wait for their 101 at a time.
const AT_ONCE: usize = 64;

/// Bytes that one read takes. A read that brings less has emptied the socket.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Events that one wait brings.
const EVENTS: usize = 512;

/// The longest frame that a subscriber takes, in bytes.
const MAX_FRAME_BYTES: usize = 64 * 1024;

/// How long a wait lasts while nothing happens, in nanoseconds.
const WAIT_NS: i64 = 20_000_000;

/// Counters that others may look at.
#[derive(Default)]
struct Shared {
    joined: AtomicU64,
    received: AtomicU64,
    broken: AtomicU64,
    count_from_ns: AtomicU64,
    stop: AtomicBool,
}

/// The subscribers.
pub struct Crowd {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<CrowdReport>>,
}

/// What became of one publish.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// When it was due, in nanoseconds of CLOCK_MONOTONIC.
    pub intended_ns: u64,
    /// When its last receiver had it.
    pub last_ns: u64,
    /// How many had it.
    pub receivers: u32,
}

/// What the subscribers saw.
#[derive(Default)]
pub struct CrowdReport {
    /// From the begin of each connect to its 101.
    pub handshake: Latency,
    /// From the first connect to the last 101, in nanoseconds.
    pub connecting_ns: u64,
    /// From each publish's due time to each of its receivers, of those that were due since
    /// [`Crowd::count_from`].
    pub latency: Latency,
    /// Every publish, by room and number.
    pub spans: Vec<Vec<Span>>,
    /// The next number that each subscriber awaits.
    pub next: Vec<u64>,
    /// Frames that were no next one: doubled, out of order, or after a gap.
    pub disorder: u64,
    /// Why subscribers broke, the first few.
    pub errors: Vec<String>,
}

impl CrowdReport {
    /// What is wrong, where every subscriber had to get this many publishes of its room; `None`: nothing.
    pub fn fault(&self, scenario: &Scenario, published: &[u64]) -> Option<String> {
        if let Some(error) = self.errors.first() {
            return Some(format!("a subscriber broke: {error}"));
        }
        if self.disorder > 0 {
            return Some(format!("{} frames doubled, out of order or after a gap", self.disorder));
        }
        let due = |number: usize| published[number / scenario.members as usize];
        let lost: u64 = self.next.iter().enumerate().map(|(number, next)| due(number).abs_diff(*next)).sum();
        (lost > 0).then(|| format!("{lost} frames lost"))
    }

    /// From each publish's due time to its last receiver, of those that were due since `from_ns`.
    pub fn last_receiver(&self, from_ns: u64) -> Latency {
        let mut latency = Latency::default();
        for span in self.spans.iter().flatten().filter(|span| span.intended_ns >= from_ns) {
            latency.record_ns(span.last_ns.saturating_sub(span.intended_ns));
        }
        latency
    }
}

impl Crowd {
    /// Connects all subscribers of a scenario, at full speed, and goes on receiving.
    pub fn connect(addr: SocketAddr, scenario: &Scenario) -> Result<Self> {
        loadgen::raise_open_files();
        let shared = Arc::new(Shared::default());
        shared.count_from_ns.store(u64::MAX, Ordering::Relaxed);
        let worker = Worker::new(addr, *scenario, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name("crowd".into()).spawn(|| worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Subscribers that got their 101.
    pub fn joined(&self) -> u64 {
        self.shared.joined.load(Ordering::Relaxed)
    }

    /// Frames with a stamp received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Subscribers that broke.
    pub fn broken(&self) -> u64 {
        self.shared.broken.load(Ordering::Relaxed)
    }

    /// Latencies count for publishes that are due from this time on.
    pub fn count_from(&self, ns: u64) {
        self.shared.count_from_ns.store(ns, Ordering::Relaxed);
    }

    /// Ends all connections by a reset and tells what was seen.
    pub fn finish(mut self) -> Result<CrowdReport> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("finished twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the subscribers' thread panicked"))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where a subscriber is in its life.
#[derive(PartialEq)]
enum Phase {
    Connecting,
    Asked,
    Joined,
    Over,
}

struct Subscriber {
    socket: Option<OwnedFd>,
    phase: Phase,
    room: u32,
    next: u64,
    begun_ns: u64,
    head: Vec<u8>,
    frames: ServerFrames,
}

struct Worker {
    addr: SocketAddr,
    scenario: Scenario,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    subscribers: Vec<Subscriber>,
    waiting: usize,
    begun_ns: u64,
    received: u64,
    report: CrowdReport,
}

impl Worker {
    fn new(addr: SocketAddr, scenario: Scenario, shared: Arc<Shared>) -> Result<Self> {
        let report = CrowdReport {
            spans: vec![Vec::with_capacity(4096); scenario.rooms as usize],
            ..CrowdReport::default()
        };
        Ok(Self {
            addr,
            scenario,
            shared,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            subscribers: Vec::with_capacity(scenario.clients()),
            waiting: 0,
            begun_ns: monotonic_ns(),
            received: 0,
            report,
        })
    }

    fn run(mut self) -> CrowdReport {
        let mut events = Vec::with_capacity(EVENTS);
        let mut scratch = vec![0; SCRATCH_BYTES];
        let pause = Timespec { tv_sec: 0, tv_nsec: WAIT_NS };
        while !self.shared.stop.load(Ordering::Relaxed) {
            while self.waiting < AT_ONCE && self.subscribers.len() < self.scenario.clients() {
                self.begin();
            }
            events.clear();
            // A wait that a signal cut short brings nothing and is begun again.
            let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&pause));
            for event in &events {
                let number = event.data.u64() as usize;
                if let Err(error) = self.ready(number, &mut scratch) {
                    self.broke(number, error);
                }
            }
            self.shared.received.store(self.received, Ordering::Relaxed);
        }
        for subscriber in &self.subscribers {
            if let Some(socket) = &subscriber.socket {
                // Without a linger time the close is a reset, and no port stays in TIME_WAIT.
                let _ = sockopt::set_socket_linger(socket, Some(std::time::Duration::ZERO));
            }
        }
        self.report.next = self.subscribers.iter().map(|subscriber| subscriber.next).collect();
        self.report
    }

    fn begin(&mut self) {
        let number = self.subscribers.len();
        let room = number as u32 / self.scenario.members;
        self.subscribers.push(Subscriber {
            socket: None,
            phase: Phase::Connecting,
            room,
            next: 0,
            begun_ns: monotonic_ns(),
            head: Vec::new(),
            frames: ServerFrames::new(),
        });
        self.waiting += 1;
        if let Err(error) = self.open(number) {
            self.broke(number, format!("connect: {error}"));
        }
    }

    fn open(&mut self, number: usize) -> rustix::io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match net::connect(&socket, &self.addr) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(number as u64), interest)?;
        self.subscribers[number].socket = Some(socket);
        Ok(())
    }

    fn ready(&mut self, number: usize, scratch: &mut [u8]) -> Result<(), String> {
        let subscriber = &mut self.subscribers[number];
        let Some(socket) = &subscriber.socket else { return Ok(()) };
        if subscriber.phase == Phase::Connecting {
            let request = subscribe_request(&Scenario::user(number), &Scenario::room(subscriber.room));
            match net::send(socket, &request, SendFlags::NOSIGNAL) {
                Ok(sent) if sent == request.len() => subscriber.phase = Phase::Asked,
                Ok(_) => return Err("a request that does not fit into a fresh socket".into()),
                Err(Errno::AGAIN | Errno::NOTCONN) => return Ok(()),
                Err(error) => return Err(format!("connect: {error}")),
            }
        }
        loop {
            let subscriber = &mut self.subscribers[number];
            let Some(socket) = &subscriber.socket else { return Ok(()) };
            match net::recv(socket, &mut *scratch, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err("the server closed the connection".into()),
                Ok((_, count)) => {
                    self.take(number, &scratch[..count])?;
                    if count < scratch.len() {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn take(&mut self, number: usize, bytes: &[u8]) -> Result<(), String> {
        let now = monotonic_ns();
        let subscriber = &mut self.subscribers[number];
        if subscriber.phase == Phase::Joined {
            return self.take_frames(number, bytes, now);
        }
        subscriber.head.extend_from_slice(bytes);
        let Some(length) = judge_answer(&subscriber.head)? else { return Ok(()) };
        let head = std::mem::take(&mut subscriber.head);
        subscriber.phase = Phase::Joined;
        self.waiting -= 1;
        self.report.handshake.record_ns(now - subscriber.begun_ns);
        self.report.connecting_ns = now - self.begun_ns;
        self.shared.joined.fetch_add(1, Ordering::Relaxed);
        self.take_frames(number, &head[length..], now)
    }

    fn take_frames(&mut self, number: usize, bytes: &[u8], now: u64) -> Result<(), String> {
        let subscriber = &mut self.subscribers[number];
        let (report, received) = (&mut self.report, &mut self.received);
        let (room, next) = (subscriber.room, &mut subscriber.next);
        let count_from = self.shared.count_from_ns.load(Ordering::Relaxed);
        let mut pings = Vec::new();
        let mut closed = false;
        let read = subscriber.frames.read(bytes, MAX_FRAME_BYTES, &mut |opcode, payload| match opcode {
            OpCode::Ping => pings.push(client_frame(OpCode::Pong, payload, [1, 2, 3, 4])),
            OpCode::Close => closed = true,
            _ => {
                // Not everything that a server says is a publish: ours greets.
                let Some(stamp) = Stamp::find(payload) else { return };
                *received += 1;
                if stamp.stream != room || stamp.seq != *next {
                    report.disorder += 1;
                }
                *next = stamp.seq + 1;
                note(&mut report.spans[room as usize], stamp, now);
                if stamp.intended_ns >= count_from {
                    report.latency.record_ns(now.saturating_sub(stamp.intended_ns));
                }
            }
        });
        read.map_err(|reason| format!("no frame of a server: {reason:?}"))?;
        if closed {
            return Err("the server sent a close frame".into());
        }
        let Some(socket) = &subscriber.socket else { return Ok(()) };
        for pong in pings {
            net::send(socket, &pong, SendFlags::NOSIGNAL).map_err(|error| format!("pong: {error}"))?;
        }
        Ok(())
    }

    fn broke(&mut self, number: usize, error: String) {
        let subscriber = &mut self.subscribers[number];
        if matches!(subscriber.phase, Phase::Connecting | Phase::Asked) {
            self.waiting -= 1;
        }
        subscriber.phase = Phase::Over;
        subscriber.socket = None;
        self.shared.broken.fetch_add(1, Ordering::Relaxed);
        if self.report.errors.len() < 5 {
            self.report.errors.push(error);
        }
    }
}

fn note(spans: &mut Vec<Span>, stamp: Stamp, now: u64) {
    // A stamp far beyond the others is counted as disorder and must not cost memory.
    let Some(at) = usize::try_from(stamp.seq).ok().filter(|at| *at < 10_000_000) else { return };
    if at >= spans.len() {
        spans.resize(at + 1, Span::default());
    }
    let span = &mut spans[at];
    span.intended_ns = stamp.intended_ns;
    span.last_ns = now;
    span.receivers += 1;
}
