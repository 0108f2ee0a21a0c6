//! What the system's parts say of themselves: `/stats`, `/metrics`, and what `/proc` says of their processes.
//!
//! Owns: reading. Must not: interpret beyond units. Talks to: HTTP ports, `/proc`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Clock ticks a second in `/proc`: fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;

/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// A node's `/stats`, as far as runs need it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeStats {
    pub(crate) node_id: String,
    #[serde(default)]
    pub(crate) shards: Vec<ShardLine>,
}

/// A shard in `/stats`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ShardLine {
    pub(crate) connections: u64,
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    /// CPU seconds.
    pub(crate) cpu_s: f64,
    /// Those in user mode, where that is known.
    pub(crate) user_s: Option<f64>,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

/// A node's `/stats`; `None` where nobody answers it.
pub(crate) async fn node_stats(http: SocketAddr, timeout: Duration) -> Option<NodeStats> {
    let body = get(http, "/stats", timeout).await.ok()?;
    serde_json::from_str(&body).ok()
}

/// A process's figures from its metrics; `None` where they have none.
pub(crate) async fn metrics_usage(metrics: SocketAddr, timeout: Duration) -> Option<Usage> {
    let body = get(metrics, "/metrics", timeout).await.ok()?;
    let value = |name: &str| {
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<f64>().ok())
    };
    Some(Usage {
        cpu_s: value("process_cpu_seconds_total")?,
        user_s: None,
        rss_bytes: value("process_resident_memory_bytes").unwrap_or(0.0) as u64,
    })
}

/// A process's figures from `/proc`; `None` where it is not on this machine.
pub(crate) fn proc_usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its bracket is regular.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = (ticks(11)?, ticks(12)?);
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(Usage {
        cpu_s: (user + system) / TICKS_PER_SECOND,
        user_s: Some(user / TICKS_PER_SECOND),
        rss_bytes: pages * PAGE_BYTES,
    })
}

/// What a thread has had of the cores, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct ThreadTime {
    /// It ran.
    pub(crate) ran_s: f64,
    /// It could have run, and something else did.
    pub(crate) waited_s: f64,
}

impl ThreadTime {
    /// The time since an earlier one.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { ran_s: self.ran_s - earlier.ran_s, waited_s: self.waited_s - earlier.waited_s }
    }

    /// The time of the calling thread.
    pub(crate) fn own() -> Self {
        Self::read(Path::new("/proc/thread-self/schedstat")).unwrap_or_default()
    }

    fn read(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        let mut ns = text.split_whitespace().filter_map(|field| field.parse::<f64>().ok());
        Some(Self { ran_s: ns.next()? / 1e9, waited_s: ns.next()? / 1e9 })
    }
}

/// The threads of this process: id, name and time.
pub(crate) fn own_threads() -> HashMap<u32, (String, ThreadTime)> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return HashMap::new() };
    let threads = tasks.flatten().filter_map(|task| {
        let id: u32 = task.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let time = ThreadTime::read(&task.path().join("schedstat"))?;
        Some((id, (name.trim().to_owned(), time)))
    });
    threads.collect()
}

/// The process that listens on this TCP port of this machine, as far as this user may see it.
///
/// Where threads have descriptor tables of their own, `/proc` shows the main thread's.
pub(crate) fn pid_of_listener(port: u16) -> Option<u32> {
    let inodes = listening_inodes(port);
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        descriptors.flatten().any(|descriptor| {
            let target = std::fs::read_link(descriptor.path()).unwrap_or_default();
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            inode.is_some_and(|inode| inodes.iter().any(|known| known == inode))
        })
    })
}

fn listening_inodes(port: u16) -> Vec<String> {
    let mut inodes = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, LISTEN, ..] = fields[..]
                && local.ends_with(&format!(":{port:04X}"))
                && let Some(inode) = fields.get(9)
            {
                inodes.push((*inode).to_owned());
            }
        }
    }
    inodes
}

/// The body of a plain GET.
pub(crate) async fn get(addr: SocketAddr, path: &str, timeout: Duration) -> anyhow::Result<String> {
    tokio::time::timeout(timeout, get_now(addr, path))
        .await
        .with_context(|| format!("{addr}{path}: too slow"))?
}

async fn get_now(addr: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let end = head_end(&answer)?;
        if let Some((start, Some(length))) = end
            && answer.len() >= start + length
        {
            answer.truncate(start + length);
            break;
        }
        let count = socket.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..count]);
        anyhow::ensure!((answer.len() as u64) < MAX_ANSWER, "the answer has no end");
    }
    let (start, _) = head_end(&answer)?.context("no HTTP answer")?;
    Ok(String::from_utf8_lossy(&answer[start..]).into_owned())
}

/// Where the body begins, and how long it is where that is said; an error where the status is not 200.
fn head_end(answer: &[u8]) -> anyhow::Result<Option<(usize, Option<usize>)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = response.parse(answer)? else { return Ok(None) };
    let code = response.code.unwrap_or(0);
    anyhow::ensure!(code == 200, "status {code}");
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    Ok(Some((start, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(pid_of_listener(port), Some(std::process::id()));
        drop(listener);
        assert_eq!(pid_of_listener(port), None);
    }

    #[test]
    fn this_process_is_told() {
        let usage = proc_usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000 && usage.user_s.is_some());
        assert!(!own_threads().is_empty());
    }
}
