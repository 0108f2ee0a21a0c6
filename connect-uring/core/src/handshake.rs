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
        "/" | "/client.html" => RequestPath::Page,
        _ => RequestPath::Unknown,
    };
    Ok(Request { path, upgrade })
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
