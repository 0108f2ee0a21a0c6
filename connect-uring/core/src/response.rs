//! HTTP answers, written whole: status, headers, body, and then the connection is over.
//!
//! Owns: the bytes of an answer, and what is said to a client that is refused. Must not: decide who is refused.
//! Talks to: `handshake`, which refuses; the session, which sends.
//!
//! Every answer but the 101 carries `Connection: close` (what follows a refused upgrade is never read as another
//! request) and lets pages of any origin read it.

use std::fmt::Write;

use serde::Serialize;

/// The media type of every JSON body.
pub const JSON: &str = "application/json";

/// A request that is answered at once, with a reason that a program and a person can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// What is wrong, as a word for programs and metrics; from a fixed set, never the client's own words.
    pub reason: String,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// Headers beyond those that every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// False where the answer must have no body (to HEAD, and 204).
    pub body: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
}

impl Refusal {
    /// A refusal with a JSON body.
    pub fn new(status: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into(), headers: Vec::new(), body: true }
    }

    /// The same with one more header. Neither may hold a line break.
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same, telling when to try again, in seconds.
    pub fn with_retry_after(self, seconds: u32) -> Self {
        self.with_header("Retry-After", seconds.to_string())
    }

    /// No such path: 404.
    pub fn not_found() -> Self {
        let message = "there is nothing at this path: /ws, /health, /stats, /nodes and / are served";
        Self::new(404, "not_found", message)
    }

    /// A WebSocket path was asked for without an upgrade, and would have been granted: 426.
    pub fn upgrade_required() -> Self {
        Self::new(
            426,
            "upgrade_required",
            "this is a WebSocket address: connect to it with a WebSocket client",
        )
        .with_header("Upgrade", "websocket")
    }

    /// The JSON body.
    pub fn json(&self) -> Vec<u8> {
        let body = Body { error: &self.reason, message: &self.message };
        serde_json::to_vec(&body).expect("two strings are always JSON")
    }

    /// The whole answer.
    pub fn response(&self) -> Vec<u8> {
        let extra: Vec<_> = self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        match self.body {
            true => http_response(self.status, JSON, &self.json(), &extra),
            false => http_response(self.status, "", b"", &extra),
        }
    }
}

/// A whole answer with these headers beside those that every answer has. An empty `content_type` leaves that
/// header out; 204 has neither type nor length.
pub fn http_response(status: u16, content_type: &str, body: &[u8], extra: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
    let mut header = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = write!(head, "{name}: {value}\r\n");
    };
    if !content_type.is_empty() {
        header("Content-Type", &content_type);
    }
    if status != 204 {
        header("Content-Length", &body.len());
    }
    for (name, value) in extra {
        header(name, value);
    }
    head.push_str(
        "Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
    );
    let mut response = head.into_bytes();
    response.extend_from_slice(body);
    response
}

fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_answer_is_written_whole() {
        assert_eq!(
            text(http_response(200, "text/plain", b"hello", &[])),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
             Access-Control-Allow-Origin: *\r\nAccess-Control-Expose-Headers: Retry-After\r\n\
             Cache-Control: no-store\r\nConnection: close\r\n\r\nhello"
        );
    }

    #[test]
    fn a_refusal_says_why_and_when_to_come_back() {
        let refusal = Refusal::new(503, "draining", "the \"node\" stops").with_retry_after(2);
        let response = text(refusal.response());
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(head.contains("\r\nRetry-After: 2\r\n"));
        assert!(head.contains("\r\nContent-Type: application/json\r\n"));
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())));
        assert_eq!(body, r#"{"error":"draining","message":"the \"node\" stops"}"#);
    }

    #[test]
    fn no_content_has_neither_type_nor_length() {
        let response = text(http_response(204, "", b"", &[("Allow", "GET")]));
        assert!(response.starts_with("HTTP/1.1 204 No Content\r\nAllow: GET\r\n"));
        assert!(!response.contains("Content-"));
    }
}
