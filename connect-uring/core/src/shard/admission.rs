//! From the first byte to the 101: the request head, plain requests, joins.
//!
//! Owns: what a connection may do before it is a WebSocket. Must not: put a session into the node's presence
//! before its join is accepted. Talks to: `handshake`, the controller and the driver through the outputs.

use bytes::Bytes;

use crate::delivery::Parcel;
use crate::event::{ControlEvent, HttpAnswer, HttpRequest, JoinDecision, Outputs, SessionInfo};
use crate::handshake::{
    AcceptKey, Head, Refusal, Request, RequestPath, http_response, read_head, switching_protocols,
};
use crate::session::{Asked, Phase};
use crate::shard::Shard;

/// The status of what may be had later.
const UNAVAILABLE: u16 = 503;

/// A client that may come back later is told to wait for 1 to so many seconds, so that those who are refused together
/// do not come back together.
const RETRY_AFTER_S: u64 = 4;

impl Shard {
    /// Bytes came from the peer, in whatever phase.
    pub(super) fn received(&mut self, slot: u32, bytes: &[u8], out: &mut Outputs) {
        self.counters.bytes_read += bytes.len() as u64;
        match &mut self.table[slot].phase {
            Phase::Head(unread) => match unread.take() {
                None => self.read_request(slot, bytes, out),
                Some(mut so_far) => {
                    // A head is refused at its bound: no more than one read past it is ever held.
                    so_far.extend_from_slice(bytes);
                    self.read_request(slot, &so_far, out);
                }
            },
            Phase::Asked(asked) => {
                if asked.upgrade.is_none() {
                    return;
                }
                if asked.early.len() + bytes.len() > self.limits.early_bytes {
                    let told = Refusal::new(400, "too_early", "wait for the 101 before sending that much");
                    self.refuse(slot, told, out);
                    return;
                }
                asked.early.extend_from_slice(bytes);
            }
            Phase::Live(_) | Phase::Echo(_) | Phase::Closing(_) => self.converse(slot, bytes, out),
            // A request's body, a second request, what follows an error: of no interest.
            Phase::Asking
            | Phase::Answering
            | Phase::Parting
            | Phase::Finishing
            | Phase::Ended
            | Phase::Vacant => {}
        }
    }

    fn read_request(&mut self, slot: u32, head: &[u8], out: &mut Outputs) {
        match read_head(head, self.limits.head_bytes) {
            Head::Incomplete => self.table[slot].phase = Phase::Head(Some(Box::new(head.to_vec()))),
            Head::Refused(refusal) => self.refuse(slot, refusal, out),
            Head::Request { request: Request { path, upgrade, traceparent }, consumed } => match path {
                RequestPath::WebSocket(query) => {
                    let asked = Asked { query, upgrade, traceparent, early: Vec::new() };
                    self.ask_to_join(slot, asked, &head[consumed..], out)
                }
                RequestPath::Echo => self.open_echo(slot, upgrade, &head[consumed..], out),
                RequestPath::Health => self.ask_driver(slot, HttpRequest::Health, out),
                RequestPath::Stats => self.ask_driver(slot, HttpRequest::Stats, out),
                RequestPath::Nodes { choosing } => {
                    self.ask_driver(slot, HttpRequest::Nodes { choosing }, out);
                }
                RequestPath::Page => self.ask_driver(slot, HttpRequest::Page, out),
                RequestPath::Unknown => self.refuse(slot, Refusal::not_found(), out),
            },
        }
    }

    fn ask_to_join(&mut self, slot: u32, mut asked: Asked, early: &[u8], out: &mut Outputs) {
        if self.turn_away(slot, out) {
            return;
        }
        if asked.upgrade.is_some() {
            if early.len() > self.limits.early_bytes {
                let told = Refusal::new(400, "too_early", "wait for the 101 before sending that much");
                self.refuse(slot, told, out);
                return;
            }
            asked.early = early.to_vec();
        }
        self.counters.joins_asked += 1;
        self.table[slot].phase = Phase::Asked(Box::new(asked));
        out.control.extend(self.join_event(slot));
        self.arm(slot, self.limits.join_ms);
    }

    /// The join that a session waits for.
    pub(super) fn join_event(&self, slot: u32) -> Option<ControlEvent> {
        let session = &self.table[slot];
        let Phase::Asked(asked) = &session.phase else { return None };
        let info = SessionInfo {
            session: self.table.id(slot),
            user: asked.query.user_id.clone(),
            user_name: asked.query.user_name.clone(),
            rooms: vec![asked.query.room_id.clone()],
            metadata: asked.query.metadata.clone(),
            connected_unix_ms: session.connected_unix_ms,
        };
        let traceparent = asked.traceparent.clone();
        Some(ControlEvent::Join { session: info, probe: asked.upgrade.is_none(), traceparent })
    }

    /// The controller's answer, or the bridge's in its stead.
    pub(super) fn join_answered(&mut self, slot: u32, decision: JoinDecision, out: &mut Outputs) {
        let phase = &mut self.table[slot].phase;
        if !matches!(phase, Phase::Asked(_)) {
            self.counters.stale += 1;
            return;
        }
        if let Some(refusal) = refusal_of(decision) {
            self.refuse(slot, refusal, out);
            return;
        }
        let Phase::Asked(asked) = std::mem::replace(phase, Phase::Ended) else { return };
        let Asked { query, upgrade, early, .. } = *asked;
        let Some(upgrade) = upgrade else {
            // Put back for its end to be the end of a probe, of which the controller hears nothing.
            self.table[slot].phase = Phase::Asking;
            self.refuse(slot, Refusal::upgrade_required(), out);
            return;
        };
        self.enter(slot, query, out);
        self.switch_protocols(slot, upgrade, &early, out);
    }

    fn open_echo(&mut self, slot: u32, upgrade: Option<AcceptKey>, early: &[u8], out: &mut Outputs) {
        if self.limits.echo.is_none() {
            self.refuse(slot, Refusal::not_found(), out);
            return;
        }
        if self.turn_away(slot, out) {
            return;
        }
        let Some(upgrade) = upgrade else {
            self.refuse(slot, Refusal::upgrade_required(), out);
            return;
        };
        self.table[slot].phase = Phase::Echo(None);
        self.counters.echoing += 1;
        self.switch_protocols(slot, upgrade, early, out);
    }

    /// The session is a WebSocket from here on.
    fn switch_protocols(&mut self, slot: u32, upgrade: AcceptKey, early: &[u8], out: &mut Outputs) {
        self.send(slot, Parcel::head(switching_protocols(&upgrade)), out);
        self.heard(slot);
        if !early.is_empty() {
            self.converse(slot, early, out);
        }
    }

    fn ask_driver(&mut self, slot: u32, request: HttpRequest, out: &mut Outputs) {
        self.table[slot].phase = Phase::Asking;
        out.http.push((self.table.id(slot), request));
        self.arm(slot, self.limits.answer_ms);
    }

    /// The driver's answer to a plain request.
    pub(super) fn http_answered(&mut self, slot: u32, answer: &HttpAnswer, out: &mut Outputs) {
        if !matches!(self.table[slot].phase, Phase::Asking) {
            self.counters.stale += 1;
            return;
        }
        let wait = (answer.status == UNAVAILABLE).then(|| self.retry_after_s().to_string());
        let extra: Vec<_> = wait.iter().map(|seconds| ("Retry-After", seconds.as_str())).collect();
        let response = http_response(answer.status, answer.content_type, &answer.body, &extra);
        self.answer(slot, response.into(), out);
    }

    /// Refuses whoever wants to join where no new sessions are taken. Returns whether it did.
    pub(super) fn turn_away(&mut self, slot: u32, out: &mut Outputs) -> bool {
        let refusal = if self.drain.is_some() {
            Refusal::new(UNAVAILABLE, "draining", "this node is being stopped: connect to another")
        } else if self.fenced {
            Refusal::new(UNAVAILABLE, "fenced", "this node is cut off: connect to another")
        } else {
            return false;
        };
        self.refuse(slot, refusal, out);
        true
    }

    fn retry_after_s(&mut self) -> u32 {
        1 + self.next_jitter(RETRY_AFTER_S) as u32
    }

    /// Says no, why, and when to come back.
    fn refuse(&mut self, slot: u32, mut refusal: Refusal, out: &mut Outputs) {
        if refusal.status >= 400 {
            self.counters.count_refusal(refusal.status);
        }
        if refusal.status == UNAVAILABLE {
            refusal = refusal.with_retry_after(self.retry_after_s());
        }
        self.withdraw_join(slot, out);
        self.answer(slot, refusal.response().into(), out);
    }

    /// Writes a whole answer; with its last byte the connection is over.
    fn answer(&mut self, slot: u32, response: Bytes, out: &mut Outputs) {
        self.table[slot].phase = Phase::Answering;
        self.arm(slot, self.limits.answer_ms);
        self.send(slot, Parcel::head(response), out);
    }

    /// The request head did not come in time. Nobody who is that slow reads an answer.
    pub(super) fn head_timed_out(&mut self, slot: u32, out: &mut Outputs) {
        self.counters.count_refusal(408);
        self.end(slot, out);
    }

    /// The controller or the driver did not answer in time.
    pub(super) fn answer_timed_out(&mut self, slot: u32, out: &mut Outputs) {
        let refusal = Refusal::new(UNAVAILABLE, "no_answer", "the answer took too long: try again");
        self.refuse(slot, refusal, out);
    }
}

/// What a client is told of a decision; `None`: it is accepted.
fn refusal_of(decision: JoinDecision) -> Option<Refusal> {
    match decision {
        JoinDecision::Accepted => None,
        JoinDecision::RoomFull => Some(Refusal::new(409, "room_full", "the room has no seat left")),
        JoinDecision::Unavailable => {
            Some(Refusal::new(UNAVAILABLE, "unavailable", "joins cannot be decided now: try again"))
        }
        JoinDecision::Invalid => {
            Some(Refusal::new(400, "invalid_join", "the user, room or name is not valid"))
        }
    }
}
