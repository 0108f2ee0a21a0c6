//! Pushes by a plain WebSocket, as small servers take them: a connection a room, each message one push to the room.
//!
//! Owns: the publishers' connections. Must not: expect an answer. Talks to: a server's HTTP port, `handshake`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use anyhow::Context as _;
use connect_core::client::client_frame;
use connect_core::frame::OpCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::handshake::{Answer, judge, key, request};
use crate::lane::{Leaving, SharedBooks};
use crate::lane_grpc::lock;
use crate::publisher::Target;

/// Bytes that wait for a server; past it, pushes stay queued.
const MAX_UNSENT: usize = 4 * 1024 * 1024;

/// A connection for each room.
pub(crate) struct SocketLane {
    places: HashMap<String, usize>,
    rooms: Vec<RoomSocket>,
    queued: Vec<(usize, u64, Vec<u8>)>,
    books: SharedBooks,
}

struct RoomSocket {
    write: OwnedWriteHalf,
    unsent: Vec<u8>,
    broken: bool,
}

impl SocketLane {
    pub(crate) async fn open(
        addr: SocketAddr,
        path: &str,
        targets: &[Target],
        books: &SharedBooks,
    ) -> anyhow::Result<Self> {
        let mut lane =
            Self { places: HashMap::new(), rooms: Vec::new(), queued: Vec::new(), books: books.clone() };
        for target in targets {
            let Target::Room { room, .. } = target else {
                anyhow::bail!("a WebSocket publisher pushes to rooms only, not to {target:?}");
            };
            if lane.places.contains_key(room) {
                continue;
            }
            let write = connect(addr, path, room)
                .await
                .with_context(|| format!("no WebSocket publisher at {addr} for room {room}"))?;
            lane.places.insert(room.clone(), lane.rooms.len());
            lane.rooms.push(RoomSocket { write, unsent: Vec::new(), broken: false });
        }
        Ok(lane)
    }

    pub(crate) fn queue(&mut self, push: Leaving) {
        let place = match &push.target {
            Target::Room { room, .. } => self.places.get(room).copied(),
            _ => None,
        };
        match place {
            Some(place) => {
                let frame = client_frame(OpCode::Text, &push.data, fastrand::u32(..).to_ne_bytes());
                self.queued.push((place, push.id, frame));
            }
            None => lock(&self.books).unanswerable(push.id),
        }
    }

    pub(crate) fn flush(&mut self) -> u64 {
        let (mut latest, mut stuck) = (0, Vec::new());
        for (place, id, frame) in std::mem::take(&mut self.queued) {
            let room = &mut self.rooms[place];
            room.flush();
            if room.unsent.len() > MAX_UNSENT {
                stuck.push((place, id, frame));
                continue;
            }
            room.unsent.extend_from_slice(&frame);
            room.flush();
            let mut books = lock(&self.books);
            if !room.broken {
                latest = latest.max(books.left([id].into_iter()));
            }
            books.unanswerable(id);
        }
        self.queued = stuck;
        self.rooms.iter_mut().filter(|room| !room.unsent.is_empty()).for_each(RoomSocket::flush);
        latest
    }

    pub(crate) fn is_stuck(&self) -> bool {
        !self.queued.is_empty() || self.rooms.iter().any(|room| !room.unsent.is_empty())
    }
}

impl RoomSocket {
    fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.write.try_write(&self.unsent) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.broken = true;
                    self.unsent.clear();
                }
            }
        }
    }
}

async fn connect(addr: SocketAddr, path: &str, room: &str) -> anyhow::Result<OwnedWriteHalf> {
    let mut socket = TcpStream::connect(addr).await?;
    socket.set_nodelay(true)?;
    let key = key(fastrand::u128(..));
    socket.write_all(&request(&addr.to_string(), path, "publisher", room, &key)).await?;
    let mut head = Vec::new();
    loop {
        anyhow::ensure!(socket.read_buf(&mut head).await? > 0, "the server closed the connection");
        match judge(&head, &key).map_err(anyhow::Error::msg)? {
            Answer::Partial => {}
            Answer::Upgraded(_) => break,
            Answer::Refused(status) => anyhow::bail!("answered {status}"),
        }
    }
    let (read, write) = socket.into_split();
    tokio::spawn(drain(read));
    Ok(write)
}

/// Reads what the server says to a publisher, so that it is never stuck on it. Pings stay unanswered: no run of
/// publishers is as long as a server's patience.
async fn drain(mut read: OwnedReadHalf) {
    let mut scratch = vec![0; 4096];
    while read.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
}
