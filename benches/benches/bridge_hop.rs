//! From the bridge's thread to a shard's and back: a batch in a lane, one eventfd each way.
//!
//! Lane and eventfd are private to the node, as they are to stay; their sources are compiled in here.
#![allow(missing_docs)] // criterion's macros make public functions.

use std::collections::VecDeque;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use crate::lane::Lane;

#[path = "../../connect-uring/src/event_fd.rs"]
mod event_fd;
#[allow(dead_code, unused_imports)] // The node, and its own tests, use more of it than this bench does.
#[path = "../../connect-uring/src/lane.rs"]
mod lane;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tells the other thread to end.
const END: u64 = u64::MAX;

/// Takes what is in the lane; sleeps on its eventfd while nothing is.
fn take(lane: &Lane<u64>, taken: &mut VecDeque<u64>) {
    loop {
        lane.drain_into(taken);
        if !taken.is_empty() {
            return;
        }
        if !lane.may_sleep() {
            continue;
        }
        let mut poll = libc::pollfd { fd: lane.event().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd is given, and said to be one.
        unsafe { libc::poll(&raw mut poll, 1, -1) };
        lane.event().clear();
    }
}

fn hop(criterion: &mut Criterion) {
    let there = Arc::new(Lane::new().expect("an eventfd"));
    let back = Arc::new(Lane::new().expect("an eventfd"));
    let (inbox, outbox) = (Arc::clone(&there), Arc::clone(&back));
    let shard = std::thread::spawn(move || {
        let mut taken = VecDeque::new();
        loop {
            take(&inbox, &mut taken);
            if taken.contains(&END) {
                return;
            }
            outbox.push_with(|queue| taken.drain(..).for_each(|item| queue.push(item, 1)));
        }
    });
    let mut group = criterion.benchmark_group("bridge_hop");
    let mut taken = VecDeque::new();
    for batch in [1, 64] {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} there and back"), |bencher| {
            bencher.iter(|| {
                there.push_with(|queue| (0..batch).for_each(|item| queue.push(item, 1)));
                let mut answered = 0;
                while answered < batch {
                    take(&back, &mut taken);
                    answered += taken.drain(..).count() as u64;
                }
            });
        });
    }
    group.finish();
    there.push_with(|queue| queue.push(END, 1));
    assert!(shard.join().is_ok(), "the other thread panicked");
}

criterion_group!(benches, hop);
criterion_main!(benches);
