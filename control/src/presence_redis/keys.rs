//! How things are named in Redis.
//!
//! Owns: keys, and the texts that stand for numbers in scripts. All keys of one script share a hash tag, so that in a
//! Redis Cluster they lie in one slot. Numbers of 64 bits are hexadecimal digits of a fixed width: scripts compare
//! them as texts, since a number of Lua has 53 bits.

use ringcast_proto::{NodeId, RoomId, SessionId, UserId};

/// The ids of all nodes that have, or had, a record.
pub(super) const NODES: &str = "ringcast:nodes";

/// A text by chance, made with the store: another one means another store, or one that was emptied.
pub(super) const EPOCH: &str = "ringcast:epoch";

/// Users are spread over so many hashes, so that the number of them all is a sum of few sizes.
pub(super) const BUCKETS: u16 = 256;

/// Later than every turn.
pub(super) const LAST_TURN: &str = "ffffffffffffffffffffffff";

/// The users of a room, each with his sessions.
pub(super) fn users(room: &RoomId) -> String {
    format!("ringcast:{{r:{room}}}:users")
}

/// The ids of a room's users, ordered by their bytes.
pub(super) fn order(room: &RoomId) -> String {
    format!("ringcast:{{r:{room}}}:order")
}

/// The sessions of a node.
pub(super) fn sessions(node: &NodeId) -> String {
    format!("ringcast:{{n:{node}}}:sessions")
}

/// The record of a node.
pub(super) fn record(node: &NodeId) -> String {
    format!("ringcast:{{n:{node}}}:link")
}

/// The bucket of a user: FNV-1a, which every version of this program computes alike.
pub(super) fn bucket_of(user: &UserId) -> u16 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = user.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, mix);
    (hash % u64::from(BUCKETS)) as u16
}

/// The sessions of the users of a bucket.
pub(super) fn bucket(number: u16) -> String {
    format!("ringcast:{{u:{number}}}")
}

/// A number that scripts compare.
pub(super) fn digits(number: u64) -> String {
    format!("{number:016x}")
}

/// The number of such digits.
pub(super) fn number(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

/// A session's name among all that its node ever has: incarnation and id.
pub(super) fn session(incarnation: u64, id: SessionId) -> String {
    format!("{incarnation:016x}{:016x}", id.as_u64())
}

/// What such a name says.
pub(super) fn session_of(name: &str) -> Option<(u64, SessionId)> {
    let (incarnation, id) = name.split_at_checked(16)?;
    Some((number(incarnation)?, SessionId::from_u64(number(id)?)))
}

/// When something was said of a session: over which link of its node, and how often words had been lost by then.
pub(super) fn turn(link: u64, lost: u32) -> String {
    format!("{link:016x}{lost:08x}")
}

/// The link of a turn.
pub(super) fn link_of(turn: &str) -> Option<u64> {
    number(turn.get(..16)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_order_as_the_numbers_do() {
        assert!(turn(9, 70) < turn(10, 0) && turn(10, 0) < turn(10, 1));
        assert!(turn(u64::MAX, u32::MAX).as_str() <= LAST_TURN);
        assert!(digits(9) < digits(10) && digits(10) < digits(u64::MAX));
    }

    #[test]
    fn a_session_is_read_back() {
        let id = SessionId::from_u64(u64::MAX - 7);
        assert_eq!(session_of(&session(u64::MAX, id)), Some((u64::MAX, id)));
        assert_eq!(link_of(&turn(77, 1)), Some(77));
        for broken in ["", "12", "房间房间房间房间", "zzzzzzzzzzzzzzzz0000000000000000"] {
            assert_eq!(session_of(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_user_stays_in_his_bucket_from_version_to_version() {
        let bucket = |user: &str| bucket_of(&UserId::new(user).unwrap());
        assert_eq!((bucket("a"), bucket("foobar"), bucket("用户")), (0x8c, 0xe8, 0x39));
    }
}
