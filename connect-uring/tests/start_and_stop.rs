//! A node starts on ports of its own or says in one line why not, answers on all of them, and stops when it is told.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use connect_uring::{DriverChoice, Node, Settings};
use ringcast_proto::NodeId;
use settings::SettingError;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ports chosen by the kernel, and no controller.
fn settings(id: &str, driver: DriverChoice) -> Settings {
    Settings {
        node_id: NodeId::new(id).unwrap(),
        grpc_port: 0,
        http_port: 0,
        metrics_port: 0,
        shards: 2,
        driver,
        controller_address: vec!["127.0.0.1:1".to_owned()],
        ..Settings::default()
    }
}

/// The answer to a GET, head and body.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", address.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Scrapes until the line is there: a shard publishes its figures when it goes to sleep, after it has answered.
fn await_metric(address: SocketAddr, line: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let metrics = get(address, "/metrics");
        if metrics.lines().any(|told| told == line) {
            return;
        }
        assert!(Instant::now() < until, "no {line} in {metrics}");
    }
}

/// Waits for the end of a node, but not for ever.
fn ended(node: Node) -> anyhow::Result<()> {
    let (sender, end) = mpsc::channel();
    std::thread::spawn(move || sender.send(node.wait()));
    end.recv_timeout(PATIENCE).expect("the node does not end")
}

fn serves_and_stops(driver: DriverChoice, name: &str) {
    let both = vec![settings("one", driver), settings("two", driver)];
    let nodes = connect_uring::start(both).unwrap();
    for (node, id) in nodes.iter().zip(["one", "two"]) {
        assert!(get(node.http_addr, "/health").ends_with("{\"status\":\"ok\"}"));
        let stats = get(node.http_addr, "/stats");
        assert!(stats.contains(&format!("\"node_id\":\"{id}\"")), "{stats}");
        assert!(stats.contains(&format!("\"driver\":\"{name}\"")), "{stats}");
        assert!(get(node.http_addr, "/client.html").contains("<!doctype html>"));
        let nodes = get(node.http_addr, "/nodes");
        assert!(nodes.starts_with("HTTP/1.1 503 ") && nodes.contains("Retry-After: "), "{nodes}");
        let refused = get(node.http_addr, "/ws?user_id=a&room_id=b");
        assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After"), "{refused}");
        let metrics = get(node.metrics_addr, "/metrics");
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.contains(&format!("ringcast_node_driver_info{{driver=\"{name}\"}} 1")), "{metrics}");
        await_metric(node.metrics_addr, "ringcast_node_handshakes_refused_total{status=\"503\"} 1");
    }
    let began = Instant::now();
    for node in nodes {
        let http = node.http_addr;
        node.drain();
        node.drain();
        ended(node).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", http.port())).is_err(), "it still listens");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "nobody was connected: {:?}", began.elapsed());
}

#[test]
fn two_nodes_on_epoll_serve_and_stop() {
    serves_and_stops(DriverChoice::Epoll, "epoll");
}

#[test]
fn two_nodes_on_io_uring_serve_and_stop() {
    serves_and_stops(DriverChoice::IoUring, "io_uring");
}

#[test]
fn a_taken_port_is_named_with_its_setting() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = || settings("one", DriverChoice::Auto);
    for (settings, key) in [
        (Settings { http_port: port, ..free() }, "HTTP_PORT"),
        (Settings { grpc_port: port, ..free() }, "GRPC_PORT"),
        (Settings { metrics_port: port, ..free() }, "METRICS_PORT"),
    ] {
        let error = connect_uring::start(vec![settings]).unwrap_err();
        let error = error.downcast_ref::<SettingError>().expect("a setting is the reason").to_string();
        assert!(error.starts_with(&format!("{key} = {port}: the port is taken")), "{error}");
    }
}

#[test]
fn a_port_that_two_nodes_ask_for_is_refused() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let [one, two] =
        ["one", "two"].map(|id| Settings { http_port: port, ..settings(id, DriverChoice::Auto) });
    let error = connect_uring::start(vec![one, two]).unwrap_err().to_string();
    assert!(error.starts_with(&format!("HTTP_PORT = {port}: ")), "{error}");
}
