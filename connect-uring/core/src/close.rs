//! Why a WebSocket ends: one table of close code, text, metric label and class.
//!
//! Owns: every close code that a client can get from us, and which codes a client may send (RFC 6455, 7.4).
//! Must not: know when a session is closed. Talks to: `frame`, which writes the code; the session, which picks it.
//!
//! Classes: 4000-4499 reconnect with backoff, 4500-4999 do not (none is in use yet); the standard's own codes keep
//! their meaning.

/// Why a session ended, or is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Done; nothing more is to come.
    Normal,
    /// This end goes away.
    GoingAway,
    /// The client broke the WebSocket protocol.
    ProtocolError,
    /// The client sent a kind of message that is not taken here.
    UnsupportedData,
    /// A text message or a close reason was not UTF-8.
    InvalidUtf8,
    /// The client broke a rule of ours.
    PolicyViolation,
    /// A message past its limit in bytes or fragments.
    TooBig,
    /// A fault of ours.
    Internal,
    /// A planned restart of the node.
    Restart,
    /// The node has no room now.
    TryLater,
    /// No pong came in time.
    PongTimeout,
    /// The client read slower than it was sent to, past its outbox's bound.
    Slow,
    /// The node is cut off from all others: no push would reach the client here.
    Fenced,
    /// The client closed first. No code of ours: its own is sent back.
    PeerClosed,
    /// The connection broke without a close. No code: nothing can be sent.
    ConnectionLost,
}

struct Row {
    reason: CloseReason,
    code: Option<u16>,
    text: &'static str,
    label: &'static str,
    reconnect: bool,
}

const fn row(
    reason: CloseReason,
    code: Option<u16>,
    label: &'static str,
    reconnect: bool,
    text: &'static str,
) -> Row {
    Row { reason, code, text, label, reconnect }
}

const STAY: bool = false;
const RECONNECT: bool = true;

/// The table, in the order of the variants.
#[rustfmt::skip]
const TABLE: [Row; 15] = [
    row(CloseReason::Normal,          Some(1000), "normal",           STAY,      "bye"),
    row(CloseReason::GoingAway,       Some(1001), "going_away",       RECONNECT, "going away"),
    row(CloseReason::ProtocolError,   Some(1002), "protocol_error",   STAY,      "protocol error"),
    row(CloseReason::UnsupportedData, Some(1003), "unsupported_data", STAY,      "this kind of message is not taken"),
    row(CloseReason::InvalidUtf8,     Some(1007), "invalid_utf8",     STAY,      "text is not UTF-8"),
    row(CloseReason::PolicyViolation, Some(1008), "policy_violation", STAY,      "policy violation"),
    row(CloseReason::TooBig,          Some(1009), "too_big",          STAY,      "message too big"),
    row(CloseReason::Internal,        Some(1011), "internal",         RECONNECT, "internal error"),
    row(CloseReason::Restart,         Some(1012), "restart",          RECONNECT, "the node restarts"),
    row(CloseReason::TryLater,        Some(1013), "try_later",        RECONNECT, "try again later"),
    row(CloseReason::PongTimeout,     Some(4000), "pong_timeout",     RECONNECT, "no pong in time"),
    row(CloseReason::Slow,            Some(4001), "slow",             RECONNECT, "too slow: messages were waiting past the bound"),
    row(CloseReason::Fenced,          Some(4002), "fenced",           RECONNECT, "the node is cut off: connect to another"),
    row(CloseReason::PeerClosed,      None,       "peer_closed",      STAY,      ""),
    row(CloseReason::ConnectionLost,  None,       "connection_lost",  RECONNECT, ""),
];

/// The longest text beside a code: a control frame holds 125 bytes (RFC 6455, 5.5).
const MAX_TEXT_BYTES: usize = 123;

const _: () = {
    let mut index = 0;
    while index < TABLE.len() {
        assert!(TABLE[index].reason as usize == index, "rows are in the order of the variants");
        assert!(TABLE[index].text.len() <= MAX_TEXT_BYTES, "the text fits a control frame");
        index += 1;
    }
};

impl CloseReason {
    /// All reasons, in the order of their index (`reason as usize`).
    pub const ALL: [Self; TABLE.len()] = {
        let mut all = [Self::Normal; TABLE.len()];
        let mut index = 0;
        while index < TABLE.len() {
            all[index] = TABLE[index].reason;
            index += 1;
        }
        all
    };

    /// The close code; `None` where no close frame of ours carries this reason.
    pub fn code(self) -> Option<u16> {
        TABLE[self as usize].code
    }

    /// The text that goes with the code, at most 123 bytes of ASCII.
    pub fn text(self) -> &'static str {
        TABLE[self as usize].text
    }

    /// The label in metrics.
    pub fn label(self) -> &'static str {
        TABLE[self as usize].label
    }

    /// Whether a client is to connect again (with backoff) or to stay away.
    pub fn reconnect(self) -> bool {
        TABLE[self as usize].reconnect
    }
}

/// Reads a client's close payload (RFC 6455, 5.5.1 and 7.4): nothing, or a code that may be sent and a reason in
/// UTF-8. `Ok(None)`: it gave no code.
pub fn parse_close_payload(payload: &[u8]) -> Result<Option<u16>, CloseReason> {
    match payload {
        [] => Ok(None),
        [_] => Err(CloseReason::ProtocolError),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(CloseReason::ProtocolError);
            }
            std::str::from_utf8(reason).map_err(|_| CloseReason::InvalidUtf8)?;
            Ok(Some(code))
        }
    }
}

/// Whether a code may appear in a close frame: 1004 is reserved, 1005, 1006 and 1015 only stand for what happened
/// without a frame, the rest of 1000-2999 is not assigned, below and above there are none.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_code_is_taken_or_refused_as_the_standard_has_it() {
        let mut taken = Vec::new();
        for code in 0..=u16::MAX {
            match parse_close_payload(&code.to_be_bytes()) {
                Ok(given) => {
                    assert_eq!(given, Some(code));
                    taken.push(code);
                }
                Err(reason) => assert_eq!(reason, CloseReason::ProtocolError, "{code}"),
            }
        }
        let mut expected = vec![1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
        expected.extend(3000..=4999);
        assert_eq!(taken, expected);
    }

    #[test]
    fn a_close_payload_is_empty_or_a_code_and_utf8() {
        assert_eq!(parse_close_payload(&[]), Ok(None));
        assert_eq!(parse_close_payload(&[3]), Err(CloseReason::ProtocolError));
        assert_eq!(parse_close_payload(b"\x03\xe8\xe5\x86\x8d\xe8\xa7\x81"), Ok(Some(1000)));
        assert_eq!(parse_close_payload(b"\x03\xe8\xe5\x86"), Err(CloseReason::InvalidUtf8));
        assert_eq!(parse_close_payload(b"\x03\xed\xe5\x86"), Err(CloseReason::ProtocolError), "1005 first");
    }

    #[test]
    fn the_table_says_each_thing_once_and_its_codes_may_be_sent() {
        let labels: HashSet<_> = CloseReason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), CloseReason::ALL.len());
        let codes: Vec<_> = CloseReason::ALL.iter().filter_map(|reason| reason.code()).collect();
        assert_eq!(codes.iter().collect::<HashSet<_>>().len(), codes.len());
        for reason in CloseReason::ALL {
            let Some(code) = reason.code() else { continue };
            assert!(may_be_sent(code), "{code}");
            assert!(reason.text().is_ascii() && !reason.text().is_empty());
            if code >= 4000 {
                assert_eq!(reason.reconnect(), code < 4500, "the class is in the number: {code}");
            }
        }
        assert_eq!(CloseReason::Restart.code(), Some(1012));
        assert!(CloseReason::Restart.reconnect());
    }
}
