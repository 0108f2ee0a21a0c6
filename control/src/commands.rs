//! Joins and leaves by RPC: the controller commands the nodes that hold the user's sessions, over their links.
//!
//! Owns: the commands under way, and what each comes to. A seat is taken before the nodes are told, and given back
//! for every session that did not take the room. A command ends with the node's answer, or with its link, after
//! which the node's next snapshot says what is true; that the caller has gone away changes nothing.
//! Must not: know gRPC messages of `ControllerService`.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use ringcast_proto::pubsub::controller_message::Message;
use ringcast_proto::pubsub::{SessionCommand, SessionCommandResult, SessionRooms, session_command};
use ringcast_proto::{NodeId, RoomId, UserId};
use tokio::sync::oneshot;
use tonic::Status;

use crate::presence::{LinkRef, NodeKey, Now, SessionRef};
use crate::refusal;
use crate::registry::{Registry, State};
use crate::store::StoreError;

/// The most commands under way; more are refused.
const MAX_COMMANDS: usize = 64 * 1024;

/// A wish to join.
#[derive(Debug)]
pub(crate) struct JoinWish {
    pub(crate) user: UserId,
    pub(crate) room: RoomId,
    /// Empty: as it is.
    pub(crate) user_name: String,
    /// `None`: on every node.
    pub(crate) node: Option<NodeId>,
    /// Empty: as it is.
    pub(crate) metadata: HashMap<String, String>,
}

#[derive(Debug)]
enum Kind {
    /// These sessions were not in the room before.
    Add {
        added: AHashSet<SessionRef>,
    },
    Remove,
}

#[derive(Debug)]
struct Command {
    at: LinkRef,
    room: RoomId,
    kind: Kind,
    sessions: Vec<SessionRef>,
    sent_ms: u64,
    reply: oneshot::Sender<Vec<SessionRef>>,
}

/// The commands under way.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    open: AHashMap<u64, Command>,
    next: u64,
}

type Replies = Vec<oneshot::Receiver<Vec<SessionRef>>>;

impl Registry {
    /// Joins a user's live sessions whose nodes have their links here to a room and waits for the confirmation.
    /// Returns how many sessions are in the room by this; `None`: the room is full.
    pub(crate) async fn join_room(self: &Arc<Self>, wish: JoinWish) -> Result<Option<usize>, Status> {
        if self.sharing.is_none() {
            return self.join_room_here(&wish).await;
        }
        // A seat that the store has given is used or given back, whether the caller waits or not.
        let registry = self.clone();
        let joined = tokio::spawn(async move { registry.join_room_here(&wish).await });
        joined.await.unwrap_or_else(|_| Err(refusal::stopping()))
    }

    async fn join_room_here(self: &Arc<Self>, wish: &JoinWish) -> Result<Option<usize>, Status> {
        if !self.recovered().await {
            return Err(refusal::recovering());
        }
        self.admitted().await?;
        let offline = || refusal::user_offline(wish.user.as_str());
        if self.read(|state| targets(state, wish).is_empty()) {
            return Err(offline());
        }
        let room = self.rooms.get(&wish.room, true, self.now()).await.map_err(refused_by_store)?;
        let max_users = room.map_or(self.rooms.default_max_users(), |room| self.rooms.max_users(&room));
        let replies = match self.sharing.is_some() {
            true => self.command_join_by_store(wish, max_users).await?,
            false => self.command_join(wish, max_users)?,
        };
        let Some(replies) = replies else {
            self.metrics.joined("room_full");
            return Ok(None);
        };
        let (done, lost) = gather(replies).await;
        if done.is_empty() {
            return Err(if lost {
                refusal::nodes_silent()
            } else {
                refusal::sessions_refused(wish.user.as_str())
            });
        }
        self.metrics.joined("accepted");
        let acknowledged = self.turn(|state, _| {
            for session in &done {
                state.presence.rename(*session, &wish.user_name, &wish.metadata);
                if !wish.user_name.is_empty() || !wish.metadata.is_empty() {
                    self.renamed(state, session);
                }
            }
            state.when_acknowledged()
        });
        // The feed always answers: a follower that does not acknowledge is cut off.
        let _ = acknowledged.await;
        Ok(Some(done.len()))
    }

    /// Takes a seat in memory, and tells the nodes. `None`: the room is full.
    fn command_join(self: &Arc<Self>, wish: &JoinWish, max_users: u32) -> Result<Option<Replies>, Status> {
        self.turn(|state, now| {
            let targets = targets(state, wish);
            if targets.is_empty() {
                return Err(refusal::user_offline(wish.user.as_str()));
            }
            let by_link = state.by_link(&targets)?;
            let linked: Vec<SessionRef> = by_link.values().flatten().copied().collect();
            let seat = state.presence.take_seat(&wish.user, &linked, &wish.room, max_users, now);
            let Some(added) = seat else { return Ok(None) };
            Ok(Some(state.command_add(by_link, &wish.room, added, now)))
        })
    }

    /// The same where the store that controllers share has the seats.
    async fn command_join_by_store(
        self: &Arc<Self>,
        wish: &JoinWish,
        max_users: u32,
    ) -> Result<Option<Replies>, Status> {
        let (inside, outside) = self.read(|state| {
            let targets = targets(state, wish);
            if targets.is_empty() {
                return Err(refusal::user_offline(wish.user.as_str()));
            }
            let linked = state.by_link(&targets)?.into_values().flatten();
            let inside: AHashSet<SessionRef> = state.presence.sessions_in(&wish.room, &wish.user).collect();
            Ok(linked.partition::<Vec<_>, _>(|session| inside.contains(session)))
        })?;
        let added = match outside.is_empty() {
            true => Vec::new(),
            false => match self.ask_seats(&outside, &wish.room, max_users).await? {
                Some(added) => added,
                None => return Ok(None),
            },
        };
        self.turn(|state, now| {
            let sessions: Vec<SessionRef> = inside.into_iter().chain(added.iter().copied()).collect();
            match state.by_link(&sessions) {
                Ok(by_link) => {
                    let linked = |session: &SessionRef| by_link.contains_key(&session.node);
                    let (added, lost): (Vec<_>, Vec<_>) = added.into_iter().partition(linked);
                    self.give_back(state, &lost, &wish.room);
                    Ok(Some(state.command_add(by_link, &wish.room, added, now)))
                }
                Err(silent) => {
                    self.give_back(state, &added, &wish.room);
                    Err(silent)
                }
            }
        })
    }

    fn give_back<'a>(
        &self,
        state: &mut State,
        seats: impl IntoIterator<Item = &'a SessionRef>,
        room: &RoomId,
    ) {
        for session in seats {
            self.exit(state, session, room);
        }
    }

    /// Takes a user's live sessions whose nodes have their links here out of a room and waits for the confirmation.
    /// Returns how many have left.
    pub(crate) async fn leave_room(self: &Arc<Self>, user: &UserId, room: &RoomId) -> Result<usize, Status> {
        if !self.recovered().await {
            return Err(refusal::recovering());
        }
        let replies = self.turn(|state, now| {
            if state.presence.sessions_of(user).next().is_none() {
                return Err(refusal::user_offline(user.as_str()));
            }
            let sessions: Vec<SessionRef> = state.presence.sessions_in(room, user).collect();
            if sessions.is_empty() {
                return Ok(Vec::new());
            }
            let by_link = state.by_link(&sessions)?;
            Ok(state.command(by_link, room, |_| Kind::Remove, now))
        })?;
        let (done, lost) = gather(replies).await;
        if done.is_empty() && lost {
            return Err(refusal::nodes_silent());
        }
        let acknowledged = self.turn(|state, _| state.when_acknowledged());
        let _ = acknowledged.await;
        Ok(done.len())
    }

    /// A node has answered a command.
    pub(crate) fn command_result(self: &Arc<Self>, at: LinkRef, result: SessionCommandResult) {
        self.turn(|state, now| {
            let known = state.commands.open.get(&result.command_id).is_some_and(|command| command.at == at);
            let command = known.then(|| state.commands.open.remove(&result.command_id)).flatten();
            let Some(command) = command else { return };
            let named: AHashSet<u64> = result.session_ids.into_iter().collect();
            let done = |session: &&SessionRef| named.contains(&session.session.as_u64());
            let (done, undone): (Vec<_>, Vec<_>) = command.sessions.iter().partition(done);
            match &command.kind {
                Kind::Add { added } => {
                    let undone = undone.into_iter().filter(|session| added.contains(*session));
                    self.give_back(state, undone, &command.room);
                    // A leave that was under way may have taken it out meanwhile.
                    for session in &done {
                        self.enter(state, session, &command.room, now);
                    }
                }
                Kind::Remove => self.give_back(state, done.iter().copied(), &command.room),
            }
            // A caller that has gone away needs no answer.
            drop(command.reply.send(done.into_iter().copied().collect()));
        });
    }
}

impl Registry {
    /// A link is gone, and with it the answers to its commands: seats that were taken are given back.
    pub(crate) fn fail_commands(&self, state: &mut State, at: LinkRef) {
        let open = &state.commands.open;
        let failed: Vec<u64> =
            open.iter().filter(|(_, command)| command.at == at).map(|(id, _)| *id).collect();
        for id in failed {
            let Some(command) = state.commands.open.remove(&id) else { continue };
            if let Kind::Add { added } = command.kind {
                self.give_back(state, &added, &command.room);
            }
        }
    }
}

impl State {
    /// Has nodes add a room to sessions, of which these were not in it before.
    fn command_add(
        &mut self,
        by_link: HashMap<NodeKey, Vec<SessionRef>>,
        room: &RoomId,
        added: Vec<SessionRef>,
        now: Now,
    ) -> Replies {
        let kind = |at: LinkRef| Kind::Add {
            added: added.iter().filter(|session| session.node == at.node).copied().collect(),
        };
        self.command(by_link, room, kind, now)
    }

    /// Sorts sessions by the live links to them; sessions whose node is lost are left out.
    fn by_link(&self, sessions: &[SessionRef]) -> Result<HashMap<NodeKey, Vec<SessionRef>>, Status> {
        let mut by_link: HashMap<NodeKey, Vec<SessionRef>> = HashMap::new();
        for session in sessions.iter().filter(|session| self.links.contains_key(&session.node)) {
            by_link.entry(session.node).or_default().push(*session);
        }
        if by_link.is_empty() || self.commands.open.len() + by_link.len() > MAX_COMMANDS {
            return Err(refusal::nodes_silent());
        }
        Ok(by_link)
    }

    fn command(
        &mut self,
        by_link: HashMap<NodeKey, Vec<SessionRef>>,
        room: &RoomId,
        kind: impl Fn(LinkRef) -> Kind,
        now: Now,
    ) -> Replies {
        let mut replies = Vec::new();
        for (node, sessions) in by_link {
            let Some(link) = self.links.get(&node) else { continue };
            let at = LinkRef { node, generation: link.generation };
            let kind = kind(at);
            let id = self.commands.next;
            self.commands.next += 1;
            let rooms = SessionRooms {
                session_ids: sessions.iter().map(|session| session.session.as_u64()).collect(),
                room_id: room.to_string(),
            };
            let command = match kind {
                Kind::Add { .. } => session_command::Command::AddRoom(rooms),
                Kind::Remove => session_command::Command::RemoveRoom(rooms),
            };
            link.send(Message::Command(SessionCommand { command_id: id, command: Some(command) }));
            let (reply, receiver) = oneshot::channel();
            let open = Command { at, room: room.clone(), kind, sessions, sent_ms: now.ms, reply };
            self.commands.open.insert(id, open);
            replies.push(receiver);
        }
        replies
    }

    /// The links whose commands have waited for longer than the limit.
    pub(crate) fn overdue_commands(&self, now_ms: u64, limit_ms: u64) -> AHashSet<LinkRef> {
        let overdue = self.commands.open.values().filter(|command| now_ms >= command.sent_ms + limit_ms);
        overdue.map(|command| command.at).collect()
    }
}

/// A store's failure, as a caller hears of it.
pub(crate) fn refused_by_store(error: StoreError) -> Status {
    match error {
        StoreError::Failed(_) => refusal::store_away(),
        StoreError::TooManyRooms => refusal::too_many_rooms(),
    }
}

fn targets(state: &State, wish: &JoinWish) -> Vec<SessionRef> {
    let sessions = state.presence.sessions_of(&wish.user);
    match &wish.node {
        None => sessions.collect(),
        Some(id) => {
            let node = state.presence.node_by_id(id);
            sessions.filter(|session| Some(session.node) == node).collect()
        }
    }
}

/// The sessions that are done, and whether a link was lost before its answer.
async fn gather(replies: Replies) -> (Vec<SessionRef>, bool) {
    let (mut done, mut lost) = (Vec::new(), false);
    for reply in replies {
        match reply.await {
            Ok(sessions) => done.extend(sessions),
            Err(_) => lost = true,
        }
    }
    (done, lost)
}
