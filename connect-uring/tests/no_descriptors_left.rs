//! A node that runs out of descriptors tells clients so, does not spin, keeps those that it has, and takes new ones
//! as soon as there is room again.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the node may have open while it runs out: more than it needs to start, less than there are clients.
const DESCRIPTORS: u64 = 64;

/// A node in a process of its own, killed at the end.
struct Node {
    process: Child,
    http: SocketAddr,
    metrics: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn start(driver: &str) -> Node {
    // Held together, so that they differ, and given back before the node takes them.
    let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = held.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(held);
    let process = Command::new(env!("CARGO_BIN_EXE_connect-uring"))
        .args(["--driver", driver, "--shards", "1", "--controller-address", "127.0.0.1:1"])
        .args(["--http-port", &ports[0].port().to_string(), "--grpc-port", &ports[1].port().to_string()])
        .args(["--metrics-port", &ports[2].port().to_string()])
        .current_dir(std::env::temp_dir())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut node = Node { process, http: ports[0], metrics: ports[2] };
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(node.http).is_err() || TcpStream::connect(node.metrics).is_err() {
        assert!(node.process.try_wait().unwrap().is_none(), "the node has ended");
        assert!(Instant::now() < until, "the node does not listen");
        std::thread::yield_now();
    }
    node
}

impl Node {
    fn allow(&self, descriptors: u64) {
        let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: 4096 };
        let process = self.process.id() as libc::pid_t;
        // SAFETY: the limit lives through the call; nothing is written.
        let result =
            unsafe { libc::prlimit(process, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// CPU time of the process so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(10 * ticks)
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn runs_out_and_recovers(driver: &str) {
    let node = start(driver);
    assert!(get(node.http, "/health").starts_with("HTTP/1.1 200 "));
    node.allow(DESCRIPTORS);
    let mut clients: Vec<_> = (0..2 * DESCRIPTORS).map(|_| TcpStream::connect(node.http).unwrap()).collect();
    // Those that were taken hold all descriptors; the last one that came is told that there is no room.
    let last = clients.last_mut().unwrap();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut told = String::new();
    last.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");

    let before = node.cpu();
    std::thread::sleep(Duration::from_secs(1));
    let spent = node.cpu() - before;
    assert!(spent < Duration::from_millis(200), "{spent:?} of CPU in a second of want");

    // The first one was taken, and is still served.
    let first = &mut clients[0];
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    node.allow(4096);
    assert!(get(node.http, "/health").starts_with("HTTP/1.1 200 "));
    drop(clients);
    let metrics = get(node.metrics, "/metrics");
    let errors = metrics.lines().find(|line| line.starts_with("ringcast_node_accept_errors_total")).unwrap();
    let count: f64 = errors.split_whitespace().last().unwrap().parse().unwrap();
    assert!(count >= 1.0, "{errors}");
}

#[test]
fn on_epoll() {
    runs_out_and_recovers("epoll");
}

#[test]
fn on_io_uring() {
    runs_out_and_recovers("auto");
}
