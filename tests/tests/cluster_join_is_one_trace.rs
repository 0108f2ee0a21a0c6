//! Promise: in a cluster a sampled join is one trace from the node to MySQL, where its room stands, and Redis, where its
//! seat is taken.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::time::Duration;

use ringcast_tests::cluster::{Cluster, ClusterPlan};
use ringcast_tests::collector::{Collector, only};
use ringcast_tests::{Kind, Members, Variant, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_is_one_trace_down_to_both_stores() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let collector = Collector::start().await;
    let plan = ClusterPlan {
        controllers: 2,
        managers: 1,
        nodes: 1,
        variables: collector.variables("parentbased_always_on"),
        ..ClusterPlan::default()
    };
    let cluster = Cluster::start(plan).await;
    let mut members = Members::default();
    let _member = members.join(Kind::Tungstenite, cluster.nodes[0].http, "user", "hall").await;
    // A join to a room that is known already reads nothing of it.
    let id = eventually("a join that reads its room is told of", Duration::from_secs(15), async || {
        let spans = collector.spans();
        let read = spans.into_iter().find(|span| span.name == "read room settings");
        read.map(|span| span.trace_id).ok_or("none yet")
    })
    .await;
    let spans = collector.trace(&id, "JoinRoom", 1).await;
    let join = only(&spans, "connect-node", "join");
    let decided = only(&spans, "controller-manager", "JoinRoom");
    assert_eq!(decided.parent_span_id, join.span_id);
    let steps = [
        ("read room settings", Some("mysql")),
        ("take seat", Some("redis")),
        ("await acknowledgements", None),
    ];
    let mut before = decided.start;
    for (name, store) in steps {
        let step = only(&spans, "controller-manager", name);
        assert_eq!(step.parent_span_id, decided.span_id, "{name}");
        assert_eq!(step.attributes.get("db.system.name").and_then(|store| store.as_str()), store, "{name}");
        assert!(before <= step.start && step.end <= decided.end, "{name}: {spans:#?}");
        before = step.end;
    }
    assert!(join.start <= decided.start && decided.end <= join.end, "{spans:#?}");
}
