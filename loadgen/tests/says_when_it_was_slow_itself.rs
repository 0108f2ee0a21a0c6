//! Promise: a generator that is the bottleneck says that its run is invalid, and why.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

mod liar;

use std::time::Duration;

use liar::{Fault, Liar};
use loadgen::result::RunResult;
use loadgen::{Doors, Fleet, FleetPlan, PublishPlan, Publisher, Scenario, SystemUnderTest, Target, Via, run};

const SCENARIO: &str = "
name: slow
about: A small run whose generator is made slow.
path: /sub?room={room}
clients:
  - {count: 20}
stages:
  - name: pushes
    seconds: 2
    loads:
      - {to: room, rate: 100, via: websocket}
settle: 1
validity: {lag-ms: 50}
";

async fn with(overrides: &[&str]) -> RunResult {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let scenario = Scenario::from_text(SCENARIO, "slow", &overrides).unwrap();
    let liar = Liar::start(Fault::None);
    run(scenario, SystemUnderTest::peer("liar", liar.addr, None), |_| {}).await.unwrap()
}

fn checks(result: &RunResult) -> Vec<&str> {
    result.invalid.iter().map(|invalid| invalid.check.as_str()).collect()
}

#[tokio::test]
async fn a_generator_at_its_ease_is_valid() {
    let result = with(&[]).await;
    assert_eq!(result.invalid, []);
    assert_eq!(result.generator.dropped_sends, 0);
}

#[tokio::test]
async fn a_slow_client_thread_is_told() {
    // 100 pushes to 20 clients at 600 us each: more than a core has.
    let result = with(&["handicap.frame-us=600"]).await;
    let found = checks(&result);
    assert!(found.contains(&"generator-cpu"), "{:?}, {:?}", result.invalid, result.generator);
}

#[tokio::test]
async fn a_slow_publisher_is_told() {
    let result = with(&["handicap.push-us=12000", "validity.lag-ms=1"]).await;
    assert!(checks(&result).contains(&"generator-lag"), "{:?}, {:?}", result.invalid, result.generator);
}

#[tokio::test]
async fn a_push_carries_the_time_at_which_it_was_due_and_not_when_it_left() {
    let liar = Liar::start(Fault::None);
    let plan = FleetPlan::new(liar.addr, 1, "c", |_| "r".into()).path("/sub?room={room}");
    let fleet = Fleet::connect(plan).unwrap();
    fleet.run_until(Duration::from_secs(5), |totals| totals.live == 1).unwrap();
    let socket = Some((liar.addr, "/pub?room={room}".to_owned()));
    let room = Target::Room { room: "r".into(), exclude: Vec::new() };
    let pushes = PublishPlan::to(room, 1, 50, 500.0).via(Via::WebSocket);
    Publisher::through(Doors { socket, ..Doors::default() }).publish(pushes).await.unwrap();
    fleet.run_until(Duration::from_secs(5), |totals| totals.received == 50).unwrap();
    let mut due: Vec<u64> = fleet.report().unwrap().pushes.values().map(|push| push.intended_ns).collect();
    due.sort_unstable();
    let gaps: Vec<u64> = due.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [2_000_000; 49], "no thread wakes to the nanosecond");
}

#[tokio::test]
async fn a_server_that_nobody_answers_at_gives_no_samples() {
    let scenario = Scenario::from_text(SCENARIO, "slow", &[]).unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let result = run(scenario, SystemUnderTest::peer("nobody", nobody, None), |_| {}).await.unwrap();
    let found = checks(&result);
    assert!(found.contains(&"publisher") && found.contains(&"not-joined"), "{:?}", result.invalid);
}
