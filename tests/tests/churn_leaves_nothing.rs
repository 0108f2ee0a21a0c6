//! Promise: 100,000 rounds of connect, join, leave and close leave nothing behind: descriptors of every thread,
//! resident memory and table sizes are back at the start.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::collections::BTreeSet;
use std::time::Duration;

use loadgen::{Fleet, FleetPlan, Leave};
use ringcast_tests::{System, SystemPlan, alone, eventually, procfs};

/// Rounds by each way of leaving.
const ROUNDS: [(Leave, usize); 3] =
    [(Leave::Close, 60_000), (Leave::HalfClose, 20_000), (Leave::Reset, 20_000)];
/// Rounds before the start is measured, so that tables have their size.
const WARM_UP: usize = 10_000;
const SERVICES: [&str; 3] = ["node", "controller", "push manager"];
const AT_A_TIME: usize = 200;
const ROOMS: usize = 500;

/// What an allocator may keep of 100,000 rounds: 40 bytes each.
const RSS_SLACK_BYTES: u64 = 4 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_hundred_thousand_rounds() {
    let _alone = alone();
    // Traces stay on, with a queue that the warm-up fills: what waits there for a collector is bounded, and no leak.
    let plan = SystemPlan::nodes(1)
        .shards(2)
        .variable("OTEL_BSP_MAX_QUEUE_SIZE", "64")
        .variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "32");
    let system = System::start(plan).await;
    churn(&system, Leave::Close, WARM_UP);
    churn(&system, Leave::Reset, WARM_UP);
    let mut before = measure(&system).await;
    // What a burst takes at its peak an allocator keeps, once. What is left behind by rounds is left by the next ones, too.
    for once_more in [true, false] {
        let began = std::time::Instant::now();
        for (leave, rounds) in ROUNDS {
            churn(&system, leave, rounds);
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("figure: 100000 rounds of connect, join, leave, close in {seconds:.1} s");
        let after = measure(&system).await;
        let mut grown = Vec::new();
        for (service, (before, after)) in SERVICES.iter().zip(before.iter().zip(&after)) {
            let told = format!("{service}: RSS {} KiB, then {} KiB", before.rss / 1024, after.rss / 1024);
            println!("figure: {told}");
            assert_eq!(before.descriptors, after.descriptors, "{service}: open descriptors by thread");
            if after.rss > before.rss + RSS_SLACK_BYTES {
                grown.push(told);
            }
        }
        if grown.is_empty() {
            return;
        }
        assert!(once_more, "twice in a row: {grown:?}");
        before = after;
    }
}

struct Size {
    rss: u64,
    descriptors: BTreeSet<(String, usize)>,
}

/// The name of a runtime's helpers.
const RUNTIME_HELPER: &str = "tokio-rt-worker";

/// How many descriptors the threads of each name have. A runtime's idle helpers come and go; they share its table.
fn descriptors(pid: u32) -> BTreeSet<(String, usize)> {
    let threads = procfs::descriptors_by_thread(pid).unwrap().into_iter();
    let named =
        threads.map(|(thread, count)| (thread.split(' ').next().unwrap_or_default().to_owned(), count));
    named.filter(|(thread, _)| thread != RUNTIME_HELPER).collect()
}

/// Waits until all tables are empty, then measures the three processes.
async fn measure(system: &System) -> Vec<Size> {
    let controller = system.controller().await;
    eventually("all tables are empty", Duration::from_secs(10), async || {
        let sessions = controller.sessions().await.unwrap();
        let stats = system.nodes[0].stats().unwrap();
        let sizes = (sessions, stats["connections"].clone(), stats["users"].clone(), stats["rooms"].clone());
        if sizes == (0, 0.into(), 0.into(), 0.into()) { Ok(()) } else { Err(sizes) }
    })
    .await;
    drop(controller);
    let mut sizes = Vec::new();
    for service in [&system.nodes[0], &system.control, &system.push] {
        let pid = service.process.pid();
        // Connections of the questions above are closed a moment later.
        let mut last = BTreeSet::new();
        let descriptors = eventually("the descriptors have settled", Duration::from_secs(10), async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = descriptors(pid);
            if std::mem::replace(&mut last, now.clone()) == now { Ok(now) } else { Err("they change") }
        })
        .await;
        sizes.push(Size { rss: procfs::rss_bytes(pid).unwrap(), descriptors });
    }
    sizes
}

fn churn(system: &System, leave: Leave, rounds: usize) {
    let plan =
        FleetPlan::new(system.nodes[0].http, rounds, "churn", |number| format!("room-{}", number % ROOMS));
    let fleet = Fleet::connect(plan.rate(20_000.0).leaving(leave, AT_A_TIME)).unwrap();
    let totals = fleet.run_until(Duration::from_secs(120), |totals| totals.over() == rounds).unwrap();
    assert_eq!(
        (totals.joined, totals.left),
        (rounds, rounds),
        "{leave:?}: {:?}",
        fleet.report().unwrap().endings()
    );
}
