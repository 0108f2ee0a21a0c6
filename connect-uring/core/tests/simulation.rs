//! A seeded world around one shard: clients that tear, stall, lie and vanish, a kernel that takes bytes when it
//! likes, a controller that answers late or never, a clock that leaps. Every push is followed to each member in the
//! bytes that left, decoded apart from the crate's own codec:
//! members = frames that left + dropped by reason + still queued, each at most once, in order, and nobody else.
//!
//! `RINGCAST_SIM_SEED=n` replays one seed, `RINGCAST_SIM_SEEDS=n` sets how many are run.

#[path = "simulation/actions.rs"]
mod actions;
#[path = "simulation/decoder.rs"]
mod decoder;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/peer.rs"]
mod peer;
#[path = "simulation/world.rs"]
mod world;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use connect_core::Input;
use faults::Hits;
use peer::{Kind, Reads, Stage};
use world::World;

/// Steps of one seed.
const STEPS: u64 = 10_000;
/// Seeds that are run where nothing else is asked for.
const SEEDS: u64 = 256;
const THREADS: u64 = 2;

#[test]
fn every_push_is_accounted_for_whatever_happens() {
    if let Some(seed) = number_in("RINGCAST_SIM_SEED") {
        run_named(seed);
        return;
    }
    let seeds = number_in("RINGCAST_SIM_SEEDS").unwrap_or(SEEDS);
    let mut hits = Hits::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    let mut hits = Hits::new();
                    (0..seeds)
                        .filter(|seed| seed % THREADS == thread)
                        .for_each(|seed| hits.add(&run_named(seed)));
                    hits
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(more) => hits.add(&more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    println!("{seeds} seeds of {STEPS} steps\n{hits}");
    // A few seeds alone cannot hit everything.
    if seeds >= 64 {
        assert!(hits.never().is_empty(), "never provoked: {:?}", hits.never());
    }
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text}: give a number")))
}

/// Runs a seed; a panic names it and the step.
fn run_named(seed: u64) -> Hits {
    let step = Cell::new(0);
    match catch_unwind(AssertUnwindSafe(|| run(seed, &step))) {
        Ok(hits) => hits,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text =
                text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text");
            panic!("seed {seed}, step {}: {text} (RINGCAST_SIM_SEED={seed} replays it)", step.get());
        }
    }
}

fn run(seed: u64, step: &Cell<u64>) -> Hits {
    let mut world = World::new(seed);
    while step.get() < STEPS {
        world.step();
        step.set(step.get() + 1);
    }
    settle(&mut world);
    end_all(&mut world);
    let total = world.pushes.total();
    let counters = world.shard.counters();
    assert_eq!((counters.members, counters.written), (total.members, total.written));
    assert_eq!((counters.dropped, counters.queued()), (total.dropped, 0));
    assert_eq!((counters.connections, counters.joined, counters.open_deliveries), (0, 0, 0));
    world.check_census();
    world.hits
}

/// Who reads gets everything in the end.
fn settle(world: &mut World) {
    let reads = |peer: &peer::Peer| peer.reads != Reads::Never && !peer.ended;
    loop {
        world.flush();
        let Some(id) = world.pick(|peer| peer.flight.is_some() && reads(peer)) else { break };
        let bytes = world.peer(id).flight.as_ref().map_or(0, |flight| flight.bytes.len());
        world.complete(id, bytes, false);
    }
    for peer in world.peers.iter().filter(|peer| peer.stage == Stage::Live && reads(peer)) {
        assert_eq!(peer.status, Some(101));
        assert!(peer.open.is_empty(), "a client that reads has all of its pushes");
        if peer.kind == Kind::Join {
            peer.assert_answered();
        }
    }
    world.take_snapshot();
}

/// Every socket breaks and is closed, every report is due.
fn end_all(world: &mut World) {
    while let Some(id) = world.pick(|peer| !peer.ended) {
        world.end_by_peer(id, Input::Broken { session: id });
    }
    while let Some(id) = world.pick(|_| true) {
        world.go_with(id);
    }
    world.now_ms += 10_000;
    world.handle_deadline();
}
