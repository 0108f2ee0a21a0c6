//! A shard's listener: one of those that share the node's HTTP port.
//!
//! Owns: the listener, and what is done when the shard has no room for a client, or the machine no descriptors or
//! memory. Must not: wait (`shard_loop` does). Talks to: `shard_driver`, which takes the sockets.
//!
//! The kernel gives each client to one of the listeners by a hash, whatever room its shard has. A shard that is full
//! therefore stops listening while others do, and clients come to those instead.

use std::fs::File;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::plane::shut_down;

/// Connections that the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// How long bytes may stay unacknowledged before the kernel gives a connection up: as long as a silent client is
/// kept. It also bounds how long the kernel keeps what is left of a connection that we have closed.
const USER_TIMEOUT: Duration = Duration::from_secs(35);

/// The pause after an accept failed for want of descriptors or memory, doubled each time, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 10..=100;

/// For how long a full shard leaves new clients to the others, in milliseconds.
const AWAY_MS: u64 = 1000;

/// Clients that are told so before each pause.
const REFUSED_PER_PAUSE: usize = 64;

/// What a client is told to wait that cannot be taken, in seconds; by chance, so that those who are refused together do
/// not come back together.
const RETRY_AFTER_S: std::ops::RangeInclusive<u8> = 2..=5;

/// How many of a node's shards listen.
#[derive(Debug, Default)]
pub(crate) struct Listening(AtomicUsize);

impl Listening {
    /// Counts one less, unless it is the last: somebody has to tell clients that there is no room.
    fn leave(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |listening| (listening > 1).then(|| listening - 1)).is_ok()
    }

    fn join(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: Socket,
    address: SocketAddr,
    nonblocking: bool,
    listening: Arc<Listening>,
    /// Does not listen for the time of a pause.
    away: bool,
    /// Given up to take, and refuse, a client when there is no other descriptor left.
    spare: Option<File>,
    ready: bool,
    pause_ms: u64,
    paused_until_ms: u64,
    errors: u64,
}

impl Acceptor {
    /// Listens on an address that other shards listen on too. The sockets inherit a send buffer of so many bytes.
    pub(crate) fn bind(
        address: SocketAddr,
        send_buffer: usize,
        nonblocking: bool,
        listening: Arc<Listening>,
    ) -> io::Result<Self> {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            listener.set_only_v6(false)?;
        }
        listener.set_reuse_address(true)?;
        listener.set_reuse_port(true)?;
        listener.set_send_buffer_size(send_buffer)?;
        listener.set_tcp_nodelay(true)?;
        listener.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        listener.set_nonblocking(true)?;
        listener.bind(&address.into())?;
        listener.listen(BACKLOG)?;
        let address = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        listening.join();
        Ok(Self {
            listener,
            address,
            nonblocking,
            listening,
            away: false,
            spare: spare(),
            ready: true,
            pause_ms: *PAUSE_MS.start(),
            paused_until_ms: 0,
            errors: 0,
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// There may be clients, as far as is known.
    pub(crate) fn is_ready(&self, now_ms: u64) -> bool {
        self.ready && !self.is_paused(now_ms)
    }

    /// There are clients again.
    pub(crate) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Until when nothing is accepted, in monotonic milliseconds.
    pub(crate) fn paused_until_ms(&self, now_ms: u64) -> Option<u64> {
        self.is_paused(now_ms).then_some(self.paused_until_ms)
    }

    /// Accepts that failed for want of descriptors or memory.
    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    /// The next client, or none for now.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<OwnedFd> {
        if self.away && !self.is_paused(now_ms) {
            self.come_back(now_ms);
        }
        while self.is_ready(now_ms) {
            match self.accept() {
                Ok(client) => {
                    self.pause_ms = *PAUSE_MS.start();
                    return Some(client);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE) => {
                        self.pause(now_ms);
                        self.refuse_some();
                    }
                    Some(libc::ENOBUFS | libc::ENOMEM) => self.pause(now_ms),
                    // These are of one client that has gone again, or of none.
                    Some(libc::ECONNABORTED | libc::EINTR | libc::EPROTO | libc::EPERM) => {}
                    _ => self.ready = false,
                },
            }
        }
        None
    }

    /// Refuses a client for whom the shard has no room, and those who wait behind it. Where another shard listens,
    /// this one stops for a while.
    pub(crate) fn leave_to_others(&mut self, client: OwnedFd, now_ms: u64) {
        refuse(client);
        if self.away || !self.listening.leave() {
            return;
        }
        self.refuse_all();
        shut_down(&self.listener, Shutdown::Both);
        self.away = true;
        self.paused_until_ms = now_ms + AWAY_MS;
    }

    /// Listens again.
    fn come_back(&mut self, now_ms: u64) {
        // A listener whose port the kernel chose has lost it; another still has it, and this fails.
        let _ = self.listener.bind(&self.address.into());
        if self.listener.listen(BACKLOG).is_ok() {
            self.listening.join();
            self.away = false;
        } else {
            self.errors += 1;
            self.paused_until_ms = now_ms + AWAY_MS;
        }
    }

    /// Refuses those who wait and listens no more. The other shards' listeners are not concerned.
    pub(crate) fn close(mut self) {
        self.refuse_all();
        // A poll of the loop may hold the listener: closing it alone would leave it listening.
        shut_down(&self.listener, Shutdown::Both);
        self.spare = None;
    }

    /// Those in the queue would be reset; as many as it holds are told instead.
    fn refuse_all(&self) {
        for _ in 0..BACKLOG {
            let Ok(client) = self.accept() else { break };
            refuse(client);
        }
    }

    fn accept(&self) -> io::Result<OwnedFd> {
        let flags = libc::SOCK_CLOEXEC | if self.nonblocking { libc::SOCK_NONBLOCK } else { 0 };
        // SAFETY: no address is asked for, so that both pointers may be null.
        let fd = unsafe {
            libc::accept4(self.listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor, so nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn is_paused(&self, now_ms: u64) -> bool {
        now_ms < self.paused_until_ms
    }

    fn pause(&mut self, now_ms: u64) {
        self.errors += 1;
        self.paused_until_ms = now_ms + self.pause_ms;
        self.pause_ms = (2 * self.pause_ms).min(*PAUSE_MS.end());
    }

    /// Tells clients that there is no room, one after the other with the descriptor that was kept for it.
    fn refuse_some(&mut self) {
        if self.spare.take().is_some() {
            for _ in 0..REFUSED_PER_PAUSE {
                let Ok(client) = self.accept() else { break };
                refuse(client);
            }
        }
        self.spare = spare();
    }
}

impl AsFd for Acceptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Answers 503 and closes.
pub(crate) fn refuse(client: OwnedFd) {
    let socket = SockRef::from(&client);
    let refusal = format!(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: {}\r\nContent-Length: 0\r\n\
         Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After\r\n\
         Connection: close\r\n\r\n",
        fastrand::u8(RETRY_AFTER_S)
    );
    // The client may be gone, or send more than is read here: it is told as far as that goes.
    let _ = socket.send_with_flags(refusal.as_bytes(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    shut_down(&client, Shutdown::Write);
    // What is left unread would turn the close into a reset, which can take the answer with it.
    let _ = socket.recv_with_flags(&mut [std::mem::MaybeUninit::uninit(); 4096], libc::MSG_DONTWAIT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpStream;

    fn acceptor() -> Acceptor {
        bind("127.0.0.1:0".parse().unwrap(), &Arc::default())
    }

    fn bind(address: SocketAddr, listening: &Arc<Listening>) -> Acceptor {
        Acceptor::bind(address, 64 * 1024, true, Arc::clone(listening)).unwrap()
    }

    fn connect(address: SocketAddr) -> TcpStream {
        let client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    #[test]
    fn clients_inherit_what_the_listener_was_given() {
        let mut acceptor = acceptor();
        let _client = connect(acceptor.address());
        let ours = acceptor.next(0).unwrap();
        let socket = SockRef::from(&ours);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        // The kernel doubles the size for its own book-keeping.
        assert_eq!(socket.send_buffer_size().unwrap(), 2 * 64 * 1024);
        assert!(acceptor.next(0).is_none() && !acceptor.is_ready(0));
    }

    #[test]
    fn a_closed_listener_has_told_those_who_waited_and_refuses_the_next() {
        let acceptor = acceptor();
        let address = acceptor.address();
        let mut waiting = connect(address);
        // Somebody else holds the listener, as a poll does.
        let held = acceptor.as_fd().try_clone_to_owned().unwrap();
        acceptor.close();
        let mut told = String::new();
        waiting.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert!(TcpStream::connect(address).is_err());
        drop(held);
    }

    #[test]
    fn clients_come_to_those_who_have_room_until_a_full_shard_listens_again() {
        let listening = Arc::default();
        let mut full = bind("127.0.0.1:0".parse().unwrap(), &listening);
        let mut other = bind(full.address(), &listening);
        let address = full.address();
        // By the hash each gets about half.
        let mut told = loop {
            let client = connect(address);
            if let Some(ours) = full.next(0) {
                full.leave_to_others(ours, 0);
                break client;
            }
            full.set_ready();
        };
        let mut answer = String::new();
        told.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let clients: Vec<TcpStream> = (0..50).map(|_| connect(address)).collect();
        let came = std::iter::from_fn(|| other.next(0)).count();
        assert!(came >= clients.len(), "{came} clients came to the one who has room");
        assert!(full.next(AWAY_MS - 1).is_none());

        other.set_ready();
        let last = (0..200).find_map(|_| {
            let _client = connect(address);
            full.set_ready();
            full.next(AWAY_MS)
        });
        assert!(last.is_some(), "it listens again, on the same port");
        std::iter::from_fn(|| other.next(0)).for_each(drop);
        other.set_ready();
        full.leave_to_others(last.unwrap(), AWAY_MS);
        let _client = connect(address);
        let ours = other.next(0).unwrap();
        other.leave_to_others(ours, 0);
        assert!(full.away && !other.away, "the last one goes on, to tell clients that there is no room");
    }

    #[test]
    fn a_failed_accept_pauses_longer_each_time() {
        let mut acceptor = acceptor();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            acceptor.pause(1000);
            pauses.push(acceptor.paused_until_ms(1000).unwrap() - 1000);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 100, 100]);
        assert!(!acceptor.is_ready(1099) && acceptor.is_ready(1100));
        assert_eq!(acceptor.errors(), 6);
    }
}
