//! One simulated client, from its socket to its end.
//!
//! Owns: the socket, what is partial of a frame, what is unsent. An idle connection holds no buffer. Must not:
//! wait. Talks to: `handshake`, the core's codec and `measured`; `worker` drives it.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd as _, RawFd};

use connect_core::client::{ServerFrames, client_frame};
use connect_core::frame::OpCode;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use crate::clock::monotonic_ns;
use crate::handshake::{Answer, judge, key, request};
use crate::measured::{Measured, Receiver};
use crate::plan::{FleetPlan, Leave};
use crate::sources::Source;
use crate::tally::{Ended, StreamTally};

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

/// A client. A million of them lie in one process: what only few have is in a box.
pub(crate) struct Connection {
    socket: Option<Socket>,
    phase: Phase,
    request_sent: bool,
    /// It leaves to come back.
    pub(crate) comes_back: bool,
    /// It has been joined once, on this connection or a former one.
    pub(crate) joined_once: bool,
    /// Which of the client's connections this is, from 0.
    pub(crate) generation: u32,
    intended_ns: u64,
    pub(crate) joined_after_ns: Option<NonZeroU64>,
    pub(crate) frames: u32,
    pub(crate) pings: u32,
    unfinished: Option<Box<Unfinished>>,
    pub(crate) streams: Vec<StreamTally>,
    pub(crate) ended: Option<Box<Ended>>,
}

/// What is there only in the middle of something.
#[derive(Default)]
struct Unfinished {
    /// The answer's head, until it is whole.
    head: Vec<u8>,
    frames: ServerFrames,
    unsent: Vec<u8>,
}

/// What a client needs of its thread to do something.
pub(crate) struct Scene<'a> {
    /// The fleet's plan.
    pub(crate) plan: &'a FleetPlan,
    /// The client's number.
    pub(crate) number: usize,
    /// Since when it is in its room no more.
    pub(crate) roomless_since: Option<u64>,
    /// Where reads go.
    pub(crate) scratch: &'a mut [u8],
    /// What all clients of the thread measured.
    pub(crate) measured: &'a mut Measured,
}

impl Connection {
    /// Begins to connect the client of this number.
    pub(crate) fn begin(
        plan: &FleetPlan,
        number: usize,
        intended_ns: u64,
        source: Option<&mut Source>,
    ) -> Self {
        let mut connection = Self {
            socket: None,
            phase: Phase::Joining,
            request_sent: false,
            comes_back: false,
            joined_once: false,
            generation: 0,
            intended_ns,
            joined_after_ns: None,
            frames: 0,
            pings: 0,
            unfinished: None,
            streams: Vec::new(),
            ended: None,
        };
        connection.open(plan, number, source);
        connection
    }

    /// Connects anew after its end. What it saw of streams has been taken out.
    pub(crate) fn begin_again(
        &mut self,
        plan: &FleetPlan,
        number: usize,
        intended_ns: u64,
        source: Option<&mut Source>,
    ) {
        self.phase = Phase::Joining;
        self.request_sent = false;
        self.comes_back = false;
        self.generation += 1;
        self.intended_ns = intended_ns;
        self.joined_after_ns = None;
        self.ended = None;
        self.open(plan, number, source);
    }

    fn open(&mut self, plan: &FleetPlan, number: usize, source: Option<&mut Source>) {
        match open(plan, self.node(plan, number), self.generation, source) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => self.end(Ended::Broken { error: format!("connect: {error}") }),
        }
    }

    /// The place of its node in the plan: another one each time it comes back.
    pub(crate) fn node(&self, plan: &FleetPlan, number: usize) -> usize {
        match plan.begin_at {
            Some(first) if self.generation == 0 => first % plan.addrs.len(),
            _ => (number + self.generation as usize) % plan.addrs.len(),
        }
    }

    /// The socket, while there is one.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        self.socket.as_ref().map(|socket| socket.as_raw_fd())
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Reads and writes what the socket lets it. With `to_the_end` it reads until nothing is left; without, a
    /// short read is taken for the last, since what comes later makes an event of its own.
    pub(crate) fn ready(&mut self, scene: &mut Scene<'_>, to_the_end: bool) {
        if matches!(self.phase, Phase::Mute | Phase::Over) {
            return;
        }
        if !self.request_sent {
            self.ask(scene);
        }
        if self.unfinished.is_some() {
            self.flush();
        }
        self.read_all(scene, to_the_end);
    }

    /// Reads at most so many bytes, as slow clients do.
    pub(crate) fn sip(&mut self, scene: &mut Scene<'_>, bytes: usize) {
        if self.phase == Phase::Joined {
            let bytes = bytes.min(scene.scratch.len());
            self.read_once(scene, bytes);
        }
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

    /// Asks the node whether it is there.
    pub(crate) fn ask_for_life(&mut self) {
        if self.phase == Phase::Joined {
            self.send(OpCode::Ping, b"");
        }
    }

    /// Gives the connection up: nothing came for too long.
    pub(crate) fn give_up(&mut self) {
        if self.phase == Phase::Joined {
            self.end(Ended::Broken { error: "the node is silent".into() });
        }
    }

    fn ask(&mut self, scene: &Scene<'_>) {
        let plan = scene.plan;
        let text = request(
            &plan.addrs[self.node(plan, scene.number)].to_string(),
            &format!("{}{}", plan.path, plan.query),
            &(plan.user)(scene.number),
            &(plan.room)(scene.number),
            &self.key(scene.number),
        );
        self.request_sent = true;
        self.write(&text);
    }

    /// The Sec-WebSocket-Key: made again when the answer is there, so that it need not be kept.
    fn key(&self, number: usize) -> String {
        let seed = self.intended_ns ^ (number as u64) << 20 ^ u64::from(self.generation);
        key(fastrand::Rng::with_seed(seed).u128(..))
    }

    fn unfinished(&mut self) -> &mut Unfinished {
        self.unfinished.get_or_insert_default()
    }

    /// Lets go of the box where nothing is left in it.
    fn tidy(&mut self) {
        if self
            .unfinished
            .as_ref()
            .is_some_and(|rest| rest.head.is_empty() && rest.unsent.is_empty() && rest.frames.is_idle())
        {
            self.unfinished = None;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.unfinished.as_ref().is_some_and(|rest| !rest.unsent.is_empty()) {
            self.unfinished().unsent.extend_from_slice(bytes);
            return self.flush();
        }
        let sent = self.write_now(bytes);
        if let Some(rest) = bytes.get(sent..)
            && !rest.is_empty()
            && self.socket.is_some()
        {
            self.unfinished().unsent.extend_from_slice(rest);
        }
    }

    fn flush(&mut self) {
        let unsent = match &mut self.unfinished {
            Some(rest) if !rest.unsent.is_empty() => std::mem::take(&mut rest.unsent),
            _ => return,
        };
        let sent = self.write_now(&unsent);
        if sent < unsent.len() && self.socket.is_some() {
            self.unfinished().unsent = unsent[sent..].to_vec();
        } else {
            self.tidy();
        }
    }

    /// How many bytes need not be written any more.
    fn write_now(&mut self, bytes: &[u8]) -> usize {
        let Some(mut socket) = self.socket.as_ref() else { return bytes.len() };
        let mut sent = 0;
        while sent < bytes.len() {
            match socket.write(&bytes[sent..]) {
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if retry_later(&error) => break,
                Err(error) if self.phase == Phase::Joining => {
                    self.end(Ended::Broken { error: format!("connect: {error}") });
                    return bytes.len();
                }
                // The reading side says how it ended, with all that arrived before.
                Err(_) => return bytes.len(),
            }
        }
        sent
    }

    fn read_all(&mut self, scene: &mut Scene<'_>, to_the_end: bool) {
        let most = scene.scratch.len();
        while let Some(count) = self.read_once(scene, most) {
            if count < most && !to_the_end {
                return;
            }
        }
    }

    /// Reads once; `None`: there is nothing, or the connection is over.
    fn read_once(&mut self, scene: &mut Scene<'_>, most: usize) -> Option<usize> {
        loop {
            let mut socket = self.socket.as_ref()?;
            match socket.read(&mut scene.scratch[..most]) {
                Ok(0) => self.stream_ended(),
                Ok(count) => {
                    // The bytes are taken out for a moment: what they say may change everything else.
                    let scratch = std::mem::take(&mut scene.scratch);
                    self.received(scene, &scratch[..count]);
                    scene.scratch = scratch;
                    return Some(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if retry_later(&error) => {}
                Err(error) => self.end(Ended::Broken { error: error.to_string() }),
            }
            return None;
        }
    }

    /// The server sends nothing more, and no close frame came first: one would have ended the connection.
    fn stream_ended(&mut self) {
        match self.phase {
            Phase::Leaving => self.end(Ended::Left),
            _ => self.end(Ended::Broken { error: "the stream ended without a close frame".into() }),
        }
    }

    fn received(&mut self, scene: &mut Scene<'_>, bytes: &[u8]) {
        scene.measured.totals.bytes += bytes.len() as u64;
        if self.phase != Phase::Joining {
            return self.take_frames(scene, bytes);
        }
        if self.unfinished.as_ref().is_none_or(|rest| rest.head.is_empty()) {
            return self.take_head(scene, bytes);
        }
        let mut head = std::mem::take(&mut self.unfinished().head);
        head.extend_from_slice(bytes);
        self.take_head(scene, &head);
    }

    fn take_head(&mut self, scene: &mut Scene<'_>, head: &[u8]) {
        match judge(head, &self.key(scene.number)) {
            Ok(Answer::Partial) => self.unfinished().head = head.to_vec(),
            Ok(Answer::Upgraded(length)) => {
                self.tidy();
                self.phase = Phase::Joined;
                let now_ns = monotonic_ns();
                let node = self.node(scene.plan, scene.number);
                scene.measured.journal.joined(now_ns, scene.number, self.generation, node);
                let after_ns = now_ns.saturating_sub(self.intended_ns);
                self.joined_after_ns = Some(NonZeroU64::new(after_ns).unwrap_or(NonZeroU64::MIN));
                self.note_what_left_before(scene);
                self.take_frames(scene, &head[length..]);
            }
            Ok(Answer::Refused(status)) => self.end(Ended::Refused { status }),
            Err(error) => self.end(Ended::Broken { error }),
        }
    }

    /// Joined now: what its streams have sent before need not come, all that they send from now on must.
    fn note_what_left_before(&mut self, scene: &Scene<'_>) {
        let Some(run) = &scene.plan.run else { return };
        let who = run.who(scene.number);
        for range in run.streams.ranges() {
            let Some(stream) = range.stream_of(who) else { continue };
            let published = range.published(stream);
            if published > 0 {
                self.streams.push(StreamTally::from(stream, published));
            }
        }
        self.streams.shrink_to_fit();
    }

    fn take_frames(&mut self, scene: &mut Scene<'_>, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let now_ns = monotonic_ns();
        let mut frames = match &mut self.unfinished {
            Some(rest) => std::mem::take(&mut rest.frames),
            None => ServerFrames::new(),
        };
        let taken = frames.read(bytes, MAX_FRAME_BYTES, &mut |opcode, payload| {
            self.frame(scene, opcode, payload, now_ns);
        });
        match taken {
            Err(_) if self.phase == Phase::Over => {}
            Err(error) => self.end(Ended::Broken { error: format!("no frame of a server: {error:?}") }),
            Ok(()) if self.phase == Phase::Over => {}
            Ok(()) if frames.is_idle() => self.tidy(),
            Ok(()) => self.unfinished().frames = frames,
        }
    }

    fn frame(&mut self, scene: &mut Scene<'_>, opcode: OpCode, payload: &[u8], now_ns: u64) {
        if self.phase == Phase::Over {
            // What follows a close frame counts for nothing, except against the server.
            if matches!(opcode, OpCode::Text | OpCode::Binary) {
                scene.measured.frame_after_the_end(payload);
            }
            return;
        }
        self.frames = self.frames.saturating_add(1);
        match opcode {
            OpCode::Text | OpCode::Binary => {
                let receiver = Receiver {
                    plan: scene.plan,
                    number: scene.number,
                    connection: self.generation,
                    node: self.node(scene.plan, scene.number),
                    roomless_since: scene.roomless_since,
                    now_ns,
                };
                scene.measured.frame(&receiver, &mut self.streams, payload);
            }
            OpCode::Ping => {
                self.pings = self.pings.saturating_add(1);
                self.send(OpCode::Pong, payload);
            }
            OpCode::Pong => {}
            OpCode::Close => self.closed_by_server(payload),
            OpCode::Continuation => self.end(Ended::Broken { error: "a frame that no push makes".into() }),
        }
    }

    fn send(&mut self, opcode: OpCode, payload: &[u8]) {
        self.write(&client_frame(opcode, payload, fastrand::u32(..).to_ne_bytes()));
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
        self.ended.get_or_insert_with(|| Box::new(how));
        self.phase = Phase::Over;
        self.socket = None;
        self.unfinished = None;
    }
}

/// Nothing can be read or written right now, which also holds before the connect is done.
fn retry_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}

fn open(plan: &FleetPlan, node: usize, generation: u32, source: Option<&mut Source>) -> io::Result<Socket> {
    let addr: SocketAddr = plan.addrs[node];
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = plan.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(source) = source.filter(|_| addr.ip().is_loopback() && addr.is_ipv4()) {
        source.bind(&socket, generation > 0)?;
    }
    match socket.connect(&SockAddr::from(addr)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_clients_fit() {
        assert!(size_of::<Connection>() <= 96, "{} bytes", size_of::<Connection>());
    }
}
