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
