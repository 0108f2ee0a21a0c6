//! The fault tests of tests/quickstart.zh.md.

use std::time::{Duration, Instant};

use ringcast_tests::cluster::{Bounds, Cluster, ClusterPlan, Drill, DrillPlan, Figures, Part};
use ringcast_tests::grpc::{assert_accounted, total};
use ringcast_tests::{Kind, Member, Members, Service, eventually, http};

/// etcd removes a dead node's key after 10 s, and a moment.
const REMOVED: Duration = Duration::from_millis(12_500);

/// A planned stop, as by Ctrl+C: the node is gone from etcd, push managers know, Alice is told and is elsewhere.
pub(crate) async fn a_node_goes_by_ctrl_c() -> Figures {
    let mut drill = Drill::begin("seed 1, Ctrl+C", DrillPlan::default()).await;
    let clients = drill.crowd.by_node()[0];
    drill.fault();
    let status = drill.cluster.interrupt(Part::Node(0)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(!drill.cluster.is_registered(0), "it is removed from etcd");
    drill.is_unrouted(0, Duration::from_secs(5)).await;
    assert_eq!(drill.lost(), clients, "Alice's connection is closed");
    drill.all_are_back(Duration::from_secs(15)).await;
    drill.presence_is_right("after Ctrl+C", drill.since_fault() + Duration::from_secs(5)).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds::announced(0.01)).await
}

/// The same without a word: etcd removes the node after 10 s.
pub(crate) async fn a_node_dies() -> Figures {
    let mut drill = Drill::begin("seed 1, kill -9", DrillPlan::default()).await;
    drill.kill(Part::Node(0)).await;
    drill.is_unrouted(0, Duration::from_millis(2_500)).await;
    drill.all_are_back(Duration::from_secs(15)).await;
    let left = REMOVED.saturating_sub(drill.since_fault());
    eventually("etcd removes the node", left, async || {
        if drill.cluster.is_registered(0) { Err("its key is there") } else { Ok(()) }
    })
    .await;
    let took = drill.since_fault();
    drill.figures.note("etcd removes the node", took);
    drill.presence_is_right("after kill -9", Duration::from_secs(15)).await;
    drill.cluster.restart(Part::Node(0));
    drill.end(Bounds::announced(0.02)).await
}

/// Ten clients, each to the node that GET /nodes names first: the load is spread.
pub(crate) async fn load_is_balanced() -> Figures {
    const CLIENTS: usize = 10;
    let cluster = Cluster::start(ClusterPlan::default()).await;
    let (mut members, mut joined) = (Members::default(), Vec::<Member>::new());
    let mut figures = Figures::default();
    let began = Instant::now();
    for number in 0..CLIENTS {
        let url = eventually("the list knows of those before", Duration::from_secs(15), async || {
            let nodes = listed(&cluster).map_err(|error| error.to_string())?;
            let known: u64 = nodes.iter().map(|(_, connections)| connections).sum();
            let sorted = nodes.is_sorted_by_key(|(_, connections)| *connections);
            let ready = nodes.len() == cluster.nodes.len() && known == number as u64 && sorted;
            if ready { Ok(nodes[0].0.clone()) } else { Err(format!("{nodes:?}")) }
        })
        .await;
        let mut member =
            members.open(Kind::Tungstenite, &format!("{url}?user_id=user-{number}&room_id=room-001"));
        let opened = member.event().await;
        assert_eq!(opened.as_ref().ok(), Some(&ringcast_tests::Event::Open), "{url}: {opened:?}");
        joined.push(member);
    }
    figures.note("ten clients by the list", began.elapsed());
    let counts = eventually("the nodes count the ten", Duration::from_secs(5), async || {
        // Users, not connections, of which the question itself is one.
        let users = |node: &Service| node.stats().ok()?["users"].as_u64();
        let counts: Vec<u64> = cluster.nodes.iter().filter_map(users).collect();
        if counts.iter().sum::<u64>() == CLIENTS as u64 { Ok(counts) } else { Err(format!("{counts:?}")) }
    })
    .await;
    assert!(counts.iter().all(|count| (3..=4).contains(count)), "ten over three nodes: {counts:?}");
    figures
}

/// URLs and loads as the first node lists them.
fn listed(cluster: &Cluster) -> anyhow::Result<Vec<(String, u64)>> {
    let answer = http::get(cluster.nodes[0].http, "/nodes")?;
    anyhow::ensure!(answer.status == 200, "{answer:?}");
    anyhow::ensure!(answer.header("access-control-allow-origin").is_some(), "pages may ask: {answer:?}");
    let json = answer.json()?;
    let nodes = json["nodes"].as_array().cloned().unwrap_or_default();
    let node =
        |node: &serde_json::Value| Some((node["url"].as_str()?.to_owned(), node["connections"].as_u64()?));
    nodes.iter().map(|line| node(line).ok_or_else(|| anyhow::anyhow!("{line}"))).collect()
}

/// A room of 100 over three nodes: one push goes to all three side by side, in under 50 ms.
pub(crate) async fn a_room_of_100_over_3_nodes() -> Figures {
    const MEMBERS: usize = 100;
    const PUSHES: usize = 20;
    let cluster = Cluster::start(ClusterPlan::default()).await;
    let (mut members, mut joined) = (Members::default(), Vec::new());
    for number in 0..MEMBERS {
        let node = cluster.nodes[number % cluster.nodes.len()].http;
        joined.push(members.join(Kind::Tungstenite, node, &format!("user-{number}"), "room-001").await);
    }
    let mut figures = Figures::default();
    for place in 0..cluster.managers.len() {
        let pusher = cluster.pusher(place).await;
        let mut times = Vec::new();
        for _ in 0..PUSHES {
            let began = Instant::now();
            let answer = pusher.room("room-001", b"Hello Room!").await.expect("an answer");
            times.push(began.elapsed());
            assert_accounted(&answer.report);
            assert_eq!(total(&answer.report).written, MEMBERS as u64, "{answer:?}");
            assert_eq!(answer.report.unwrap_or_default().nodes.len(), cluster.nodes.len());
        }
        times.sort_unstable();
        assert!(times[PUSHES / 2] < Duration::from_millis(50), "{times:?}");
        figures.note("a room of 100, median push", times[PUSHES / 2]);
    }
    for member in &mut joined {
        for _ in 0..PUSHES * cluster.managers.len() {
            member.push().await.expect("every push comes");
        }
    }
    figures
}
