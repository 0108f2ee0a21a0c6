//! The client's end of the codec, for load generators and tests.
//!
//! Owns: masked frames out, unmasked frames in. Must not: judge messages; a frame is given as it came. Talks to:
//! `frame`.

use crate::close::CloseReason;
use crate::frame::{MAX_SERVER_HEADER_BYTES, Masking, OpCode, apply_mask, parse_lead, write_length};

/// The whole masked frame of an unfragmented message or a control frame.
pub fn client_frame(opcode: OpCode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    client_fragment(true, opcode, payload, mask)
}

/// A masked frame that is the last of its message (`fin`) or not.
pub fn client_fragment(fin: bool, opcode: OpCode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(MAX_SERVER_HEADER_BYTES + mask.len() + payload.len());
    frame.push(u8::from(fin) << 7 | opcode as u8);
    write_length(&mut frame, payload.len(), 0x80);
    frame.extend_from_slice(&mask);
    let at = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(&mut frame[at..], mask);
    frame
}

/// Cuts a server's bytes into frames. Holds memory only while a frame is unfinished.
#[derive(Debug, Default)]
pub struct ServerFrames {
    /// The bytes of an unfinished frame, header included.
    pending: Vec<u8>,
}

impl ServerFrames {
    /// A reader at the start of a frame.
    pub fn new() -> Self {
        Self::default()
    }

    /// No frame is unfinished.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes some bytes and gives each finished frame to the sink: what it is, and its payload. A fragment is a
    /// frame like any other. A frame longer than `max_bytes` is refused at its header.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        max_bytes: usize,
        sink: &mut impl FnMut(OpCode, &[u8]),
    ) -> Result<(), CloseReason> {
        while !self.pending.is_empty() && !bytes.is_empty() {
            let wanted = match parse_server_frame(&self.pending, max_bytes)? {
                Extent::Unknown => self.pending.len() + 1,
                Extent::Known { end, .. } => end,
            };
            let taken = (wanted - self.pending.len()).min(bytes.len());
            self.pending.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let Extent::Known { opcode, start, end } = parse_server_frame(&self.pending, max_bytes)?
                && end == self.pending.len()
            {
                sink(opcode, &self.pending[start..]);
                self.pending = Vec::new();
            }
        }
        while !bytes.is_empty() {
            match parse_server_frame(bytes, max_bytes)? {
                Extent::Known { opcode, start, end } if end <= bytes.len() => {
                    sink(opcode, &bytes[start..end]);
                    bytes = &bytes[end..];
                }
                _ => {
                    self.pending.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Where a frame's payload lies.
enum Extent {
    /// The header is unfinished.
    Unknown,
    /// From `start` to `end`.
    Known { opcode: OpCode, start: usize, end: usize },
}

fn parse_server_frame(bytes: &[u8], max_bytes: usize) -> Result<Extent, CloseReason> {
    let Some((lead, start)) = parse_lead(bytes, Masking::Forbidden)? else { return Ok(Extent::Unknown) };
    let length = usize::try_from(lead.length).map_err(|_| CloseReason::TooBig)?;
    if length > max_bytes {
        return Err(CloseReason::TooBig);
    }
    Ok(Extent::Known { opcode: lead.opcode, start, end: start + length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{binary_frame, ping_frame, text_frame};

    type Frames = Vec<(OpCode, Vec<u8>)>;

    fn read(pieces: &[&[u8]], max_bytes: usize) -> (Frames, Result<(), CloseReason>, bool) {
        let (mut reader, mut frames, mut result) = (ServerFrames::new(), Frames::new(), Ok(()));
        for piece in pieces {
            let sink = &mut |opcode, payload: &[u8]| frames.push((opcode, payload.to_vec()));
            result = result.and_then(|()| reader.read(piece, max_bytes, sink));
        }
        (frames, result, reader.is_idle())
    }

    #[test]
    fn frames_are_cut_alike_wherever_the_bytes_are_split() {
        let frames = [text_frame(b"one"), ping_frame(), binary_frame(&[7; 300]), text_frame(b"")];
        let bytes = frames.concat();
        let expected = vec![
            (OpCode::Text, b"one".to_vec()),
            (OpCode::Ping, Vec::new()),
            (OpCode::Binary, vec![7; 300]),
            (OpCode::Text, Vec::new()),
        ];
        assert_eq!(read(&[&bytes], 300), (expected.clone(), Ok(()), true));
        for at in 0..bytes.len() {
            assert_eq!(read(&[&bytes[..at], &bytes[at..]], 300), (expected.clone(), Ok(()), true), "{at}");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(read(&single, 300), (expected, Ok(()), true));
    }

    #[test]
    fn a_masked_or_overlong_frame_is_refused() {
        let masked = client_frame(OpCode::Text, b"hi", [1, 2, 3, 4]);
        assert_eq!(read(&[&masked], 300).1, Err(CloseReason::ProtocolError));
        let frame = binary_frame(&[7; 301]);
        assert_eq!(read(&[&frame[..4]], 300).1, Err(CloseReason::TooBig));
        assert_eq!(read(&[&frame[..1], &frame[1..]], 300).1, Err(CloseReason::TooBig));
    }

    #[test]
    fn a_clients_frame_is_masked() {
        assert_eq!(
            client_frame(OpCode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]),
            [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
    }
}
