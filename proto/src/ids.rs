//! Typed ids. A user, room or node id is 1 to 64 bytes of UTF-8 without control characters; a session id is a
//! number that carries its shard, slot and generation, so that a stale one is recognised.
//!
//! Owns: what a valid id is. Must not: know who uses it.

use std::fmt;
use std::sync::Arc;

/// The longest user, room or node id, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// The longest user name, in bytes.
pub const MAX_USER_NAME_BYTES: usize = 128;

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("is empty: give 1 to {MAX_ID_BYTES} bytes")]
    Empty,
    /// More than [`MAX_ID_BYTES`] (or, for a name, [`MAX_USER_NAME_BYTES`]).
    #[error("is {0} bytes long: give at most {1}")]
    TooLong(usize, usize),
    /// It holds a control character, which would break logs and headers.
    #[error("holds a control character: leave it out")]
    ControlCharacter,
}

/// Checks a text against the rules for ids, without making one of it.
pub fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    check_text(text, MAX_ID_BYTES)
}

/// Checks a user name: at most 128 bytes, without control characters; it may be empty.
pub fn check_user_name(text: &str) -> Result<(), IdError> {
    check_text(text, MAX_USER_NAME_BYTES)
}

fn check_text(text: &str, max: usize) -> Result<(), IdError> {
    if text.len() > max {
        return Err(IdError::TooLong(text.len(), max));
    }
    if has_control_characters(text) {
        return Err(IdError::ControlCharacter);
    }
    Ok(())
}

/// Nearly all texts are ASCII, which needs no decoding.
fn has_control_characters(text: &str) -> bool {
    !text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) && text.chars().any(char::is_control)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id of this text, where it follows the rules.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check_id(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

text_id! {
    /// A connect node.
    NodeId
}
text_id! {
    /// A room.
    RoomId
}
text_id! {
    /// A user.
    UserId
}

/// A shard of a node: one thread with its own sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A session of a node, for the time of one start of the node.
///
/// Sixteen bits of shard, 24 of generation, 24 of slot. A slot that is used again has another generation, so an
/// id that has gone stale names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// Slots that a shard can name.
    pub const MAX_SLOTS: u32 = 1 << 24;
    /// Generations after which a slot's ids repeat.
    pub const GENERATIONS: u32 = 1 << 24;

    /// The id of a slot in its generation; both are below 2^24.
    pub fn new(shard: ShardId, slot: u32, generation: u32) -> Self {
        debug_assert!(slot < Self::MAX_SLOTS && generation < Self::GENERATIONS);
        Self(u64::from(shard.0) << 48 | u64::from(generation) << 24 | u64::from(slot))
    }

    /// From its form on the wire.
    pub fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// Its form on the wire.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The shard that holds it.
    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> 48) as u16)
    }

    /// Which use of its slot it is.
    pub fn generation(self) -> u32 {
        (self.0 >> 24) as u32 & (Self::GENERATIONS - 1)
    }

    /// Its place in the shard's table.
    pub fn slot(self) -> u32 {
        self.0 as u32 & (Self::MAX_SLOTS - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_bounds() {
        assert_eq!(UserId::new(""), Err(IdError::Empty));
        assert!(UserId::new(&"a".repeat(64)).is_ok());
        assert_eq!(UserId::new(&"a".repeat(65)), Err(IdError::TooLong(65, 64)));
        assert_eq!(RoomId::new("a\nb"), Err(IdError::ControlCharacter));
        assert!(RoomId::new("房间").is_ok());
        assert!(check_user_name("").is_ok());
        assert_eq!(check_user_name(&"a".repeat(129)), Err(IdError::TooLong(129, 128)));
    }

    #[test]
    fn session_ids_carry_their_parts() {
        let id = SessionId::new(ShardId(53), 19_999, SessionId::GENERATIONS - 1);
        assert_eq!(
            (id.shard(), id.slot(), id.generation()),
            (ShardId(53), 19_999, SessionId::GENERATIONS - 1)
        );
        assert_eq!(SessionId::from_u64(id.as_u64()), id);
    }
}
