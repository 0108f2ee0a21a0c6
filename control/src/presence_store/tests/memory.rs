//! Presence in memory, the one that a controller holds of its own nodes, behind the trait.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::presence::{LinkRef, NodeKey, Now, Presence, Seat, SessionRef};

#[derive(Debug, Default)]
pub(super) struct PresenceMemory(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    presence: Presence,
    nodes: BTreeMap<NodeId, (NodeRecord, LinkRef)>,
    streams: u64,
}

impl Memory {
    /// The link of a node's words, or the verdict over them all.
    fn link_of(&self, at: &NodeAt) -> Result<Result<LinkRef, Verdict>, PresenceError> {
        match self.nodes.get(&at.id) {
            None => Err(PresenceError("the node is not known".into())),
            Some((record, _)) if is_later(record, at.incarnation, at.link) => Ok(Err(Verdict::Fenced)),
            Some((_, link)) => Ok(Ok(*link)),
        }
    }

    fn register(&mut self, record: &NodeRecord) -> LinkRef {
        let id = &record.card.id;
        if let Some((known, link)) = self.nodes.get(id)
            && known.card.incarnation < record.card.incarnation
        {
            self.presence.remove_node(link.node, false);
        }
        self.streams += 1;
        let link = self.presence.register(record.card.clone(), record.link, self.streams);
        self.nodes.insert(id.clone(), (record.clone(), link));
        link
    }

    fn carry_out(&mut self, link: LinkRef, change: &Change, now: Now) -> Verdict {
        match change {
            Change::Enter { arrival, room, max_users } => {
                match self.presence.join(link, arrival.clone(), room, max_users.unwrap_or_default(), now) {
                    Seat::Taken => return Verdict::Done,
                    Seat::Full => return Verdict::Full,
                    other => panic!("{other:?}"),
                }
            }
            Change::Exit { session, room, .. } => {
                self.presence.remove_room(link.node, *session, room);
            }
            Change::End { session, .. } => self.presence.end(link, *session),
        }
        Verdict::Done
    }

    fn id_of(&self, key: NodeKey) -> NodeId {
        self.presence.node(key).unwrap().card.id.clone()
    }
}

fn is_later(record: &NodeRecord, incarnation: u64, link: u64) -> bool {
    (record.card.incarnation, record.link) > (incarnation, link)
}

fn now(unix_s: i64) -> Now {
    Now { ms: 0, unix_s }
}

#[async_trait::async_trait]
impl PresenceStore for PresenceMemory {
    async fn begin(&self, record: &NodeRecord) -> Result<Verdict, PresenceError> {
        let mut memory = self.0.lock().unwrap();
        let known = memory.nodes.get(&record.card.id);
        if known.is_some_and(|(known, _)| is_later(known, record.card.incarnation, record.link)) {
            return Ok(Verdict::Fenced);
        }
        memory.register(record);
        Ok(Verdict::Done)
    }

    async fn apply(
        &self,
        at: &NodeAt,
        changes: &[Change],
        now_unix_s: i64,
    ) -> Result<Vec<Verdict>, PresenceError> {
        let mut memory = self.0.lock().unwrap();
        Ok(match memory.link_of(at)? {
            Err(verdict) => vec![verdict; changes.len()],
            Ok(link) => {
                changes.iter().map(|change| memory.carry_out(link, change, now(now_unix_s))).collect()
            }
        })
    }

    async fn sync(
        &self,
        at: &NodeAt,
        sessions: Vec<(Arrival, Vec<RoomId>)>,
        now_unix_s: i64,
    ) -> Result<Verdict, PresenceError> {
        let mut memory = self.0.lock().unwrap();
        if let Err(verdict) = memory.link_of(at)? {
            return Ok(verdict);
        }
        // A snapshot begins with the register.
        let mut record = memory.nodes[&at.id].0.clone();
        record.whole = true;
        let link = memory.register(&record);
        assert!(memory.presence.snapshot_part(link, sessions, true, now(now_unix_s)));
        Ok(Verdict::Done)
    }

    async fn beat(&self, records: &[NodeRecord]) -> Result<(Vec<Verdict>, bool), PresenceError> {
        let mut memory = self.0.lock().unwrap();
        let beat = |record: &NodeRecord| match memory.nodes.get_mut(&record.card.id) {
            Some((known, _)) if is_later(known, record.card.incarnation, record.link) => Verdict::Fenced,
            Some((known, _)) => {
                known.clone_from(record);
                Verdict::Done
            }
            None => {
                memory.register(record);
                Verdict::Done
            }
        };
        Ok((records.iter().map(beat).collect(), true))
    }

    async fn remove(&self, at: &NodeAt) -> Result<(), PresenceError> {
        let mut memory = self.0.lock().unwrap();
        if memory.nodes.get(&at.id).is_some_and(|(known, _)| !is_later(known, at.incarnation, at.link)) {
            let (_, link) = memory.nodes.remove(&at.id).unwrap();
            memory.presence.remove_node(link.node, false);
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, PresenceError> {
        Ok(self.0.lock().unwrap().nodes.values().map(|(record, _)| record.clone()).collect())
    }

    async fn have_seats(&self, asked: &[(RoomId, UserId, u32)]) -> Result<Vec<bool>, PresenceError> {
        let memory = self.0.lock().unwrap();
        Ok(asked.iter().map(|(room, user, most)| memory.presence.has_seat(room, user, *most)).collect())
    }

    async fn members(
        &self,
        id: &RoomId,
        after: Option<&UserId>,
        size: u32,
    ) -> Result<(Vec<MemberRecord>, u32), PresenceError> {
        let memory = self.0.lock().unwrap();
        let Some(room) = memory.presence.room(id) else { return Ok((Vec::new(), 0)) };
        let page = room.members.iter().filter(|(user, _)| after.is_none_or(|after| *user > after));
        let members = page.take(size as usize).map(|(user, member)| {
            let newest = memory.presence.sessions_in(id, user).next().unwrap();
            let session = memory.presence.session(newest).unwrap();
            MemberRecord {
                user: user.clone(),
                user_name: session.user_name().into(),
                metadata: session.metadata(),
                node: memory.id_of(newest.node),
                joined_at: member.joined_at(),
                sessions: member.sessions,
            }
        });
        Ok((members.collect(), room.members.len() as u32))
    }

    async fn sessions_of(&self, user: &UserId) -> Result<Vec<SessionRecord>, PresenceError> {
        let memory = self.0.lock().unwrap();
        let told = |at: SessionRef| {
            let session = memory.presence.session(at).unwrap();
            SessionRecord {
                node: memory.id_of(at.node),
                incarnation: memory.presence.node(at.node).unwrap().card.incarnation,
                session: at.session,
                rooms: memory.presence.rooms_in(session).cloned().collect(),
                connected_at: session.connected_at,
            }
        };
        Ok(memory.presence.sessions_of(user).map(told).collect())
    }

    async fn counts(&self, rooms: &[RoomId]) -> Result<Vec<u32>, PresenceError> {
        let memory = self.0.lock().unwrap();
        let count = |id| memory.presence.room(id).map_or(0, |room| room.members.len() as u32);
        Ok(rooms.iter().map(count).collect())
    }

    async fn totals(&self) -> Result<Totals, PresenceError> {
        let figures = self.0.lock().unwrap().presence.figures();
        Ok(Totals { users: figures.users as u64, sessions: figures.sessions as u64 })
    }
}
