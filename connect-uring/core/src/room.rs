//! Who is where: rooms and their sessions, users and their sessions. A user is to this index what a room is: a
//! name with sessions in it.
//!
//! Owns: names, each held once, and lists of slots. Must not: hold an entry for a name without sessions. Talks
//! to: `session`, which keeps each of its places in these lists, so that leaving costs no search.

use std::borrow::Borrow;
use std::hash::Hash;

use ahash::RandomState;
use hashbrown::HashTable;

use crate::slab::Slab;

/// Where a session is listed: the group's number and the place in its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The group.
    pub(crate) group: u32,
    /// The place in the group's list.
    pub(crate) place: u32,
}

impl Membership {
    /// Of a session that is in no group.
    pub(crate) const NONE: Self = Self { group: u32::MAX, place: u32::MAX };
}

/// A room or a user with its sessions.
#[derive(Debug)]
struct Group<Id> {
    /// `None`: the place is free.
    id: Option<Id>,
    members: Members,
}

/// Slots. Most users have one session: no allocation for those.
#[derive(Debug)]
enum Members {
    One(u32),
    Many(Vec<u32>),
}

impl Members {
    const EMPTY: Self = Self::Many(Vec::new());

    #[inline]
    fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(slot) => std::slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }
}

/// What leaving changed beside the one who left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left<Id> {
    /// Nothing.
    Quietly,
    /// This slot now stands in the place that became free, and must be told.
    Moved(u32),
    /// That was the last session: the name is forgotten.
    Emptied(Id),
}

/// Groups by name and by number.
#[derive(Debug)]
pub(crate) struct Index<Id> {
    groups: Slab<Group<Id>>,
    by_id: HashTable<u32>,
    hasher: RandomState,
}

impl<Id: Borrow<str> + Hash + Eq> Index<Id> {
    /// An empty index; names are hashed with the shard's own keys, so that nobody can choose colliding ones.
    pub(crate) fn new(hasher: RandomState) -> Self {
        Self { groups: Slab::new(), by_id: HashTable::new(), hasher }
    }

    /// How many names have a session.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The number of a name that has sessions.
    pub(crate) fn find(&self, id: &Id) -> Option<u32> {
        let name: &str = id.borrow();
        let hash = self.hasher.hash_one(name);
        self.by_id.find(hash, |&group| self.groups[group].id.as_ref() == Some(id)).copied()
    }

    /// The sessions of a group.
    #[inline]
    pub(crate) fn members(&self, group: u32) -> &[u32] {
        self.groups.get(group).map_or(&[], |group| group.members.as_slice())
    }

    /// The name of a group that has sessions.
    pub(crate) fn id(&self, group: u32) -> Option<&Id> {
        self.groups.get(group)?.id.as_ref()
    }

    /// Lists a session under a name; `place` is 0 where it is the first there. The caller sees to it that it is
    /// not listed there yet.
    pub(crate) fn join(&mut self, id: &Id, slot: u32) -> Membership
    where
        Id: Clone,
    {
        let Some(group) = self.find(id) else {
            return Membership { group: self.make(id.clone(), slot), place: 0 };
        };
        let members = &mut self.groups[group].members;
        let place = members.as_slice().len() as u32;
        match members {
            Members::One(first) => *members = Members::Many(vec![*first, slot]),
            Members::Many(slots) => slots.push(slot),
        }
        Membership { group, place }
    }

    /// Takes a session off its list.
    pub(crate) fn leave(&mut self, membership: Membership) -> Left<Id> {
        let Membership { group, place } = membership;
        let members = &mut self.groups[group].members;
        if let Members::Many(slots) = members {
            slots.swap_remove(place as usize);
            let moved = slots.get(place as usize).copied();
            if slots.len() > 1 {
                if slots.len() <= slots.capacity() / 4 {
                    slots.shrink_to(slots.len() * 2);
                }
                return moved.map_or(Left::Quietly, Left::Moved);
            }
            if let Some(&last) = slots.first() {
                *members = Members::One(last);
                return moved.map_or(Left::Quietly, Left::Moved);
            }
        }
        self.forget(group).map_or(Left::Quietly, Left::Emptied)
    }

    fn make(&mut self, id: Id, slot: u32) -> u32 {
        let name: &str = id.borrow();
        let hash = self.hasher.hash_one(name);
        let entry = Group { id: Some(id), members: Members::One(slot) };
        let group = match self.groups.take_free() {
            Some(group) => {
                self.groups[group] = entry;
                group
            }
            None => self.groups.add(entry),
        };
        let (groups, hasher) = (&self.groups, &self.hasher);
        self.by_id.insert_unique(hash, group, |&group| hash_of(groups, hasher, group));
        group
    }

    fn forget(&mut self, group: u32) -> Option<Id> {
        let hash = hash_of(&self.groups, &self.hasher, group);
        if let Ok(entry) = self.by_id.find_entry(hash, |&other| other == group) {
            entry.remove();
        }
        let id = self.groups[group].id.take();
        self.groups[group].members = Members::EMPTY;
        self.groups.release(group);
        if self.by_id.capacity() > 4 * self.by_id.len() + 64 {
            let (groups, hasher) = (&self.groups, &self.hasher);
            self.by_id.shrink_to(self.by_id.len() * 2, |&group| hash_of(groups, hasher, group));
        }
        id
    }

    /// Every entry has a name, sessions, and is found by its name; `listed` says whether a slot knows its place.
    #[cfg(any(test, debug_assertions, feature = "checks"))]
    pub(crate) fn check_invariants(&self, listed: impl Fn(u32, Membership) -> bool) {
        assert_eq!(self.by_id.len(), self.groups.used(), "each group in use is found by one name");
        for &group in &self.by_id {
            let members = self.members(group);
            assert!(!members.is_empty(), "group {group} has no sessions");
            let id = self.id(group).expect("a group in use has a name");
            assert_eq!(self.find(id), Some(group), "a group is found by its name");
            for (place, &slot) in members.iter().enumerate() {
                let membership = Membership { group, place: place as u32 };
                assert!(
                    listed(slot, membership),
                    "slot {slot} does not know that it is listed at {membership:?}"
                );
            }
        }
    }
}

fn hash_of<Id: Borrow<str>>(groups: &Slab<Group<Id>>, hasher: &RandomState, group: u32) -> u64 {
    let name: &str = groups[group].id.as_ref().map_or("", Borrow::borrow);
    hasher.hash_one(name)
}

#[cfg(test)]
mod tests {
    use ringcast_proto::RoomId;

    use super::*;

    fn index() -> Index<RoomId> {
        Index::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn room(name: &str) -> RoomId {
        RoomId::new(name).expect("a valid id")
    }

    #[test]
    fn a_room_comes_to_be_with_its_first_session_and_goes_with_its_last() {
        let mut index = index();
        let a = room("a");
        assert_eq!(index.find(&a), None);
        let first = index.join(&a, 10);
        let second = index.join(&a, 11);
        assert_eq!((first.group, first.place, second.place), (second.group, 0, 1));
        assert_eq!(index.members(first.group), [10, 11]);
        assert_eq!(index.leave(first), Left::Moved(11), "the last one moved into its place");
        assert_eq!(index.leave(Membership { place: 0, ..second }), Left::Emptied(a.clone()));
        assert_eq!((index.find(&a), index.len()), (None, 0));
        assert_eq!(index.join(&room("b"), 12).group, first.group, "the place is used again");
    }

    #[test]
    fn leaving_from_anywhere_keeps_every_place_true() {
        let mut index = index();
        let rooms: Vec<RoomId> = (0..40).map(|n| room(&format!("room {n}"))).collect();
        // A model beside it: slot to place, for each room.
        let mut places: Vec<Vec<(u32, Membership)>> = vec![Vec::new(); rooms.len()];
        let mut random = fastrand::Rng::with_seed(5);
        for slot in 0..20_000 {
            let n = random.usize(..rooms.len());
            if random.u8(..5) < 3 {
                let membership = index.join(&rooms[n], slot);
                places[n].push((slot, membership));
            } else if !places[n].is_empty() {
                let chosen = random.usize(..places[n].len());
                let (_, gone) = places[n].swap_remove(chosen);
                if let Left::Moved(moved) = index.leave(gone) {
                    let entry =
                        places[n].iter_mut().find(|(slot, _)| *slot == moved).expect("a member moved");
                    entry.1.place = gone.place;
                }
            }
        }
        index.check_invariants(|slot, membership| {
            places.iter().any(|room| room.contains(&(slot, membership)))
        });
        for (n, room) in rooms.iter().enumerate() {
            let found = index.find(room).map_or(0, |group| index.members(group).len());
            assert_eq!(found, places[n].len());
        }
        for room in &rooms {
            while let Some(group) = index.find(room) {
                let place = index.members(group).len() as u32 - 1;
                assert!(
                    !matches!(index.leave(Membership { group, place }), Left::Moved(_)),
                    "it was the last"
                );
            }
        }
        assert!(index.len() == 0 && index.by_id.capacity() < 200, "an empty index gives its memory back");
    }
}
