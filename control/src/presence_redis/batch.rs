//! Changes of one node's sessions, gathered by what they touch: the node, buckets of users, rooms. One script each.
//!
//! Owns: which operations a change is made of, and in which order they may be sent: what a node holds is named at the
//! node before a room or a user holds it, and forgotten there after they have.
//! Must not: send anything.

use std::collections::BTreeMap;

use redis::{Cmd, Value};
use ringcast_proto::{NodeId, RoomId, UserId};

use super::keys;
use super::scripts::{self, SCRIPTS};
use crate::presence::Arrival;
use crate::presence_store::{NodeAt, PresenceError};

/// What a node's record says to words of its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// They are its words.
    Held,
    /// A later link or incarnation has the node.
    Fenced,
    /// Later words came over the same link: these were on their way when others were lost.
    Late,
    /// There is no record.
    Unknown,
}

/// Who asks for words of a node to be carried out.
#[derive(Clone, Copy)]
pub(super) enum Speaker<'a> {
    /// The node, over its link. Its record decides; where it is on the same server as all else, in each script.
    Node { at: &'a NodeAt, turn: &'a str, make: bool, one_server: bool },
    /// One who takes out what is dead. Nobody is asked, and the node's own list of sessions stays as it is.
    Sweeper(&'a NodeId),
}

/// The changes.
pub(super) struct Batch<'a> {
    speaker: Speaker<'a>,
    now: String,
    /// What comes to be, told to the node at first.
    intents: Option<Cmd>,
    /// All that happens, told to the node at last, where something goes.
    settlement: Option<Cmd>,
    goes: bool,
    users: BTreeMap<u16, Cmd>,
    rooms: BTreeMap<RoomId, Operations>,
    enters: usize,
    len: usize,
}

/// What happens in a room; and which of the batch's enters are among it.
struct Operations {
    command: Cmd,
    enters: Vec<usize>,
}

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) standing: Standing,
    /// For each enter, in their order, whether its session was a new one to the node.
    pub(super) made: Vec<bool>,
    /// For each enter, in their order, whether its room has no seat left.
    pub(super) full: Vec<bool>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(speaker: Speaker<'a>, now_unix_s: i64) -> Self {
        let node = || match speaker {
            Speaker::Sweeper(_) => None,
            Speaker::Node { at, turn, make, .. } => {
                let mut command =
                    scripts::run(&SCRIPTS.node, &[keys::record(&at.id), keys::sessions(&at.id)]);
                command.arg(keys::digits(at.incarnation)).arg(turn).arg(if make { "make" } else { "" });
                Some(command)
            }
        };
        Self {
            now: now_unix_s.to_string(),
            intents: node(),
            settlement: node(),
            goes: false,
            users: BTreeMap::new(),
            rooms: BTreeMap::new(),
            enters: 0,
            len: 0,
            speaker,
        }
    }

    /// How many changes it holds.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A script on these keys, told whose words it hears.
    fn script(speaker: Speaker<'_>, script: &redis::Script, mut keys: Vec<String>) -> Cmd {
        let (node, incarnation, turn) = match speaker {
            Speaker::Sweeper(id) => (id, String::new(), ""),
            Speaker::Node { at, turn, one_server, .. } => {
                if one_server {
                    keys.push(keys::record(&at.id));
                }
                (&at.id, keys::digits(at.incarnation), turn)
            }
        };
        let mut command = scripts::run(script, &keys);
        command.arg(node.as_str()).arg(incarnation).arg(turn);
        command
    }

    /// A session is there, and in a room where one is named. `seats`: how many users the room takes, 0 = no limit;
    /// `None`: no question.
    pub(super) fn enter(
        &mut self,
        session: &str,
        arrival: &Arrival,
        room: Option<&RoomId>,
        seats: Option<u32>,
        turn: &str,
    ) {
        let user = &arrival.user;
        let connected_at = arrival.connected_at.to_string();
        self.tell_node("enter", session, user.as_str(), room, true);
        self.tell_user("enter", session, user, turn, &connected_at, room);
        if let Some(room) = room {
            let metadata = serde_json::to_string(&arrival.metadata).unwrap_or_default();
            let seats = seats.map(|seats| seats.to_string()).unwrap_or_default();
            let details = [seats.as_str(), &connected_at, &arrival.user_name, &metadata];
            let number = self.enters;
            self.tell_room(room, Some(number), "enter", session, user, turn, details);
        }
        self.enters += 1;
        self.len += 1;
    }

    /// A session has left a room, unless it was written in a later turn.
    pub(super) fn exit(&mut self, session: &str, user: &UserId, room: &RoomId, turn: &str) {
        self.tell_node("exit", session, user.as_str(), Some(room), false);
        self.tell_user("exit", session, user, turn, "", Some(room));
        self.leave_room(session, user, room, turn);
    }

    /// A session has ended, which was in these rooms, unless it was written in a later turn.
    pub(super) fn end(&mut self, session: &str, user: &UserId, rooms: &[RoomId], turn: &str) {
        self.forget(session);
        self.tell_user("end", session, user, turn, "", None);
        for room in rooms {
            self.leave_room(session, user, room, turn);
        }
    }

    /// A session has ended of which nothing is known.
    pub(super) fn forget(&mut self, session: &str) {
        self.tell_node("end", session, "", None, false);
        self.len += 1;
    }

    fn leave_room(&mut self, session: &str, user: &UserId, room: &RoomId, turn: &str) {
        self.tell_room(room, None, "exit", session, user, turn, [""; 4]);
        self.len += 1;
    }

    fn tell_node(&mut self, kind: &str, session: &str, user: &str, room: Option<&RoomId>, comes: bool) {
        self.goes |= !comes;
        let commands = [self.intents.as_mut().filter(|_| comes), self.settlement.as_mut()];
        for command in commands.into_iter().flatten() {
            command.arg(&[kind, session, user, room.map_or("", RoomId::as_str)]);
        }
    }

    fn tell_user(
        &mut self,
        kind: &str,
        session: &str,
        user: &UserId,
        turn: &str,
        connected_at: &str,
        room: Option<&RoomId>,
    ) {
        let number = keys::bucket_of(user);
        let command = self
            .users
            .entry(number)
            .or_insert_with(|| Self::script(self.speaker, &SCRIPTS.user, vec![keys::bucket(number)]));
        command.arg(&[kind, user.as_str(), session, turn, connected_at, room.map_or("", RoomId::as_str)]);
    }

    // One argument for each of the operation's: a record of them would only name them twice.
    #[allow(clippy::too_many_arguments)]
    fn tell_room(
        &mut self,
        room: &RoomId,
        enter: Option<usize>,
        kind: &str,
        session: &str,
        user: &UserId,
        turn: &str,
        details: [&str; 4],
    ) {
        if !self.rooms.contains_key(room) {
            let keys = vec![keys::users(room), keys::order(room)];
            let mut command = Self::script(self.speaker, &SCRIPTS.room, keys);
            command.arg(&self.now);
            self.rooms.insert(room.clone(), Operations { command, enters: Vec::new() });
        }
        if let Some(operations) = self.rooms.get_mut(room) {
            operations.command.arg(&[kind, user.as_str(), session, turn]).arg(&details);
            operations.enters.extend(enter);
        }
    }

    /// The commands, in three stages; and how their answers are to be read.
    pub(super) fn into_stages(self) -> ([Vec<Cmd>; 3], Reading) {
        let users = self.users.len();
        let (rooms, enters_of): (Vec<Cmd>, Vec<_>) =
            self.rooms.into_values().map(|room| (room.command, room.enters)).unzip();
        let settlement = self.settlement.filter(|_| self.goes);
        let reading = Reading { asked: self.intents.is_some(), users, enters_of, enters: self.enters };
        let effects = self.users.into_values().chain(rooms).collect();
        ([self.intents.into_iter().collect(), effects, settlement.into_iter().collect()], reading)
    }
}

/// How the answers to a batch are read.
pub(super) struct Reading {
    asked: bool,
    users: usize,
    enters_of: Vec<Vec<usize>>,
    enters: usize,
}

impl Reading {
    /// What became of the batch. Stages that were not sent have no answers.
    pub(super) fn read(self, stages: Vec<Vec<Value>>) -> Result<Outcome, PresenceError> {
        let mut stages = stages.into_iter();
        let intents = stages.next().unwrap_or_default();
        let mut outcome =
            Outcome { standing: Standing::Held, made: Vec::new(), full: vec![false; self.enters] };
        if self.asked {
            let (standing, words) = read_words(intents.first().unwrap_or(&Value::Nil))?;
            outcome.standing = standing;
            outcome.made = words.iter().map(|word| word == "1").collect();
        }
        let effects = stages.next().unwrap_or_default();
        for (place, answer) in effects.iter().enumerate() {
            let (standing, words) = read_words(answer)?;
            if standing != Standing::Held && outcome.standing == Standing::Held {
                // A later word came between the scripts of this batch.
                outcome.standing = standing;
            }
            let enters = place.checked_sub(self.users).and_then(|room| self.enters_of.get(room));
            for (enter, word) in enters.into_iter().flatten().zip(words) {
                outcome.full[*enter] = word == "full";
            }
        }
        Ok(outcome)
    }
}

/// What a script answered: a standing, then words.
pub(super) fn read_words(answer: &Value) -> Result<(Standing, Vec<String>), PresenceError> {
    let mut words: Vec<String> = redis::from_redis_value_ref(answer).map_err(unexpected)?;
    let standing = match words.first().map(String::as_str) {
        Some("held") => Standing::Held,
        Some("fenced") => Standing::Fenced,
        Some("late") => Standing::Late,
        Some("unknown") => Standing::Unknown,
        other => return Err(PresenceError(format!("a script answered {other:?}"))),
    };
    words.remove(0);
    Ok((standing, words))
}

/// An answer that is not what a script or command gives.
pub(super) fn unexpected(error: redis::ParsingError) -> PresenceError {
    PresenceError(format!("an answer cannot be read: {error}"))
}
