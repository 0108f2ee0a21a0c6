//! The server's side of the WebSocket upgrade (RFC 6455, 4.2.2), as short as it can be.
//!
//! Owns: the paths that every contestant of this bench serves, and the answers. Must not: read or write.

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

/// The bytes that a key is hashed with (RFC 6455, 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `/ws?user_id=U&user_name=U&room_id=R`: it gets what is published to R.
    Subscriber,
    /// `/pub?room_id=R`: each of its messages is published to R.
    Publisher,
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
    fn a_request_tells_role_and_room() {
        let request = |target: &str| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: localhost\r\nSec-WebSocket-Key: cGVlcnMgYmVzaWRlIHVzIQ==\r\n\r\n"
            )
        };
        let judge = |target: &str| judge_request(request(target).as_bytes());
        let (role, room, answer) = judge("/ws?user_id=u&room_id=room0007").unwrap().unwrap();
        assert_eq!((role, room.as_str()), (Role::Subscriber, "room0007"));
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        let (role, room, _) = judge("/pub?room_id=room0007").unwrap().unwrap();
        assert_eq!((role, room.as_str()), (Role::Publisher, "room0007"));
        assert_eq!(judge_request(&request("/pub?room_id=r").as_bytes()[..40]), Ok(None));
        assert!(judge("/other").is_err());
    }

    #[test]
    fn the_sample_of_the_standard_is_accepted() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
