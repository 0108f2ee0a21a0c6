//! Promise: a run names what a server does wrong, and finds nothing where it does nothing wrong.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

mod liar;

use liar::{Fault, Liar};
use loadgen::result::{Correctness, RunResult};
use loadgen::{Scenario, ServiceAddr, SystemUnderTest, run};

/// Two rooms of ten; 60 pushes a second to both in turn.
const SCENARIO: &str = "
name: liar
about: A small run against a server that lies.
path: /sub?room={room}
clients:
  - {count: 20, room-size: 10}
stages:
  - name: pushes
    seconds: 2
    warm-up: 0.2
    loads:
      - {to: room, rate: 60, via: websocket}
settle: 1
validity: {lag-ms: 50}
";

async fn by_websocket(fault: Fault) -> RunResult {
    let liar = Liar::start(fault);
    let scenario = Scenario::from_text(SCENARIO, "liar", &[]).unwrap();
    let result = run(scenario, SystemUnderTest::peer("liar", liar.addr, None), |_| {}).await.unwrap();
    assert_eq!(result.invalid, []);
    assert_eq!((result.connections.live_at_start, result.connections.live_at_end), (20, 20));
    result
}

fn wrongs(found: &Correctness) -> [(&'static str, u64); 5] {
    [
        ("lost", found.lost),
        ("duplicate", found.duplicate),
        ("reordered", found.reordered),
        ("after_leave", found.after_leave),
        ("corrupt", found.corrupt),
    ]
}

/// What was found is this, and nothing else.
fn assert_only(result: &RunResult, name: &str) {
    for (wrong, count) in wrongs(&result.correctness) {
        assert_eq!(count > 0, wrong == name, "{wrong}: {count}: {:?}", result.correctness);
    }
}

#[tokio::test]
async fn an_honest_server_is_found_honest() {
    let result = by_websocket(Fault::None).await;
    assert_only(&result, "nothing");
    let found = &result.correctness;
    assert!(found.published >= 120 && found.received == found.published * 10, "{found:?}");
    let last = result.latency.iter().find(|scope| scope.until == "last-receiver").unwrap();
    assert_eq!((last.scope.as_str(), last.samples), ("room_push(10)", 120));
}

#[tokio::test]
async fn drops_are_lost() {
    assert_only(&by_websocket(Fault::Drop).await, "lost");
}

#[tokio::test]
async fn doubles_are_told() {
    assert_only(&by_websocket(Fault::Duplicate).await, "duplicate");
}

#[tokio::test]
async fn disorder_is_told() {
    assert_only(&by_websocket(Fault::Reorder).await, "reordered");
}

#[tokio::test]
async fn pushes_of_another_room_are_told() {
    assert_only(&by_websocket(Fault::WrongRoom).await, "after_leave");
}

#[tokio::test]
async fn corruption_is_told_and_does_not_count_as_arrived() {
    let result = by_websocket(Fault::Corrupt).await;
    let found = &result.correctness;
    assert!(found.corrupt > 0 && found.lost == found.corrupt, "{found:?}");
    assert_eq!((found.duplicate, found.reordered, found.after_leave), (0, 0, 0));
}

#[tokio::test]
async fn a_stall_shows_in_every_push_that_it_kept_waiting() {
    let result = by_websocket(Fault::Stall(600)).await;
    assert_only(&result, "nothing");
    let each = result.latency.iter().find(|scope| scope.until == "each-receiver").unwrap();
    assert!(each.max_ms > 550.0, "the first that waited: {each:?}");
    // 600 ms at 60 a second are 36 of 120 pushes: not one late push, as a closed loop would have it.
    assert!(each.p90_ms > 250.0, "those that were due meanwhile: {each:?}");
}

async fn by_grpc(fault: Fault, actions: &str) -> RunResult {
    let liar = Liar::start(fault);
    let grpc = liar::grpc::serve(liar.clone()).await.to_string();
    let text = SCENARIO.replace(", via: websocket", "").replace("settle", &format!("{actions}settle"));
    let scenario = Scenario::from_text(&text, "liar", &[]).unwrap();
    let system = SystemUnderTest {
        controllers: vec![ServiceAddr::new("controller", &grpc, None)],
        managers: vec![ServiceAddr::new("push-manager", &grpc, None)],
        ..SystemUnderTest::peer("liar", liar.addr, None)
    };
    run(scenario, system, |_| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_contradict_the_arrivals_are_named() {
    let result = by_grpc(Fault::Drop, "").await;
    let found = &result.correctness;
    assert!(found.lost > 0 && found.reported.written > found.received, "{found:?}");
    let [first, ..] = &found.contradictions[..] else { panic!("{found:?}") };
    assert!(first.starts_with("room cr00000"), "{first}");
    let honest = by_grpc(Fault::None, "").await.correctness;
    assert_eq!((honest.lost, honest.contradictions.len()), (0, 0));
    assert_eq!((honest.reported.written, honest.unanswered), (honest.received, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_to_clients_that_left_are_told() {
    let actions = "    actions:\n      - {at: 1, do: leave-room, share: 0.1}\n";
    let result = by_grpc(Fault::None, actions).await;
    let found = &result.correctness;
    assert!(found.after_leave > 0, "{found:?}");
    assert_eq!((found.lost, found.duplicate, found.reordered, found.corrupt), (0, 0, 0, 0));
    let told = result.timeline.iter().any(|moment| moment.event.contains("2 clients have left their rooms"));
    assert!(told, "{:?}", result.timeline);
}
