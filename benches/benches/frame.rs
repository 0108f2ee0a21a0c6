//! Decoding what clients send, encoding what they are pushed.
#![allow(missing_docs)] // criterion's macros make public functions.

use std::hint::black_box;

use connect_core::client::client_frame;
use connect_core::command::{MessageKind, PushFrame, encode_push};
use connect_core::frame::{OpCode, text_frame};
use connect_core::message::MessageReader;
use connect_core::{Limits, MessageLimits};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Frames of one read of 64 at once.
const PIPELINED: u64 = 64;

fn limits() -> MessageLimits {
    Limits::default().message
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let frame = client_frame(OpCode::Text, &[b'x'; 128], [1, 2, 3, 4]);
    group.throughput(Throughput::Elements(1));
    group.bench_function("one masked frame of 128 B", |bencher| {
        let mut reader = MessageReader::new();
        bencher.iter(|| {
            let mut seen = 0;
            reader
                .read(black_box(&frame), limits(), &mut |event| seen += usize::from(is_text(&event)))
                .is_ok()
                && seen == 1
        });
    });
    let many = frame.repeat(PIPELINED as usize);
    group.throughput(Throughput::Elements(PIPELINED));
    group.bench_function("64 masked frames of 128 B in one read", |bencher| {
        let mut reader = MessageReader::new();
        bencher.iter(|| {
            let mut seen = 0;
            reader.read(black_box(&many), limits(), &mut |event| seen += usize::from(is_text(&event))).is_ok()
                && seen == PIPELINED as usize
        });
    });
    group.finish();
}

fn is_text(event: &connect_core::message::Event<'_>) -> bool {
    matches!(event, connect_core::message::Event::Text(_))
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.bench_function("a text frame of 128 B", |bencher| {
        bencher.iter(|| text_frame(black_box(&[b'x'; 128])))
    });
    for bytes in [128, 64 * 1024] {
        let data = vec![b'x'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("a push of {bytes} B of text"), |bencher| {
            bencher.iter(|| encode_push(&push(black_box(&data))));
        });
    }
    let data = vec![0xff; 64 * 1024];
    group.bench_function("a push of 65536 B that is not UTF-8", |bencher| {
        bencher.iter(|| encode_push(&push(black_box(&data))));
    });
    group.finish();
}

fn push(data: &[u8]) -> PushFrame<'_> {
    PushFrame {
        kind: MessageKind::Text,
        room_id: "room-001",
        user_id: "",
        timestamp_ms: 1_700_000_000_000,
        data,
        metadata: &[],
    }
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
