//! What a client sees of the bytes that left: an HTTP answer, then frames. Written apart from the crate's own codec
//! and stricter: a server must send whole, unmasked frames with the shortest length.

/// Something whole that a client has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The head of the HTTP answer, with its status.
    Head(u16),
    /// A frame.
    Frame { opcode: u8, payload: Vec<u8> },
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Head,
    Body,
    Frames,
    Closed,
}

/// One client's incoming stream.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    mode: Mode,
    pending: Vec<u8>,
}

impl Stream {
    pub(crate) fn new() -> Self {
        Self { mode: Mode::Head, pending: Vec::new() }
    }

    /// Something was begun and is not whole yet.
    pub(crate) fn is_torn(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes bytes; gives what they make whole, each with the number of these bytes up to its end.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<(usize, Seen)> {
        let before = self.pending.len();
        self.pending.extend_from_slice(bytes);
        let (mut seen, mut at) = (Vec::new(), 0);
        while let Some((len, item)) = self.next(at) {
            at += len;
            seen.push((at - before, item));
        }
        if self.mode == Mode::Body {
            at = self.pending.len();
        }
        self.pending.drain(..at);
        seen
    }

    fn next(&mut self, at: usize) -> Option<(usize, Seen)> {
        let rest = &self.pending[at..];
        match self.mode {
            Mode::Head => {
                let end = rest.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
                let head = std::str::from_utf8(&rest[..end]).expect("a head is text");
                let status = head.strip_prefix("HTTP/1.1 ").and_then(|head| head.get(..3)).expect("a status");
                let status: u16 = status.parse().expect("a number");
                self.mode = if status == 101 { Mode::Frames } else { Mode::Body };
                Some((end, Seen::Head(status)))
            }
            Mode::Body => None,
            Mode::Closed => {
                assert!(rest.is_empty(), "{} bytes came behind the close frame", rest.len());
                None
            }
            Mode::Frames => {
                let (len, opcode, payload) = frame(rest)?;
                if opcode == CLOSE {
                    self.mode = Mode::Closed;
                }
                Some((len, Seen::Frame { opcode, payload }))
            }
        }
    }
}

fn frame(bytes: &[u8]) -> Option<(usize, u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    assert_eq!(first & 0xf0, 0x80, "FIN is set and nothing is reserved");
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let opcode = first & 0x0f;
    assert!(matches!(opcode, TEXT | BINARY | CLOSE | PING | PONG), "opcode {opcode}");
    let (header, len) = match second {
        126 => {
            let len = u16::from_be_bytes(bytes.get(2..4)?.try_into().expect("two bytes"));
            assert!(len >= 126, "the shortest length is used");
            (4, usize::from(len))
        }
        127 => {
            let len = u64::from_be_bytes(bytes.get(2..10)?.try_into().expect("eight bytes"));
            assert!(len > 0xffff, "the shortest length is used");
            (10, usize::try_from(len).expect("a length that fits"))
        }
        len => (2, usize::from(len)),
    };
    assert!(opcode < 8 || len <= 125, "a control frame is short");
    let payload = bytes.get(header..header + len)?;
    Some((header + len, opcode, payload.to_vec()))
}
