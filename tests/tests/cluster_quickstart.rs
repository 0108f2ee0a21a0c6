//! Promise: the quick start works from its first line to its last on the stores that it names: each command block, each of
//! its three fault tests, and each cause in its list of questions is made to happen and found by the commands that stand there.
//!
//! What stands for what: `go run` for our binaries, `grpcurl` for a client in Python that knows the contracts by reflection
//! alone, `docker` for Debian's packages of MariaDB, Redis and etcd and for a collector of traces in Jaeger's place, `mysql`
//! for MariaDB's client. All of it in a network of its own where the test may, on the document's own ports.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use ringcast_tests::quickstart::{Desk, TIMEOUT, blocks, config, expect, join_people};
use ringcast_tests::{Event, Kind, Member, Members, Variant, enter_own_network, eventually, http, place};
use serde_json::Value;

const HALL: &str = "room-100";

#[test]
fn the_quick_start_works_from_top_to_bottom() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    enter_own_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(follow_the_document());
}

async fn follow_the_document() {
    let blocks = blocks();
    assert_eq!(blocks.len(), 20, "the document has changed: {blocks:#?}");
    let mut desk = Desk::new();
    // So that each push of the document is seen in the traces, not one in a hundred.
    desk.variable("OTEL_TRACES_SAMPLER", "parentbased_always_on");
    desk.variable("OTEL_BSP_SCHEDULE_DELAY", "200");

    // Base services, and where the traces go.
    desk.run(blocks[0]);
    desk.run(blocks[1]);
    std::fs::write(desk.project().join("config.yaml"), config()).unwrap();

    desk.serve(blocks[2], "grpcurl -plaintext localhost:50051 list").await;
    let printed = desk.run(blocks[3]);
    assert!(printed.contains("pubsub.ControllerService") && printed.contains("total_rooms"), "{printed}");
    for (block, port) in blocks[4..7].iter().zip(8080..) {
        desk.serve(block, &format!("curl -sf http://localhost:{port}/health")).await;
    }
    let printed = desk.run(blocks[7]);
    for node in ["connect-node-1", "connect-node-2", "connect-node-3", "# TYPE "] {
        assert!(printed.contains(node), "{node}: {printed}");
    }
    desk.serve(blocks[8], "grpcurl -plaintext localhost:50053 list").await;
    assert!(desk.run(blocks[9]).contains("pubsub.PushManagerService"));
    desk.run(blocks[10]);
    desk.serve(blocks[11], "curl -sf http://localhost:8000/client.html").await;

    for port in 8080..=8082 {
        // 426: a join would be accepted. A person needs longer to fill in the fields.
        eventually("the node takes clients", TIMEOUT, async || {
            let answer = http::get(([127, 0, 0, 1], port).into(), "/ws?user_id=probe&room_id=probe");
            let answer = answer.map_err(|error| error.to_string())?;
            if answer.status == 426 { Ok(()) } else { Err(answer.body) }
        })
        .await;
    }
    let mut people = join_people().await;
    desk.run(blocks[12]);
    expect(
        &mut people,
        &[("Hello everyone!", "text", 3), ("Hello Alice!", "text", 1), ("System announcement", "system", 3)],
    )
    .await;
    let printed = desk.run(blocks[13]);
    assert!(printed.contains("user-001") && printed.contains("user-003"), "{printed}");
    let printed = desk.run(blocks[14]);
    let pushes = [
        ("Hello Room!", "text", 3),
        ("Hi Alice!", "text", 1),
        ("audio_data_base64...", "audio", 3),
        ("你好！", "translation", 1),
    ];
    expect(&mut people, &pushes).await;
    a_message_is_followed_by_its_id(&mut desk, &printed);
    for port in [9090, 9091, 9092, 9093, 9094] {
        desk.run(&format!("curl -sf http://localhost:{port}/metrics | grep -q '^# TYPE '\n"));
    }
    the_services_are_found_in_the_traces(&desk).await;

    let counts = users();
    assert_eq!(desk.run(blocks[15]).matches("\"node_id\":").count(), 3);
    assert_eq!(counts, [1, 1, 1]);
    ten_clients_spread_evenly().await;
    a_room_of_a_hundred(&mut desk, &mut people).await;
    a_node_goes_offline(&mut desk, &mut people).await;
    questions(&mut desk, &blocks, &mut people).await;
}

/// "Watch the logs": the message's way, by the id that the business client printed.
fn a_message_is_followed_by_its_id(desk: &mut Desk, printed: &str) {
    let id = printed.lines().find_map(|line| line.trim().strip_prefix("message")).unwrap().trim().to_owned();
    let line = |log: String, what: &str| {
        let found = log.lines().any(|line| line.contains(&id) && line.contains(what));
        assert!(found, "no line with {id} and {what:?} in {log}");
    };
    line(desk.service("MANAGER_ID").stderr(), "push");
    for node in ["connect-node-1", "connect-node-2", "connect-node-3"] {
        line(desk.service(node).stderr(), "written to clients");
    }
}

async fn the_services_are_found_in_the_traces(desk: &Desk) {
    eventually("every service is in the traces", TIMEOUT, async || {
        let log = desk.docker_log("jaeger");
        let missing = ["controller-manager", "connect-node", "push-manager"]
            .into_iter()
            .filter(|service| !log.contains(&format!("\"service.name\": \"{service}\"")));
        let missing: Vec<&str> = missing.collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
}

/// The users of each node, as it says itself. Connections would count the one that asks, or not yet.
fn users() -> Vec<u64> {
    let of = |port: u16| {
        let stats = http::get(([127, 0, 0, 1], port).into(), "/stats").unwrap().json().unwrap();
        stats["users"].as_u64().unwrap()
    };
    (8080..=8082).map(of).collect()
}

/// Fault test 2: ten clients, each of which goes where `/nodes` says first.
async fn ten_clients_spread_evenly() {
    let mut members = Members::default();
    let mut clients = Vec::new();
    let nodes = |path| http::get(([127, 0, 0, 1], 8080).into(), path).unwrap().json();
    eventually("the node knows of all three", TIMEOUT, async || {
        let list = nodes("/nodes").map_err(|error| error.to_string())?;
        if list["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3) {
            Ok(())
        } else {
            Err(list.to_string())
        }
    })
    .await;
    let mut lists = Vec::new();
    for number in 0..10 {
        let list = nodes("/nodes?choose").unwrap();
        lists.push(list.to_string());
        let url = list["nodes"][0]["url"].as_str().unwrap();
        let mut client = members.open(Kind::Tungstenite, &format!("{url}?user_id=ten-{number}&room_id=ten"));
        assert_eq!(client.event().await.unwrap(), Event::Open);
        clients.push(client);
    }
    let mut spread = users();
    spread.sort_unstable();
    // Alice, Bob and Charlie are one each.
    assert!(spread.iter().sum::<u64>() == 13 && spread[2] - spread[0] <= 2, "{spread:?} by {lists:#?}");
}

/// Fault test 3: a room of a hundred over three nodes. The objective itself is judged where machines are quiet.
async fn a_room_of_a_hundred(desk: &mut Desk, people: &mut [Member]) {
    let mut members = Members::default();
    let mut hundred = Vec::new();
    for number in 0..100_u16 {
        let node = ([127, 0, 0, 1], 8080 + number % 3).into();
        hundred.push(members.join(Kind::Tungstenite, node, &format!("of-100-{number}"), HALL).await);
    }
    let pushed = desk.run(&format!(
        "go run biz-server/example_client.go --action push-to-room --room {HALL} --message hundred --json\n"
    ));
    let pushed: Value = serde_json::from_str(&pushed).unwrap();
    assert_eq!(pushed["report"]["total"]["written"], 100, "{pushed}");
    println!("figure: a push to 100 members on 3 nodes took {} ms", pushed["elapsed_ms"]);
    for member in &mut hundred {
        assert_eq!(member.push().await.unwrap().content, b"hundred");
    }
    assert!(people.iter_mut().all(|person| person.unread().is_empty()), "they are in another room");
}

/// Fault test 1: Ctrl+C on node 1. It is gone from etcd, Alice's connection ends, and she comes back on another node.
async fn a_node_goes_offline(desk: &mut Desk, people: &mut [Member]) {
    desk.service("connect-node-1").signal_group(libc::SIGINT);
    assert_eq!(people[0].closed().await.unwrap().0, 1012);
    desk.service("connect-node-1").wait(TIMEOUT);
    eventually("etcd has let go of the node", TIMEOUT, async || {
        let keys = desk
            .command(
                "etcdctl --endpoints=http://localhost:2379 get /ringcast/ --prefix --keys-only",
                &desk.cwd,
            )
            .output()
            .unwrap();
        let keys = String::from_utf8_lossy(&keys.stdout).into_owned();
        if keys.contains("connect-node-2") && !keys.contains("connect-node-1") { Ok(()) } else { Err(keys) }
    })
    .await;
    people[0] = Members::default()
        .join(Kind::Tungstenite, ([127, 0, 0, 1], 8081).into(), "user-001", "room-001")
        .await;
    desk.run("go run biz-server/example_client.go --action push-to-room --room room-001 --message all\n");
    expect(people, &[("all", "text", 3)]).await;
}

/// The questions at the end: each cause is made to happen, and the commands that stand there find it.
async fn questions(desk: &mut Desk, blocks: &[&str], people: &mut [Member]) {
    let [etcd, websocket, push, database] = blocks[16..] else { panic!("{blocks:#?}") };

    // 1. etcd.
    let printed = desk.run(etcd);
    assert!(printed.contains("etcd:v3.5.9") && printed.contains("/ringcast/"), "{printed}");
    desk.run("docker stop etcd\n");
    let (found, printed, _) = desk.try_run(etcd);
    assert!(!found && !printed.contains("/ringcast/"), "{printed}");
    desk.run("docker start etcd\n");
    eventually("the services are registered again", TIMEOUT, async || {
        let output = desk.command(etcd, &desk.cwd).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = ["connect-node-2", "connect-node-3", "controller-1", "push-manager-1"];
        if all.iter().all(|service| printed.contains(service)) { Ok(()) } else { Err(printed) }
    })
    .await;

    // 2. The node of port 8080 has been stopped.
    let (up, ..) = desk.try_run(websocket);
    assert!(!up, "nobody is at port 8080");
    assert!(desk.run(&websocket.replace("8080", "8081")).contains("ok"));

    // 3. A push that nobody gets.
    people[0].close(1000);
    eventually("Alice is offline", TIMEOUT, async || {
        let output = desk.command(push, &desk.cwd).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let gone = !printed.contains("\"user_id\": \"user-001\"") && printed.contains("user-002");
        if gone && !printed.contains("\"found\": true") { Ok(()) } else { Err(printed) }
    })
    .await;
    let (_, printed, _) = desk.try_run(
        "go run biz-server/example_client.go --action push-to-user --user user-001 --message lost\n",
    );
    assert!(printed.contains("user offline"), "{printed}");
    let log = desk.service("MANAGER_ID").stderr();
    assert!(log.lines().any(|line| line.contains("ending=\"nobody\"")), "{log}");

    // 4. The database; its tables are made anew where they are there already.
    std::fs::copy(place::root().join("control/schema.sql"), desk.cwd.join("schema.sql")).unwrap();
    assert!(desk.run(database).contains("pubsub"));
    desk.run("docker stop mysql\n");
    let (up, _, said) = desk.try_run(database);
    assert!(!up && said.contains("not running"), "{said}");
    desk.run("docker start mysql\n");
    desk.run(database);
    let mut late = Members::default();
    eventually("rooms can be made again", TIMEOUT, async || {
        let mut member =
            late.open(Kind::Tungstenite, "ws://127.0.0.1:8082/ws?user_id=late&room_id=a-new-room");
        match member.event().await.unwrap() {
            Event::Open => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
