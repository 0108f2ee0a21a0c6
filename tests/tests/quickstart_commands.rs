//! Promise: every command block of the quick start that needs no MySQL, Redis, etcd or Jaeger works as it stands,
//! with `go run` standing for our binaries and `grpcurl` for a client in Python.
//!
//! The document is read, its blocks are run in their order, each in the folder that the one before left. It names
//! fixed ports, so where the test may, it runs in a network of its own.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use ringcast_tests::quickstart::{Desk, TIMEOUT, blocks, expect, join_people};
use ringcast_tests::{Kind, Member, Members, enter_own_network};

/// Blocks with one of these need what is not part of this test.
const NOT_HERE: [&str; 4] = ["docker ", "etcdctl", "mysql ", "jaeger"];

#[test]
fn every_command_of_the_quick_start_works() {
    enter_own_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(follow_the_document());
}

async fn follow_the_document() {
    let mut blocks = blocks();
    blocks.retain(|block| !NOT_HERE.iter().any(|word| block.contains(word)));
    assert_eq!(blocks.len(), 16, "the document has changed: {blocks:#?}");
    let mut desk = Desk::new();

    desk.serve(blocks[0], "grpcurl -plaintext localhost:50051 list").await;
    let printed = desk.run(blocks[1]);
    assert!(printed.contains("pubsub.ControllerService") && printed.contains("total_rooms"), "{printed}");
    for (block, port) in blocks[2..5].iter().zip(8080..) {
        desk.serve(block, &format!("curl -sf http://localhost:{port}/health")).await;
    }
    let printed = desk.run(blocks[5]);
    for node in ["connect-node-1", "connect-node-2", "connect-node-3"] {
        assert!(printed.contains(node), "{printed}");
    }
    assert!(printed.contains("# TYPE "), "the metrics of node 1: {printed}");
    desk.serve(blocks[6], "grpcurl -plaintext localhost:50053 list").await;
    assert!(desk.run(blocks[7]).contains("pubsub.PushManagerService"));
    desk.run(blocks[8]);
    desk.serve(blocks[9], "curl -sf http://localhost:8000/client.html").await;

    let mut people = join_people().await;
    desk.run(blocks[10]);
    expect(
        &mut people,
        &[("Hello everyone!", "text", 3), ("Hello Alice!", "text", 1), ("System announcement", "system", 3)],
    )
    .await;
    let printed = desk.run(blocks[11]);
    assert!(printed.contains("user-001") && printed.contains("user-003"), "{printed}");
    desk.run(blocks[12]);
    let pushes = [
        ("Hello Room!", "text", 3),
        ("Hi Alice!", "text", 1),
        ("audio_data_base64...", "audio", 3),
        ("你好！", "translation", 1),
    ];
    expect(&mut people, &pushes).await;
    assert_eq!(desk.run(blocks[13]).matches("\"node_id\":").count(), 3);
    desk.run(blocks[14]);
    let printed = desk.run(blocks[15]);
    assert!(printed.contains("connect-node-1") && printed.contains("room-001"), "{printed}");
    assert_metrics_are_served(&desk);
    a_node_goes_offline(&mut desk, &mut people).await;
}

/// Fault test 1: Ctrl+C on node 1. Alice's connection ends, the others' do not; she connects to another node, and
/// pushes find her there.
async fn a_node_goes_offline(desk: &mut Desk, people: &mut [Member]) {
    desk.service("connect-node-1").signal_group(libc::SIGINT);
    assert_eq!(people[0].closed().await.unwrap().0, 1012);
    people[0] = Members::default()
        .join(Kind::Tungstenite, ([127, 0, 0, 1], 8081).into(), "user-001", "room-001")
        .await;
    desk.service("connect-node-1").wait(TIMEOUT);
    desk.run("go run biz-server/example_client.go --action push-to-user --user user-001 --message again\n");
    assert_eq!(people[0].push().await.unwrap().content, b"again");
    desk.run("go run biz-server/example_client.go --action push-to-room --room room-001 --message all\n");
    expect(people, &[("all", "text", 3)]).await;
}

/// Section 5 of the document: every service has its metrics where it says.
fn assert_metrics_are_served(desk: &Desk) {
    for port in [9090, 9091, 9092, 9093, 9094] {
        let script = format!("curl -sf http://localhost:{port}/metrics | grep -q '^# TYPE '");
        assert!(desk.command(&script, &desk.cwd).status().unwrap().success(), "the metrics on port {port}");
    }
}
