//! The query of `/ws`: who wants to join what.
//!
//! Owns: decoding and bounds of the query. Must not: put a client's values into a message or a log. Talks to:
//! `handshake`, which cuts the query off; the session, which asks the controller.

use std::fmt;

use ringcast_proto::{RoomId, UserId, check_user_name};

use crate::response::Refusal;

/// The most metadata parameters.
const MAX_METADATA_ENTRIES: usize = 32;

/// The most metadata in all, keys and values decoded, in bytes.
const MAX_METADATA_BYTES: usize = 4 * 1024;

/// The longest metadata key, in bytes.
const MAX_KEY_BYTES: usize = 64;

/// Who wants to join what.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinQuery {
    /// The user.
    pub user_id: UserId,
    /// The room.
    pub room_id: RoomId,
    /// The user's name; may be empty.
    pub user_name: String,
    /// All other parameters, each key once, in their order.
    pub metadata: Vec<(String, String)>,
}

/// Leaves the values of the metadata out: they may be secrets.
impl fmt::Debug for JoinQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinQuery")
            .field("user_id", &self.user_id)
            .field("room_id", &self.room_id)
            .field("metadata", &self.metadata.len())
            .finish_non_exhaustive()
    }
}

/// The parameters with a meaning of their own, as far as they have come.
#[derive(Default)]
struct Parameters {
    user_id: Option<String>,
    room_id: Option<String>,
    user_name: Option<String>,
    metadata: Vec<(String, String)>,
    metadata_bytes: usize,
}

impl JoinQuery {
    /// Reads a query, without its question mark. The refusal is a 400 that names the parameter, what is wrong
    /// with it and what to do.
    pub(crate) fn parse(query: &str) -> Result<Self, Refusal> {
        let mut parameters = Parameters::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key).map_err(|error| bad("query", &format!("a parameter's name {error}")))?;
            match key.as_str() {
                "user_id" => once(&mut parameters.user_id, "user_id", value)?,
                "room_id" => once(&mut parameters.room_id, "room_id", value)?,
                "user_name" => once(&mut parameters.user_name, "user_name", value)?,
                _ => parameters.add_metadata(key, value)?,
            }
        }
        let user_id = required(parameters.user_id, "user_id")?;
        let room_id = required(parameters.room_id, "room_id")?;
        let user_name = parameters.user_name.unwrap_or_default();
        check_user_name(&user_name).map_err(|error| bad("user_name", &format!("user_name {error}")))?;
        Ok(Self {
            user_id: UserId::new(&user_id).map_err(|error| bad("user_id", &format!("user_id {error}")))?,
            room_id: RoomId::new(&room_id).map_err(|error| bad("room_id", &format!("room_id {error}")))?,
            user_name,
            metadata: parameters.metadata,
        })
    }
}

impl Parameters {
    /// Adds a parameter that is metadata; a key that came before gets the new value.
    fn add_metadata(&mut self, key: String, value: &str) -> Result<(), Refusal> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
            let rule = format!("give it 1 to {MAX_KEY_BYTES} bytes without control characters");
            return Err(bad(
                "metadata",
                &format!("a parameter's name is empty, too long or unprintable: {rule}"),
            ));
        }
        let value = decode(value).map_err(|error| bad("metadata", &format!("parameter {key} {error}")))?;
        if value.chars().any(char::is_control) {
            return Err(bad("metadata", &format!("parameter {key} holds a control character: leave it out")));
        }
        self.metadata_bytes += key.len() + value.len();
        match self.metadata.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => {
                self.metadata_bytes -= key.len() + old.len();
                *old = value;
            }
            None => self.metadata.push((key, value)),
        }
        if self.metadata.len() > MAX_METADATA_ENTRIES || self.metadata_bytes > MAX_METADATA_BYTES {
            let bounds = format!("{MAX_METADATA_ENTRIES} parameters and {MAX_METADATA_BYTES} bytes");
            return Err(bad(
                "metadata",
                &format!("too much metadata: beside user_id, room_id and user_name give at most {bounds}"),
            ));
        }
        Ok(())
    }
}

/// Takes a parameter that may come only once.
fn once(slot: &mut Option<String>, name: &str, value: &str) -> Result<(), Refusal> {
    if slot.is_some() {
        let message = format!("{name} is given more than once: give it once");
        return Err(Refusal::new(400, &format!("duplicate_{name}"), message));
    }
    *slot = Some(decode(value).map_err(|error| bad(name, &format!("{name} {error}")))?);
    Ok(())
}

fn required(value: Option<String>, name: &str) -> Result<String, Refusal> {
    value.ok_or_else(|| {
        let message = format!("{name} is missing: add it, as in /ws?user_id=alice&room_id=lobby");
        Refusal::new(400, &format!("missing_{name}"), message)
    })
}

fn bad(name: &str, message: &str) -> Refusal {
    Refusal::new(400, &format!("invalid_{name}"), message)
}

/// Why a part of a query cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum DecodeError {
    #[error("has a % without two hexadecimal digits behind it: write a percent sign as %25")]
    Percent,
    #[error("is not UTF-8: encode its UTF-8 bytes as %XX")]
    Utf8,
}

/// Decodes `%XX` and `+` as HTML forms encode them.
fn decode(text: &str) -> Result<String, DecodeError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (bytes.next().and_then(hex_digit), bytes.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(DecodeError::Percent),
            },
            _ => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| DecodeError::Utf8)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> (String, String) {
        let refusal = JoinQuery::parse(query).expect_err(query);
        assert_eq!(refusal.status, 400, "{query}");
        (refusal.reason, refusal.message)
    }

    fn reason(query: &str) -> String {
        refused(query).0
    }

    fn metadata(query: &str) -> Vec<(String, String)> {
        JoinQuery::parse(&format!("user_id=u&room_id=r&{query}")).unwrap().metadata
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_query_is_decoded_as_browsers_encode_it() {
        let query = "user_id=%E6%88%91&user_name=Ann+B%2e%20%2B&room_id=a%26b&&lang=zh-CN&x%3Dy=1%3d2&flag";
        let join = JoinQuery::parse(query).unwrap();
        assert_eq!((join.user_id.as_str(), join.room_id.as_str()), ("我", "a&b"));
        assert_eq!(join.user_name, "Ann B. +");
        assert_eq!(join.metadata, pairs(&[("lang", "zh-CN"), ("x=y", "1=2"), ("flag", "")]));
        assert_eq!(JoinQuery::parse("user%5Fid=u&room_id=r").unwrap().user_id.as_str(), "u");
    }

    #[test]
    fn a_refusal_names_the_parameter_the_fault_and_the_remedy() {
        assert_eq!(
            refused("room_id=r"),
            (
                "missing_user_id".into(),
                "user_id is missing: add it, as in /ws?user_id=alice&room_id=lobby".into()
            )
        );
        assert_eq!(reason("user_id=u"), "missing_room_id");
        assert_eq!(reason(""), "missing_user_id");
        assert_eq!(
            refused("user_id=&room_id=r"),
            ("invalid_user_id".into(), "user_id is empty: give 1 to 64 bytes".into())
        );
        let long = "x".repeat(65);
        assert_eq!(
            refused(&format!("user_id=u&room_id={long}")),
            ("invalid_room_id".into(), "room_id is 65 bytes long: give at most 64".into())
        );
        let long = "x".repeat(129);
        assert_eq!(reason(&format!("user_id=u&room_id=r&user_name={long}")), "invalid_user_name");
        assert_eq!(
            refused("user_id=a%0ab&room_id=r"),
            ("invalid_user_id".into(), "user_id holds a control character: leave it out".into())
        );
        assert_eq!(
            refused("user_id=u&room_id=50%"),
            (
                "invalid_room_id".into(),
                "room_id has a % without two hexadecimal digits behind it: write a percent sign as %25"
                    .into()
            )
        );
        for bad_percent in ["%", "%4", "%g0", "%+1", "%%41"] {
            assert_eq!(reason(&format!("user_id={bad_percent}&room_id=r")), "invalid_user_id");
        }
        assert_eq!(
            refused("user_id=%ff&room_id=r"),
            ("invalid_user_id".into(), "user_id is not UTF-8: encode its UTF-8 bytes as %XX".into())
        );
        assert_eq!(reason("user_id=u&room_id=r&%ff=1"), "invalid_query");
    }

    #[test]
    fn what_names_a_session_is_given_once() {
        for name in ["user_id", "room_id", "user_name"] {
            let query = format!("user_id=u&room_id=r&user_name=n&{name}=x");
            assert_eq!(
                refused(&query),
                (format!("duplicate_{name}"), format!("{name} is given more than once: give it once"))
            );
        }
        assert_eq!(metadata("k=1&other=2&k=3"), pairs(&[("k", "3"), ("other", "2")]));
    }

    #[test]
    fn metadata_keeps_its_bounds() {
        let entries = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join("&");
        assert_eq!(metadata(&entries(32)).len(), 32);
        let refuse = |query: &str| reason(&format!("user_id=u&room_id=r&{query}"));
        assert_eq!(refuse(&entries(33)), "invalid_metadata");

        let value = |len: usize| format!("k={}", "v".repeat(len));
        assert_eq!(metadata(&value(4095))[0].1.len(), 4095);
        assert_eq!(refuse(&value(4096)), "invalid_metadata");
        let replaced = [value(4095), value(4095), "a=".into()];
        assert_eq!(refuse(&replaced[..].join("&")), "invalid_metadata", "4,097 bytes");
        assert_eq!(metadata(&replaced[..2].join("&")).len(), 1, "what was replaced does not count");

        let key = |len: usize| format!("{}=v", "k".repeat(len));
        assert_eq!(metadata(&key(64))[0].0.len(), 64);
        for bad in [key(65).as_str(), "=v", "a%00=v", "k=a%0d%0ab", "k=%zz", "k=%ff"] {
            assert_eq!(refuse(bad), "invalid_metadata", "{bad}");
        }
    }

    #[test]
    fn values_stay_out_of_messages_and_debug_output() {
        let (_, message) = refused("user_id=u&room_id=r&token=s3cret%0a");
        assert!(message.contains("token") && !message.contains("s3cret"), "{message}");
        let join = JoinQuery::parse("user_id=u&room_id=r&token=s3cret").unwrap();
        assert!(!format!("{join:?}").contains("s3cret"));
    }
}
