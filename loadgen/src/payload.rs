//! What a push carries so that its receiver can judge it: which stream of pushes, which one of them, and when
//! it was meant to leave.
//!
//! Owns: the text form of a [`Stamp`]. Must not: know frames or JSON beyond finding the stamp in them.

/// How every stamp begins. No character of a stamp is one that JSON escapes.
const MARK: &[u8] = b"rc1:";

/// Bytes of a stamp: mark, 8 digits of stream, 16 of number, 16 of time, two colons and a final semicolon.
pub const MIN_PAYLOAD_BYTES: usize = 4 + 8 + 1 + 16 + 1 + 16 + 1;

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

impl Stamp {
    /// The stamp as a payload of `bytes` bytes, filled up with full stops; never shorter than
    /// [`MIN_PAYLOAD_BYTES`].
    pub fn payload(self, bytes: usize) -> Vec<u8> {
        let mut text =
            format!("rc1:{:08x}:{:016x}:{:016x};", self.stream, self.seq, self.intended_ns).into_bytes();
        debug_assert_eq!(text.len(), MIN_PAYLOAD_BYTES);
        text.resize(bytes.max(MIN_PAYLOAD_BYTES), b'.');
        text
    }

    /// The stamp in a frame's payload, where it holds one.
    pub fn find(frame: &[u8]) -> Option<Self> {
        let at = frame.windows(MARK.len()).position(|window| window == MARK)?;
        Self::parse(frame.get(at..at + MIN_PAYLOAD_BYTES)?)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        if text[12] != b':' || text[29] != b':' || text[46] != b';' {
            return None;
        }
        Some(Self {
            stream: u32::try_from(hex(&text[4..12])?).ok()?,
            seq: hex(&text[13..29])?,
            intended_ns: hex(&text[30..46])?,
        })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_a_frame() {
        let stamp = Stamp { stream: 7, seq: 1 << 40, intended_ns: u64::MAX };
        let payload = stamp.payload(128);
        assert_eq!(payload.len(), 128);
        let mut frame = br#"{"type":"text","data":{"content":""#.to_vec();
        frame.extend(&payload);
        frame.extend(br#""}}"#);
        assert_eq!(Stamp::find(&frame), Some(stamp));
    }

    #[test]
    fn what_only_looks_like_a_stamp_is_none() {
        assert_eq!(Stamp::find(b"rc1:"), None);
        assert_eq!(Stamp::find(b"hello"), None);
        let mut torn = Stamp { stream: 1, seq: 2, intended_ns: 3 }.payload(0);
        torn[20] = b'g';
        assert_eq!(Stamp::find(&torn), None);
    }
}
