//! Pushes: one frame, shared by every session that it is for.
//!
//! Owns: who is a member of a push at this moment. Must not: copy the frame, allocate for a member, or leave a
//! member uncounted. Talks to: `room` for members, `outbox` for room, `delivery` for what became of it.

use std::rc::Rc;

use bytes::Bytes;
use ringcast_proto::{RoomId, UserId};

use crate::close::CloseReason;
use crate::delivery::Parcel;
use crate::event::{Delivery, DropReason, Outputs, Target};
use crate::room::Index;
use crate::session::Session;
use crate::shard::Shard;

/// Up to this many excluded users are looked through one by one.
const FEW: usize = 8;

impl Shard {
    /// Queues a push at every member.
    pub(super) fn deliver(&mut self, delivery: Delivery, out: &mut Outputs) {
        let Delivery { id, target, exclude, frame, report_by_ms, shed } = delivery;
        debug_assert!(!frame.is_empty(), "a frame has a header");
        let shed = shed || frame.is_empty();
        self.counters.pushes += 1;
        self.excluded.clear();
        self.excluded.extend(exclude.iter().filter_map(|user| self.users.find(user)));
        self.excluded.sort_unstable();

        let push = Parcel::push(id, if shed { Bytes::new() } else { frame }, report_by_ms);
        let slow = if shed {
            self.count_as_shed(&push, &target);
            Vec::new()
        } else {
            self.queue(&push, &target, out)
        };
        self.counters.members += push.tally().map_or(0, |tally| tally.members());
        self.ledger.close(&push, &mut out.reports);
        for slot in slow {
            self.close(slot, CloseReason::Slow, out);
        }
    }

    /// Queues it at every member that has room. Returns the others, who are to be closed: not here, since that
    /// changes the list that is being walked.
    fn queue(&mut self, push: &Rc<Parcel>, target: &Target, out: &mut Outputs) -> Vec<u32> {
        let mut slow = Vec::new();
        let Some(tally) = push.tally() else { return slow };
        let bound = self.limits.queue_bytes();
        let Self { table, rooms, users, pool, counters, excluded, .. } = self;
        let (listed, slots) = (listed(rooms, users, target), table.slots());
        let mut offer = |slot: u32| {
            let session = &mut table[slot];
            if !session.is_joined() || is_excluded(session, excluded) {
                return;
            }
            if !session.outbox.has_room(push.len(), bound) {
                tally.add_dropped(DropReason::Slow, 1);
                counters.dropped[DropReason::Slow as usize] += 1;
                slow.push(slot);
                return;
            }
            tally.add_queued();
            session.outbox.push(Rc::clone(push), pool);
            if !session.announced && session.outbox.wants_write() {
                session.announced = true;
                out.writable.push(table.id(slot));
            }
        };
        match listed {
            Some(slots) => slots.iter().for_each(|&slot| offer(slot)),
            None => (0..slots).for_each(offer),
        }
        slow
    }

    /// The queue to this shard was full: its members are counted all the same.
    fn count_as_shed(&mut self, push: &Parcel, target: &Target) {
        let Self { table, rooms, users, counters, excluded, .. } = self;
        let is_member = |slot: u32| table[slot].is_joined() && !is_excluded(&table[slot], excluded);
        let members = match listed(rooms, users, target) {
            Some(slots) => slots.iter().filter(|&&slot| is_member(slot)).count(),
            None => (0..table.slots()).filter(|&slot| is_member(slot)).count(),
        } as u64;
        if let Some(tally) = push.tally() {
            tally.add_dropped(DropReason::Shed, members);
        }
        counters.dropped[DropReason::Shed as usize] += members;
    }
}

/// The slots that a push is for; `None`: all.
fn listed<'a>(rooms: &'a Index<RoomId>, users: &'a Index<UserId>, target: &Target) -> Option<&'a [u32]> {
    match target {
        Target::Room(id) => Some(rooms.find(id).map_or(&[], |room| rooms.members(room))),
        Target::User(id) => Some(users.find(id).map_or(&[], |user| users.members(user))),
        Target::All => None,
    }
}

/// Whether the session's user is not to get the push.
#[inline]
fn is_excluded(session: &Session, excluded: &[u32]) -> bool {
    let user = session.user.group;
    if excluded.len() <= FEW { excluded.contains(&user) } else { excluded.binary_search(&user).is_ok() }
}
