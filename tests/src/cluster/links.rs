//! Who is connected to whom, as the kernel has it.
//!
//! Owns: reading /proc. Must not: ask a service: one that is held or cut off cannot answer.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Context as _;

/// The state of an established connection in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// The places of those ports to which a process has connections.
pub(super) fn connected_to(pid: u32, ports: &[u16]) -> anyhow::Result<Vec<usize>> {
    let own = sockets(pid)?;
    // The table is that of the network in which the process is.
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let peers: HashSet<u16> = table.lines().skip(1).filter_map(|line| peer(line, &own)).collect();
    let places = ports.iter().enumerate().filter(|(_, port)| peers.contains(port));
    Ok(places.map(|(place, _)| place).collect())
}

/// The peer's port of an established connection that one of these sockets has.
fn peer(line: &str, own: &HashSet<u64>) -> Option<u16> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (remote, state, inode) = (fields.get(2)?, fields.get(3)?, fields.get(9)?);
    if *state != ESTABLISHED || !own.contains(&inode.parse().ok()?) {
        return None;
    }
    u16::from_str_radix(remote.rsplit_once(':')?.1, 16).ok()
}

/// The inodes of a process's sockets, of all its threads: they may have tables of their own.
fn sockets(pid: u32) -> anyhow::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))?;
    for task in tasks {
        // A thread may end while it is looked at, and so may a descriptor.
        let Ok(descriptors) = std::fs::read_dir(task?.path().join("fd")) else { continue };
        let links = descriptors.flatten().filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok());
        found.extend(links.filter_map(|link| inode(&link)));
    }
    Ok(found)
}

fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_our_own_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap().port();
        let nobodys = if there == 1 { 2 } else { 1 };
        assert!(connected_to(std::process::id(), &[there]).unwrap().is_empty());
        let _connection = std::net::TcpStream::connect(("127.0.0.1", there)).unwrap();
        assert_eq!(connected_to(std::process::id(), &[nobodys, there]).unwrap(), [1]);
    }
}
