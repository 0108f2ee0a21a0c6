//! Promise: a message's way can be followed by its id through the logs of all that it passes, by people and by machines; what
//! hostile clients send fills no log, and nothing of a query string stands in one.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use ringcast_tests::{Event, Kind, Members, Service, System, SystemPlan, eventually, http, place};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// Hostile requests; and how many lines they may make.
const REQUESTS: usize = 500;
const LINES: usize = 50;

/// Many messages.
const PUSHES: usize = 5000;

const SECRET: &str = "swordfish-4711";

/// A line of a service's log that has the message's id.
async fn line_of(service: &Service, id: &str) -> String {
    eventually(&format!("{} tells of {id}", service.id), PATIENCE, async || {
        let log = service.process.stderr();
        log.lines().find(|line| line.contains(id)).map(str::to_owned).ok_or(log)
    })
    .await
}

/// Pushes by the business client; the message's id.
fn push(system: &System) -> String {
    let output = Command::new(place::binary("biz"))
        .args(["--json", "--action", "push-to-room", "--room", "hall", "--message", SECRET, "--address"])
        .arg(system.push.grpc.to_string())
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told["message_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_found_by_its_id_in_the_logs_of_machines_and_of_people() {
    for format in ["json", "text"] {
        let system = System::start(SystemPlan::nodes(2).variable("LOG_FORMAT", format)).await;
        let mut members = Members::default();
        let mut joined = Vec::new();
        for (number, node) in system.nodes.iter().enumerate() {
            joined.push(members.join(Kind::Tungstenite, node.http, &format!("user-{number}"), "hall").await);
        }
        let id = push(&system);
        for service in system.nodes.iter().chain([&system.push]) {
            let line = line_of(service, &id).await;
            if format == "text" {
                assert!(line.contains("INFO") && line.contains("written=") && !line.contains('{'), "{line}");
                continue;
            }
            let line: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&line["message_id"], &line["level"]), (&id.as_str().into(), &"INFO".into()));
            let written = if service.id == system.push.id { 2 } else { 1 };
            assert_eq!(line["written"], written, "{line}");
            for other in service.process.stderr().lines() {
                assert!(serde_json::from_str::<Value>(other).is_ok(), "not JSON: {other}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_messages_a_hundred_a_second_are_told_of() {
    let system = System::start(SystemPlan::nodes(1)).await;
    let mut members = Members::default();
    let _member = members.join(Kind::Tungstenite, system.nodes[0].http, "user", "hall").await;
    let begun = Instant::now();
    let words =
        ["--action", "push-to-room", "--room", "hall", "--message", "x", "--rate", "5000", "--repeat"];
    let mut biz = Command::new(place::binary("biz"));
    biz.args(words).arg(PUSHES.to_string()).arg("--address").arg(system.push.grpc.to_string());
    assert!(biz.output().unwrap().status.success());
    let most = 100 * (begun.elapsed().as_secs() as usize + 2);
    for (service, words) in [(&system.push, "push message_id="), (&system.nodes[0], "written to clients")] {
        let told = service.process.stderr().lines().filter(|line| line.contains(words)).count();
        assert!(
            (100..=most).contains(&told) && most < PUSHES,
            "{}: {told} lines, not 100 to {most}",
            service.id
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_fill_no_log_and_secrets_stand_in_none() {
    let system = System::start(SystemPlan::nodes(1).variable("LOG_FORMAT", "text")).await;
    let node = &system.nodes[0];
    let mut members = Members::default();
    let query = format!("user_id=u&user_name=u&room_id=hall&token={SECRET}");
    let mut member = members.open(Kind::Tungstenite, &format!("ws://{}/ws?{query}", node.http));
    assert_eq!(member.event().await.unwrap(), Event::Open);
    let before = node.process.stderr().lines().count();
    for number in 0..REQUESTS {
        let request = match number % 3 {
            0 => format!("GET /ws?room_id=&token={SECRET} HTTP/1.1\r\nHost: h\r\n\r\n"),
            1 => format!("\u{1b}[31m{SECRET}\r\n\r\n"),
            _ => format!("POST /ws HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{SECRET}"),
        };
        // The node may have closed it already.
        let _ = TcpStream::connect(node.http).unwrap().write_all(request.as_bytes());
    }
    eventually("the node still answers", PATIENCE, async || http::get(node.http, "/health").map(drop)).await;
    let id = push(&system);
    line_of(node, &id).await;
    let log = node.process.stderr();
    let made = log.lines().count() - before;
    assert!(made <= LINES, "{made} lines: {log}");
    for service in [node, &system.push, &system.control] {
        let log = service.process.stderr();
        assert!(!log.contains(SECRET), "{}: {log}", service.id);
    }
}
