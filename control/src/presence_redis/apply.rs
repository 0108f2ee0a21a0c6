//! A node's changes, carried out in one round trip; more where a room is full.
//!
//! Owns: the verdicts, and that a session which got no seat leaves no trace.

use std::collections::{HashMap, HashSet};

use ringcast_proto::{RoomId, SessionId, UserId};
use tokio::time::Instant;

use super::batch::{Batch, Speaker, Standing};
use super::{PresenceRedis, keys, overtaken};
use crate::presence::Arrival;
use crate::presence_store::{Change, NodeAt, PresenceError, Verdict};

/// What is to be carried out.
struct Asked<'a> {
    at: &'a NodeAt,
    turn: &'a str,
    speaker: Speaker<'a>,
    changes: &'a [Change],
    now_unix_s: i64,
    until: Instant,
}

impl<'a> Asked<'a> {
    fn batch(&self) -> Batch<'a> {
        Batch::new(self.speaker, self.now_unix_s)
    }

    fn name(&self, session: SessionId) -> String {
        keys::session(self.at.incarnation, session)
    }

    fn put(&self, change: &Change, batch: &mut Batch<'_>) {
        match change {
            Change::Enter { arrival, room, max_users } => {
                batch.enter(&self.name(arrival.session), arrival, Some(room), *max_users, self.turn);
            }
            Change::Exit { session, user, room } => {
                batch.exit(&self.name(*session), user, room, self.turn);
            }
            Change::End { session, user, rooms } => {
                batch.end(&self.name(*session), user, rooms, self.turn);
            }
        }
    }

    /// The places of those who enter.
    fn enters(&self) -> impl Iterator<Item = usize> {
        let enters = |place: &usize| matches!(self.changes[*place], Change::Enter { .. });
        (0..self.changes.len()).filter(enters)
    }

    fn enter(&self, place: usize) -> Option<(&'a Arrival, &'a RoomId)> {
        match &self.changes[place] {
            Change::Enter { arrival, room, .. } => Some((arrival, room)),
            _ => None,
        }
    }

    /// Whether nothing more is said of the session of a change.
    fn is_last_word(&self, place: usize) -> bool {
        let own = session_of(&self.changes[place]);
        self.changes[place + 1..].iter().all(|later| session_of(later) != own)
    }
}

fn session_of(change: &Change) -> SessionId {
    match change {
        Change::Enter { arrival, .. } => arrival.session,
        Change::Exit { session, .. } | Change::End { session, .. } => *session,
    }
}

impl PresenceRedis {
    pub(super) async fn carry_out(
        &self,
        at: &NodeAt,
        changes: &[Change],
        now_unix_s: i64,
    ) -> Result<Vec<Verdict>, PresenceError> {
        let turn = self.turn(at.link);
        let speaker = self.node(at, &turn, false);
        let asked = Asked { at, turn: &turn, speaker, changes, now_unix_s, until: self.redis.deadline() };
        let mut batch = asked.batch();
        for change in changes {
            asked.put(change, &mut batch);
        }
        let outcome = self.run(batch, asked.until).await?;
        match outcome.standing {
            Standing::Held => {}
            Standing::Fenced => return Ok(vec![Verdict::Fenced; changes.len()]),
            Standing::Late | Standing::Unknown => return Err(overtaken(&at.id, outcome.standing)),
        }
        let mut verdicts = vec![Verdict::Done; changes.len()];
        let full: Vec<usize> =
            asked.enters().zip(&outcome.full).filter(|(_, full)| **full).map(|(place, _)| place).collect();
        if full.is_empty() {
            return Ok(verdicts);
        }
        for place in &full {
            verdicts[*place] = Verdict::Full;
        }
        for place in self.try_again(&asked, &full).await? {
            verdicts[place] = Verdict::Done;
        }
        if verdicts.contains(&Verdict::Full) {
            let made = asked.enters().zip(&outcome.made).filter(|(_, made)| **made);
            let made = made.map(|(place, _)| session_of(&changes[place])).collect();
            self.take_back_full(&asked, &verdicts, &made).await?;
        }
        Ok(verdicts)
    }

    /// Lets those in who found a room full, where something dead was in it. Returns their places.
    async fn try_again(&self, asked: &Asked<'_>, full: &[usize]) -> Result<Vec<usize>, PresenceError> {
        // A session of which more was said after it was refused may not come in after that.
        let again: Vec<usize> = full.iter().copied().filter(|place| asked.is_last_word(*place)).collect();
        let rooms: HashSet<&RoomId> =
            again.iter().filter_map(|place| asked.enter(*place)).map(|(_, room)| room).collect();
        let rooms: Vec<&RoomId> = rooms.into_iter().collect();
        if !self.purge(&rooms, asked.until).await? {
            return Ok(Vec::new());
        }
        let mut batch = asked.batch();
        for place in &again {
            asked.put(&asked.changes[*place], &mut batch);
        }
        let outcome = self.run(batch, asked.until).await?;
        if outcome.standing != Standing::Held {
            return Err(overtaken(&asked.at.id, outcome.standing));
        }
        let entries = again.into_iter().zip(outcome.full);
        Ok(entries.filter(|(_, full)| !full).map(|(place, _)| place).collect())
    }

    /// Takes back, at node and user, sessions that got no seat, or their rooms where they are there otherwise.
    async fn take_back_full(
        &self,
        asked: &Asked<'_>,
        verdicts: &[Verdict],
        made: &HashSet<SessionId>,
    ) -> Result<(), PresenceError> {
        // Of what was said of a session and a room the last word counts.
        let mut last: HashMap<(SessionId, &RoomId), (Verdict, &UserId)> = HashMap::new();
        let mut inside: HashSet<SessionId> = HashSet::new();
        for place in asked.enters() {
            let Some((arrival, room)) = asked.enter(place) else { continue };
            last.insert((arrival.session, room), (verdicts[place], &arrival.user));
            if verdicts[place] == Verdict::Done {
                inside.insert(arrival.session);
            }
        }
        let mut batch = asked.batch();
        for ((id, room), (_, user)) in last.into_iter().filter(|(_, (verdict, _))| *verdict == Verdict::Full)
        {
            if made.contains(&id) && !inside.contains(&id) {
                batch.end(&asked.name(id), user, &[], asked.turn);
            } else {
                batch.exit(&asked.name(id), user, room, asked.turn);
            }
        }
        self.run(batch, asked.until).await.map(drop)
    }
}
