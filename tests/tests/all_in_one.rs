//! Promise: `ringcast --nodes 4` says what to open and what to type, serves on the documented ports, names its nodes to
//! clients so that they spread evenly, pushes across them, keeps its rooms in the folder it was given, and ends by Ctrl+C with 1012 for each client and code 0.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use ringcast_tests::{Event, Kind, Members, Process, Variant, enter_own_network, eventually, http, place};

const NODES: u16 = 4;
/// By the document: the first three as in the quick start, the fourth at 9091 + 4.
const METRICS: [u16; 4] = [9091, 9092, 9093, 9095];
/// The business client's exit code where nobody was reached.
const NOBODY_THERE: i32 = 1;
const READY: Duration = Duration::from_secs(10);
const CONFIG: &str = "connect:\n  limits:\n    drain: 1s\n";

#[test]
fn everything_runs_in_one_process() {
    enter_own_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(push_across_the_nodes(folder.path()));
    let mut again = start(folder.path());
    runtime.block_on(serving());
    let printed = biz(&["--action", "push-to-room", "--room", "room-001", "--message", "x"], NOBODY_THERE);
    assert!(printed.contains("room-001"), "{printed}");
    again.signal(libc::SIGTERM);
    assert_eq!(again.wait(READY).code(), Some(0));
}

async fn push_across_the_nodes(folder: &Path) {
    let mut ringcast = start(folder);
    serving().await;
    eventually("it says what to open, what to type and where its data is", READY, async || {
        let said = ringcast.stdout() + &ringcast.stderr();
        let parts = ["http://localhost:8080/", "cargo run --release -p biz -- --action push-to-room", "data"];
        if parts.iter().all(|part| said.contains(part)) { Ok(()) } else { Err(said) }
    })
    .await;

    let mut members = Members::default();
    let mut people = Vec::new();
    for port in 8080..8080 + NODES {
        let user = format!("user-{port}");
        people.push(members.join(Kind::Tungstenite, local(port), &user, "room-001").await);
    }
    let to_room =
        ["--action", "push-to-room", "--room", "room-001", "--message", "Hello everyone!", "--json"];
    let report: serde_json::Value = serde_json::from_str(&biz(&to_room, 0)).unwrap();
    assert_eq!(report["report"]["total"]["written"], NODES, "{report}");
    assert_eq!(report["report"]["nodes"].as_array().unwrap().len(), usize::from(NODES), "{report}");
    for person in &mut people {
        assert_eq!(person.push().await.unwrap().content, b"Hello everyone!");
    }

    twelve_clients_spread_evenly(&mut members).await;

    ringcast.signal(libc::SIGINT);
    for person in &mut people {
        assert_eq!(person.closed().await.unwrap().0, 1012);
    }
    assert_eq!(ringcast.wait(READY).code(), Some(0));
    assert!(folder.join("data").read_dir().unwrap().next().is_some(), "the folder holds the rooms");
}

/// Each goes to the node that `/nodes` names first when it asks.
async fn twelve_clients_spread_evenly(members: &mut Members) {
    let nodes = |path| http::get(local(8080), path).and_then(|answer| answer.json());
    eventually("the node knows of all four", READY, async || {
        let list = nodes("/nodes").map_err(|error| error.to_string())?;
        let all = list["nodes"].as_array().is_some_and(|nodes| nodes.len() == usize::from(NODES));
        if all { Ok(()) } else { Err(list.to_string()) }
    })
    .await;
    let mut clients = Vec::new();
    for number in 0..3 * NODES {
        let list = nodes("/nodes?choose").unwrap();
        let url = list["nodes"][0]["url"].as_str().unwrap();
        let mut client =
            members.open(Kind::Tungstenite, &format!("{url}?user_id=of-12-{number}&room_id=twelve"));
        assert_eq!(client.event().await.unwrap(), Event::Open);
        clients.push(client);
    }
    let users = |port| http::get(local(port), "/stats").unwrap().json().unwrap()["users"].as_u64().unwrap();
    // One person is on each of them.
    let spread: Vec<u64> = (8080..8080 + NODES).map(users).collect();
    assert_eq!(spread, [4, 4, 4, 4]);
}

fn start(folder: &Path) -> Process {
    let config = folder.join("config.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let mut command = Command::new(place::binary("ringcast"));
    command.arg("--config").arg(config).args(["--nodes", &NODES.to_string(), "--data-dir"]);
    command.arg(folder.join("data")).current_dir(folder).env_clear();
    let variant = Variant::from_env();
    // Another user could not run the binary where it lies.
    if !variant.drops_root() {
        variant.apply(&mut command);
    }
    Process::start("ringcast", &mut command)
}

/// Waits until pushes are routed and every node takes clients, and looks at who they are.
async fn serving() {
    let to_nobody = ["--action", "push-to-user", "--user", "nobody", "--message", "x"];
    eventually("the push manager has its routes", READY, async || match run_biz(&to_nobody) {
        output if output.status.code() == Some(NOBODY_THERE) => Ok(()),
        output => Err(output),
    })
    .await;
    for (place, port) in (8080..8080 + NODES).enumerate() {
        eventually(&format!("a node takes clients at {port}"), READY, async || {
            let answer = http::get(local(port), "/ws?user_id=probe&room_id=probe");
            match answer {
                Ok(answer) if answer.status == 426 => Ok(()),
                other => Err(format!("{:?}", other.map(|answer| answer.status))),
            }
        })
        .await;
        let stats = http::get(local(port), "/stats").unwrap().json().unwrap();
        let driver = stats["driver"].as_str().unwrap_or_default();
        assert!(Variant::from_env().expected_drivers().contains(&driver), "{stats}");
        assert_eq!(stats["node_id"], format!("connect-node-{}", place + 1));
        let metrics = http::get(local(METRICS[place]), "/metrics").unwrap().body;
        let process_figures = metrics.contains("process_resident_memory_bytes");
        assert_eq!(process_figures, place == 0, "the process's figures are told once");
    }
}

/// Runs the business client; returns what it printed.
fn biz(arguments: &[&str], code: i32) -> String {
    let output = run_biz(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn run_biz(arguments: &[&str]) -> Output {
    Command::new(place::binary("biz")).args(arguments).output().unwrap()
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}
