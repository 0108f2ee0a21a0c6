//! WebSocket frames (RFC 6455, section 5): the server's encoder and the header of the client's frames.
//!
//! Owns: the bytes of one frame. Must not: know of messages, fragments or UTF-8. Talks to: `message` and `client`,
//! which read frames; `command` and the session, which write them.

use bytes::Bytes;

use crate::close::CloseReason;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpCode {
    /// The next fragment of a message.
    Continuation = 0,
    /// A text message, or its first fragment.
    Text = 1,
    /// A binary message, or its first fragment.
    Binary = 2,
    /// The sender will send nothing more.
    Close = 8,
    /// A question whether the other end is there.
    Ping = 9,
    /// The answer.
    Pong = 10,
}

impl OpCode {
    /// The opcode of these four bits; `None` for the reserved ones.
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Close, ping or pong: short, never fragmented, allowed between the fragments of a message.
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// The most payload of a control frame, in bytes.
pub const MAX_CONTROL_BYTES: usize = 125;

/// The longest header of a server's frame, in bytes: two, and eight of length.
pub const MAX_SERVER_HEADER_BYTES: usize = 10;

/// The longest header of a client's frame, in bytes: a server's, and four of mask.
pub const MAX_CLIENT_HEADER_BYTES: usize = MAX_SERVER_HEADER_BYTES + 4;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;
const LENGTH_IN_TWO: u8 = 126;
const LENGTH_IN_EIGHT: u8 = 127;

/// The whole unmasked text frame of a payload (UTF-8).
pub fn text_frame(payload: &[u8]) -> Bytes {
    Bytes::from(server_frame(OpCode::Text, payload))
}

/// The whole unmasked binary frame of a payload.
pub fn binary_frame(payload: &[u8]) -> Bytes {
    Bytes::from(server_frame(OpCode::Binary, payload))
}

/// The ping that every session is sent: no payload, no allocation.
pub fn ping_frame() -> Bytes {
    Bytes::from_static(&[FIN | OpCode::Ping as u8, 0])
}

/// The pong to a ping: its payload goes back. Payloads are at most 125 bytes; what is past that is cut off.
pub fn pong_frame(ping_payload: &[u8]) -> Vec<u8> {
    server_frame(OpCode::Pong, &ping_payload[..ping_payload.len().min(MAX_CONTROL_BYTES)])
}

/// The close frame of a reason; one without a code gives an empty close.
pub fn close_frame(reason: CloseReason) -> Vec<u8> {
    let mut payload = Vec::with_capacity(2 + reason.text().len());
    if let Some(code) = reason.code() {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.text().as_bytes());
    }
    server_frame(OpCode::Close, &payload)
}

/// The answer to a client's close: its own code goes back (RFC 6455, 5.5.1), or a browser would report 1005.
pub fn close_reply(code: Option<u16>) -> Vec<u8> {
    match code {
        Some(code) => server_frame(OpCode::Close, &code.to_be_bytes()),
        None => server_frame(OpCode::Close, &[]),
    }
}

fn server_frame(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(server_header_bytes(payload.len()) + payload.len());
    write_header(&mut frame, opcode, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// Appends the header of an unfragmented, unmasked frame with `len` bytes of payload.
pub fn write_header(out: &mut Vec<u8>, opcode: OpCode, len: usize) {
    out.push(FIN | opcode as u8);
    write_length(out, len, 0);
}

/// Appends the length in its shortest form, with the mask bit given.
pub(crate) fn write_length(out: &mut Vec<u8>, len: usize, mask_bit: u8) {
    match len {
        0..=125 => out.push(mask_bit | len as u8),
        126..=0xffff => {
            out.push(mask_bit | LENGTH_IN_TWO);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | LENGTH_IN_EIGHT);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// How long the header of an unmasked frame with `len` bytes of payload is, in bytes.
pub fn server_header_bytes(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => MAX_SERVER_HEADER_BYTES,
    }
}

/// The header of a client's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientHeader {
    /// The last fragment, or the only one.
    pub fin: bool,
    /// What it is.
    pub opcode: OpCode,
    /// Its payload in bytes, below 2^63.
    pub length: u64,
    /// What its payload is masked with.
    pub mask: [u8; 4],
}

/// Reads the header of a client's frame and says how long it is. `None`: more bytes are needed.
///
/// A rule is judged as soon as its bytes are there, in the order of the bytes, so that the verdict does not depend
/// on how they came.
pub fn parse_client_header(bytes: &[u8]) -> Result<Option<(ClientHeader, usize)>, CloseReason> {
    let Some((lead, at)) = parse_lead(bytes, Masking::Required)? else { return Ok(None) };
    let Some(mask) = bytes[at..].first_chunk::<4>() else { return Ok(None) };
    let header = ClientHeader { fin: lead.fin, opcode: lead.opcode, length: lead.length, mask: *mask };
    Ok(Some((header, at + 4)))
}

/// A header without the mask.
pub(crate) struct Lead {
    pub(crate) fin: bool,
    pub(crate) opcode: OpCode,
    pub(crate) length: u64,
}

/// Which way the frame goes: a client masks, a server must not (RFC 6455, 5.1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masking {
    Required,
    Forbidden,
}

/// Reads a header up to where a mask begins.
pub(crate) fn parse_lead(bytes: &[u8], masking: Masking) -> Result<Option<(Lead, usize)>, CloseReason> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let fin = first & FIN != 0;
    // No extension is ever negotiated, so the reserved bits mean nothing.
    if first & RSV != 0 {
        return Err(CloseReason::ProtocolError);
    }
    let opcode = OpCode::from_bits(first & 0x0f).ok_or(CloseReason::ProtocolError)?;
    if opcode.is_control() && !fin {
        return Err(CloseReason::ProtocolError);
    }
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if (second & MASKED != 0) != (masking == Masking::Required) {
        return Err(CloseReason::ProtocolError);
    }
    let short = second & !MASKED;
    if opcode.is_control() && usize::from(short) > MAX_CONTROL_BYTES {
        return Err(CloseReason::ProtocolError);
    }
    let (length, at) = match short {
        LENGTH_IN_TWO => {
            let Some(length) = bytes[2..].first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*length)), 4)
        }
        LENGTH_IN_EIGHT => {
            let Some(length) = bytes[2..].first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*length), 10)
        }
        _ => (u64::from(short), 2),
    };
    let shortest = match short {
        LENGTH_IN_TWO => length >= 126,
        LENGTH_IN_EIGHT => length > 0xffff && length >> 63 == 0,
        _ => true,
    };
    if !shortest {
        return Err(CloseReason::ProtocolError);
    }
    Ok(Some((Lead { fin, opcode, length }, at)))
}

/// Masks or unmasks in place: it is the same. The mask begins at the first byte.
pub fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from(u32::from_ne_bytes(mask));
    let word = word << 32 | word;
    let (words, tail) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_shortest_header() {
        assert_eq!(text_frame(b"hi")[..], *b"\x81\x02hi");
        assert_eq!(binary_frame(&[0; 125])[..2], [0x82, 125]);
        assert_eq!(binary_frame(&[0; 126])[..4], [0x82, 126, 0, 126]);
        assert_eq!(binary_frame(&[0; 65_535])[..4], [0x82, 126, 0xff, 0xff]);
        assert_eq!(binary_frame(&[0; 65_536])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        for len in [0, 125, 126, 65_535, 65_536] {
            assert_eq!(binary_frame(&vec![0; len]).len(), server_header_bytes(len) + len);
        }
    }

    #[test]
    fn control_frames_are_written_as_the_standard_has_them() {
        assert_eq!(ping_frame()[..], [0x89, 0]);
        assert_eq!(pong_frame(b"abc"), b"\x8a\x03abc");
        assert_eq!(close_frame(CloseReason::Normal), b"\x88\x05\x03\xe8bye");
        assert_eq!(close_frame(CloseReason::PeerClosed), [0x88, 0]);
        assert_eq!(close_reply(Some(4321)), [0x88, 2, 0x10, 0xe1]);
        assert_eq!(close_reply(None), [0x88, 0]);
        for reason in CloseReason::ALL {
            assert!(close_frame(reason).len() <= 2 + MAX_CONTROL_BYTES);
        }
    }

    #[test]
    fn every_pair_of_first_bytes_is_judged_as_the_standard_has_it() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let known = matches!(first & 0x0f, 0x0 | 0x1 | 0x2 | 0x8 | 0x9 | 0xa);
                let control_rules = first & 0x0f < 8 || (first >= 0x80 && second & 0x7f <= 125);
                let allowed = first & 0x70 == 0 && known && control_rules && second >= 0x80;
                let parsed = parse_client_header(&[first, second]);
                assert_eq!(parsed, if allowed { Ok(None) } else { Err(CloseReason::ProtocolError) });
            }
        }
    }

    #[test]
    fn lengths_are_taken_in_their_shortest_form_only() {
        let parse = |length: &[u8]| {
            let header = [&[0x82], length, &[1, 2, 3, 4]].concat();
            parse_client_header(&header).map(|parsed| parsed.map(|(header, at)| (header.length, at)))
        };
        assert_eq!(parse(&[0x80]), Ok(Some((0, 6))));
        assert_eq!(parse(&[0x80 | 125]), Ok(Some((125, 6))));
        assert_eq!(parse(&[0xfe, 0, 126]), Ok(Some((126, 8))));
        assert_eq!(parse(&[0xfe, 0, 125]), Err(CloseReason::ProtocolError));
        assert_eq!(parse(&[0xff, 0, 0, 0, 0, 0, 1, 0, 0]), Ok(Some((65_536, 14))));
        assert_eq!(parse(&[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]), Err(CloseReason::ProtocolError));
        let most = [0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(parse(&most), Ok(Some((u64::MAX >> 1, 14))));
        assert_eq!(parse(&[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(CloseReason::ProtocolError));
    }

    #[test]
    fn an_unfinished_header_asks_for_more() {
        let header = [0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 9, 8, 7, 6];
        for end in 0..header.len() {
            assert_eq!(parse_client_header(&header[..end]), Ok(None), "{end}");
        }
        let (parsed, at) = parse_client_header(&header).unwrap().unwrap();
        let expected = ClientHeader { fin: true, opcode: OpCode::Text, length: 65_536, mask: [9, 8, 7, 6] };
        assert_eq!((parsed, at), (expected, 14));
    }

    #[test]
    fn masking_is_bytewise_at_every_length() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        for len in 0..70 {
            let plain: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let mut masked = plain.clone();
            apply_mask(&mut masked, mask);
            for (at, (masked, plain)) in masked.iter().zip(&plain).enumerate() {
                assert_eq!(*masked, plain ^ mask[at % 4]);
            }
        }
    }
}
