//! The contestant `floor`: the least program that can do the job.
//!
//! One epoll thread. `/ws?room_id=R` subscribes to R; a message on `/pub?room_id=R` is framed once and sent to each
//! member by a plain `send`. There is no other state, no queue, no ping: a member that cannot take a frame at once is
//! dropped. Usage: `peer-floor PORT [--drop-nth N]`; with N, send number N is left out on purpose, so that a test can
//! see whether the loss is found.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use connect_core::frame::text_frame;
use peers::upgrade::{Role, judge_request};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

const EVENTS: usize = 1024;
const SCRATCH_BYTES: usize = 64 * 1024;
const BACKLOG: i32 = 4096;

/// What a socket is. What has not come whole is kept beside, and most sockets have nothing there.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Fresh,
    Member(u32),
    Publisher(u32),
}

struct Socket {
    fd: OwnedFd,
    kind: Kind,
}

struct Floor {
    epoll: OwnedFd,
    listener: OwnedFd,
    sockets: Vec<Option<Socket>>,
    partial: HashMap<usize, Vec<u8>>,
    names: HashMap<String, u32>,
    rooms: Vec<Vec<u32>>,
    sends: u64,
    drop_nth: u64,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let port = number(0).context("usage: peer-floor PORT [--drop-nth N]")?;
    let drop_nth = number(2).unwrap_or(0);
    loadgen::raise_open_files();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port)?)))?;
    net::listen(&listener, BACKLOG)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(listener.as_raw_fd() as u64), EventFlags::IN)?;
    Floor {
        epoll,
        listener,
        sockets: Vec::new(),
        partial: HashMap::new(),
        names: HashMap::new(),
        rooms: Vec::new(),
        sends: 0,
        drop_nth,
    }
    .run()
}

impl Floor {
    fn run(mut self) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        let mut scratch = vec![0; SCRATCH_BYTES];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let at = event.data.u64() as usize;
                if at == self.listener.as_raw_fd() as usize {
                    self.accept()?;
                } else if !self.read(at, &mut scratch) {
                    self.close(at);
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = match net::accept_with(&self.listener, flags) {
                Ok(fd) => fd,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            sockopt::set_tcp_nodelay(&fd, true)?;
            let at = fd.as_raw_fd() as usize;
            epoll::add(&self.epoll, &fd, EventData::new_u64(at as u64), EventFlags::IN)?;
            if self.sockets.len() <= at {
                self.sockets.resize_with(at + 1, || None);
            }
            self.sockets[at] = Some(Socket { fd, kind: Kind::Fresh });
        }
    }

    /// Reads what is there; `false`: the socket is at its end.
    fn read(&mut self, at: usize, scratch: &mut [u8]) -> bool {
        let Some(socket) = self.sockets.get(at).and_then(Option::as_ref) else { return true };
        let kind = socket.kind;
        let count = match net::recv(&socket.fd, &mut *scratch, RecvFlags::empty()) {
            Ok((_, 0)) => return false,
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        match kind {
            // What members say is of no interest: closes end the socket, and nothing else is to be answered.
            Kind::Member(_) => scratch[0] & 0x0f != 8,
            Kind::Fresh => self.upgrade(at, &scratch[..count]),
            Kind::Publisher(room) => self.publish(at, room, &mut scratch[..count]),
        }
    }

    fn upgrade(&mut self, at: usize, bytes: &[u8]) -> bool {
        let mut head = self.partial.remove(&at).unwrap_or_default();
        head.extend_from_slice(bytes);
        let (role, name, answer) = match judge_request(&head) {
            Ok(Some(request)) => request,
            Ok(None) => {
                self.partial.insert(at, head);
                return true;
            }
            Err(_) => return false,
        };
        let rooms = &mut self.rooms;
        let room = *self.names.entry(name).or_insert_with(|| {
            rooms.push(Vec::new());
            rooms.len() as u32 - 1
        });
        let Some(socket) = &mut self.sockets[at] else { return true };
        socket.kind = match role {
            Role::Subscriber => {
                self.rooms[room as usize].push(at as u32);
                Kind::Member(room)
            }
            Role::Publisher => Kind::Publisher(room),
        };
        net::send(&socket.fd, &answer, SendFlags::NOSIGNAL) == Ok(answer.len())
    }

    fn publish(&mut self, at: usize, room: u32, bytes: &mut [u8]) -> bool {
        let mut held = self.partial.remove(&at);
        let bytes = match &mut held {
            Some(held) => {
                held.extend_from_slice(bytes);
                &mut held[..]
            }
            None => bytes,
        };
        let mut start = 0;
        while let Some((payload, end)) = masked_frame(&bytes[start..]) {
            let (opcode, mask) = (bytes[start] & 0x0f, start + payload - 4);
            let mask = [bytes[mask], bytes[mask + 1], bytes[mask + 2], bytes[mask + 3]];
            let message = &mut bytes[start + payload..start + end];
            for (byte, key) in message.iter_mut().zip(mask.iter().cycle()) {
                *byte ^= key;
            }
            if opcode == 8 {
                return false;
            }
            let frame = text_frame(message);
            start += end;
            self.fan_out(room, &frame);
        }
        if start < bytes.len() {
            self.partial.insert(at, bytes[start..].to_vec());
        }
        true
    }

    fn fan_out(&mut self, room: u32, frame: &[u8]) {
        let mut gone = Vec::new();
        for member in &self.rooms[room as usize] {
            self.sends += 1;
            if self.sends == self.drop_nth {
                continue;
            }
            let Some(socket) = &self.sockets[*member as usize] else { continue };
            if net::send(&socket.fd, frame, SendFlags::NOSIGNAL) != Ok(frame.len()) {
                gone.push(*member as usize);
            }
        }
        for at in gone {
            self.close(at);
        }
    }

    fn close(&mut self, at: usize) {
        self.partial.remove(&at);
        let Some(socket) = self.sockets.get_mut(at).and_then(Option::take) else { return };
        if let Kind::Member(room) = socket.kind {
            self.rooms[room as usize].retain(|member| *member != at as u32);
        }
    }
}

/// Where the payload of a masked frame begins and where the frame ends; `None` where it is not whole.
fn masked_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let length = usize::from(bytes.get(1)? & 0x7f);
    let (length, head) = match length {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
        length => (length, 2),
    };
    let payload = head + 4;
    (bytes.len() >= payload + length).then_some((payload, payload + length))
}
