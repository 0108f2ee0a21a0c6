//! The request head and the WebSocket upgrade (RFC 9112; RFC 6455, section 4.2).
//!
//! Owns: what a request must look like, and what is said to one that does not. Must not: answer by itself, keep
//! anything between two calls, or log a header or a query. Talks to: `join_query` and `response`; the session, which
//! calls it with what has come so far.

use data_encoding::BASE64;
use httparse::{EMPTY_HEADER, Header, Status};
use sha1::{Digest, Sha1};

pub use crate::join_query::JoinQuery;
pub use crate::response::{JSON, Refusal, http_response};

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// The longest `traceparent` that is read; one of today's version has 55 bytes.
const MAX_TRACEPARENT_BYTES: usize = 128;

/// What has come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed.
    Incomplete,
    /// A request.
    Request {
        /// What it asks for.
        request: Request,
        /// How long the head is, in bytes; what is behind it are the first frames.
        consumed: usize,
    },
    /// A request that is answered at once.
    Refused(Refusal),
}

/// A request that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it asks for.
    pub path: RequestPath,
    /// The answer to its upgrade; `None`: it is plain HTTP. Always `None` where there is no WebSocket.
    pub upgrade: Option<AcceptKey>,
    /// Of which trace an upgrade is a part: its `traceparent` as it came (W3C Trace Context, 3.2).
    pub traceparent: Option<Box<str>>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestPath {
    /// `/ws`: a join.
    WebSocket(JoinQuery),
    /// `/echo`.
    Echo,
    /// `/health`.
    Health,
    /// `/stats`.
    Stats,
    /// `GET /nodes`; `choosing`: by a client that goes to the first of them.
    Nodes {
        /// See there.
        choosing: bool,
    },
    /// `/` and `/client.html`.
    Page,
    /// Nothing that is served: [`Refusal::not_found`].
    Unknown,
}

/// The value of `Sec-WebSocket-Accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptKey([u8; ACCEPT_BYTES]);

/// A SHA-1 sum in base64.
const ACCEPT_BYTES: usize = 28;

/// What is hashed behind the client's key (RFC 6455, 1.3).
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Reads a request head from all that has come so far. It may be at most `max_bytes` long.
///
/// The verdict is the same however the bytes came: only the first `max_bytes` are looked at, in order.
pub fn read_head(buffer: &[u8], max_bytes: usize) -> Head {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&buffer[..buffer.len().min(max_bytes)]) {
        Ok(Status::Partial) if buffer.len() < max_bytes => Head::Incomplete,
        Ok(Status::Partial) => Head::Refused(Refusal::new(
            431,
            "head_too_large",
            format!(
                "the request head is longer than {max_bytes} bytes: send fewer or shorter headers and cookies"
            ),
        )),
        Ok(Status::Complete(consumed)) => match judge(&request) {
            Ok(request) => Head::Request { request, consumed },
            Err(refusal) => Head::Refused(refusal),
        },
        Err(error) => Head::Refused(unreadable(error)),
    }
}

fn unreadable(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::new(
            431,
            "too_many_headers",
            format!("the request has more than {MAX_HEADERS} headers: send fewer"),
        ),
        httparse::Error::Version => unsupported_version(),
        _ => Refusal::new(400, "bad_request", "this is no HTTP/1.1 request"),
    }
}

fn unsupported_version() -> Refusal {
    Refusal::new(505, "unsupported_version", "only HTTP/1.1 is spoken here")
}

/// Judges a whole head: version, method, Host, body, path, upgrade.
fn judge(request: &httparse::Request<'_, '_>) -> Result<Request, Refusal> {
    let headers = Headers(request.headers);
    if request.version != Some(1) {
        return Err(unsupported_version());
    }
    let host_count = headers.values("host").count();
    if host_count != 1 {
        return Err(bad_request("bad_host", "the request needs exactly one Host header"));
    }
    refuse_body(&headers)?;
    match request.method.unwrap_or_default() {
        "GET" => {}
        "OPTIONS" => return Err(preflight()),
        method => return Err(method_not_allowed(method)),
    }
    let (path, query) = split_target(request.path.unwrap_or_default())?;
    let upgrade = match path {
        "/ws" | "/echo" => read_upgrade(&headers)?,
        // Elsewhere an offer to upgrade is not taken up, as the standard allows.
        _ => None,
    };
    let path = match path {
        "/ws" => RequestPath::WebSocket(JoinQuery::parse(query)?),
        "/echo" => RequestPath::Echo,
        "/health" => RequestPath::Health,
        "/stats" => RequestPath::Stats,
        "/nodes" => RequestPath::Nodes { choosing: query == "choose" },
        "/" | "/client.html" => RequestPath::Page,
        _ => RequestPath::Unknown,
    };
    let traceparent = upgrade.and_then(|_| read_traceparent(&headers));
    Ok(Request { path, upgrade, traceparent })
}

/// A header that came more than once, or is longer than any, is none.
fn read_traceparent(headers: &Headers<'_>) -> Option<Box<str>> {
    let value = headers.only("traceparent").filter(|value| value.len() <= MAX_TRACEPARENT_BYTES)?;
    std::str::from_utf8(value).ok().map(Box::from)
}

/// A body on a GET is how requests are smuggled past a proxy: none is taken.
fn refuse_body(headers: &Headers<'_>) -> Result<(), Refusal> {
    let no_body = |value: &[u8]| !value.is_empty() && value.iter().all(|byte| *byte == b'0');
    if headers.values("transfer-encoding").next().is_some() || !headers.values("content-length").all(no_body)
    {
        return Err(bad_request("body_refused", "a request must have no body here"));
    }
    Ok(())
}

/// A page of another origin asks what it may send.
fn preflight() -> Refusal {
    let refusal = Refusal::new(204, "preflight", "")
        .with_header("Allow", "GET, OPTIONS")
        .with_header("Access-Control-Allow-Methods", "GET, OPTIONS")
        .with_header("Access-Control-Allow-Headers", "*")
        .with_header("Access-Control-Max-Age", "86400");
    Refusal { body: false, ..refusal }
}

fn method_not_allowed(method: &str) -> Refusal {
    let refusal = Refusal::new(405, "method_not_allowed", "only GET is served here");
    Refusal { body: method != "HEAD", ..refusal.with_header("Allow", "GET, OPTIONS") }
}

fn bad_request(reason: &str, message: &str) -> Refusal {
    Refusal::new(400, reason, message)
}

/// Cuts a request target into path and query. A proxy's form, with scheme and host, is taken too (RFC 9112, 3.2.2).
fn split_target(target: &str) -> Result<(&str, &str), Refusal> {
    let origin_form = match target.split_once("://") {
        Some((scheme, rest)) if ["http", "https", "ws", "wss"].contains(&scheme) => {
            // Without a path the root is meant.
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    let (path, query) = origin_form.split_once('?').unwrap_or((origin_form, ""));
    match path {
        "" if origin_form.len() < target.len() => Ok(("/", query)),
        _ if path.starts_with('/') => Ok((path, query)),
        _ => Err(bad_request("bad_target", "the request target must be a path")),
    }
}

/// Judges the upgrade headers (RFC 6455, 4.2.1). No Upgrade header: plain HTTP. Subprotocols and extensions are
/// never selected, which their absence from the 101 says.
fn read_upgrade(headers: &Headers<'_>) -> Result<Option<AcceptKey>, Refusal> {
    if headers.values("upgrade").next().is_none() {
        return Ok(None);
    }
    if !headers.has_token("upgrade", "websocket") {
        return Err(bad_request("unsupported_upgrade", "an upgrade is possible to websocket only"));
    }
    if !headers.has_token("connection", "upgrade") {
        let message = "Upgrade needs a Connection header that lists upgrade: a proxy may have taken it away";
        return Err(bad_request("bad_connection_header", message));
    }
    if headers.only("sec-websocket-version") != Some(b"13") {
        let message = "Sec-WebSocket-Version must be 13";
        return Err(Refusal::new(426, "unsupported_websocket_version", message)
            .with_header("Sec-WebSocket-Version", "13")
            .with_header("Upgrade", "websocket"));
    }
    match headers.only("sec-websocket-key").and_then(AcceptKey::of_key) {
        Some(key) => Ok(Some(key)),
        None => Err(bad_request(
            "bad_websocket_key",
            "the request needs exactly one Sec-WebSocket-Key, of 16 bytes in base64",
        )),
    }
}

impl AcceptKey {
    /// The answer to a key; `None` where the key is not base64 of 16 bytes. Bits of its last character that mean
    /// nothing may be set: some clients write them.
    pub fn of_key(key: &[u8]) -> Option<Self> {
        let digits = key.strip_suffix(b"==")?;
        let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        if digits.len() != 22 || !digits.iter().all(is_digit) {
            return None;
        }
        let sum = Sha1::new().chain_update(key).chain_update(ACCEPT_GUID).finalize();
        let mut accept = [0; ACCEPT_BYTES];
        BASE64.encode_mut(&sum, &mut accept);
        Some(Self(accept))
    }

    /// Its 28 characters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The answer that ends HTTP and begins WebSocket.
pub fn switching_protocols(accept: &AcceptKey) -> Vec<u8> {
    const BEFORE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    [BEFORE, accept.as_bytes(), b"\r\n\r\n"].concat()
}

/// Headers as bytes: a value need not be text.
struct Headers<'a>(&'a [Header<'a>]);

impl<'a> Headers<'a> {
    /// All values of a header, blanks around them taken off.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let matching = self.0.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        matching.map(|header| header.value.trim_ascii())
    }

    /// The value of a header that came exactly once.
    fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.values(name);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Whether a header that is a list, over one line or several, has this token, in any case.
    fn has_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: usize = 8 * 1024;
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const WS: &str = "/ws?user_id=u&room_id=r";

    /// A browser's upgrade, with one header line replaced, or taken away where the new line is empty.
    fn upgrade(replaced: &str, line: &str) -> String {
        let lines = [
            "Host: localhost:8080",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            &format!("Sec-WebSocket-Key: {KEY}"),
        ]
        .map(|old| if old.starts_with(&format!("{replaced}:")) { line.to_owned() } else { old.to_owned() });
        let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        format!("GET {WS} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"))
    }

    fn get(target: &str) -> String {
        format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
    }

    fn accepted(head: impl AsRef<[u8]>) -> Request {
        match read_head(head.as_ref(), MAX_BYTES) {
            Head::Request { request, consumed } => {
                assert_eq!(consumed, head.as_ref().len());
                request
            }
            other => panic!("{} gave {other:?}", String::from_utf8_lossy(head.as_ref())),
        }
    }

    fn refusal(head: impl AsRef<[u8]>) -> Refusal {
        match read_head(head.as_ref(), MAX_BYTES) {
            Head::Refused(refusal) => refusal,
            other => panic!("{} gave {other:?}", String::from_utf8_lossy(head.as_ref())),
        }
    }

    fn refused(head: impl AsRef<[u8]>) -> (u16, String) {
        let refusal = refusal(head);
        (refusal.status, refusal.reason)
    }

    fn is(status: u16, reason: &str) -> (u16, String) {
        (status, reason.to_owned())
    }

    #[test]
    fn an_upgrade_is_answered_with_the_key_of_the_standards_example() {
        let request = accepted(upgrade("", ""));
        assert!(matches!(&request.path, RequestPath::WebSocket(join) if join.user_id.as_str() == "u"));
        assert_eq!(
            String::from_utf8(switching_protocols(&request.upgrade.unwrap())).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
    }

    #[test]
    fn the_trace_of_an_upgrade_is_read_as_it_came_within_a_bound() {
        let traced = |lines: &str| {
            let upgrade = upgrade("", "").replacen("Upgrade:", &format!("{lines}Upgrade:"), 1);
            accepted(upgrade).traceparent
        };
        assert_eq!(traced(""), None);
        assert_eq!(traced("TraceParent:  00-ab-cd-01 \r\n").as_deref(), Some("00-ab-cd-01"));
        assert_eq!(traced("traceparent: a\r\ntraceparent: b\r\n"), None);
        let longest = "a".repeat(MAX_TRACEPARENT_BYTES);
        assert_eq!(traced(&format!("traceparent: {longest}\r\n")).as_deref(), Some(&longest[..]));
        assert_eq!(traced(&format!("traceparent: {longest}a\r\n")), None);
        assert_eq!(accepted(get("/health")).traceparent, None);
    }

    #[test]
    fn what_is_behind_the_head_are_the_first_frames() {
        let head = upgrade("", "");
        let bytes = [head.as_bytes(), b"\x81\x80\r\n\r\n"].concat();
        assert!(
            matches!(read_head(&bytes, MAX_BYTES), Head::Request { consumed, .. } if consumed == head.len())
        );
        assert!(
            matches!(read_head(&bytes, head.len()), Head::Request { consumed, .. } if consumed == head.len())
        );
    }

    #[test]
    fn lists_and_letter_case_of_the_upgrade_headers_do_not_matter() {
        for (replaced, line) in [
            ("Connection", "Connection: keep-alive, Upgrade"),
            ("Connection", "connection: UPGRADE"),
            ("Connection", "Connection: keep-alive\r\nConnection: ,\tupgrade ,"),
            ("Upgrade", "Upgrade: h2c, WebSocket"),
            ("Upgrade", "UPGRADE: WEBSOCKET"),
            ("Sec-WebSocket-Version", "sec-websocket-version:   13  "),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB=="),
        ] {
            assert!(accepted(upgrade(replaced, line)).upgrade.is_some(), "{line}");
        }
    }

    #[test]
    fn an_upgrade_that_is_none_is_refused() {
        for (replaced, line, status, reason) in [
            ("Upgrade", "Upgrade: h2c", 400, "unsupported_upgrade"),
            ("Upgrade", "Upgrade: websockets", 400, "unsupported_upgrade"),
            ("Connection", "", 400, "bad_connection_header"),
            ("Connection", "Connection: keep-alive", 400, "bad_connection_header"),
            ("Connection", "Connection: not-upgrade", 400, "bad_connection_header"),
            ("Sec-WebSocket-Version", "", 426, "unsupported_websocket_version"),
            ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8", 426, "unsupported_websocket_version"),
            ("Sec-WebSocket-Version", "Sec-WebSocket-Version: 13, 8", 426, "unsupported_websocket_version"),
            ("Sec-WebSocket-Key", "", 400, "bad_websocket_key"),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Key: ", 400, "bad_websocket_key"),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA", 400, "bad_websocket_key"),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=", 400, "bad_websocket_key"),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAA-==", 400, "bad_websocket_key"),
            ("Sec-WebSocket-Key", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA==", 400, "bad_websocket_key"),
        ] {
            assert_eq!(refused(upgrade(replaced, line)), is(status, reason), "{line}");
        }
        let twice = format!("Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Key: {KEY}");
        assert_eq!(refused(upgrade("Sec-WebSocket-Key", &twice)), is(400, "bad_websocket_key"));
        let old_version = refusal(upgrade("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"));
        assert!(old_version.headers.contains(&("Sec-WebSocket-Version", "13".to_owned())));
    }

    #[test]
    fn subprotocols_and_extensions_are_never_selected() {
        let offers = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\
                      Sec-WebSocket-Extensions: permessage-deflate";
        let request = accepted(upgrade("Sec-WebSocket-Version", offers));
        let response = String::from_utf8(switching_protocols(&request.upgrade.unwrap())).unwrap();
        assert!(!response.contains("Protocol:") && !response.contains("Extensions"), "{response}");
    }

    #[test]
    fn without_an_upgrade_header_a_request_is_plain_http() {
        let request = accepted(upgrade("Upgrade", ""));
        assert!(matches!(request, Request { path: RequestPath::WebSocket(_), upgrade: None, .. }));
        for (target, path) in [
            ("/echo", RequestPath::Echo),
            ("/health", RequestPath::Health),
            ("/health?verbose", RequestPath::Health),
            ("/stats", RequestPath::Stats),
            ("/nodes", RequestPath::Nodes { choosing: false }),
            ("/nodes?choose", RequestPath::Nodes { choosing: true }),
            ("/nodes/", RequestPath::Unknown),
            ("/", RequestPath::Page),
            ("/?room=r", RequestPath::Page),
            ("/client.html", RequestPath::Page),
            ("/client", RequestPath::Unknown),
            ("/ws/", RequestPath::Unknown),
            ("//ws", RequestPath::Unknown),
            ("/redirect?to=http://elsewhere/health", RequestPath::Unknown),
            ("http://h/stats", RequestPath::Stats),
            ("http://h", RequestPath::Page),
            ("ws://h?x=1", RequestPath::Page),
        ] {
            assert_eq!(accepted(get(target)), Request { path, upgrade: None, traceparent: None }, "{target}");
        }
        assert_eq!(refused(get("*")), is(400, "bad_target"));
        assert_eq!(refused(get("health")), is(400, "bad_target"));
        let h2c = "GET /health HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(accepted(h2c), Request { path: RequestPath::Health, upgrade: None, traceparent: None });
    }

    #[test]
    fn a_query_that_names_nobody_is_refused_with_and_without_upgrade() {
        assert_eq!(refused(get("/ws?room_id=r")), is(400, "missing_user_id"));
        assert_eq!(refused(upgrade("", "").replace("user_id", "user")), is(400, "missing_user_id"));
    }

    #[test]
    fn other_methods_and_versions_are_refused() {
        for method in ["POST", "HEAD", "CONNECT", "get", "PUT"] {
            let refusal = refusal(format!("{method} /health HTTP/1.1\r\nHost: h\r\n\r\n"));
            assert_eq!((refusal.status, refusal.body), (405, method != "HEAD"));
            assert!(refusal.headers.contains(&("Allow", "GET, OPTIONS".to_owned())));
            assert_eq!(refusal.response().ends_with(b"\r\n\r\n"), method == "HEAD", "HEAD gets no body");
        }
        assert_eq!(refused("GET / HTTP/1.0\r\nHost: h\r\n\r\n"), is(505, "unsupported_version"));
        assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), is(505, "unsupported_version"));
        assert_eq!(refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), is(400, "bad_request"));
        assert_eq!(refused("GET /\r\n\r\n"), is(400, "bad_request"));
    }

    #[test]
    fn a_page_of_another_origin_is_told_what_it_may_send() {
        for target in ["/ws?user_id=u&room_id=r", "/nowhere", "*"] {
            let refusal = refusal(format!("OPTIONS {target} HTTP/1.1\r\nHost: h\r\nOrigin: null\r\n\r\n"));
            let response = String::from_utf8(refusal.response()).unwrap();
            assert!(response.starts_with("HTTP/1.1 204 No Content\r\n"), "{response}");
            assert!(response.contains("\r\nAccess-Control-Allow-Origin: *\r\n"));
            assert!(response.contains("\r\nAccess-Control-Allow-Methods: GET, OPTIONS\r\n"));
            assert!(response.ends_with("\r\n\r\n") && !response.contains("Content-Length"));
        }
    }

    #[test]
    fn host_comes_once_and_a_body_never() {
        let with = |lines: &str| format!("GET /health HTTP/1.1\r\n{lines}\r\n");
        assert_eq!(refused(with("")), is(400, "bad_host"));
        assert_eq!(refused(with("Host: a\r\nhost: a\r\n")), is(400, "bad_host"));
        for body in [
            "Content-Length: 1",
            "Content-Length: 0\r\nContent-Length: 5",
            "Content-Length:",
            "Content-Length: -0",
            "Content-Length: 0, 5",
            "Transfer-Encoding: chunked",
            "transfer-encoding: identity",
        ] {
            assert_eq!(refused(with(&format!("Host: h\r\n{body}\r\n"))), is(400, "body_refused"), "{body}");
        }
        assert_eq!(accepted(with("Host: h\r\nContent-Length: 0\r\n")).path, RequestPath::Health);
    }

    #[test]
    fn a_head_keeps_its_limits() {
        let padded = |len: usize| {
            let around = get("/health").len() + "X: \r\n".len();
            format!("GET /health HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(len - around))
        };
        assert_eq!(accepted(padded(MAX_BYTES)).path, RequestPath::Health);
        assert_eq!(refused(padded(MAX_BYTES + 1)), is(431, "head_too_large"));
        assert_eq!(read_head(&padded(MAX_BYTES).as_bytes()[..MAX_BYTES - 1], MAX_BYTES), Head::Incomplete);
        let headers = |count: usize| {
            let more: String = (1..count).map(|n| format!("X-{n}: v\r\n")).collect();
            format!("GET /health HTTP/1.1\r\nHost: h\r\n{more}\r\n")
        };
        assert_eq!(accepted(headers(64)).path, RequestPath::Health);
        assert_eq!(refused(headers(65)), is(431, "too_many_headers"));
    }

    #[test]
    fn values_that_are_no_text_are_just_values() {
        for (replaced, status) in [
            ("Connection", Some(400)),
            ("Upgrade", Some(400)),
            ("Sec-WebSocket-Key", Some(400)),
            ("Sec-WebSocket-Version", Some(426)),
            ("Host", None),
        ] {
            let mut head = upgrade(replaced, &format!("{replaced}: ~~~")).into_bytes();
            let at = head.windows(3).position(|bytes| bytes == b"~~~").unwrap();
            head[at..at + 3].copy_from_slice(b"\xff\xe2\x80");
            match status {
                Some(status) => assert_eq!(refusal(&head).status, status, "{replaced}"),
                None => assert!(accepted(&head).upgrade.is_some()),
            }
        }
        let query = get("/ws?user_id=\u{6211}&room_id=r");
        assert!(
            matches!(accepted(query).path, RequestPath::WebSocket(join) if join.user_id.as_str() == "我")
        );
    }
}
