//! Both sides of the WebSocket upgrade (RFC 6455, 4.1 and 4.2.2), as short as they can be.
//!
//! Owns: the paths that every contestant of this bench serves, requests, answers. Must not: read or write.

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

/// The bytes that a key is hashed with (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The key of every client here: the answer to it is known beforehand, and a run needs no secret.
const KEY: &str = "cGVlcnMgYmVzaWRlIHVzIQ==";

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `/ws?user_id=U&user_name=U&room_id=R`: it gets what is published to R.
    Subscriber,
    /// `/pub?room_id=R`: each of its messages is published to R.
    Publisher,
}

/// A client's request: the same bytes for every contestant.
pub fn subscribe_request(user: &str, room: &str) -> Vec<u8> {
    request(&format!("/ws?user_id={user}&user_name={user}&room_id={room}"))
}

/// A publisher's request.
pub fn publish_request(room: &str) -> Vec<u8> {
    request(&format!("/pub?room_id={room}"))
}

fn request(target: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// What a client makes of the bytes that it has got so far: the length of the head, `None` where it is not whole
/// yet, an error where it is no right 101.
pub fn judge_answer(head: &[u8]) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(head) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("no HTTP answer: {error}")),
    };
    if response.code != Some(101) {
        return Err(format!("status {} instead of 101", response.code.unwrap_or(0)));
    }
    let accept =
        response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if accept.is_none_or(|accept| accept.value != expected_accept().as_bytes()) {
        return Err("a wrong Sec-WebSocket-Accept".into());
    }
    Ok(Some(length))
}

fn expected_accept() -> &'static str {
    static EXPECTED: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| accept(KEY.as_bytes()));
    &EXPECTED
}

/// What a server reads in a request: the role and the room, `None` where the head is not whole yet.
pub fn judge_request(head: &[u8]) -> Result<Option<(Role, String, Vec<u8>)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    }
    let (role, room) = role_and_room(request.path.unwrap_or_default()).ok_or("no such path")?;
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
    let accept = accept(key.ok_or("no key")?.value);
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok(Some((role, room.to_owned(), answer.into_bytes())))
}

/// The role and the room of a path with its query.
pub fn role_and_room(target: &str) -> Option<(Role, &str)> {
    let (path, query) = target.split_once('?')?;
    let role = match path {
        "/ws" => Role::Subscriber,
        "/pub" => Role::Publisher,
        _ => return None,
    };
    let room = query.split('&').find_map(|pair| pair.strip_prefix("room_id="))?;
    Some((role, room))
}

fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    BASE64.encode(&hash.finalize())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_understand_each_other() {
        let (role, room, answer) =
            judge_request(&subscribe_request("u0000001", "room0007")).unwrap().unwrap();
        assert_eq!((role, room.as_str()), (Role::Subscriber, "room0007"));
        assert_eq!(judge_answer(&answer), Ok(Some(answer.len())));
        assert_eq!(judge_answer(&answer[..40]), Ok(None));
        let (role, room, _) = judge_request(&publish_request("room0007")).unwrap().unwrap();
        assert_eq!((role, room.as_str()), (Role::Publisher, "room0007"));
    }

    #[test]
    fn the_sample_of_the_standard_is_accepted() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(judge_answer(b"HTTP/1.1 409 Conflict\r\n\r\n").is_err());
    }
}
