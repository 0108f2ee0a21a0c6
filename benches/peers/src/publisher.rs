//! The publisher: one thread that publishes on a schedule which waits for nobody, each payload with its due time.
//!
//! Owns: the schedule, the numbers, the generator's lag. Must not: know what the server made of it. Talks to: the
//! contestant's publish sockets, or `deliver`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use connect_core::client::client_frame;
use connect_core::frame::OpCode;
use loadgen::{Stamp, monotonic_ns};
use rustix::net::{RecvFlags, recv};

use crate::contestant::Intake;
use crate::deliver::{Deliver, Reported};
use crate::latency::Latency;
use crate::scenario::Scenario;
use crate::upgrade::{judge_answer, publish_request};

/// Bytes of a payload.
pub const PAYLOAD_BYTES: usize = 128;

/// How long a socket may take no more of what is published.
const PATIENCE: Duration = Duration::from_secs(10);

/// Below this wait the thread sleeps by itself: the runtime's timers are good to a millisecond only.
const OWN_SLEEP_NS: u64 = 3_000_000;

enum Command {
    /// Publishes so many a second from now on.
    Pace(f64),
    /// Publishes nothing from now on, and tells how much was published when that holds.
    Rest(Sender<u64>),
    /// Publishes so many at once.
    Burst(u32),
    /// Ends.
    End,
}

/// What was published.
#[derive(Debug, Default)]
pub struct Published {
    /// Publishes of each room.
    pub rooms: Vec<u64>,
    /// How late they left.
    pub lag: Latency,
    /// What the contestant reported, where it reports and was asked to.
    pub reported: Option<Reported>,
}

/// The publisher.
pub struct Publisher {
    commands: Sender<Command>,
    thread: Option<JoinHandle<Result<Published>>>,
}

impl Publisher {
    /// Connects to a contestant; `to_user`: where it knows users, each publish is for the single user of a room.
    pub fn connect(intake: Intake, scenario: &Scenario, to_user: bool) -> Result<Self> {
        let (commands, obeyed) = channel();
        let rooms = scenario.rooms;
        let (connected, is_connected) = channel();
        let thread = std::thread::Builder::new().name("publisher".into()).spawn(move || {
            // Sleeps end when they are to, not up to 50 µs later.
            rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let sink = Sink::connect(intake, rooms, to_user).await;
                let _ = connected.send(sink.as_ref().err().map(|error| format!("{error:#}")));
                let published = Published { rooms: vec![0; rooms as usize], ..Published::default() };
                Drive { sink: sink?, published, at: 0 }.run(&obeyed).await
            })
        })?;
        let publisher = Self { commands, thread: Some(thread) };
        match is_connected.recv_timeout(PATIENCE).context("no publisher within 10 s")? {
            None => Ok(publisher),
            Some(error) => bail!("publisher: {error}"),
        }
    }

    /// Publishes so many a second from now on.
    pub fn pace(&self, rate: f64) {
        self.tell(Command::Pace(rate));
    }

    /// Stops publishing; returns when nothing more leaves, and how much has.
    pub fn rest(&self) -> Result<u64> {
        let (done, is_done) = channel();
        self.tell(Command::Rest(done));
        is_done.recv_timeout(PATIENCE).context("the publisher hangs or has failed")
    }

    /// Publishes so many at once.
    pub fn burst(&self, count: u32) {
        self.tell(Command::Burst(count));
    }

    /// Ends and tells what was published, and, where there are reports, waits for them.
    pub fn finish(mut self) -> Result<Published> {
        self.tell(Command::End);
        let thread = self.thread.take().context("finished twice")?;
        thread.join().map_err(|_| anyhow::anyhow!("the publisher's thread panicked"))?
    }

    fn tell(&self, command: Command) {
        // A thread that has failed tells why when it is finished.
        let _ = self.commands.send(command);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.tell(Command::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Drive {
    sink: Sink,
    published: Published,
    /// The publish that is next, over all rooms.
    at: u64,
}

impl Drive {
    async fn run(mut self, commands: &Receiver<Command>) -> Result<Published> {
        let mut paced: Option<(u64, f64, u64)> = None;
        loop {
            let command = match paced {
                Some(_) => match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Command::End),
                },
                // What comes back is read even while nothing is published.
                None => {
                    self.sink.breathe().await?;
                    match commands.recv_timeout(Duration::from_micros(200)) {
                        Ok(command) => Some(command),
                        Err(RecvTimeoutError::Timeout) => None,
                        Err(RecvTimeoutError::Disconnected) => Some(Command::End),
                    }
                }
            };
            match command {
                Some(Command::Pace(rate)) => paced = Some((monotonic_ns(), rate, 0)),
                Some(Command::Rest(done)) => {
                    paced = None;
                    let _ = done.send(self.at);
                }
                Some(Command::Burst(count)) => self.burst(count).await?,
                Some(Command::End) => {
                    self.published.reported = self.sink.reported(self.at).await?;
                    return Ok(self.published);
                }
                None => {}
            }
            if let Some((start, rate, sent)) = &mut paced {
                let due = *start + (*sent as f64 * 1e9 / *rate) as u64;
                // A long wait is cut so that commands are obeyed.
                if let Some(far) = due.checked_sub(monotonic_ns() + 50_000_000).filter(|far| *far > 0) {
                    tokio::time::sleep(Duration::from_nanos(far.min(50_000_000))).await;
                    continue;
                }
                *sent += 1;
                wait_until(due).await;
                self.publish(due).await?;
                self.sink.flush().await?;
            }
        }
    }

    async fn burst(&mut self, count: u32) -> Result<()> {
        let due = monotonic_ns();
        for _ in 0..count {
            self.publish(due).await?;
        }
        self.sink.flush().await
    }

    async fn publish(&mut self, due: u64) -> Result<()> {
        let room = (self.at % self.published.rooms.len() as u64) as u32;
        self.at += 1;
        let seq = &mut self.published.rooms[room as usize];
        let payload = Stamp { stream: room, seq: *seq, intended_ns: due }.payload(PAYLOAD_BYTES);
        *seq += 1;
        self.published.lag.record_ns(monotonic_ns().saturating_sub(due));
        self.sink.publish(room, payload)
    }
}

async fn wait_until(due: u64) {
    let left = due.saturating_sub(monotonic_ns());
    if left > OWN_SLEEP_NS {
        tokio::time::sleep(Duration::from_nanos(left - OWN_SLEEP_NS + 1_000_000)).await;
    }
    let left = due.saturating_sub(monotonic_ns());
    if left > 0 {
        std::thread::sleep(Duration::from_nanos(left));
    }
}

/// Where publishes go.
enum Sink {
    /// A socket for each room.
    Sockets(Vec<TcpStream>),
    /// One gRPC stream.
    Deliver(Box<Deliver>),
}

impl Sink {
    async fn connect(intake: Intake, rooms: u32, to_user: bool) -> Result<Self> {
        match intake {
            Intake::Sockets(addr) => {
                let sockets = (0..rooms).map(|room| socket(addr, &Scenario::room(room)));
                Ok(Self::Sockets(sockets.collect::<Result<_>>()?))
            }
            Intake::Deliver { addr, reports } => {
                Ok(Self::Deliver(Box::new(Deliver::connect(addr, reports, to_user).await?)))
            }
        }
    }

    fn publish(&mut self, room: u32, payload: Vec<u8>) -> Result<()> {
        match self {
            Self::Sockets(sockets) => {
                let socket = &mut sockets[room as usize];
                let frame = client_frame(OpCode::Text, &payload, [0x11, 0x22, 0x33, 0x44]);
                socket.write_all(&frame).context("the server takes no more of what is published")?;
                drain(socket);
                Ok(())
            }
            Self::Deliver(deliver) => {
                deliver.add(room, payload);
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<()> {
        match self {
            Self::Sockets(_) => Ok(()),
            Self::Deliver(deliver) => deliver.flush().await,
        }
    }

    /// What was reported, once all of it was or the time for it is over.
    async fn reported(&mut self, pushes: u64) -> Result<Option<Reported>> {
        let Self::Deliver(deliver) = self else { return Ok(None) };
        if !deliver.wants_reports() {
            return Ok(None);
        }
        let until = monotonic_ns() + PATIENCE.as_nanos() as u64;
        while deliver.reported().pushes < pushes && monotonic_ns() < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Some(deliver.reported()))
    }

    async fn breathe(&mut self) -> Result<()> {
        match self {
            Self::Sockets(_) => Ok(()),
            Self::Deliver(deliver) => deliver.breathe().await,
        }
    }
}

/// Reads and forgets what a server answers to its publishers.
fn drain(socket: &TcpStream) {
    let mut answer = [0; 4096];
    let _ = recv(socket, &mut answer, RecvFlags::DONTWAIT);
}

fn socket(addr: SocketAddr, room: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&addr, PATIENCE)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(&publish_request(room))?;
    let (mut head, mut bytes) = (Vec::new(), [0; 1024]);
    loop {
        let count = socket.read(&mut bytes).context("no answer to a publisher's upgrade")?;
        if count == 0 {
            bail!("a publisher's connection was closed: {}", String::from_utf8_lossy(&head));
        }
        head.extend_from_slice(&bytes[..count]);
        if judge_answer(&head).map_err(anyhow::Error::msg)?.is_some() {
            return Ok(socket);
        }
    }
}
