//! A shard's thread: what it closes and opens first, and its loop on monoio.
//!
//! Owns: the thread, its table of descriptors, the choice of the driver, the sleep. Must not: know what a turn
//! does. Talks to: `shard_driver`, which it turns; boot, which starts it and is told when it listens.
//!
//! The loop is the runtime's main future, and turns until there is nothing left to do; then it sleeps on four
//! things: the bridge's eventfd, the plane's descriptor, the listener, the next deadline. It never yields in
//! between, for nothing else runs on the runtime: a yield would cost a millisecond (the timer's grain) or, in
//! monoio 0.2.4, put itself before everything else.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{self, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use connect_core::{Limits, Shard};
use monoio::net::UnixStream;
use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder};
use ringcast_proto::ShardId;
use tracing::{error, info, warn};

use crate::acceptor::Acceptor;
use crate::bridge::ShardEnd;
use crate::clock::Clock;
use crate::config::DriverChoice;
use crate::http::NodeStatus;
use crate::kernel_check::{explain_refusal, io_uring_unfit, use_small_pages};
use crate::plane::{Driver, Plane};
use crate::plane_epoll::EpollPlane;
use crate::plane_uring::UringPlane;
use crate::shard_driver::{ShardDriver, Sleep};

/// Entries of monoio's own ring, which carries three polls.
const RUNTIME_ENTRIES: u32 = 256;

/// How long a shard that is told to stop waits for its last completions.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// What a shard needs to start.
pub(crate) struct ShardSetup {
    /// Its ends of the lanes, made by this thread.
    pub(crate) end: ShardEnd,
    /// What a session may do.
    pub(crate) limits: Limits,
    /// Where clients connect; with port 0 the first shard chooses, and its port is to be given to the others.
    pub(crate) listen: SocketAddr,
    /// The core to run on; `None` leaves it to the kernel.
    pub(crate) core: Option<usize>,
    /// Its driver.
    pub(crate) driver: DriverChoice,
    /// The node's clock.
    pub(crate) clock: Clock,
    /// What answers HTTP requests.
    pub(crate) status: Arc<NodeStatus>,
}

/// A shard that listens.
#[derive(Debug)]
pub(crate) struct StartedShard {
    /// How it does its I/O.
    pub(crate) driver: Driver,
    /// Where it listens.
    pub(crate) listening: SocketAddr,
    /// Its thread; ends after [`ToShard::Stop`](crate::bridge::ToShard::Stop).
    pub(crate) thread: JoinHandle<()>,
}

/// Starts a shard and waits until it listens. A shard that fails later ends the process: its clients connect again
/// elsewhere, and nobody goes on with a part of the node.
pub(crate) fn start_shard(setup: ShardSetup) -> anyhow::Result<StartedShard> {
    let (ready, told) = mpsc::sync_channel(1);
    let shard = setup.end.id;
    let listen = setup.listen;
    let thread = std::thread::Builder::new().name(format!("shard-{}", shard.0)).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| run(setup, &ready));
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(Failure::Start(error))) => drop(ready.send(Err(error))),
            Ok(Err(Failure::Turn(error))) => fail(shard, &error.to_string()),
            Err(_) => fail(shard, "it panicked"),
        }
    })?;
    let told = told.recv().unwrap_or_else(|_| Err(io::Error::other("its thread ended")));
    match told {
        Ok((driver, listening)) => Ok(StartedShard { driver, listening, thread }),
        Err(error) => Err(error).with_context(|| format!("starting shard {} on {listen}", shard.0)),
    }
}

fn fail(shard: ShardId, why: &str) -> ! {
    error!(shard = shard.0, "the shard failed, the node ends: {why}");
    std::process::exit(1)
}

/// Why a shard's thread ended without being asked to.
enum Failure {
    /// Before it listened.
    Start(io::Error),
    /// In its loop.
    Turn(io::Error),
}

/// Where the start waits for the driver and the address.
type Ready = mpsc::SyncSender<io::Result<(Driver, SocketAddr)>>;

fn run(setup: ShardSetup, ready: &Ready) -> Result<(), Failure> {
    let shard = setup.end.id;
    own_descriptors(shard, setup.end.descriptors());
    use_small_pages();
    if let Some(core) = setup.core
        && let Err(error) = pin(core)
    {
        warn!(shard = shard.0, core, "the shard is not pinned: {error}");
    }
    match setup.driver {
        DriverChoice::Epoll => info!(shard = shard.0, "driver epoll: it was asked for"),
        choice => match build_io_uring(shard, setup.limits.max_sessions) {
            Ok((runtime, plane)) => {
                info!(shard = shard.0, "driver io_uring");
                return drive(runtime, Box::new(plane), setup, ready);
            }
            Err(why) if choice == DriverChoice::IoUring => {
                let why = format!(
                    "io_uring was refused ({why}): set the driver to auto, which falls back to epoll"
                );
                return Err(Failure::Start(io::Error::other(why)));
            }
            Err(why) => warn!(shard = shard.0, "driver epoll: io_uring was refused: {why}"),
        },
    }
    let runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build();
    match runtime.and_then(|runtime| Ok((runtime, EpollPlane::new(shard)?))) {
        Ok((runtime, plane)) => drive(runtime, Box::new(plane), setup, ready),
        Err(error) => Err(Failure::Start(error)),
    }
}

type IoUringRuntime = Runtime<monoio::time::TimeDriver<IoUringDriver>>;

/// Both rings, or why there are none.
fn build_io_uring(shard: ShardId, max_sessions: u32) -> Result<(IoUringRuntime, UringPlane), String> {
    if let Some(reason) = io_uring_unfit() {
        return Err(reason);
    }
    let runtime = RuntimeBuilder::<IoUringDriver>::new().with_entries(RUNTIME_ENTRIES).enable_timer().build();
    let runtime = runtime.map_err(|error| explain_refusal(&error))?;
    let plane = UringPlane::new(shard, max_sessions, &mut |line| warn!(shard = shard.0, "{line}"));
    Ok((runtime, plane.map_err(|error| explain_refusal(&error))?))
}

fn drive<D: monoio::Driver>(
    mut runtime: Runtime<D>,
    plane: Box<dyn Plane>,
    setup: ShardSetup,
    ready: &Ready,
) -> Result<(), Failure> {
    let ShardSetup { end, limits, listen, clock, status, .. } = setup;
    let kind = plane.driver();
    let (send_buffer, listening) = (limits.send_buffer_bytes as usize, Arc::clone(status.listening()));
    let acceptor = Acceptor::bind(listen, send_buffer, plane.wants_nonblocking(), listening);
    let acceptor = acceptor.map_err(Failure::Start)?;
    let listening = acceptor.address();
    let core = Shard::new(end.id, limits, fastrand::u64(..));
    let mut driver = ShardDriver::new(core, plane, acceptor, end, clock, status);
    runtime.block_on(async {
        let mut bed = Bed::new(&driver).map_err(Failure::Start)?;
        // Whoever started the shard waits for this; without him there is nobody to serve.
        if ready.send(Ok((kind, listening))).is_err() {
            return Ok(());
        }
        turn(&mut driver, &mut bed).await.map_err(Failure::Turn)
    })
}

async fn turn(driver: &mut ShardDriver, bed: &mut Bed) -> io::Result<()> {
    loop {
        driver.step()?;
        if driver.is_stopping() {
            break;
        }
        if driver.listener().is_none() {
            bed.clients = None;
        }
        if let Some(sleep) = driver.may_sleep() {
            let woken = bed.sleep(sleep).await;
            if woken.by_bridge {
                driver.woken_by_bridge();
            }
            if woken.by_plane {
                driver.woken_by_plane();
            }
            if woken.by_clients {
                driver.woken_by_clients();
            }
        }
    }
    driver.begin_stop();
    bed.clients = None;
    let until = Instant::now() + STOP_TIMEOUT;
    while !driver.finish_stop()? && Instant::now() < until {
        bed.sleep(Sleep { at_most_ms: Some(10), accepts: false, listens: true }).await;
    }
    Ok(())
}

/// What the loop sleeps on.
struct Bed {
    bridge: Sleeper,
    plane: Sleeper,
    clients: Option<Sleeper>,
    timer: Pin<Box<monoio::time::Sleep>>,
}

/// What ended a sleep; nothing of this when it was the deadline.
struct Woken {
    by_bridge: bool,
    by_plane: bool,
    by_clients: bool,
}

impl Bed {
    fn new(driver: &ShardDriver) -> io::Result<Self> {
        use std::os::fd::AsFd;
        Ok(Self {
            bridge: Sleeper::new(driver.bridge_event().as_fd())?,
            plane: Sleeper::new(driver.plane_fd())?,
            clients: driver.listener().map(Sleeper::new).transpose()?,
            timer: Box::pin(monoio::time::sleep(Duration::ZERO)),
        })
    }

    async fn sleep(&mut self, sleep: Sleep) -> Woken {
        if let Some(at_most_ms) = sleep.at_most_ms {
            let until = monoio::time::Instant::now() + Duration::from_millis(at_most_ms);
            self.timer.as_mut().reset(until);
        }
        std::future::poll_fn(|cx| {
            let by_bridge = self.bridge.poll(cx);
            let by_plane = sleep.listens && self.plane.poll(cx);
            let by_clients = sleep.accepts && self.clients.as_mut().is_some_and(|clients| clients.poll(cx));
            let in_time = sleep.at_most_ms.is_some() && self.timer.as_mut().poll(cx).is_ready();
            if by_bridge || by_plane || by_clients || in_time {
                Poll::Ready(Woken { by_bridge, by_plane, by_clients })
            } else {
                Poll::Pending
            }
        })
        .await
    }
}

/// Waits, through monoio, until a descriptor is readable. Any descriptor will do, though monoio calls it a stream.
struct Sleeper {
    stream: Rc<UnixStream>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
}

impl Sleeper {
    /// On a duplicate of the descriptor, which monoio closes in its own time.
    fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let stream = StdUnixStream::from(fd.try_clone_to_owned()?);
        Ok(Self { stream: Rc::new(UnixStream::from_std(stream)?), waiting: None })
    }

    fn poll(&mut self, cx: &mut task::Context<'_>) -> bool {
        let waiting = self.waiting.get_or_insert_with(|| {
            let stream = Rc::clone(&self.stream);
            // Not relaxed: on epoll that would report for ever what was readable once.
            Box::pin(async move { stream.readable(false).await })
        });
        let woken = waiting.as_mut().poll(cx).is_ready();
        if woken {
            self.waiting = None;
        }
        woken
    }
}

/// Gives this thread a table of descriptors of its own, with the standard streams and the lanes' eventfds in it and
/// nothing else: a copy of another thread's socket would keep it open. Where the kernel or a container refuses, the
/// table stays shared; that costs time under load, nothing else.
fn own_descriptors(shard: ShardId, keep: [RawFd; 2]) {
    let last = libc::c_uint::MAX;
    // Closes nothing, for there is no such descriptor. Containers that refuse unshare(2) allow this.
    if let Err(error) = close_range(last, last, libc::CLOSE_RANGE_UNSHARE) {
        warn!(shard = shard.0, "the shard shares its table of descriptors: {error}");
        return;
    }
    let mut kept = [0, 1, 2, keep[0] as libc::c_uint, keep[1] as libc::c_uint];
    kept.sort_unstable();
    let ends = kept.iter().map(|&fd| fd.saturating_sub(1)).skip(1).chain([last]);
    for (first, last) in kept.iter().map(|&fd| fd + 1).zip(ends) {
        if first <= last
            && let Err(error) = close_range(first, last, 0)
        {
            warn!(shard = shard.0, "inherited descriptors stay open: {error}");
        }
    }
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no pointers are passed. The caller has a table of its own, or closes nothing.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a set of zeros is an empty one; it lives through the calls, and CPU_SET writes within it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if core >= 8 * size_of_val(&set) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
#[path = "shard_loop_tests.rs"]
mod tests;
