//! The forwarder's thread: one `poll` over the listener, the orders, and both sides of all connections.
//!
//! Owns: the sockets. Must not: wait for anything but `poll`, nor ask it about a socket of which nothing is wanted:
//! that one's hang-up would be told again and again.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

/// Connections at most; who comes then is reset.
const MAX_CONNECTIONS: usize = 4_096;

/// Where what is asked of connections begins: before it are the orders and the listener.
const FIRST_OWNED: usize = 2;

/// Bytes of a direction that have been read and not yet written, at most.
const BUFFER: usize = 64 * 1024;

/// How long a connection to the target may take. On a loopback it is there at once, or the target's queue is full.
const CONNECT: Duration = Duration::from_millis(100);

/// What a test asks for; the sender is told when it holds.
pub(crate) enum Order {
    Pass { to_target: bool, from_target: bool, done: mpsc::Sender<()> },
    Cut(mpsc::Sender<()>),
    Retarget(SocketAddr, mpsc::Sender<()>),
    Refuse(mpsc::Sender<()>),
    Count(mpsc::Sender<usize>),
    End,
}

/// One direction of a connection.
#[derive(Default)]
struct Flow {
    /// Read and not yet written.
    bytes: Vec<u8>,
    /// The source has said that it ends.
    ended: bool,
    /// The sink has been told so.
    told: bool,
}

/// A client, and the target's side of its connection, where there is one yet.
struct Connection {
    client: TcpStream,
    target: Option<TcpStream>,
    to_target: Flow,
    from_target: Flow,
}

/// Runs until it is told to end.
pub(crate) struct Loop {
    address: SocketAddr,
    listener: Option<TcpListener>,
    target: SocketAddr,
    pass_to_target: bool,
    pass_from_target: bool,
    connections: Vec<Connection>,
    woken: UnixStream,
    orders: mpsc::Receiver<Order>,
}

impl Loop {
    pub(crate) fn new(
        address: SocketAddr,
        target: SocketAddr,
        woken: UnixStream,
        orders: mpsc::Receiver<Order>,
    ) -> io::Result<Self> {
        woken.set_nonblocking(true)?;
        let listener = Some(listen(address)?);
        let (pass_to_target, pass_from_target, connections) = (true, true, Vec::new());
        Ok(Self { address, listener, target, pass_to_target, pass_from_target, connections, woken, orders })
    }

    pub(crate) fn run(mut self) {
        loop {
            let (mut asked, owners) = self.asked();
            // SAFETY: the array lives through the call, and its length is its own.
            let ready = unsafe { libc::poll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, -1) };
            if ready < 0 {
                let error = io::Error::last_os_error();
                assert!(is_later(&error), "the forwarder on {} cannot go on: {error}", self.address);
                continue;
            }
            // Connections first: the places that `owners` names are theirs of before.
            let mut told: Vec<bool> = vec![false; self.connections.len()];
            for (place, owner) in owners.into_iter().enumerate() {
                told[owner] |= asked[FIRST_OWNED + place].revents != 0;
            }
            let mut told = told.into_iter();
            self.connections.retain_mut(|own| {
                told.next() != Some(true) || own.go_on(self.pass_to_target, self.pass_from_target).is_ok()
            });
            if asked[1].revents != 0 {
                self.accept();
            }
            if asked[0].revents != 0 && !self.take_orders() {
                return;
            }
        }
    }

    /// The orders' pipe, the listener, where there is one, then what is wanted of connections; and whose each of the
    /// latter is.
    fn asked(&self) -> (Vec<libc::pollfd>, Vec<usize>) {
        let poll = |fd: RawFd, events| libc::pollfd { fd, events, revents: 0 };
        // A negative descriptor is passed over.
        let listener = self.listener.as_ref().map_or(-1, |listener| listener.as_raw_fd());
        let mut asked = vec![poll(self.woken.as_raw_fd(), libc::POLLIN), poll(listener, libc::POLLIN)];
        let mut owners = Vec::new();
        for (owner, connection) in self.connections.iter().enumerate() {
            let Some(target) = &connection.target else { continue };
            let wanted = connection.wanted(self.pass_to_target, self.pass_from_target);
            for (side, events) in [(&connection.client, wanted.0), (target, wanted.1)] {
                if events != 0 {
                    asked.push(poll(side.as_raw_fd(), events));
                    owners.push(owner);
                }
            }
        }
        (asked, owners)
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if is_later(&error) => return,
            Err(_) => {
                // Out of descriptors, most likely: who connects waits meanwhile, and would be told of at once again.
                std::thread::sleep(Duration::from_millis(10));
                return;
            }
        };
        let prepared = prepare(&client);
        let flows = (Flow::default(), Flow::default());
        let mut connection = Connection { client, target: None, to_target: flows.0, from_target: flows.1 };
        let full = self.connections.len() >= MAX_CONNECTIONS;
        // In a black hole the target does not hear of it yet.
        let hears = self.pass_to_target;
        if prepared.is_ok() && !full && (!hears || connection.connect(self.target).is_ok()) {
            self.connections.push(connection);
        }
    }

    /// Does what is asked; says whether to go on.
    fn take_orders(&mut self) -> bool {
        let mut bytes = [0; 64];
        // Nothing in it is nothing to do.
        let _ = self.woken.read(&mut bytes);
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Pass { to_target, from_target, done } => {
                    (self.pass_to_target, self.pass_from_target) = (to_target, from_target);
                    let target = self.target;
                    self.connections
                        .retain_mut(|own| !to_target || own.target.is_some() || own.connect(target).is_ok());
                    if to_target && from_target {
                        self.listen_again();
                    }
                    // Whoever asked waits, here and below.
                    let _ = done.send(());
                }
                Order::Cut(done) => {
                    self.connections.clear();
                    let _ = done.send(());
                }
                Order::Retarget(target, done) => {
                    self.target = target;
                    self.connections.clear();
                    let _ = done.send(());
                }
                Order::Refuse(done) => {
                    self.listener = None;
                    let _ = done.send(());
                }
                Order::Count(answer) => {
                    let _ = answer.send(self.connections.len());
                }
                Order::End => return false,
            }
        }
        true
    }

    fn listen_again(&mut self) {
        if self.listener.is_none() {
            match listen(self.address) {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => panic!("the forwarder's port {} is gone: {error}", self.address),
            }
        }
    }
}

impl Connection {
    fn connect(&mut self, target: SocketAddr) -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&target, CONNECT)?;
        prepare(&stream)?;
        self.target = Some(stream);
        Ok(())
    }

    /// What is wanted of the client and of the target.
    fn wanted(&self, pass_to_target: bool, pass_from_target: bool) -> (i16, i16) {
        // Each side is the source of one way and the sink of the other.
        let (from_client, to_target) = self.to_target.wanted(pass_to_target);
        let (from_target, to_client) = self.from_target.wanted(pass_from_target);
        (from_client | to_client, from_target | to_target)
    }

    /// Moves what can be moved; an error: it is over, and both sides are to be reset.
    fn go_on(&mut self, pass_to_target: bool, pass_from_target: bool) -> io::Result<()> {
        let Some(target) = &self.target else { return Ok(()) };
        if pass_to_target {
            self.to_target.go_on(&self.client, target)?;
        }
        if pass_from_target {
            self.from_target.go_on(target, &self.client)?;
        }
        if self.to_target.told && self.from_target.told {
            // Both have ended in peace: nothing is left that a reset could take away.
            for side in [&self.client, target] {
                linger(side, false)?;
            }
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl Flow {
    /// What is wanted of the source and of the sink.
    fn wanted(&self, pass: bool) -> (i16, i16) {
        match (pass, self.bytes.is_empty()) {
            (true, true) if !self.ended => (libc::POLLIN, 0),
            (true, false) => (0, libc::POLLOUT),
            _ => (0, 0),
        }
    }

    fn go_on(&mut self, mut source: &TcpStream, mut sink: &TcpStream) -> io::Result<()> {
        if self.bytes.is_empty() && !self.ended {
            let mut bytes = vec![0; BUFFER];
            match source.read(&mut bytes) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    bytes.truncate(count);
                    self.bytes = bytes;
                }
                Err(error) if is_later(&error) => {}
                Err(error) => return Err(error),
            }
        }
        while !self.bytes.is_empty() {
            match sink.write(&self.bytes) {
                Ok(count) => drop(self.bytes.drain(..count)),
                Err(error) if is_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        if self.ended && self.bytes.is_empty() && !self.told {
            sink.shutdown(Shutdown::Write)?;
            self.told = true;
        }
        Ok(())
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// From now on its end is a reset.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    linger(stream, true)
}

/// Whether closing it resets the connection.
fn linger(stream: &TcpStream, reset: bool) -> io::Result<()> {
    let value = libc::linger { l_onoff: i32::from(reset), l_linger: 0 };
    // SAFETY: the value lives through the call, and the length is its own.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const value).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
