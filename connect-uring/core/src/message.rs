//! A client's byte stream cut into messages and control frames (RFC 6455, sections 5.4 to 5.6 and 8.1).
//!
//! Owns: what is unfinished of one session's input. Must not: answer anything, or hold memory for bytes that have
//! not come. Talks to: `frame` for headers, `close` for the close payload, the session that gives the bytes.
//!
//! A session at rest needs no reader: drop it, or lend it to the next session, while
//! [`is_idle`](MessageReader::is_idle).

use crate::close::{CloseReason, parse_close_payload};
use crate::frame::{
    ClientHeader, MAX_CLIENT_HEADER_BYTES, MAX_CONTROL_BYTES, OpCode, apply_mask, parse_client_header,
};

/// What a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping; its payload (at most 125 bytes) is to be sent back.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The client closes, with this code if it gave one. Nothing comes after it.
    Close(Option<u16>),
}

/// What one message may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// Its payload in bytes, all fragments together.
    pub max_bytes: usize,
    /// Its frames; 1 allows no fragmentation.
    pub max_fragments: usize,
}

/// How far ahead of what has come memory is reserved, in bytes; past that never more than as much again as the
/// message already holds, so that a declared length alone costs nothing.
const MAX_AHEAD_BYTES: usize = 16 * 1024;

/// A buffer that has grown past this is given back when its message is over, in bytes.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// Reads one client's frames, however the bytes are cut.
#[derive(Debug, Default)]
pub struct MessageReader {
    /// The unfinished message, unmasked.
    message: Vec<u8>,
    /// How many bytes of an unfinished text message are known to be UTF-8.
    checked: usize,
    /// The frames of the unfinished message so far; 0: none is unfinished.
    fragments: usize,
    /// The unfinished message is text.
    text: bool,
    /// The unfinished frame.
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Between two frames.
    #[default]
    Boundary,
    /// So many bytes of a header are here.
    Header([u8; MAX_CLIENT_HEADER_BYTES], u8),
    /// A fragment of the message; `length` counts down.
    Data(ClientHeader),
    /// A control frame and so many bytes of its payload, unmasked; `length` counts down.
    Control(ClientHeader, [u8; MAX_CONTROL_BYTES], u8),
    /// An error or a close was seen: nothing more is taken.
    Over,
}

impl MessageReader {
    /// A reader at the start of a client's frames.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing is unfinished: a new reader would do as well. After an error or a close this is false for good.
    pub fn is_idle(&self) -> bool {
        self.fragments == 0 && matches!(self.state, State::Boundary)
    }

    /// Takes the next bytes and gives what they finish to the sink, in order.
    ///
    /// The error is the reason to close with. After an error or a close further bytes are ignored.
    pub fn read(
        &mut self,
        bytes: &[u8],
        limits: MessageLimits,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), CloseReason> {
        let result = self.read_frames(bytes, limits, sink);
        if result.is_err() {
            self.end();
        }
        result
    }

    fn read_frames(
        &mut self,
        mut bytes: &[u8],
        limits: MessageLimits,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), CloseReason> {
        while !bytes.is_empty() {
            match std::mem::take(&mut self.state) {
                State::Over => {
                    self.state = State::Over;
                    return Ok(());
                }
                State::Boundary => match parse_client_header(bytes)? {
                    Some((header, at)) => {
                        bytes = &bytes[at..];
                        self.begin(header, limits)?;
                    }
                    None => {
                        let mut unfinished = [0; MAX_CLIENT_HEADER_BYTES];
                        unfinished[..bytes.len()].copy_from_slice(bytes);
                        self.state = State::Header(unfinished, bytes.len() as u8);
                        return Ok(());
                    }
                },
                State::Header(mut unfinished, len) => {
                    unfinished[usize::from(len)] = bytes[0];
                    bytes = &bytes[1..];
                    let len = len + 1;
                    match parse_client_header(&unfinished[..usize::from(len)])? {
                        Some((header, _)) => self.begin(header, limits)?,
                        None => self.state = State::Header(unfinished, len),
                    }
                }
                unfinished => self.state = unfinished,
            }
            bytes = self.read_payload(bytes, sink)?;
        }
        Ok(())
    }

    /// Judges a header against the message under way and the limits.
    fn begin(&mut self, header: ClientHeader, limits: MessageLimits) -> Result<(), CloseReason> {
        if header.opcode.is_control() {
            self.state = State::Control(header, [0; MAX_CONTROL_BYTES], 0);
            return Ok(());
        }
        // A continuation needs a message to continue, and nothing else may come inside one.
        if (header.opcode == OpCode::Continuation) != (self.fragments > 0) {
            return Err(CloseReason::ProtocolError);
        }
        if self.fragments == 0 {
            self.text = header.opcode == OpCode::Text;
        }
        let left = limits.max_bytes.saturating_sub(self.message.len()) as u64;
        if header.length > left || self.fragments >= limits.max_fragments {
            return Err(CloseReason::TooBig);
        }
        self.fragments += 1;
        self.state = State::Data(header);
        Ok(())
    }

    /// Takes what has come of the payload; gives back the bytes behind it.
    fn read_payload<'a>(
        &mut self,
        bytes: &'a [u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<&'a [u8], CloseReason> {
        match &mut self.state {
            State::Data(header) => {
                let (now, behind) = split_payload(bytes, header);
                let masked_from = self.message.len();
                reserve(&mut self.message, now.len(), header.length);
                self.message.extend_from_slice(now);
                apply_mask(&mut self.message[masked_from..], header.mask);
                header.mask.rotate_left(now.len() % 4);
                let (fin, complete) = (header.fin, header.length == 0);
                if complete {
                    self.state = State::Boundary;
                }
                self.take_data(fin && complete, sink)?;
                Ok(behind)
            }
            State::Control(header, payload, len) => {
                let (now, behind) = split_payload(bytes, header);
                let space = &mut payload[usize::from(*len)..][..now.len()];
                space.copy_from_slice(now);
                apply_mask(space, header.mask);
                header.mask.rotate_left(now.len() % 4);
                *len += now.len() as u8;
                if header.length > 0 {
                    return Ok(behind);
                }
                let (opcode, payload, len) = (header.opcode, *payload, usize::from(*len));
                self.state = State::Boundary;
                self.take_control(opcode, &payload[..len], sink)?;
                Ok(behind)
            }
            State::Boundary | State::Header(..) | State::Over => Ok(bytes),
        }
    }

    /// Checks what is new of a text message, and gives a message that is whole to the sink.
    fn take_data(&mut self, whole: bool, sink: &mut impl FnMut(Event<'_>)) -> Result<(), CloseReason> {
        if whole {
            if self.text {
                let text = simdutf8::basic::from_utf8(&self.message).map_err(|_| CloseReason::InvalidUtf8)?;
                sink(Event::Text(text));
            } else {
                sink(Event::Binary(&self.message));
            }
            self.forget_message();
        } else if self.text {
            self.checked += valid_so_far(&self.message[self.checked..])?;
        }
        Ok(())
    }

    fn take_control(
        &mut self,
        opcode: OpCode,
        payload: &[u8],
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), CloseReason> {
        match opcode {
            OpCode::Ping => sink(Event::Ping(payload)),
            OpCode::Pong => sink(Event::Pong(payload)),
            _ => {
                let code = parse_close_payload(payload)?;
                self.end();
                sink(Event::Close(code));
            }
        }
        Ok(())
    }

    fn forget_message(&mut self) {
        self.message.clear();
        if self.message.capacity() > MAX_KEPT_BYTES {
            self.message = Vec::new();
        }
        self.checked = 0;
        self.fragments = 0;
    }

    fn end(&mut self) {
        self.forget_message();
        self.message = Vec::new();
        self.state = State::Over;
    }
}

/// Cuts the frame's payload off the bytes, as far as it has come, and counts it.
fn split_payload<'a>(bytes: &'a [u8], header: &mut ClientHeader) -> (&'a [u8], &'a [u8]) {
    let now = usize::try_from(header.length).unwrap_or(usize::MAX).min(bytes.len());
    header.length -= now as u64;
    bytes.split_at(now)
}

/// Makes room for what has come, and for a part of what is left to come.
fn reserve(message: &mut Vec<u8>, now: usize, left: u64) {
    if message.capacity() - message.len() >= now {
        return;
    }
    let ahead = usize::try_from(left).unwrap_or(usize::MAX).min(MAX_AHEAD_BYTES.max(message.len()));
    message.reserve_exact(now + ahead);
}

/// How many bytes of an unfinished text are UTF-8 for sure; the few behind them may become a character yet. An
/// error as soon as they cannot.
fn valid_so_far(bytes: &[u8]) -> Result<usize, CloseReason> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(_) => Ok(bytes.len()),
        Err(error) if error.error_len().is_none() => Ok(error.valid_up_to()),
        Err(_) => Err(CloseReason::InvalidUtf8),
    }
}
