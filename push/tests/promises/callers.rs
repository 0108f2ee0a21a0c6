//! How patiently callers' connections are judged, frame by frame of HTTP/2 (RFC 9113, section 4.1).

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::controller::FakeController;
use crate::{System, soon};

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// How late the caller answers: longer than services give one another, shorter than callers are given.
const LATE: Duration = Duration::from_secs(5);

/// How long the first ping may take to come, which a quiet connection gets after ten seconds.
const FIRST_PING: Duration = Duration::from_secs(20);

struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

async fn next_frame(stream: &mut TcpStream) -> std::io::Result<Frame> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await?;
    Ok(Frame { kind: head[3], flags: head[4], payload })
}

async fn send_frame(stream: &mut TcpStream, kind: u8, flags: u8, payload: &[u8]) {
    let length = u8::try_from(payload.len()).unwrap();
    stream.write_all(&[0, 0, length, kind, flags, 0, 0, 0, 0]).await.unwrap();
    stream.write_all(payload).await.unwrap();
}

/// The payload of the next PING with these flags. Nothing else is answered meanwhile but SETTINGS.
async fn next_ping(stream: &mut TcpStream, flags: u8) -> Vec<u8> {
    loop {
        let frame = next_frame(stream).await.expect("the connection stays open");
        match (frame.kind, frame.flags) {
            (SETTINGS, 0) => send_frame(stream, SETTINGS, ACK, &[]).await,
            (PING, found) if found == flags => return frame.payload,
            _ => {}
        }
    }
}

/// A caller whose machine is full, or that collects garbage, must not lose the answers of its open pushes.
#[tokio::test]
async fn a_caller_that_answers_a_ping_late_keeps_its_connection() {
    let system = System::start(FakeController::start()).await;
    let mut stream = TcpStream::connect(system.running.grpc_addr).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    send_frame(&mut stream, SETTINGS, 0, &[]).await;

    let asked = timeout(FIRST_PING, next_ping(&mut stream, 0)).await.expect("a quiet caller is pinged");
    sleep(LATE).await;
    send_frame(&mut stream, PING, ACK, &asked).await;

    send_frame(&mut stream, PING, 0, b"answered").await;
    assert_eq!(soon("an answer on that connection", next_ping(&mut stream, ACK)).await, b"answered");
}
