//! A node's sessions, made equal to what its controller knows.
//!
//! Owns: the difference, found by what the node's own list names, which is never less than what rooms and users hold.

use std::collections::HashMap;

use ringcast_proto::{RoomId, SessionId, UserId};

use super::batch::{Batch, Standing};
use super::records::{self, Written};
use super::sweep::Held;
use super::{CHUNK, PresenceRedis, keys, overtaken};
use crate::presence::Arrival;
use crate::presence_store::{NodeAt, PresenceError, Verdict};

/// What is to be done.
enum Step<'a> {
    End(&'a Held),
    Exit(&'a Held, &'a UserId, &'a RoomId),
    Enter(&'a Arrival, Option<&'a RoomId>),
}

impl PresenceRedis {
    pub(super) async fn make_equal(
        &self,
        at: &NodeAt,
        sessions: &[(Arrival, Vec<RoomId>)],
        now_unix_s: i64,
    ) -> Result<Verdict, PresenceError> {
        let turn = self.turn(at.link);
        self.redis.send(vec![records::name(&at.id)], self.redis.deadline()).await?;
        // The turn is told before anything is read: words that are on their way come too late from now on.
        if let Some(verdict) = self.take_steps(at, &turn, &[], now_unix_s).await? {
            return Ok(verdict);
        }
        let held = self.held_by(&at.id).await?;
        let steps = difference(at, &held, sessions);
        for part in steps.chunks(CHUNK) {
            if let Some(verdict) = self.take_steps(at, &turn, part, now_unix_s).await? {
                return Ok(verdict);
            }
        }
        let synced = records::write_synced(&at.id, at.incarnation, &turn);
        let answer = self.redis.send(vec![synced], self.redis.deadline()).await?.pop().unwrap_or_default();
        match records::read_written(answer)? {
            Written::Done | Written::Made => Ok(Verdict::Done),
            Written::Fenced => Ok(Verdict::Fenced),
            Written::Late => Err(overtaken(&at.id, Standing::Late)),
        }
    }

    /// `Some`: there is no use in going on.
    async fn take_steps(
        &self,
        at: &NodeAt,
        turn: &str,
        steps: &[Step<'_>],
        now_unix_s: i64,
    ) -> Result<Option<Verdict>, PresenceError> {
        let mut batch = Batch::new(self.node(at, turn, true), now_unix_s);
        for step in steps {
            match step {
                Step::End(held) => {
                    // A former incarnation counted its links by itself.
                    let until = if held.incarnation < at.incarnation { keys::LAST_TURN } else { turn };
                    match &held.user {
                        Some(user) => batch.end(&held.name, user, &held.rooms, until),
                        None => batch.forget(&held.name),
                    }
                }
                Step::Exit(held, user, room) => batch.exit(&held.name, user, room, turn),
                Step::Enter(arrival, room) => {
                    let session = keys::session(at.incarnation, arrival.session);
                    batch.enter(&session, arrival, *room, None, turn);
                }
            }
        }
        let outcome = self.run(batch, self.redis.deadline()).await?;
        match outcome.standing {
            Standing::Held => Ok(None),
            Standing::Fenced => Ok(Some(Verdict::Fenced)),
            Standing::Late | Standing::Unknown => Err(overtaken(&at.id, outcome.standing)),
        }
    }
}

/// What has to be done to what is held, that it be the sessions that are told. Those are all written anew, so that
/// what was written before can be told from them.
fn difference<'a>(at: &NodeAt, held: &'a [Held], sessions: &'a [(Arrival, Vec<RoomId>)]) -> Vec<Step<'a>> {
    let told: HashMap<SessionId, (&UserId, &Vec<RoomId>)> =
        sessions.iter().map(|(arrival, rooms)| (arrival.session, (&arrival.user, rooms))).collect();
    let mut steps = Vec::new();
    for held in held.iter().filter(|held| held.incarnation <= at.incarnation) {
        let same = told.get(&held.session).filter(|_| held.incarnation == at.incarnation);
        match same.filter(|(user, _)| held.user.as_ref() == Some(user)) {
            None => steps.push(Step::End(held)),
            Some((user, rooms)) => {
                let left = held.rooms.iter().filter(|room| !rooms.contains(room));
                steps.extend(left.map(|room| Step::Exit(held, user, room)));
            }
        }
    }
    for (arrival, rooms) in sessions {
        match rooms.as_slice() {
            [] => steps.push(Step::Enter(arrival, None)),
            rooms => steps.extend(rooms.iter().map(|room| Step::Enter(arrival, Some(room)))),
        }
    }
    steps
}
