//! The client's side of the upgrade.
//!
//! Owns: the request's bytes and the judgement of the answer (RFC 6455, 4.1 and 4.2.2). Must not: read or write.

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

/// The bytes that the key is hashed with (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The longest answer head that is taken, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What the server answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The head has not come whole yet.
    Partial,
    /// 101, rightly made; the frames begin after this many bytes.
    Upgraded(usize),
    /// Another status.
    Refused(u16),
}

/// The nonce of a client, as its Sec-WebSocket-Key.
pub(crate) fn key(nonce: u128) -> String {
    BASE64.encode(&nonce.to_be_bytes())
}

/// The request of a client: in the path, `{user}` and `{room}` are replaced.
pub(crate) fn request(host: &str, path: &str, user: &str, room: &str, key: &str) -> Vec<u8> {
    let path = path.replace("{user}", &escaped(user)).replace("{room}", &escaped(room));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Percent-encoding of everything but letters, digits, `-`, `.` and `_`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Judges the answer; an error says what is wrong with it.
pub(crate) fn judge(head: &[u8], key: &str) -> Result<Answer, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if head.len() <= MAX_HEAD_BYTES => return Ok(Answer::Partial),
        Ok(httparse::Status::Partial) => return Err("an answer head without end".into()),
        Err(error) => return Err(format!("no HTTP answer: {error}")),
    };
    let status = response.code.unwrap_or(0);
    if status != 101 {
        return Ok(Answer::Refused(status));
    }
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.map(|header| header.value).unwrap_or_default()
    };
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    if header("sec-websocket-accept") != BASE64.encode(&hash.finalize()).as_bytes() {
        return Err("a wrong Sec-WebSocket-Accept".into());
    }
    if !header("upgrade").eq_ignore_ascii_case(b"websocket") {
        return Err("a 101 without Upgrade: websocket".into());
    }
    if !header("connection").to_ascii_lowercase().windows(7).any(|word| word == b"upgrade") {
        return Err("a 101 without Connection: Upgrade".into());
    }
    if !header("sec-websocket-extensions").is_empty() || !header("sec-websocket-protocol").is_empty() {
        return Err("a 101 that grants what was not asked for".into());
    }
    Ok(Answer::Upgraded(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    #[test]
    fn the_sample_of_the_standard_is_accepted() {
        assert_eq!(judge(RIGHT.as_bytes(), KEY), Ok(Answer::Upgraded(RIGHT.len())));
        for cut in 0..RIGHT.len() {
            assert_eq!(judge(&RIGHT.as_bytes()[..cut], KEY), Ok(Answer::Partial), "cut at {cut}");
        }
    }

    #[test]
    fn wrong_answers_are_named() {
        assert!(judge(RIGHT.as_bytes(), "other").is_err());
        assert!(judge(RIGHT.replace("Upgrade: websocket", "Upgrade: h2c").as_bytes(), KEY).is_err());
        assert!(judge(b"\x00\x01\x02", KEY).is_err());
        assert_eq!(judge(b"HTTP/1.1 409 Conflict\r\n\r\nfull", KEY), Ok(Answer::Refused(409)));
    }

    #[test]
    fn ids_are_escaped() {
        let request = String::from_utf8(request("h", crate::plan::RINGCAST_PATH, "a b", "房", "k")).unwrap();
        assert!(request.starts_with("GET /ws?user_id=a%20b&user_name=a%20b&room_id=%E6%88%BF HTTP/1.1\r\n"));
    }
}
