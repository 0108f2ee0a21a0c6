//! Free ports for servers of tests that run at the same time, in this process and in others.
//!
//! Owns: which ports are claimed. Must not: keep them bound; a claim is a name that one process at a time can have.

use std::net::{Ipv4Addr, SocketAddr as Address, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the services' own tests take (from 10,000), and far below 32,768, where the kernel takes ports
/// for clients' sockets from: no client's socket can be there first.
const FIRST: u16 = 4_000;
const COUNT: u16 = 5_000;

/// A port that nobody else who asks here gets while this lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// A name in the abstract name space, which is that of the network name space, as ports are; the kernel takes it
    /// back when the process ends, however it ends.
    _claim: UnixListener,
}

impl Port {
    /// A port on which nobody listens.
    #[track_caller]
    pub(crate) fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin at different places, so that they seldom meet.
        #[expect(clippy::cast_possible_truncation, reason = "less than COUNT")]
        let begin = (std::process::id().wrapping_mul(97) % u32::from(COUNT)) as u16;
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let number = FIRST + (begin + step) % COUNT;
            if let Some(port) = Self::claim_number(number) {
                return port;
            }
        }
        panic!("no free port from {FIRST} to {}", FIRST + COUNT - 1);
    }

    fn claim_number(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("ringcast-test-servers-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        // Any address: so a listener on one address is found, too.
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).ok()?;
        Some(Self { number, _claim: claim })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// On the loopback, where all servers listen.
    pub(crate) fn address(&self) -> Address {
        Address::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_or_taken_port_is_not_given_again() {
        let port = Port::claim();
        assert!((FIRST..FIRST + COUNT).contains(&port.number()));
        assert!(Port::claim_number(port.number()).is_none(), "claimed twice");
        let number = port.number();
        drop(port);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert!(Port::claim_number(number).is_none(), "somebody listens there");
        drop(taken);
        assert!(Port::claim_number(number).is_some(), "it is free again");
    }
}
