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
            match &mut self.state {
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
                State::Header(unfinished, len) => {
                    unfinished[usize::from(*len)] = bytes[0];
                    bytes = &bytes[1..];
                    *len += 1;
                    if let Some((header, _)) = parse_client_header(&unfinished[..usize::from(*len)])? {
                        self.begin(header, limits)?;
                    }
                }
                State::Data(_) | State::Control(..) => {}
                State::Over => return Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{client_fragment, client_frame};

    const LIMITS: MessageLimits = MessageLimits { max_bytes: 1 << 20, max_fragments: 100 };
    const MASK: [u8; 4] = [0x12, 0x34, 0xf6, 0x78];

    /// What came of some bytes: the events in words, then the error if there was one.
    fn read(reader: &mut MessageReader, limits: MessageLimits, bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        let result = reader.read(bytes, limits, &mut |event| {
            seen.push(match event {
                Event::Text(text) => format!("text {text}"),
                Event::Binary(data) => format!("binary {}", data.len()),
                Event::Ping(data) => format!("ping {}", String::from_utf8_lossy(data)),
                Event::Pong(data) => format!("pong {}", String::from_utf8_lossy(data)),
                Event::Close(code) => format!("close {code:?}"),
            })
        });
        if let Err(reason) = result {
            seen.push(format!("error {}", reason.label()));
        }
        seen
    }

    fn read_all(frames: &[&[u8]]) -> Vec<String> {
        read(&mut MessageReader::new(), LIMITS, &frames.concat())
    }

    fn fragment(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        client_fragment(fin, opcode, payload, MASK)
    }

    fn whole(opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        client_frame(opcode, payload, MASK)
    }

    #[test]
    fn messages_of_every_length_form_are_read() {
        for len in [0, 1, 7, 8, 125, 126, 127, 65_535, 65_536, 70_000] {
            let frame = whole(OpCode::Binary, &vec![7; len]);
            assert_eq!(read_all(&[&frame, &frame]), vec![format!("binary {len}"); 2]);
        }
        assert_eq!(read_all(&[&whole(OpCode::Text, "你好".as_bytes())]), ["text 你好"]);
    }

    #[test]
    fn control_frames_come_out_between_the_fragments_of_a_message() {
        let frames = [
            fragment(false, OpCode::Text, b"one "),
            whole(OpCode::Ping, b"there?"),
            fragment(false, OpCode::Continuation, b""),
            whole(OpCode::Pong, b"unasked"),
            fragment(true, OpCode::Continuation, b"two"),
        ];
        assert_eq!(
            read_all(&frames.each_ref().map(Vec::as_slice)),
            ["ping there?", "pong unasked", "text one two"]
        );
    }

    #[test]
    fn fragments_come_in_their_order_only() {
        let start = fragment(false, OpCode::Binary, b"a");
        for out_of_place in [OpCode::Text, OpCode::Binary] {
            assert_eq!(read_all(&[&start, &whole(out_of_place, b"b")]), ["error protocol_error"]);
        }
        assert_eq!(read_all(&[&whole(OpCode::Continuation, b"a")]), ["error protocol_error"]);
        let ended = whole(OpCode::Text, b"a");
        assert_eq!(
            read_all(&[&ended, &whole(OpCode::Continuation, b"a")]),
            ["text a", "error protocol_error"]
        );
    }

    #[test]
    fn empty_fragments_and_messages_are_messages() {
        assert_eq!(
            read_all(&[&whole(OpCode::Text, b""), &whole(OpCode::Binary, b"")]),
            ["text ", "binary 0"]
        );
        let (start, end) = (fragment(false, OpCode::Text, b""), fragment(true, OpCode::Continuation, b""));
        assert_eq!(read_all(&[&start, &end]), ["text "]);
    }

    #[test]
    fn text_is_checked_over_fragments_and_as_it_comes() {
        let euro = "€".as_bytes();
        let (start, end) =
            (fragment(false, OpCode::Text, &euro[..1]), fragment(true, OpCode::Continuation, &euro[1..]));
        assert_eq!(read_all(&[&start, &end]), ["text €"]);
        let cut = fragment(true, OpCode::Continuation, &euro[1..2]);
        assert_eq!(read_all(&[&start, &cut]), ["error invalid_utf8"], "the message ends inside a character");

        // The frame announces 1,000 bytes; the fifth that came already cannot be.
        let mut unfinished = whole(OpCode::Text, &[b"good\xff".as_slice(), &[b'x'; 995]].concat());
        unfinished.truncate(8 + 5);
        assert_eq!(read_all(&[&unfinished]), ["error invalid_utf8"]);
        unfinished.truncate(8 + 4);
        assert_eq!(read_all(&[&unfinished]), [""; 0]);

        let binary = whole(OpCode::Binary, b"\xff");
        assert_eq!(read_all(&[&binary]), ["binary 1"]);
    }

    #[test]
    fn after_a_close_or_an_error_nothing_more_is_taken() {
        let text = whole(OpCode::Text, b"late");
        for (last, expected) in [
            (whole(OpCode::Close, b"\x03\xe8bye"), "close Some(1000)"),
            (whole(OpCode::Close, b""), "close None"),
            (whole(OpCode::Close, b"\x03"), "error protocol_error"),
            (whole(OpCode::Close, b"\x03\xee"), "error protocol_error"),
            (whole(OpCode::Close, b"\x03\xe8\xff"), "error invalid_utf8"),
            (whole(OpCode::Text, b"\xff"), "error invalid_utf8"),
        ] {
            let mut reader = MessageReader::new();
            assert_eq!(read(&mut reader, LIMITS, &[last, text.clone()].concat()), [expected]);
            assert_eq!(read(&mut reader, LIMITS, &text), [""; 0]);
            assert!(!reader.is_idle(), "a reader made anew would take data after the close");
        }
    }

    #[test]
    fn a_message_is_judged_at_the_header_that_goes_past_a_limit() {
        let limits = MessageLimits { max_bytes: 10, max_fragments: 3 };
        let read = |bytes: &[u8]| read(&mut MessageReader::new(), limits, bytes);
        assert_eq!(read(&whole(OpCode::Binary, &[0; 10])), ["binary 10"]);
        let header = &whole(OpCode::Binary, &[0; 11])[..6];
        assert_eq!(read(header), ["error too_big"]);

        let start = fragment(false, OpCode::Binary, &[0; 6]);
        let more = fragment(true, OpCode::Continuation, &[0; 5]);
        assert_eq!(read(&[start.as_slice(), &more[..6]].concat()), ["error too_big"]);

        let start = fragment(false, OpCode::Binary, b"");
        let next = fragment(false, OpCode::Continuation, b"");
        let last = fragment(true, OpCode::Continuation, b"");
        assert_eq!(read(&[start.as_slice(), &next, &last].concat()), ["binary 0"]);
        assert_eq!(read(&[start.as_slice(), &next, &next, &last].concat()), ["error too_big"]);
        let ping = whole(OpCode::Ping, b"");
        let pings = [start.as_slice(), &ping, &ping, &ping, &next, &last].concat();
        assert_eq!(read(&pings), ["ping ", "ping ", "ping ", "binary 0"], "control frames do not count");
    }

    #[test]
    fn a_declared_length_reserves_next_to_nothing() {
        let limits = MessageLimits { max_bytes: 16 << 20, ..LIMITS };
        let frame = whole(OpCode::Binary, &vec![1; 16 << 20]);
        let mut reader = MessageReader::new();
        let mut events = read(&mut reader, limits, &frame[..14]);
        assert_eq!(reader.message.capacity(), 0);
        for piece in frame[14..].chunks(1000) {
            events.extend(read(&mut reader, limits, piece));
            let received = reader.message.len();
            assert!(reader.message.capacity() <= received + MAX_AHEAD_BYTES.max(received));
        }
        assert_eq!(events, ["binary 16777216"]);
        assert_eq!(reader.message.capacity(), 0, "a large buffer is not kept");
    }

    #[test]
    fn a_small_message_uses_the_buffer_of_the_one_before() {
        let mut reader = MessageReader::new();
        let frame = whole(OpCode::Text, &[b'a'; 100]);
        read(&mut reader, LIMITS, &frame);
        let (address, capacity) = (reader.message.as_ptr(), reader.message.capacity());
        assert_eq!(capacity, 100);
        read(&mut reader, LIMITS, &frame);
        assert_eq!((reader.message.as_ptr(), reader.message.capacity()), (address, capacity));
    }

    #[test]
    fn a_reader_is_idle_between_messages_only() {
        let mut reader = MessageReader::new();
        let frames =
            [fragment(false, OpCode::Text, b"a"), fragment(true, OpCode::Continuation, b"b")].concat();
        for at in 0..frames.len() {
            assert_eq!(reader.is_idle(), at == 0, "{at}");
            read(&mut reader, LIMITS, &frames[at..=at]);
        }
        assert!(reader.is_idle());
        let ping = whole(OpCode::Ping, b"?");
        read(&mut reader, LIMITS, &ping[..6]);
        assert!(!reader.is_idle());
        read(&mut reader, LIMITS, &ping[6..]);
        assert!(reader.is_idle());
    }
}
