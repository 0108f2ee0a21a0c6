//! What a push carries so that its receiver can judge it: which stream of pushes, which one of them, when it was
//! meant to leave, and a checksum over all of it.
//!
//! Owns: the text form of a [`Stamp`]. Must not: know frames or JSON beyond finding the stamp in them.

use memchr::memmem;

/// How every stamp begins. No character of a stamped payload is one that JSON escapes.
const MARK: &[u8] = b"rc2:";

/// Where the fields begin: 8 digits of stream, 16 of number, 16 of time, 6 of length, 8 of checksum, each after a
/// colon, a semicolon at the end.
const SEQ: usize = 13;
const INTENDED: usize = 30;
const LENGTH: usize = 47;
const SUM: usize = 54;

/// Bytes of a stamp.
pub const MIN_PAYLOAD_BYTES: usize = SUM + 8 + 1;

/// The longest payload that a stamp can speak of, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 0xff_ffff;

/// What fills a payload up: letters, so that an error in any of them is one.
const FILLER: [u8; 64] = *b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// The evidence in a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Pushes that reach the same sessions in one order; chosen by the publisher, unique in a run.
    pub stream: u32,
    /// The push's number in its stream, from 0 without a gap.
    pub seq: u64,
    /// When it was meant to leave, in nanoseconds of CLOCK_MONOTONIC.
    pub intended_ns: u64,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No stamp: the frame is not one of ours.
    Nothing,
    /// A stamp whose checksum is wrong, or that is cut off: something on the way changed it.
    Corrupt,
    /// A stamp, and all that its payload held.
    Whole(Stamp),
}

/// Reads stamps out of frames. It remembers where the last one was, because the next is mostly there too.
#[derive(Debug, Default)]
pub struct StampReader {
    at: usize,
}

impl Stamp {
    /// The stamp as a payload of `bytes` bytes, never shorter than [`MIN_PAYLOAD_BYTES`] nor longer than
    /// [`MAX_PAYLOAD_BYTES`].
    pub fn payload(self, bytes: usize) -> Vec<u8> {
        let length = bytes.clamp(MIN_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES);
        let mut text = Vec::with_capacity(length);
        text.extend_from_slice(MARK);
        for (value, digits) in
            [(u64::from(self.stream), 8), (self.seq, 16), (self.intended_ns, 16), (length as u64, 6), (0, 8)]
        {
            push_hex(&mut text, value, digits);
            text.push(b':');
        }
        text[MIN_PAYLOAD_BYTES - 1] = b';';
        let turn = (self.seq % 64) as usize;
        while text.len() < length {
            let from = (text.len() + turn) % 64;
            let taken = (64 - from).min(length - text.len());
            text.extend_from_slice(&FILLER[from..from + taken]);
        }
        let mut sum = Vec::with_capacity(8);
        push_hex(&mut sum, u64::from(checksum(&text)), 8);
        text[SUM..SUM + 8].copy_from_slice(&sum);
        text
    }

    /// The stamp in a frame's payload, where it holds a whole one.
    pub fn find(frame: &[u8]) -> Option<Self> {
        match StampReader::default().read(frame) {
            Found::Whole(stamp) => Some(stamp),
            Found::Nothing | Found::Corrupt => None,
        }
    }

    /// The stamp at the start of `text`, checked; `None`: there is a mark and no more.
    fn parse(text: &[u8]) -> Option<Self> {
        let stamp = text.get(..MIN_PAYLOAD_BYTES)?;
        let length = hex(&stamp[LENGTH..LENGTH + 6])? as usize;
        let payload = text.get(..length.max(MIN_PAYLOAD_BYTES))?;
        if hex(&stamp[SUM..SUM + 8])? != u64::from(checksum(payload)) {
            return None;
        }
        Some(Self {
            stream: hex(&stamp[MARK.len()..MARK.len() + 8])? as u32,
            seq: hex(&stamp[SEQ..SEQ + 16])?,
            intended_ns: hex(&stamp[INTENDED..INTENDED + 16])?,
        })
    }
}

impl StampReader {
    /// What a frame holds.
    pub fn read(&mut self, frame: &[u8]) -> Found {
        let there = frame.get(self.at..).is_some_and(|rest| rest.starts_with(MARK));
        if !there {
            match memmem::find(frame, MARK) {
                Some(at) => self.at = at,
                None => return Found::Nothing,
            }
        }
        match Stamp::parse(&frame[self.at..]) {
            Some(stamp) => Found::Whole(stamp),
            None => Found::Corrupt,
        }
    }
}

/// Over the whole payload but the sum itself.
fn checksum(payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&payload[..SUM]);
    sum.update(&payload[SUM + 8..]);
    sum.finalize()
}

fn push_hex(text: &mut Vec<u8>, value: u64, digits: u32) {
    text.extend((0..digits).rev().map(|place| b"0123456789abcdef"[(value >> (place * 4) & 15) as usize]));
}

fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0;
    for digit in digits {
        let bits = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(bits);
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_a_frame() {
        let stamp = Stamp { stream: 7, seq: 1 << 40, intended_ns: u64::MAX };
        for bytes in [0, MIN_PAYLOAD_BYTES, 64, 128, 1000] {
            let payload = stamp.payload(bytes);
            assert_eq!(payload.len(), bytes.max(MIN_PAYLOAD_BYTES));
            let mut frame = br#"{"type":"text","data":{"content":""#.to_vec();
            frame.extend(&payload);
            frame.extend(br#""}}"#);
            assert_eq!(Stamp::find(&frame), Some(stamp));
            let mut reader = StampReader::default();
            assert_eq!(reader.read(&frame), Found::Whole(stamp));
            assert_eq!(reader.read(&frame), Found::Whole(stamp), "where it was before");
            assert_eq!(reader.read(&frame[3..]), Found::Whole(stamp), "somewhere else");
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let payload = Stamp { stream: 1, seq: 2, intended_ns: 3 }.payload(200);
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            let found = StampReader::default().read(&changed);
            let expected = if at < MARK.len() { Found::Nothing } else { Found::Corrupt };
            assert_eq!(found, expected, "byte {at}");
        }
        assert_eq!(StampReader::default().read(&payload[..199]), Found::Corrupt, "cut off");
    }

    #[test]
    fn what_only_looks_like_a_stamp_is_none() {
        assert_eq!(Stamp::find(b"rc2:"), None);
        assert_eq!(Stamp::find(b"hello"), None);
        assert_eq!(StampReader::default().read(b"hello"), Found::Nothing);
    }
}
