//! Unit tests of `outbox`.

use super::*;
use crate::delivery::Parcel;

fn frame(byte: u8, len: usize) -> Rc<Parcel> {
    Parcel::own(vec![byte; len])
}

/// Fills and returns the bytes handed out.
fn take(outbox: &mut Outbox) -> Vec<u8> {
    let mut write = Write::default();
    let filled = outbox.fill(&mut write);
    outbox.check_invariants();
    let bytes: Vec<u8> = write.slices().flatten().copied().collect();
    assert_eq!((bytes.len(), filled.bytes), (write.len(), bytes.len() as u64));
    bytes
}

fn wrote(outbox: &mut Outbox, pool: &mut Pool, bytes: usize) -> Vec<usize> {
    let mut written = Vec::new();
    outbox.wrote(bytes, pool, |parcel| written.push(parcel.len()));
    outbox.check_invariants();
    written
}

#[test]
fn an_empty_outbox_takes_one_frame_and_the_bound_counts_from_the_second_on() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    assert!(outbox.has_room(5_000, 100), "the first frame may be of any length");
    outbox.push(frame(1, 5_000), &mut pool);
    assert!(outbox.has_room(100, 100) && !outbox.has_room(101, 100));
    outbox.push(frame(2, 60), &mut pool);
    assert!(outbox.has_room(40, 100) && !outbox.has_room(41, 100));
    assert_eq!(take(&mut outbox).len(), 5_060);
    assert!(!outbox.has_room(41, 100), "what is in flight is still queued");
    assert_eq!(wrote(&mut outbox, &mut pool, 5_000), [5_000]);
    assert!(outbox.has_room(100, 100));
}

#[test]
fn small_frames_are_copied_together_and_long_runs_are_gathered() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    for byte in 0..4 {
        outbox.push(frame(byte, 1_000), &mut pool);
    }
    let mut write = Write::default();
    assert_eq!(outbox.fill(&mut write), Filled { frames: 4, bytes: 4_000 });
    assert!(matches!(&write.pieces[..], [Piece::Own(run)] if run.len() == 4_000));
    assert_eq!(wrote(&mut outbox, &mut pool, 4_000), [1_000; 4]);
    assert!(outbox.is_empty() && outbox.rest.is_none());

    for byte in 0..100 {
        outbox.push(frame(byte, 100), &mut pool);
    }
    let mut write = Write::default();
    assert_eq!(outbox.fill(&mut write), Filled { frames: MAX_PIECES as u64, bytes: 6_400 });
    assert_eq!(write.pieces.len(), MAX_PIECES);
    assert_eq!(wrote(&mut outbox, &mut pool, 6_400).len(), MAX_PIECES);
    assert_eq!(take(&mut outbox).len(), 3_600);
    wrote(&mut outbox, &mut pool, 3_600);

    for byte in 0..3 {
        outbox.push(frame(byte, WRITE_BYTES / 2), &mut pool);
    }
    assert_eq!(take(&mut outbox).len(), WRITE_BYTES, "a write ends with the piece that reaches the bound");
}

#[test]
fn a_single_frame_is_never_copied() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    let shared = frame(7, 10);
    outbox.push(Rc::clone(&shared), &mut pool);
    let mut write = Write::default();
    outbox.fill(&mut write);
    assert!(matches!(&write.pieces[..], [Piece::Shared(bytes)] if Rc::ptr_eq(bytes, &shared.frame)));
}

#[test]
fn partial_writes_go_on_where_they_stopped() {
    for (lengths, step) in [(vec![10, 20, 30], 7), (vec![5_000, 3, 70_000, 1], 4_999), (vec![2; 300], 1)] {
        let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
        let mut expected = Vec::new();
        for (number, &len) in lengths.iter().enumerate() {
            outbox.push(frame(number as u8, len), &mut pool);
            expected.extend(std::iter::repeat_n(number as u8, len));
        }
        let (mut sent, mut written) = (Vec::new(), Vec::new());
        while !outbox.is_empty() {
            let bytes = take(&mut outbox);
            let accepted = bytes.len().min(step);
            sent.extend_from_slice(&bytes[..accepted]);
            written.extend(wrote(&mut outbox, &mut pool, accepted));
        }
        assert_eq!((sent, written), (expected, lengths));
    }
}

#[test]
fn what_is_begun_or_in_flight_cannot_be_dropped() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    for byte in 0..3 {
        outbox.push(frame(byte, 10), &mut pool);
    }
    let mut dropped = 0;
    assert_eq!(take(&mut outbox).len(), 30);
    outbox.push(frame(3, 10), &mut pool);
    outbox.drop_waiting(&mut pool, |_| dropped += 1);
    assert_eq!((dropped, outbox.len()), (1, 3));
    assert_eq!(wrote(&mut outbox, &mut pool, 13), [10]);
    outbox.drop_waiting(&mut pool, |_| dropped += 1);
    assert_eq!((dropped, outbox.len()), (2, 1));
    outbox.push(frame(9, 2), &mut pool);
    assert_eq!(take(&mut outbox), [1, 1, 1, 1, 1, 1, 1, 9, 9]);
    outbox.drop_all(&mut pool, |_| dropped += 1);
    outbox.check_invariants();
    assert!(dropped == 4 && outbox.is_empty() && !outbox.is_writing());
}

#[test]
fn a_head_is_not_dropped_for_what_comes_behind_it() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    outbox.push(Parcel::head(vec![0; 10]), &mut pool);
    outbox.push(frame(1, 5), &mut pool);
    outbox.drop_waiting(&mut pool, |parcel| assert_eq!(parcel.len(), 5));
    outbox.check_invariants();
    assert_eq!(outbox.len(), 1);
}

#[test]
fn only_the_last_pong_waits() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    let pong = |len| Parcel::pong(vec![0xa; len]);
    outbox.push_pong(pong(2), &mut pool);
    outbox.push_pong(pong(3), &mut pool);
    assert_eq!(outbox.len(), 1);
    assert_eq!(take(&mut outbox).len(), 3);
    outbox.push_pong(pong(4), &mut pool);
    outbox.push_pong(pong(5), &mut pool);
    outbox.push(frame(1, 1), &mut pool);
    outbox.push_pong(pong(6), &mut pool);
    assert_eq!((outbox.len(), outbox.bytes), (3, 3 + 6 + 1), "one in flight, one that waits");
    assert!(wrote(&mut outbox, &mut pool, 1).is_empty());
    outbox.push_pong(pong(7), &mut pool);
    assert_eq!((outbox.len(), outbox.bytes), (3, 3 + 7 + 1));
    outbox.drop_waiting(&mut pool, |_| {});
    outbox.push(frame(1, 1), &mut pool);
    outbox.push_pong(pong(8), &mut pool);
    outbox.check_invariants();
    assert_eq!((outbox.len(), outbox.bytes), (3, 3 + 1 + 8), "no other frame was taken for a pong");
    for _ in 0..10_000 {
        outbox.push_pong(pong(125), &mut pool);
    }
    assert_eq!(outbox.len(), 3);
}

#[test]
fn boxes_go_back_to_the_pool_but_not_the_large_ones() {
    let (mut outbox, mut pool) = (Outbox::default(), Pool::default());
    for frames in [3, 10 * POOLED_ENTRIES] {
        for _ in 0..frames {
            outbox.push(frame(0, 1), &mut pool);
        }
        outbox.drop_all(&mut pool, |_| {});
    }
    assert!(pool.free.is_empty(), "the one box was used again, grew, and was given up");
    outbox.push(frame(0, 1), &mut pool);
    outbox.push(frame(0, 1), &mut pool);
    take(&mut outbox);
    wrote(&mut outbox, &mut pool, 2);
    assert_eq!(pool.free.len(), 1);
}
