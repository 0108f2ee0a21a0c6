//! A node is listed in etcd for as long as it lives, its id is its own, and a second live holder of it does not start.
#![cfg(feature = "cluster")]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use test_servers::Etcd;

/// The longest that anything here may take, on a machine that compiles meanwhile.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long a lease lives, and how much longer a node waits for its id.
const LEASE: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(2);

/// A node in a process of its own, killed at the end.
struct Node {
    process: Child,
    said: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    http: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    fn start(etcd: &Etcd, id: &str) -> Self {
        // The kernel chooses the ports, and the node says which.
        let mut process = Command::new(env!("CARGO_BIN_EXE_connect-uring"))
            .args(["--driver", "epoll", "--shards", "1", "--node-id", id])
            .args(["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"])
            .env("ETCD_ENDPOINTS", etcd.endpoints().join(","))
            .current_dir(std::env::temp_dir())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, heard) = (BufReader::new(process.stderr.take().unwrap()).lines(), Arc::clone(&said));
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let mut node = Self { process, said, reader: Some(reader), http: 0 };
        eventually("it serves", || {
            let said = node.said.lock().unwrap();
            let port = said.split_once("http=").and_then(|(_, address)| {
                let address = address.split_whitespace().next()?;
                address.rsplit(':').next()?.parse().ok()
            });
            node.http = port.unwrap_or(0);
            node.http > 0
        });
        node
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: a signal to a child that was not waited for yet.
        let sent = unsafe { libc::kill(self.process.id() as libc::pid_t, signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// Its exit code, and what it said.
    fn ended(&mut self) -> (Option<i32>, String) {
        let mut code = None;
        eventually("it ends", || {
            code = self.process.try_wait().unwrap();
            code.is_some()
        });
        self.reader.take().unwrap().join().unwrap();
        (code.unwrap().code(), self.said.lock().unwrap().clone())
    }

    fn health(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn is_listed(&self, etcd: &Etcd, id: &str) -> bool {
        etcd.get(&format!("/ringcast/nodes/{id}")).is_some()
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_second_node_with_a_live_id_waits_for_a_lease_and_does_not_start() {
    let etcd = Etcd::start(1);
    let mut first = Node::start(&etcd, "twin");
    eventually("it is listed", || first.is_listed(&etcd, "twin"));
    eventually("it is ready", || first.health().starts_with("HTTP/1.1 200 "));
    let listed = etcd.get("/ringcast/nodes/twin");
    let began = Instant::now();
    let mut second = Node::start(&etcd, "twin");
    let health = second.health();
    assert!(health.starts_with("HTTP/1.1 503 ") && health.contains("starting"), "{health}");
    let (code, said) = second.ended();
    assert!(began.elapsed() >= LEASE + MARGIN, "it gave up after {:?}", began.elapsed());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("NODE_ID = twin: another live node has this id"), "{said}");
    assert_eq!(etcd.get("/ringcast/nodes/twin"), listed, "the first is listed as before");

    let stopped = Instant::now();
    first.signal(libc::SIGTERM);
    let (code, said) = first.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(!first.is_listed(&etcd, "twin"), "a planned stop gives the lease back");
    assert!(stopped.elapsed() < LEASE, "it took {:?}", stopped.elapsed());
}

#[test]
fn a_node_that_was_away_for_longer_than_its_lease_ends_where_another_has_its_id() {
    let etcd = Etcd::start(1);
    let mut away = Node::start(&etcd, "twin");
    eventually("it is listed", || away.is_listed(&etcd, "twin"));
    let former = etcd.get("/ringcast/nodes/twin");
    away.signal(libc::SIGSTOP);
    let replacement = Node::start(&etcd, "twin");
    eventually("the id is the other's", || {
        let holder = etcd.get("/ringcast/nodes/twin");
        holder.is_some() && holder != former
    });
    away.signal(libc::SIGCONT);
    let (code, said) = away.ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("NODE_ID = twin: another live node has this id"), "{said}");
    assert!(replacement.health().starts_with("HTTP/1.1 200 "));
}
