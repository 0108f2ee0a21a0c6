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
