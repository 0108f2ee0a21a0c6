//! Text is UTF-8, judged as it streams: against the standard library, for every short sequence of bytes of every
//! class, wherever it is cut.

use connect_core::client::client_fragment;
use connect_core::close::CloseReason;
use connect_core::frame::OpCode;
use connect_core::message::{Event, MessageLimits, MessageReader};
use proptest::prelude::*;
use proptest::sample::Index;

const LIMITS: MessageLimits = MessageLimits { max_bytes: 1000, max_fragments: 1000 };

/// The first and last byte of every range that Unicode's table 3-7 tells apart, and one from within.
const CLASSES: [u8; 30] = [
    0x00, 0x41, 0x7f, // ASCII
    0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, // continuations, with the bounds that some leads narrow
    0xc0, 0xc1, 0xc2, 0xd0, 0xdf, // two bytes; the first two are overlong
    0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, // three bytes; e0 overlong, ed surrogates
    0xf0, 0xf1, 0xf2, 0xf3, 0xf4, // four bytes; f0 overlong, f4 past the last character
    0xf5, 0xf7, 0xf8, 0xfe, 0xff, // never
];

/// What the standard library says of the first bytes of a text: could more make it valid?
fn may_become_text(begun: &[u8]) -> bool {
    std::str::from_utf8(begun).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Sends a text in these fragments, some bytes at a time, and checks the verdict after each read.
fn check(text: &[u8], fragments: &[&[u8]], bytes_a_read: usize) {
    let mut reader = MessageReader::new();
    let (mut sent, mut given) = (0, None);
    for (index, fragment) in fragments.iter().enumerate() {
        let opcode = if index == 0 { OpCode::Text } else { OpCode::Continuation };
        let last = index + 1 == fragments.len();
        let frame = client_fragment(last, opcode, fragment, [0xa5, 0x0f, 0x33, 0x00]);
        let (header, payload) = frame.split_at(frame.len() - fragment.len());
        for (part, is_payload) in
            std::iter::once((header, false)).chain(payload.chunks(bytes_a_read).map(|part| (part, true)))
        {
            sent += if is_payload { part.len() } else { 0 };
            let result = reader.read(part, LIMITS, &mut |event| match event {
                Event::Text(text) => given = Some(text.as_bytes().to_vec()),
                other => panic!("{other:?}"),
            });
            let whole = last && sent == text.len() && (is_payload || payload.is_empty());
            let expected = match whole {
                true => std::str::from_utf8(text).is_ok(),
                false => may_become_text(&text[..sent]),
            };
            let verdict = if expected { Ok(()) } else { Err(CloseReason::InvalidUtf8) };
            assert_eq!(result, verdict, "{text:02x?} as {fragments:02x?}, after {sent} bytes");
            if !expected {
                return;
            }
        }
    }
    assert_eq!(given.as_deref(), Some(text), "{fragments:02x?}");
}

/// Checks a text in every way to cut it into fragments, whole frames and single bytes at a time.
fn check_every_cut(text: &[u8]) {
    for cuts in 0..1u32 << (text.len() - 1) {
        let mut fragments = Vec::with_capacity(4);
        let mut start = 0;
        for end in 1..=text.len() {
            if end == text.len() || cuts >> (end - 1) & 1 == 1 {
                fragments.push(&text[start..end]);
                start = end;
            }
        }
        check(text, &fragments, text.len());
        check(text, &fragments, 1);
    }
}

#[test]
fn every_sequence_of_up_to_four_bytes_is_judged_as_std_judges_it() {
    let mut sequences = 0;
    let mut text = Vec::new();
    for len in 1..=4u32 {
        for number in 0..CLASSES.len().pow(len) {
            text.clear();
            text.extend((0..len).map(|place| CLASSES[number / CLASSES.len().pow(place) % CLASSES.len()]));
            check_every_cut(&text);
            sequences += 1;
        }
    }
    assert_eq!(sequences, 30 + 900 + 27_000 + 810_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Long texts take other paths in the validator than short ones.
    #[test]
    fn long_texts_are_judged_as_std_judges_them(
        words in proptest::collection::vec(proptest::sample::select(vec!["plain text ", "é", "€uro", "𝄞", "字"]), 0..90),
        broken in proptest::option::of((any::<Index>(), any::<u8>())),
        cuts in proptest::collection::vec(any::<Index>(), 0..4),
        bytes_a_read in 1..300usize,
    ) {
        let mut text = words.concat().into_bytes();
        if let Some((place, value)) = broken && !text.is_empty() {
            let place = place.index(text.len());
            text[place] = value;
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let mut fragments = Vec::new();
        let mut start = 0;
        for end in cuts.into_iter().chain([text.len()]) {
            fragments.push(&text[start..end]);
            start = end;
        }
        check(&text, &fragments, bytes_a_read);
    }
}
