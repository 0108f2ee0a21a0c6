//! Promise: with `--echo` a node sends every message of an outside client back, within its limits and by RFC 6455;
//! without it there is no `/echo`.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::process::Command;

use ringcast_tests::{System, SystemPlan, http, place};

const PROMISES: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outside_client_finds_the_protocol_kept() {
    let system = System::start(SystemPlan::nodes(1).node_argument("--echo")).await;
    let mut client = Command::new(place::python());
    client.arg(place::client_script("echo_client.py")).arg(format!("ws://{}/echo", system.nodes[0].http));
    let output = tokio::task::spawn_blocking(move || client.output()).await.unwrap().unwrap();
    let kept = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{kept}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(kept.lines().count(), PROMISES, "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_echo_unless_it_is_asked_for() {
    let system = System::start(SystemPlan::nodes(1)).await;
    assert_eq!(http::get(system.nodes[0].http, "/echo").unwrap().status, 404);
}
