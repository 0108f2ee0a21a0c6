//! A WebSocket's incoming side: messages, pings, closes, silence.
//!
//! Owns: what each message of a client leads to. Must not: hold a reader for a session with nothing unfinished.
//! Talks to: `message`, `command`, `frame`.

use bytes::Bytes;

use crate::close::CloseReason;
use crate::command::{Command, parse_command, pong_text};
use crate::delivery::Parcel;
use crate::event::Outputs;
use crate::frame::{binary_frame, close_reply, pong_frame, text_frame};
use crate::message::{Event, MessageLimits, MessageReader};
use crate::session::{Phase, Unfinished};
use crate::shard::Shard;
use std::rc::Rc;

impl Shard {
    /// Bytes of a WebSocket came.
    pub(super) fn converse(&mut self, slot: u32, bytes: &[u8], out: &mut Outputs) {
        let limits = match self.table[slot].phase {
            Phase::Echo(_) => self.limits.echo.unwrap_or(self.limits.message),
            _ => self.limits.message,
        };
        if !matches!(self.table[slot].phase, Phase::Closing(_)) {
            self.heard(slot);
        }
        let mut reader = match self.unfinished(slot).and_then(Option::take) {
            Some(reader) => reader,
            None => std::mem::take(&mut self.spare_reader),
        };
        let result = self.read_messages(slot, &mut reader, bytes, limits, out);
        if reader.is_idle() {
            self.spare_reader = reader;
        } else if let Some(unfinished) = self.unfinished(slot) {
            *unfinished = Some(reader);
        }
        if let Err(reason) = result {
            self.broke_protocol(slot, reason, out);
        }
    }

    fn read_messages(
        &mut self,
        slot: u32,
        reader: &mut MessageReader,
        bytes: &[u8],
        limits: MessageLimits,
        out: &mut Outputs,
    ) -> Result<(), CloseReason> {
        reader.read(bytes, limits, &mut |event| match event {
            Event::Close(code) => self.peer_closed(slot, close_reply(code), out),
            // What comes behind our close frame is not answered any more (RFC 6455, 5.5.1).
            _ if matches!(self.table[slot].phase, Phase::Closing(_) | Phase::Parting | Phase::Ended) => {}
            Event::Text(text) => self.text(slot, text, out),
            Event::Binary(bytes) => self.binary(slot, bytes, out),
            Event::Ping(payload) => {
                let pong = Parcel::pong(pong_frame(payload));
                self.table[slot].outbox.push_pong(pong, &mut self.pool);
                self.announce(slot, out);
            }
            Event::Pong(_) => self.counters.pongs += 1,
        })
    }

    fn text(&mut self, slot: u32, text: &str, out: &mut Outputs) {
        self.counters.messages += 1;
        if matches!(self.table[slot].phase, Phase::Echo(_)) {
            self.reply(slot, text_frame(text.as_bytes()), self.limits.echo_queue_bytes(), out);
            return;
        }
        match parse_command(text) {
            Command::Ping => {
                self.counters.commands += 1;
                let unix_ms = self.now.unix_ms;
                self.reply(slot, pong_text(unix_ms).into(), self.limits.queue_bytes(), out);
            }
            Command::Members => {
                self.counters.commands += 1;
                let room = self.table[slot].rooms.as_slice().first();
                if let Some(room) = room.and_then(|room| self.rooms.id(room.group)) {
                    out.members.push((self.table.id(slot), room.clone()));
                }
            }
            // The seed's clients send all sorts of things: what is not a command is counted and left at that.
            Command::Unknown | Command::Malformed => {}
        }
    }

    fn binary(&mut self, slot: u32, bytes: &[u8], out: &mut Outputs) {
        self.counters.messages += 1;
        if matches!(self.table[slot].phase, Phase::Echo(_)) {
            self.reply(slot, binary_frame(bytes), self.limits.echo_queue_bytes(), out);
        }
    }

    /// Answers a client's message, within the same bound as pushes: who asks without reading is slow.
    fn reply(&mut self, slot: u32, frame: Bytes, bound: u32, out: &mut Outputs) {
        if self.table[slot].outbox.has_room(frame.len(), bound) {
            self.send(slot, Parcel::own(frame), out);
        } else {
            self.close(slot, CloseReason::Slow, out);
        }
    }

    /// Who is in the session's room has been found out.
    pub(super) fn answer_members(&mut self, slot: u32, frame: Bytes, out: &mut Outputs) {
        if matches!(self.table[slot].phase, Phase::Live(_)) {
            self.reply(slot, frame, self.limits.queue_bytes(), out);
        } else {
            self.counters.stale += 1;
        }
    }

    /// Something was heard of the session: it is alive, and left in peace for a while.
    pub(super) fn heard(&mut self, slot: u32) {
        let jitter_ms = self.next_jitter(self.limits.ping_jitter_ms);
        self.table[slot].awaits_pong = false;
        self.arm(slot, self.limits.ping_interval_ms - jitter_ms);
    }

    /// Nothing was heard for too long: asks whether the peer is there, or gives it up.
    pub(super) fn silent(&mut self, slot: u32, out: &mut Outputs) {
        if self.table[slot].awaits_pong {
            self.close(slot, CloseReason::PongTimeout, out);
            return;
        }
        self.table[slot].awaits_pong = true;
        self.counters.pings += 1;
        self.arm(slot, self.limits.pong_ms);
        let ping = Rc::clone(&self.ping);
        self.send(slot, ping, out);
    }

    fn unfinished(&mut self, slot: u32) -> Option<&mut Unfinished> {
        match &mut self.table[slot].phase {
            Phase::Live(unfinished) | Phase::Echo(unfinished) | Phase::Closing(unfinished) => {
                Some(unfinished)
            }
            _ => None,
        }
    }
}
