//! Promise: three people follow the quick start in a real browser, each on a node of their own; a node that dies under one
//! of them costs her 5 s and nothing else, and the browser's console has no error to show.
//!
//! What is done on the pages stands in `tests/browser/`; the stores are real MariaDB, Redis and etcd. Screenshots are kept in
//! `browser-shots` under the folder of the build.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::process::Command;
use std::time::Duration;

use ringcast_tests::cluster::{Cluster, ClusterPlan};
use ringcast_tests::{Process, Variant, eventually, http, place};

/// How long all of it may take, on two cores with a browser on them.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_people_in_a_browser() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let cluster = Cluster::start(ClusterPlan { controllers: 1, managers: 1, ..ClusterPlan::default() }).await;
    let nodes: Vec<serde_json::Value> = cluster
        .nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "id": node.id,
                "ws": format!("ws://{}/ws", node.http),
                "http": format!("http://{}", node.http),
                "pid": node.process.pid(),
            })
        })
        .collect();
    for node in &cluster.nodes {
        eventually("the node has heard of all three", Duration::from_secs(30), async || {
            let list = http::get(node.http, "/nodes").and_then(|answer| answer.json());
            let list = list.map_err(|error| error.to_string())?;
            let all = list["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3);
            if all { Ok(()) } else { Err(list.to_string()) }
        })
        .await;
    }
    let mut command = Command::new(place::node());
    command
        .args(["--test", "--test-reporter=spec"])
        .arg(place::root().join("tests/browser/walkthrough.mjs"))
        .env("RINGCAST_NODES", serde_json::to_string(&nodes).unwrap())
        .env("RINGCAST_BIZ", place::binary("biz"))
        .env("PUSH_MANAGER_ADDRESS", cluster.managers[0].grpc.to_string())
        .env("RINGCAST_PAGE", place::root().join("web/client.html"))
        .env("RINGCAST_SHOTS", place::shots());
    let mut browser = Process::start("the browser", &mut command);
    let status = browser.wait(PATIENCE);
    let (out, err) = browser.output();
    assert!(status.success(), "{status}\n{out}\n{err}");
    print!("{out}");
}
