//! What was last listed of etcd, and what is told of it. Pure: the time is passed in.
//!
//! Owns: which keys are entries, the bounds, what happens to the list when etcd has lost its data.
//! Must not: ask etcd. Talks to: `follower`.

use std::time::{Duration, Instant};

use crate::{Entry, Kind};

/// How many services there may be. More are refused as a whole: a list that is cut would say of some who are there
/// that they are gone.
pub(crate) const MAX_ENTRIES: usize = 10_000;

/// The largest value of a key, in bytes.
const MAX_VALUE_BYTES: usize = 4096;

/// A state of etcd's data: as long as it is the same, nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Which cluster it is; another one has other data.
    pub(crate) cluster: u64,
    /// The term of its leader.
    pub(crate) term: u64,
    /// How often anything was written.
    pub(crate) revision: i64,
}

/// A key of etcd as it was listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// 0: it has none.
    pub(crate) lease: i64,
}

/// What was last listed.
#[derive(Debug)]
pub(crate) struct Listing {
    /// For how long services that are not there are told on after etcd has lost its data: until each that lives has
    /// registered again.
    grace: Duration,
    position: Option<Position>,
    listed: Vec<Entry>,
    /// Those who were there before etcd lost its data, and until when they are told on.
    carried: Vec<Entry>,
    carried_until: Option<Instant>,
}

/// What is to be told of keys that are no entries.
pub(crate) type Refused = Option<String>;

impl Listing {
    pub(crate) fn new(grace: Duration) -> Self {
        Self { grace, position: None, listed: Vec::new(), carried: Vec::new(), carried_until: None }
    }

    /// Whether what was listed is what there is at this position.
    pub(crate) fn is_at(&self, position: Position) -> bool {
        self.position == Some(position)
    }

    /// Takes a whole list. Says whether etcd has lost its data since the last one.
    pub(crate) fn take<'a>(
        &mut self,
        now: Instant,
        position: Position,
        keys: impl Iterator<Item = Key<'a>>,
    ) -> (bool, Refused) {
        let is_wiped = self
            .position
            .is_some_and(|known| known.cluster != position.cluster || position.revision < known.revision);
        if is_wiped {
            // Empty data is not the word of anybody that a service is gone.
            self.carried = self.entries(now);
            self.carried_until = Some(now + self.grace);
        }
        self.position = Some(position);
        self.listed.clear();
        let (mut refused, mut example) = (0, String::new());
        for key in keys {
            match read(key) {
                Ok(entry) => self.listed.push(entry),
                Err(why) => {
                    refused += 1;
                    if refused == 1 {
                        example = format!("{}: {why}", String::from_utf8_lossy(key.name).escape_debug());
                    }
                }
            }
        }
        // Whoever has come back is told of by itself from now on, also when it leaves.
        let listed = &self.listed;
        self.carried.retain(|entry| !listed.iter().any(|other| other.is_same_service(entry)));
        let refused = (refused > 0).then(|| {
            format!("{refused} keys in etcd are no services and count for nothing, such as {example}")
        });
        (is_wiped, refused)
    }

    /// Who is there, by kind and id.
    pub(crate) fn entries(&mut self, now: Instant) -> Vec<Entry> {
        if self.carried_until.is_some_and(|until| now >= until) {
            self.carried_until = None;
            self.carried = Vec::new();
        }
        let mut entries = self.listed.clone();
        entries.extend(self.carried.iter().cloned());
        entries.sort_unstable_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
        entries
    }
}

/// Reads a key as the entry of a live service; the error says why it is none.
pub(crate) fn read(key: Key<'_>) -> Result<Entry, String> {
    if key.lease == 0 {
        return Err("it has no lease, so nobody is behind it".into());
    }
    if key.value.len() > MAX_VALUE_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_VALUE_BYTES}", key.value.len()));
    }
    let name = std::str::from_utf8(key.name).map_err(|_| "its name is not UTF-8".to_owned())?;
    let folder = Kind::ALL.into_iter().find(|kind| name.starts_with(kind.folder()));
    let kind = folder.ok_or("there is no such folder")?;
    let entry: Entry = serde_json::from_slice(key.value).map_err(|error| error.to_string())?;
    if entry.kind != kind || entry.id.is_empty() || entry.key() != name {
        return Err("it tells of another service than its name says".into());
    }
    settings::parse_address(&entry.grpc_address).map_err(|error| format!("grpc_address: {error}"))?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn entry(kind: Kind, id: &str, incarnation: u64) -> Entry {
        Entry { kind, id: id.into(), incarnation, grpc_address: "h:1".into(), public_ws_url: String::new() }
    }

    fn at(revision: i64) -> Position {
        Position { cluster: 7, term: 2, revision }
    }

    fn take(listing: &mut Listing, now: Instant, position: Position, entries: &[Entry]) -> bool {
        let texts: Vec<(String, String)> =
            entries.iter().map(|entry| (entry.key(), serde_json::to_string(entry).unwrap())).collect();
        let keys = texts.iter().map(|(name, value)| Key {
            name: name.as_bytes(),
            value: value.as_bytes(),
            lease: 1,
        });
        let (is_wiped, refused) = listing.take(now, position, keys);
        assert_eq!(refused, None);
        is_wiped
    }

    #[test]
    fn the_list_is_told_by_kind_and_id() {
        let (mut listing, now) = (Listing::new(GRACE), Instant::now());
        let [a, b, c] = [(Kind::Node, "b"), (Kind::Controller, "z"), (Kind::Node, "a")]
            .map(|(kind, id)| entry(kind, id, 1));
        assert!(!take(&mut listing, now, at(5), &[a.clone(), b.clone(), c.clone()]));
        assert_eq!(listing.entries(now), [b, c, a]);
        assert!(listing.is_at(at(5)) && !listing.is_at(at(6)));
        assert!(!listing.is_at(Position { term: 3, ..at(5) }));
    }

    #[test]
    fn who_is_not_in_the_next_list_is_gone() {
        let (mut listing, now) = (Listing::new(GRACE), Instant::now());
        take(&mut listing, now, at(5), &[entry(Kind::Node, "a", 1)]);
        assert!(!take(&mut listing, now, at(6), &[]));
        assert!(listing.entries(now).is_empty());
    }

    #[test]
    fn who_was_there_is_told_on_for_a_while_after_etcd_has_lost_its_data() {
        for emptied in [at(1), Position { cluster: 8, ..at(9) }] {
            let (mut listing, now) = (Listing::new(GRACE), Instant::now());
            let (back, gone) = (entry(Kind::Node, "back", 1), entry(Kind::Node, "gone", 1));
            take(&mut listing, now, at(5), &[back.clone(), gone.clone()]);
            assert!(take(&mut listing, now, emptied, &[]), "it was not noticed");
            assert_eq!(listing.entries(now), [back.clone(), gone.clone()]);
            let later = Position { revision: emptied.revision + 1, ..emptied };
            let newer = entry(Kind::Node, "back", 2);
            assert!(!take(&mut listing, now, later, std::slice::from_ref(&newer)));
            assert_eq!(
                listing.entries(now),
                [newer.clone(), gone.clone()],
                "the new one stands over the former"
            );
            let left = Position { revision: emptied.revision + 2, ..emptied };
            assert!(!take(&mut listing, now, left, &[]));
            assert_eq!(listing.entries(now), [gone], "who came back and left is gone at once");
            assert!(!take(&mut listing, now, left, std::slice::from_ref(&newer)));
            assert_eq!(listing.entries(now + GRACE), [newer]);
        }
    }

    #[test]
    fn a_key_that_is_no_service_counts_for_nothing() {
        let (mut listing, now) = (Listing::new(GRACE), Instant::now());
        let right = serde_json::to_string(&entry(Kind::Node, "a", 1)).unwrap();
        let large = format!("{right}{}", " ".repeat(MAX_VALUE_BYTES));
        let address = right.replace("h:1", "nowhere");
        for (name, value, lease) in [
            ("/ringcast/nodes/a", right.as_str(), 0),
            ("/ringcast/nodes/b", &right, 1),
            ("/ringcast/controllers/a", &right, 1),
            ("/ringcast/other/a", &right, 1),
            ("/ringcast/nodes/a", &large, 1),
            ("/ringcast/nodes/a", &address, 1),
            ("/ringcast/nodes/a", "{\"kind\":\"node\"", 1),
            ("/ringcast/nodes/a", "", 1),
        ] {
            let key = Key { name: name.as_bytes(), value: value.as_bytes(), lease };
            let good = Key { name: b"/ringcast/nodes/a", value: right.as_bytes(), lease: 1 };
            let (_, refused) = listing.take(now, at(5), [key, good].into_iter());
            let refused = refused.unwrap_or_else(|| panic!("{name} with {value} was taken"));
            assert!(refused.contains(name), "{refused}");
            assert_eq!(listing.entries(now).len(), 1);
        }
        let key = Key { name: b"/ringcast/nodes/\xff", value: b"", lease: 1 };
        assert!(listing.take(now, at(6), std::iter::once(key)).1.is_some());
    }

    #[test]
    fn what_a_newer_version_adds_is_no_error() {
        let text = r#"{"kind":"node","id":"a","incarnation":1,"grpc_address":"h:1","zone":"x"}"#;
        let key = Key { name: b"/ringcast/nodes/a", value: text.as_bytes(), lease: 1 };
        assert_eq!(read(key), Ok(entry(Kind::Node, "a", 1)));
    }
}
