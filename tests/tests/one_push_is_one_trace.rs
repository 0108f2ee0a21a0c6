//! Promise: a sampled push is one trace over all processes that it passes, from the caller to the write to the client's
//! socket, with the reason of what was dropped; a sampled join likewise. An independent decoder reads what is exported.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::process::Command;
use std::time::Duration;

use loadgen::{Fleet, FleetPlan, Leave};
use ringcast_proto::pubsub::connect_node_service_client::ConnectNodeServiceClient;
use ringcast_proto::pubsub::delivery::Target;
use ringcast_proto::pubsub::{DeliverHello, DeliverRequest, Delivery, MessageContent, ReportMode};
use ringcast_tests::collector::{Collector, Span, children, only};
use ringcast_tests::{Kind, Members, System, SystemPlan, Variant, eventually, place};
use serde_json::Value;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// How long spans may take to be exported.
const PATIENCE: Duration = Duration::from_secs(15);

/// What may wait for one session: about ten of the pushes that drop something.
const QUEUED_BYTES: &str = "queued_bytes: 163840";

async fn traced(nodes: usize) -> (Collector, System) {
    sampled(nodes, "parentbased_always_on").await
}

async fn sampled(nodes: usize, sampler: &str) -> (Collector, System) {
    let collector = Collector::start().await;
    let mut plan = SystemPlan::nodes(nodes).limit(QUEUED_BYTES);
    for (key, value) in collector.variables(sampler) {
        plan = plan.variable(&key, &value);
    }
    (collector, System::start(plan).await)
}

/// Pushes by the business client, each traced; the ids of the traces and what each came to.
fn push(system: &System, collector: &Collector, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(place::binary("biz"));
    command.args(["--trace", "--json", "--address"]).arg(system.push.grpc.to_string()).args(arguments);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint);
    let output = command.output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(!out.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_push_is_one_trace_down_to_each_socket_write() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let (collector, system) = traced(2).await;
    let mut members = Members::default();
    let mut room = Vec::new();
    for (number, node) in system.nodes.iter().enumerate() {
        room.push(members.join(Kind::Tungstenite, node.http, &format!("user-{number}"), "hall").await);
    }
    let pushed =
        push(&system, &collector, &["--action", "push-to-room", "--room", "hall", "--message", "hi"]);
    let id = pushed[0]["trace_id"].as_str().unwrap();
    let spans = collector.trace(id, "socket write", 2).await;

    let caller = only(&spans, "biz-server", "push");
    assert_eq!(caller.parent_span_id, "");
    let manager = only(&spans, "push-manager", "PushToRoom");
    assert_eq!(manager.parent_span_id, caller.span_id);
    assert_eq!(manager.attributes["messaging.message.id"], pushed[0]["message_id"]);
    assert_eq!((manager.number("ringcast.members"), manager.number("ringcast.written")), (2, 2));
    let parts = children(&spans, manager);
    assert_eq!(parts.len(), 2, "{spans:#?}");
    let mut seen = Vec::new();
    for part in parts {
        let [node] = children(&spans, part)[..] else { panic!("one step of the node: {spans:#?}") };
        assert_eq!((node.service(), &node.name[..]), ("connect-node", "deliver"));
        assert_eq!(node.resource["service.instance.id"], part.attributes["ringcast.node.id"]);
        seen.push(part.attributes["ringcast.node.id"].as_str().unwrap().to_owned());
        let [write] = children(&spans, node)[..] else { panic!("one write: {spans:#?}") };
        assert_eq!((&write.name[..], write.number("ringcast.written")), ("socket write", 1));
        assert!(node.start <= write.start && write.end <= node.end, "{node:#?} {write:#?}");
    }
    seen.sort();
    assert_eq!(seen, ["connect-node-1", "connect-node-2"]);
    let distinct: std::collections::HashSet<&str> = spans.iter().map(|span| &span.span_id[..]).collect();
    assert_eq!(distinct.len(), spans.len(), "no two spans have one id");
    // All of it is one machine's time.
    assert!(spans.iter().all(|span| span.start >= caller.start && span.end > span.start), "{spans:#?}");
    for member in &mut room {
        assert_eq!(member.push().await.unwrap().content, b"hi");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dropped_is_told_with_its_reason() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let (collector, system) = traced(1).await;
    let nobody =
        push(&system, &collector, &["--action", "push-to-user", "--user", "nobody", "--message", "x"]);
    let id = nobody[0]["trace_id"].as_str().unwrap();
    let spans = collector.trace(id, "PushToUser", 1).await;
    assert_eq!(only(&spans, "push-manager", "PushToUser").dropped(), [("offline", 1)]);

    let plan = FleetPlan::new(system.nodes[0].http, 1, "deaf", |_| "hall".into()).receive_buffer(4096);
    let deaf = Fleet::connect(plan).unwrap();
    deaf.run_until(Duration::from_secs(5), |totals| totals.live == 1).unwrap();
    deaf.leave(0..1, Leave::Deaf);
    deaf.run_until(Duration::from_secs(5), |totals| totals.mute == 1).unwrap();
    let long = "x".repeat(16 * 1024);
    let arguments = ["--action", "push-to-room", "--room", "hall", "--message", &long, "--repeat", "40"];
    let unread = ["--rate", "1000", "--deadline-ms", "5000"];
    let pushed = push(&system, &collector, &[&arguments[..], &unread].concat());
    let slow = pushed.iter().find(|push| push["report"]["total"]["dropped_slow"] == 1);
    let slow = slow.unwrap_or_else(|| panic!("nothing was dropped: {pushed:#?}"));
    let spans = collector.trace(slow["trace_id"].as_str().unwrap(), "socket write", 1).await;
    for (service, name) in
        [("connect-node", "socket write"), ("connect-node", "deliver"), ("push-manager", "PushToRoom")]
    {
        assert_eq!(only(&spans, service, name).dropped(), [("slow", 1)], "{service} {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_is_one_trace_down_to_the_store() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let (collector, system) = traced(1).await;
    let mut members = Members::default();
    let _member = members.join(Kind::Tungstenite, system.nodes[0].http, "user", "hall").await;
    let join = eventually("a join is told of", PATIENCE, async || {
        let spans = collector.spans();
        let found = spans.iter().find(|span| span.name == "join" && span.parent_span_id.is_empty());
        found.cloned().ok_or(spans.len())
    })
    .await;
    let spans = collector.trace(&join.trace_id, "JoinRoom", 1).await;
    assert_eq!(join.service(), "connect-node");
    let decided = only(&spans, "controller-manager", "JoinRoom");
    assert_eq!(decided.parent_span_id, join.span_id);
    assert!(join.start <= decided.start && decided.end <= join.end, "{spans:#?}");
    let read = only(&spans, "controller-manager", "read room settings");
    assert_eq!(
        (&read.parent_span_id, &read.attributes["db.system.name"]),
        (&decided.span_id, &"sqlite".into())
    );
    let awaited = only(&spans, "controller-manager", "await acknowledgements");
    assert_eq!(awaited.parent_span_id, decided.span_id);
    assert!(read.end <= awaited.start, "{spans:#?}");
}

/// Joins of clients that want to be traced: more than are traced in the time that they take.
const JOINS: usize = 100;

/// A trace that a client, or a proxy before the node, has begun.
const BY_CLIENT: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_goes_on_with_its_clients_trace_and_clients_cannot_fill_the_collector() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    // Without a client's word no join is traced.
    let (collector, system) = sampled(1, "parentbased_always_off").await;
    let mut members = Members::default();
    let _untraced = members.join(Kind::Tungstenite, system.nodes[0].http, "user", "hall").await;
    let mut clients = Vec::new();
    let begun = std::time::Instant::now();
    for number in 0..JOINS {
        let url = format!("ws://{}/ws?user_id=user-{number}&room_id=hall", system.nodes[0].http);
        let mut request = url.into_client_request().unwrap();
        let header = format!("00-{}-{}-01", BY_CLIENT.0, BY_CLIENT.1);
        request.headers_mut().insert("traceparent", header.parse().unwrap());
        clients.push(tokio_tungstenite::connect_async(request).await.unwrap());
    }
    let seconds = begun.elapsed().as_secs() as usize + 2;
    let joins =
        |spans: &[Span]| -> Vec<Span> { spans.iter().filter(|span| span.name == "join").cloned().collect() };
    let spans = eventually("ten joins are told of", PATIENCE, async || {
        let spans = collector.spans();
        let decided = spans.iter().filter(|span| span.name == "JoinRoom").count();
        if decided >= 10 && decided == joins(&spans).len() { Ok(spans) } else { Err(format!("{spans:#?}")) }
    })
    .await;
    let joins = joins(&spans);
    assert!(joins.len() <= 10 * seconds && joins.len() < JOINS, "{} in {seconds} s", joins.len());
    for join in &joins {
        assert_eq!((&join.trace_id[..], &join.parent_span_id[..]), BY_CLIENT);
        let [decided] = children(&spans, join)[..] else { panic!("one step of the controller: {spans:#?}") };
        assert_eq!((decided.service(), &decided.name[..]), ("controller-manager", "JoinRoom"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_a_node_does_not_report_of_has_its_step_too() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let (collector, system) = sampled(1, "parentbased_always_off").await;
    let mut members = Members::default();
    let mut member = members.join(Kind::Tungstenite, system.nodes[0].http, "user", "hall").await;
    // What a push manager sends: one push without a content, one of which no report is wanted.
    let of = |delivery_id, content, parent: &str| Delivery {
        delivery_id,
        target: Some(Target::UserId("user".into())),
        content,
        report_mode: ReportMode::None.into(),
        traceparent: format!("00-{}-{parent}-01", BY_CLIENT.0),
        ..Delivery::default()
    };
    let (invalid, unreported) = ("1".repeat(16), "2".repeat(16));
    let content = MessageContent { data: b"hi".to_vec().into(), ..MessageContent::default() };
    let deliveries = vec![of(1, None, &invalid), of(2, Some(content), &unreported)];
    let hello = Some(DeliverHello { manager_id: "of-the-test".into() });
    let requests = tokio_stream::iter([
        DeliverRequest { hello, ..DeliverRequest::default() },
        DeliverRequest { deliveries, ..DeliverRequest::default() },
    ]);
    let address = format!("http://{}", system.nodes[0].grpc);
    let mut node = ConnectNodeServiceClient::connect(address).await.unwrap();
    let mut outcomes = node.deliver(requests).await.unwrap().into_inner();
    while outcomes.message().await.unwrap().is_some() {}
    assert_eq!(member.push().await.unwrap().content, b"hi");
    let spans = eventually("both are told of", PATIENCE, async || {
        let spans = collector.spans();
        if spans.len() == 2 { Ok(spans) } else { Err(format!("{spans:#?}")) }
    })
    .await;
    let of = |parent: &str| spans.iter().find(|span| span.parent_span_id == parent).unwrap();
    assert_eq!(of(&invalid).error.as_deref(), Some("invalid"));
    assert_eq!(of(&unreported).error, None);
    assert_eq!(of(&unreported).events[0].name, "handed to the shards, which do not report");
}
