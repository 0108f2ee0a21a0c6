//! Promise: a sampled push is one trace over all processes that it passes, from the caller to the write to the client's
//! socket, with the reason of what was dropped; a sampled join likewise. An independent decoder reads what is exported.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use loadgen::{Fleet, FleetPlan, Leave};
use ringcast_tests::{Kind, Members, Process, System, SystemPlan, Variant, eventually, place};
use serde::Deserialize;
use serde_json::Value;

/// How long spans may take to be exported.
const PATIENCE: Duration = Duration::from_secs(15);

/// What may wait for one session: about ten of the pushes that drop something.
const QUEUED_BYTES: &str = "queued_bytes: 163840";

/// A span, as the collector prints it.
#[derive(Debug, Clone, Deserialize)]
struct Span {
    resource: HashMap<String, Value>,
    name: String,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    start: u64,
    end: u64,
    attributes: HashMap<String, Value>,
    events: Vec<Event>,
}

#[derive(Debug, Clone, Deserialize)]
struct Event {
    name: String,
    attributes: HashMap<String, Value>,
}

impl Span {
    fn service(&self) -> &str {
        self.resource["service.name"].as_str().unwrap()
    }

    fn number(&self, attribute: &str) -> u64 {
        self.attributes[attribute].as_u64().unwrap()
    }

    /// How many sessions were dropped, by reason.
    fn dropped(&self) -> Vec<(&str, u64)> {
        let dropped = self.events.iter().filter(|event| event.name == "dropped");
        dropped
            .map(|event| {
                let sessions = event.attributes["sessions"].as_u64().unwrap();
                (event.attributes["reason"].as_str().unwrap(), sessions)
            })
            .collect()
    }
}

struct Collector {
    process: Process,
    endpoint: String,
}

impl Collector {
    async fn start() -> Self {
        let mut command = Command::new(place::python());
        command.arg(place::client_script("otlp_collector.py"));
        let process = Process::start("collector", &mut command);
        let port = eventually("the collector listens", PATIENCE, async || {
            let out = process.stdout();
            let line = out.lines().next().ok_or("nothing yet")?;
            serde_json::from_str::<Value>(line).ok().and_then(|line| line["port"].as_u64()).ok_or("no port")
        })
        .await;
        Self { process, endpoint: format!("http://127.0.0.1:{port}") }
    }

    fn spans(&self) -> Vec<Span> {
        let out = self.process.stdout();
        // The last line may not be whole yet.
        let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The trace, once it has so many spans of this name.
    async fn trace(&self, id: &str, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans {name} of {id}"), PATIENCE, async || {
            let spans: Vec<Span> = self.spans().into_iter().filter(|span| span.trace_id == id).collect();
            let found = spans.iter().filter(|span| span.name == name).count();
            let root = spans.iter().any(|span| span.parent_span_id.is_empty());
            if found == count && root { Ok(spans) } else { Err(format!("{spans:#?}")) }
        })
        .await
    }
}

fn only<'a>(spans: &'a [Span], service: &str, name: &str) -> &'a Span {
    let found: Vec<&Span> =
        spans.iter().filter(|span| span.service() == service && span.name == name).collect();
    assert_eq!(found.len(), 1, "{service} {name}: {spans:#?}");
    found[0]
}

fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect()
}

async fn traced(nodes: usize) -> (Collector, System) {
    let collector = Collector::start().await;
    let plan = SystemPlan::nodes(nodes)
        .limit(QUEUED_BYTES)
        .variable("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)
        .variable("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        .variable("OTEL_BSP_SCHEDULE_DELAY", "100");
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
