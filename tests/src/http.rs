//! Plain HTTP/1.1 by hand: what a test says is what goes over the wire.
//!
//! Owns: one exchange a connection. Must not: follow, retry or keep anything.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context as _;

/// How long an exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head as it came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header, where there is one.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON.
    pub fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {:?}", self.body))
    }
}

/// A GET of a path.
pub fn get(addr: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    exchange(addr, format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes())
}

/// Sends these bytes and reads to the end of what comes back.
pub fn exchange(addr: SocketAddr, request: &[u8]) -> anyhow::Result<Answer> {
    let mut socket = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.write_all(request)?;
    read_answer(&mut socket)
}

/// Reads an answer to the end of the stream.
pub fn read_answer(socket: &mut TcpStream) -> anyhow::Result<Answer> {
    let mut bytes = Vec::new();
    // A reset after the answer does not take away what was read before.
    let ended = socket.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) =
        text.split_once("\r\n\r\n").with_context(|| format!("no answer: {text:?} {ended:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.context("no status")?, head: head.into(), body: body.into() })
}
