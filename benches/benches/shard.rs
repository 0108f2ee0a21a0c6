//! The shard core without sockets: fan-out, coalescing, joins and leaves.
#![allow(missing_docs)] // criterion's macros make public functions.

use benches::{Played, room_frame};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringcast_proto::RoomId;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MEMBERS: usize = 10_000;
const COALESCED: usize = 16;
const COALESCING_MEMBERS: usize = 1_000;

fn fan_out(criterion: &mut Criterion) {
    let room = RoomId::new("r").expect("a valid id");
    let frame = room_frame("r");
    let mut played = Played::with_members(MEMBERS, "r");
    let mut group = criterion.benchmark_group("fan_out");
    group.throughput(Throughput::Elements(MEMBERS as u64));
    group.bench_function("a push to 10000 members, marked, filled and completed", |bencher| {
        bencher.iter(|| {
            played.push(&room, &frame);
            assert_eq!(played.write_out(), MEMBERS);
            assert_eq!(
                played.out.reports.drain(..).map(|report| report.counts.written).sum::<u64>(),
                MEMBERS as u64
            );
        });
    });
    group.finish();
}

fn coalescing(criterion: &mut Criterion) {
    let room = RoomId::new("r").expect("a valid id");
    let frame = room_frame("r");
    let mut played = Played::with_members(COALESCING_MEMBERS, "r");
    let mut group = criterion.benchmark_group("coalescing");
    group.throughput(Throughput::Elements((COALESCED * COALESCING_MEMBERS) as u64));
    group.bench_function("16 pushes to 1000 members, one write each", |bencher| {
        bencher.iter(|| {
            for _ in 0..COALESCED {
                played.push(&room, &frame);
            }
            assert_eq!(
                played.write_out(),
                COALESCING_MEMBERS,
                "all of a session's frames leave in one write"
            );
            assert_eq!(played.out.reports.drain(..).count(), COALESCED);
        });
    });
    group.finish();
}

fn join_leave(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("join_leave");
    group.throughput(Throughput::Elements(1));
    // A room that is empty before and after, and one that is never.
    for (name, members) in [("an empty room", 0), ("a room of 10000", MEMBERS)] {
        let mut played = Played::with_members(members, "r");
        group.bench_function(format!("connect, join, leave, close: {name}"), |bencher| {
            bencher.iter_batched(
                || "guest",
                |user| {
                    let session = played.join(user, "r");
                    played.leave(session);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, fan_out, coalescing, join_leave);
criterion_main!(benches);
