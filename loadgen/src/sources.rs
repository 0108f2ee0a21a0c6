//! Where clients connect from: a source address, and at a large number explicit ports, for each thread.
//!
//! Owns: the choice of source address and port. Must not: open a socket. Talks to: `connection`.
//!
//! A pair of addresses has about 28,000 ports. On loopback every address of 127.0.0.0/8 is ours, so each thread
//! takes one of its own; giving the port too spares the kernel the search for a free one, which at a million
//! connections costs more than the connect.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use socket2::{SockAddr, Socket};

/// Where the kernel takes ports from; what is not in this range may be somebody's listener.
const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// How many ports are tried that something else holds, before the kernel is asked.
const ATTEMPTS: usize = 8;

/// Threads of this process that have taken a source.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// A thread's source.
pub(crate) struct Source {
    address: Ipv4Addr,
    first: u16,
    last: u16,
    next: u16,
}

impl Source {
    /// The next address that no other thread of this process has.
    pub(crate) fn take() -> Self {
        let number = TAKEN.fetch_add(1, Relaxed);
        // Processes that measure side by side take different networks.
        let network = 16 + (std::process::id() % 200) as u8;
        let address = Ipv4Addr::new(127, network, (number / 250 % 256) as u8, 1 + (number % 250) as u8);
        let (first, last) = port_range();
        Self { address, first, last, next: first }
    }

    /// Binds a new socket to the next port. Where the socket replaces one that may still be remembered, or ports
    /// are taken, the kernel chooses the port.
    pub(crate) fn bind(&mut self, socket: &Socket, again: bool) -> io::Result<()> {
        for _ in 0..if again { 0 } else { ATTEMPTS } {
            let port = self.next;
            self.next = if port == self.last { self.first } else { port + 1 };
            match socket.bind(&SockAddr::from(SocketAddr::from((self.address, port)))) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                done => return done,
            }
        }
        choose_port_at_connect(socket)?;
        socket.bind(&SockAddr::from(SocketAddr::from((self.address, 0))))
    }
}

fn port_range() -> (u16, u16) {
    let text = std::fs::read_to_string(RANGE_FILE).unwrap_or_default();
    let mut ports = text.split_whitespace().filter_map(|word| word.parse().ok());
    match (ports.next(), ports.next()) {
        (Some(first), Some(last)) if first < last => (first, last),
        _ => (32_768, 60_999),
    }
}

/// Lets the kernel choose the port when the other end is known: ports are then used once for each pair of
/// addresses, not once for each source.
fn choose_port_at_connect(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is valid for the call, and its size is what is said.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
