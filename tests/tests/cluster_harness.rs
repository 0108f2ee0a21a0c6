//! The harness of the cluster's tests itself, on a system without a cluster: clients, backends and the oracle agree
//! where all is well, and a node's death costs nothing silently.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use ringcast_tests::cluster::{Crowd, PushLoad, Pushers};
use ringcast_tests::oracle::{Records, Verdict, judge};
use ringcast_tests::{System, SystemPlan, Variant, eventually};

const CLIENTS: usize = 200;
const RATE: f64 = 50.0;
const MARGIN: Duration = Duration::from_secs(1);

/// Pushes that are answered before something is done, and after.
const PUSHES: usize = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_backends_and_oracle_agree() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let mut system = System::start(SystemPlan::nodes(2)).await;
    system.pusher().await;
    let nodes: Vec<_> = system.nodes.iter().map(|node| node.http).collect();
    let mut crowd = Crowd::connect(&nodes, CLIENTS, Duration::from_millis(500), None);
    crowd.all_connected(Duration::from_secs(20)).await;
    let load = PushLoad {
        rate: RATE,
        rooms: crowd.rooms(),
        users: crowd.clients.iter().map(|client| client.user.clone()).collect(),
    };
    let pushers = Pushers::start(&[system.push.grpc], &load);
    answered(&pushers, PUSHES).await;
    crowd.rejoin(0..CLIENTS / 4);
    answered(&pushers, 2 * PUSHES).await;
    let lost = crowd.by_node()[0];
    assert!((CLIENTS / 4..CLIENTS).contains(&lost), "{:?}", crowd.by_node());
    system.nodes[0].process.kill();
    eventually("its clients are elsewhere", Duration::from_secs(20), async || {
        let by_node = crowd.by_node();
        if by_node == [0, CLIENTS] { Ok(()) } else { Err(by_node) }
    })
    .await;
    answered(&pushers, 4 * PUSHES).await;
    let pushes = pushers.stop().await;
    tokio::time::sleep(MARGIN).await;

    let ids: Vec<String> = system.nodes.iter().map(|node| node.id.clone()).collect();
    let clients = crowd.clients.clone();
    let judged = |entries: &[loadgen::Entry]| -> Verdict {
        let silence = Duration::from_secs(10);
        judge(&Records { nodes: &ids, clients: &clients, entries, pushes: &pushes, margin: MARGIN, silence })
    };
    let entries = crowd.entries().to_vec();
    let verdict = judged(&entries);
    println!("{verdict:?}");
    assert_eq!(verdict.wrongs(), Vec::<String>::new());
    assert!(verdict.expected > 10_000, "{}", verdict.expected);
    assert!(verdict.received >= verdict.expected - verdict.announced());

    // The same records with one receipt taken away are wrong.
    let receipt = |entry: &loadgen::Entry| matches!(entry.seen, loadgen::Seen::Got { .. });
    let place = entries.iter().position(receipt).unwrap();
    let mut one_less = entries;
    one_less.remove(place);
    assert_eq!(judged(&one_less).silent.count, 1);
}

async fn answered(pushers: &Pushers, count: usize) {
    eventually(&format!("{count} pushes are answered"), Duration::from_secs(30), async || {
        let answered = pushers.so_far().len();
        if answered >= count { Ok(()) } else { Err(answered) }
    })
    .await;
}
