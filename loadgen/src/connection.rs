//! One simulated client, from its socket to its end.
//!
//! Owns: the socket, what is partial of a frame, what is unsent. An idle connection holds no buffer. Must not:
//! wait. Talks to: `handshake`, the core's codec and `tally`; `worker` drives it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};

use connect_core::client::{ServerFrames, client_frame};
use connect_core::frame::OpCode;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::clock::monotonic_ns;
use crate::handshake::{Answer, judge, key, request};
use crate::payload::Stamp;
use crate::plan::{FleetPlan, Leave};
use crate::poller::choose_port_at_connect;
use crate::tally::{Ended, Tally};

/// Clients that share a source address. A pair of addresses has about 28,000 ports, but the kernel looks through one
/// half of them first, and connects slow down once that half is used up.
const CLIENTS_PER_SOURCE: usize = 12_000;

/// The longest frame that a client takes, in bytes.
const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Where a client is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connecting, or its 101 is awaited.
    Joining,
    /// Joined.
    Joined,
    /// It is leaving and awaits the end.
    Leaving,
    /// It neither reads nor writes.
    Mute,
    /// The socket is closed.
    Over,
}

/// What a client saw that others are told of.
pub(crate) trait Witness {
    /// A push arrived; `first` where it was not a double.
    fn pushed(&mut self, stamp: Stamp, first: bool, now_ns: u64);
}

pub(crate) struct Connection {
    socket: Option<Socket>,
    nonce: u128,
    phase: Phase,
    /// The answer's head, until it is whole.
    head: Vec<u8>,
    frames: ServerFrames,
    unsent: Vec<u8>,
    intended_ns: u64,
    request_sent: bool,
    pub(crate) tally: Tally,
}

impl Connection {
    /// Begins to connect the client of this number.
    pub(crate) fn begin(plan: &FleetPlan, number: usize, intended_ns: u64) -> Self {
        let mut connection = Self {
            socket: None,
            nonce: fastrand::u128(..),
            phase: Phase::Joining,
            head: Vec::new(),
            frames: ServerFrames::new(),
            unsent: Vec::new(),
            intended_ns,
            request_sent: false,
            tally: Tally::default(),
        };
        match open(plan, number) {
            Ok(socket) => connection.socket = Some(socket),
            Err(error) => connection.end(Ended::Broken { error: format!("connect: {error}") }),
        }
        connection
    }

    /// The socket, while there is one.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.socket.as_ref().map(|socket| socket.as_raw_fd())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Reads and writes what the socket lets it.
    pub(crate) fn ready(
        &mut self,
        plan: &FleetPlan,
        number: usize,
        scratch: &mut [u8],
        witness: &mut impl Witness,
    ) {
        if matches!(self.phase, Phase::Mute | Phase::Over) {
            return;
        }
        if !self.request_sent {
            let text = request(
                &plan.addr.to_string(),
                &(plan.user)(number),
                &(plan.room)(number),
                &plan.query,
                &key(self.nonce),
            );
            self.unsent.extend(text);
            self.request_sent = true;
        }
        self.flush();
        self.read_all(scratch, witness);
    }

    /// Goes, in one of the ways.
    pub(crate) fn leave(&mut self, how: Leave) {
        let Some(socket) = &self.socket else { return };
        match how {
            Leave::Silence | Leave::Deaf => self.phase = Phase::Mute,
            Leave::Reset => {
                // Without a linger time the close that follows is a reset.
                let _ = SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
                self.end(Ended::Left);
            }
            Leave::HalfClose => {
                self.phase = Phase::Leaving;
                let _ = socket.shutdown(Shutdown::Write);
            }
            Leave::Close => {
                self.phase = Phase::Leaving;
                self.send(OpCode::Close, &1000_u16.to_be_bytes());
            }
        }
    }

    /// Reads again after [`Leave::Deaf`] or [`Leave::Silence`].
    pub(crate) fn hear(&mut self) {
        if self.phase == Phase::Mute {
            self.phase = Phase::Joined;
        }
    }

    /// Gives up waiting for the 101.
    pub(crate) fn expire(&mut self) {
        if self.phase == Phase::Joining {
            self.end(Ended::Broken { error: "no answer to the upgrade in time".into() });
        }
    }

    fn flush(&mut self) {
        let Some(mut socket) = self.socket.as_ref() else { return };
        while !self.unsent.is_empty() {
            match socket.write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if retry_later(&error) => return,
                Err(error) if self.phase == Phase::Joining => {
                    return self.end(Ended::Broken { error: format!("connect: {error}") });
                }
                // The reading side says how it ended, with all that arrived before.
                Err(_) => return self.unsent = Vec::new(),
            }
        }
        self.unsent = Vec::new();
    }

    fn read_all(&mut self, scratch: &mut [u8], witness: &mut impl Witness) {
        loop {
            let Some(mut socket) = self.socket.as_ref() else { return };
            match socket.read(scratch) {
                Ok(0) => return self.stream_ended(),
                Ok(count) => self.received(&scratch[..count], witness),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if retry_later(&error) => return,
                Err(error) => return self.end(Ended::Broken { error: error.to_string() }),
            }
        }
    }

    /// The server sends nothing more, and no close frame came first: one would have ended the connection.
    fn stream_ended(&mut self) {
        match self.phase {
            Phase::Leaving => self.end(Ended::Left),
            _ => self.end(Ended::Broken { error: "the stream ended without a close frame".into() }),
        }
    }

    fn received(&mut self, bytes: &[u8], witness: &mut impl Witness) {
        if self.phase != Phase::Joining {
            return self.take_frames(bytes, witness);
        }
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(bytes);
        match judge(&head, &key(self.nonce)) {
            Ok(Answer::Partial) => self.head = head,
            Ok(Answer::Upgraded(length)) => {
                self.phase = Phase::Joined;
                self.tally.joined_after_ns = Some(monotonic_ns().saturating_sub(self.intended_ns));
                self.take_frames(&head[length..], witness);
            }
            Ok(Answer::Refused(status)) => self.end(Ended::Refused { status }),
            Err(error) => self.end(Ended::Broken { error }),
        }
    }

    fn take_frames(&mut self, bytes: &[u8], witness: &mut impl Witness) {
        let mut frames = std::mem::take(&mut self.frames);
        let taken = frames.read(bytes, MAX_FRAME_BYTES, &mut |opcode, payload| {
            // What follows a close frame counts for nothing.
            if self.phase != Phase::Over {
                self.frame(opcode, payload, witness);
            }
        });
        match taken {
            Err(error) => self.end(Ended::Broken { error: format!("no frame of a server: {error:?}") }),
            Ok(()) if self.phase == Phase::Over => {}
            Ok(()) => self.frames = frames,
        }
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8], witness: &mut impl Witness) {
        self.tally.frames += 1;
        match opcode {
            OpCode::Text => {
                if let Some(stamp) = Stamp::find(payload) {
                    let first = self.tally.note(stamp);
                    witness.pushed(stamp, first, monotonic_ns());
                }
            }
            OpCode::Ping => {
                self.tally.pings += 1;
                self.send(OpCode::Pong, payload);
            }
            OpCode::Pong => {}
            OpCode::Close => self.closed_by_server(payload),
            OpCode::Binary | OpCode::Continuation => {
                self.end(Ended::Broken { error: "a frame that no push makes".into() });
            }
        }
    }

    fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        self.unsent.extend(client_frame(opcode, payload, fastrand::u32(..).to_ne_bytes()));
        self.flush();
    }

    fn closed_by_server(&mut self, payload: &[u8]) {
        if self.phase == Phase::Leaving {
            return self.end(Ended::Left);
        }
        let (code, reason) = match payload {
            [first, second, reason @ ..] => (u16::from_be_bytes([*first, *second]), reason),
            _ => (1005, &[][..]),
        };
        self.send(OpCode::Close, &payload[..payload.len().min(2)]);
        self.end(Ended::ClosedByServer { code, reason: String::from_utf8_lossy(reason).into_owned() });
    }

    fn end(&mut self, how: Ended) {
        self.tally.ended.get_or_insert(how);
        self.phase = Phase::Over;
        self.socket = None;
        self.head = Vec::new();
        self.frames = ServerFrames::new();
        self.unsent = Vec::new();
    }
}

/// Nothing can be read or written right now, which also holds before the connect is done.
fn retry_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

fn open(plan: &FleetPlan, number: usize) -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::for_address(plan.addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = plan.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if plan.count > CLIENTS_PER_SOURCE && plan.addr.ip().is_loopback() && plan.addr.is_ipv4() {
        let source = [127, 0, 0, 2 + (number / CLIENTS_PER_SOURCE % 200) as u8];
        choose_port_at_connect(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::from((source, 0))))?;
    }
    match socket.connect(&SockAddr::from(plan.addr)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}
