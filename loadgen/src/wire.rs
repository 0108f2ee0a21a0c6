//! Frames as a client reads and writes them (RFC 6455, 5.2).
//!
//! Owns: the client's half of the framing. Must not: know what the payload means.

/// A text frame.
pub(crate) const TEXT: u8 = 1;
/// A close frame.
pub(crate) const CLOSE: u8 = 8;
/// A ping.
pub(crate) const PING: u8 = 9;
/// A pong.
pub(crate) const PONG: u8 = 10;

/// The longest payload that a client takes, in bytes.
const MAX_PAYLOAD_BYTES: u64 = 16 * 1024 * 1024;

/// A frame of the server, in the bytes that it came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServerFrame<'a> {
    pub(crate) fin: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Bytes of the whole frame.
    pub(crate) length: usize,
}

/// The first frame of `bytes`, where it is there whole; an error where no server may send this.
pub(crate) fn server_frame(bytes: &[u8]) -> Result<Option<ServerFrame<'_>>, &'static str> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a reserved bit is set");
    }
    if second & 0x80 != 0 {
        return Err("a server's frame is masked");
    }
    let (header, length) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(length) => (4, u64::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if (header == 4 && length < 126) || (header == 10 && length <= u64::from(u16::MAX)) {
        return Err("a length is not in its shortest form");
    }
    if length > MAX_PAYLOAD_BYTES {
        return Err("a frame is longer than any push");
    }
    let opcode = first & 0x0f;
    if opcode >= 8 && (length > 125 || first & 0x80 == 0) {
        return Err("a control frame is too long or in fragments");
    }
    if !matches!(opcode, 0..=2 | 8..=10) {
        return Err("a reserved opcode");
    }
    let length = header + length as usize;
    let Some(payload) = bytes.get(header..length) else { return Ok(None) };
    Ok(Some(ServerFrame { fin: first & 0x80 != 0, opcode, payload, length }))
}

/// Appends a masked frame of at most 125 bytes of payload.
pub(crate) fn client_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let payload = &payload[..payload.len().min(125)];
    let mask = fastrand::u32(..).to_ne_bytes();
    out.extend([0x80 | opcode, 0x80 | payload.len() as u8]);
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_in_every_form_of_length() {
        for (header, length) in [
            (vec![0x81, 5], 5),
            (vec![0x81, 126, 1, 0], 256),
            (vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65536),
        ] {
            let mut bytes = header.clone();
            bytes.resize(header.len() + length, b'x');
            assert_eq!(server_frame(&bytes[..bytes.len() - 1]), Ok(None));
            let frame = server_frame(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload.len(), frame.length), (TEXT, length, bytes.len()));
        }
    }

    #[test]
    fn what_no_server_may_send_is_refused() {
        let wrong: [&[u8]; 6] =
            [&[0xc1, 0], &[0x81, 0x80], &[0x81, 126, 0, 5], &[0x89, 126, 0, 126], &[0x09, 0], &[0x83, 0]];
        for bytes in wrong {
            assert!(server_frame(bytes).is_err(), "{bytes:02x?}");
        }
    }
}
