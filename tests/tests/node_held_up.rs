//! Promise: a node that was held up (stopped, or without a core) closes nobody for the time that it was away: whoever's
//! time ran out meanwhile has another second, and no more.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ringcast_tests::{System, SystemPlan, eventually};

/// How long a client may take for its request.
const HANDSHAKE: &str = "handshake_timeout: 500ms";

/// That, the second from which on a shard counts as late, and a little.
const AWAY: Duration = Duration::from_millis(2_000);

const REQUEST: &str = "GET /ws?user_id=late&user_name=late&room_id=late HTTP/1.1\r\nHost: node\r\n\
                       Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Where the client is interrupted.
const BEGUN: usize = 30;

fn begin(addr: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.write_all(&REQUEST.as_bytes()[..BEGUN]).unwrap();
    socket
}

fn first_line(socket: &mut TcpStream) -> String {
    let mut bytes = [0; 1024];
    let count = socket.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..count]).lines().next().unwrap_or("").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_closes_nobody_for_that() {
    let system = System::start(SystemPlan::nodes(1).limit(HANDSHAKE)).await;
    let node = &system.nodes[0];
    let (mut quick, mut silent) = (begin(node.http), begin(node.http));
    eventually("the node has both", Duration::from_secs(5), async || {
        match node.metric("ringcast_node_connections") {
            Ok(connections) if connections >= 2.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    node.process.signal(libc::SIGSTOP);
    tokio::time::sleep(AWAY).await;
    node.process.signal(libc::SIGCONT);
    eventually("the node finds that it was late", Duration::from_secs(5), async || {
        match node.metric("ringcast_node_deferred_timeouts_total") {
            Ok(deferred) if deferred >= 2.0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    quick.write_all(&REQUEST.as_bytes()[BEGUN..]).unwrap();
    let answer = first_line(&mut quick);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer:?} to a client that went on in its second");
    let answer = first_line(&mut silent);
    assert!(!answer.starts_with("HTTP/1.1 101 "), "{answer:?} to a client that never ended its request");
}
