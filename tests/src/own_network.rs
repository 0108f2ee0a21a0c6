//! A network of a test's own, for what listens on documented ports.
//!
//! Owns: nothing. Must not: touch the network of anything else.

use std::process::Command;

/// A pair of cards that lead nowhere but to each other: a browser without any takes itself to be offline.
const CARDS: [&[&str]; 4] = [
    &["link", "add", "card0", "type", "veth", "peer", "name", "card1"],
    &["addr", "add", "10.255.255.1/30", "dev", "card0"],
    &["link", "set", "card0", "up"],
    &["link", "set", "card1", "up"],
];

/// The same as [`enter_own_network`], for a browser.
pub fn enter_own_network_with_cards() {
    if is_alone() {
        CARDS.iter().for_each(|arguments| ip(arguments));
    }
}

/// Puts this thread, and all that it starts, into a network that holds nothing but its own loopback; without the
/// right to, the ports of this machine are used.
pub fn enter_own_network() {
    is_alone();
}

/// Whether there is a network of our own now.
fn is_alone() -> bool {
    // SAFETY: the call takes no memory; it concerns this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return false;
    }
    ip(&["link", "set", "lo", "up"]);
    true
}

fn ip(arguments: &[&str]) {
    let done = Command::new("ip").args(arguments).status();
    assert!(done.is_ok_and(|status| status.success()), "ip {arguments:?} in an own network");
}
