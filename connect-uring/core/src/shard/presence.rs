//! Who is live on this shard, as the controller sees it: entering, leaving, changing rooms, snapshots.
//!
//! Owns: that rooms, users and sessions agree. Must not: decide who may join. Talks to: `room`, the controller
//! through the outputs.

use ringcast_proto::{RoomId, SessionId};

use crate::event::{CensusChange, ControlEvent, Outputs, SessionInfo};
use crate::handshake::JoinQuery;
use crate::limits::SNAPSHOT_PART;
use crate::room::{Left, Membership};
use crate::session::{Phase, Rooms};
use crate::shard::Shard;

impl Shard {
    /// The join was accepted: pushes reach the session from here on.
    pub(super) fn enter(&mut self, slot: u32, query: JoinQuery, out: &mut Outputs) {
        let JoinQuery { user_id, room_id, user_name, metadata } = query;
        let session = &mut self.table[slot];
        session.phase = Phase::Live(None);
        session.name = user_name.into_boxed_str();
        session.metadata = (!metadata.is_empty()).then(|| Box::new(metadata));
        let users = self.users.len();
        session.user = self.users.join(&user_id, slot);
        if self.users.len() > users {
            out.census.push(CensusChange::UserCame(user_id));
        }
        self.counters.joined += 1;
        self.add_room(slot, &room_id, out);
    }

    /// A WebSocket ends, or begins to: pushes do not reach it any more, and the controller is told. Its phase is
    /// changed behind this.
    pub(super) fn leave(&mut self, slot: u32, out: &mut Outputs) {
        let session = &mut self.table[slot];
        if let Phase::Echo(_) = session.phase {
            self.counters.echoing -= 1;
            return;
        }
        debug_assert!(session.is_joined());
        let user = std::mem::replace(&mut session.user, Membership::NONE);
        let rooms = std::mem::replace(&mut session.rooms, Rooms::NONE);
        session.name = Box::default();
        session.metadata = None;
        match self.users.leave(user) {
            Left::Moved(other) => self.table[other].user.place = user.place,
            Left::Emptied(id) => out.census.push(CensusChange::UserWent(id)),
            Left::Quietly => {}
        }
        for &room in rooms.as_slice() {
            self.leave_room(room, out);
        }
        self.counters.joined -= 1;
        out.control.push(ControlEvent::End { session: self.table.id(slot) });
    }

    /// A session that waits for its join gives up; the controller is told where it would otherwise keep a seat.
    pub(super) fn withdraw_join(&mut self, slot: u32, out: &mut Outputs) {
        if let Phase::Asked(asked) = &self.table[slot].phase
            && asked.upgrade.is_some()
        {
            out.control.push(ControlEvent::End { session: self.table.id(slot) });
        }
    }

    /// Adds a room to sessions or takes it from them.
    pub(super) fn change_rooms(
        &mut self,
        command: u64,
        sessions: &[SessionId],
        room: &RoomId,
        add: bool,
        out: &mut Outputs,
    ) {
        let mut changed = Vec::with_capacity(sessions.len());
        for &session in sessions {
            let Some(slot) = self.table.find(session).filter(|&slot| self.table[slot].is_joined()) else {
                self.counters.stale += 1;
                continue;
            };
            let member = self.rooms.find(room).and_then(|group| self.table[slot].rooms.find(group));
            match (add, member) {
                (true, None) if self.table[slot].rooms.as_slice().len() >= self.limits.rooms_per_session => {
                    continue;
                }
                (true, None) => self.add_room(slot, room, out),
                (false, Some(membership)) => {
                    self.table[slot].rooms.remove(membership.group);
                    self.leave_room(membership, out);
                }
                (true, Some(_)) | (false, None) => {}
            }
            changed.push(session);
        }
        out.control.push(ControlEvent::RoomsChanged { command, sessions: changed });
    }

    /// Tells of every live session, and asks once more for every join that is open.
    pub(super) fn snapshot(&mut self, out: &mut Outputs) {
        let mut part = Vec::new();
        for slot in 0..self.table.slots() {
            if self.table[slot].is_joined() {
                if part.len() == SNAPSHOT_PART {
                    let sessions = std::mem::take(&mut part);
                    out.control.push(ControlEvent::Snapshot { sessions, last: false });
                }
                part.extend(self.session_info(slot));
            }
        }
        out.control.push(ControlEvent::Snapshot { sessions: part, last: true });
        for slot in 0..self.table.slots() {
            out.control.extend(self.join_event(slot));
        }
    }

    fn session_info(&self, slot: u32) -> Option<SessionInfo> {
        let session = &self.table[slot];
        let rooms = session.rooms.as_slice().iter();
        Some(SessionInfo {
            session: self.table.id(slot),
            user: self.users.id(session.user.group)?.clone(),
            user_name: session.name.to_string(),
            rooms: rooms.filter_map(|room| self.rooms.id(room.group).cloned()).collect(),
            metadata: session.metadata.as_deref().cloned().unwrap_or_default(),
            connected_unix_ms: session.connected_unix_ms,
        })
    }

    fn add_room(&mut self, slot: u32, room: &RoomId, out: &mut Outputs) {
        let rooms = self.rooms.len();
        let membership = self.rooms.join(room, slot);
        self.table[slot].rooms.add(membership);
        if self.rooms.len() > rooms {
            out.census.push(CensusChange::RoomCame(room.clone()));
        }
    }

    /// Takes a session off a room's list; its own note of it is already gone.
    fn leave_room(&mut self, membership: Membership, out: &mut Outputs) {
        match self.rooms.leave(membership) {
            Left::Moved(other) => self.table[other].rooms.moved(membership),
            Left::Emptied(id) => out.census.push(CensusChange::RoomWent(id)),
            Left::Quietly => {}
        }
    }
}
