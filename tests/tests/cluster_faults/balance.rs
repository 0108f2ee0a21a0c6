//! Where new clients are sent: nodes that are unevenly filled even out as clients come and go, and a node that is being
//! stopped gets nobody.

use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{ListNodesRequest, NodeInfo, NodeState, SelectConnectNodeRequest};
use ringcast_tests::cluster::{Cluster, ClusterPlan, Figures, Part};
use ringcast_tests::grpc::Controller;
use ringcast_tests::{Event, Kind, Member, Members, Service, eventually};

/// All of them on the first node.
const CLIENTS: usize = 60;

/// How long it may take until all has been heard.
const HEARD: Duration = Duration::from_secs(15);

/// How many go, and as many come, before controllers have heard of it.
const AT_ONCE: usize = 6;

/// How far from the mean a node may be in the end: what comes before it is heard of.
const UNEVEN: u64 = AT_ONCE as u64;

/// How often a controller is asked while a node is being stopped.
const ASKED: usize = 50;

pub(crate) async fn uneven_nodes() -> Figures {
    let mut cluster = Cluster::start(ClusterPlan::default()).await;
    let (mut members, mut joined) = (Members::default(), Vec::<Member>::new());
    for number in 0..CLIENTS {
        let (node, user) = (cluster.nodes[0].http, format!("user-{number}"));
        joined.push(members.join(Kind::Tungstenite, node, &user, "room-001").await);
    }
    let began = Instant::now();
    counted(&cluster).await;
    for round in 0..CLIENTS / AT_ONCE {
        for member in joined.drain(..AT_ONCE) {
            member.close(1000);
        }
        let controller = cluster.controller(round % cluster.controllers.len()).await;
        for number in 0..AT_ONCE {
            let url = selected(&controller).await.public_ws_url;
            let user = format!("later-{round}-{number}");
            let mut member =
                members.open(Kind::Tungstenite, &format!("{url}?user_id={user}&room_id=room-001"));
            assert_eq!(member.event().await.as_ref().ok(), Some(&Event::Open), "{url}");
            joined.push(member);
        }
        counted(&cluster).await;
    }
    let mut figures = Figures::default();
    figures.note("sixty clients anew", began.elapsed());
    let mean = (CLIENTS / cluster.nodes.len()) as u64;
    let loads = counted(&cluster).await;
    assert!(loads.iter().all(|load| load.abs_diff(mean) <= UNEVEN), "{CLIENTS} over three: {loads:?}");

    // It empties first, and would be chosen for it.
    let (stopped, id) = (Part::Node(2), cluster.nodes[2].id.clone());
    let controller = cluster.controller(0).await;
    let asking = async {
        eventually("the node is being stopped", Duration::from_secs(5), async || {
            let nodes = listed(&controller).await;
            let takes = nodes.iter().any(|node| node.node_id == id && node.state() == NodeState::Ready);
            if takes { Err(format!("{nodes:?}")) } else { Ok(()) }
        })
        .await;
        for _ in 0..ASKED {
            assert_ne!(selected(&controller).await.node_id, id, "it is being stopped");
        }
    };
    let ((), ended) = tokio::join!(asking, cluster.terminate(stopped));
    assert_eq!(ended.code(), Some(0), "{ended}");
    figures
}

/// Waits until every controller has heard what the nodes say themselves; the nodes' loads. That their sum is right would
/// not do: as many come as go, so that it was right before.
async fn counted(cluster: &Cluster) -> Vec<u64> {
    let actual = eventually("all clients have come, and those who left are gone", HEARD, async || {
        let loads: Vec<u64> = cluster.nodes.iter().map(connections).collect();
        if loads.iter().sum::<u64>() == CLIENTS as u64 { Ok(loads) } else { Err(loads) }
    })
    .await;
    for place in 0..cluster.controllers.len() {
        let controller = cluster.controller(place).await;
        eventually("the controller knows of all clients", HEARD, async || {
            let loads: Vec<u64> = listed(&controller).await.iter().map(|node| node.connections).collect();
            if loads == actual { Ok(()) } else { Err(format!("{loads:?}, not {actual:?}")) }
        })
        .await;
    }
    actual
}

/// What a node says of itself: who has joined, not who asks it.
fn connections(node: &Service) -> u64 {
    node.metric("ringcast_node_sessions_joined").expect("the node answers") as u64
}

async fn listed(controller: &Controller) -> Vec<NodeInfo> {
    controller.0.clone().list_nodes(ListNodesRequest {}).await.expect("the list").into_inner().nodes
}

async fn selected(controller: &Controller) -> NodeInfo {
    let answer = controller.0.clone().select_connect_node(SelectConnectNodeRequest {}).await;
    answer.expect("a node").into_inner().node.expect("a node")
}
