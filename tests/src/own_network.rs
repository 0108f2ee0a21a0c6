//! A network of a test's own, for what listens on documented ports.
//!
//! Owns: nothing. Must not: touch the network of anything else.

use std::process::Command;

/// Puts this thread, and all that it starts, into a network that holds nothing but its own loopback; without the
/// right to, the ports of this machine are used.
pub fn enter_own_network() {
    // SAFETY: the call takes no memory; it concerns this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()), "the loopback of an own network");
    }
}
