//! The JSON frame of a push, as a client reads it.
//!
//! Owns: the frame's form on the client's side, written from its description and not from the server's code.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    r#type: String,
    room_id: String,
    user_id: String,
    timestamp: i64,
    data: RawData,
    metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawData {
    content: String,
}

/// A push as a client has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushFrame {
    /// `text`, `audio`, `video`, `translation` or `system`.
    pub kind: String,
    /// The room of a room push, else empty.
    pub room_id: String,
    /// The user of a user push, else empty.
    pub user_id: String,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The payload, base64 undone.
    pub content: Vec<u8>,
    /// The metadata, `encoding` included.
    pub metadata: BTreeMap<String, String>,
}

impl PushFrame {
    /// Reads a frame; anything beside the described fields is an error.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let raw: Raw = serde_json::from_str(text)
            .with_context(|| format!("no push frame: {:?}", text.chars().take(300).collect::<String>()))?;
        let content = match raw.metadata.get("encoding").map(String::as_str) {
            Some("base64") => data_encoding::BASE64.decode(raw.data.content.as_bytes())?,
            _ => raw.data.content.into_bytes(),
        };
        Ok(Self {
            kind: raw.r#type,
            room_id: raw.room_id,
            user_id: raw.user_id,
            timestamp: raw.timestamp,
            content,
            metadata: raw.metadata,
        })
    }
}
