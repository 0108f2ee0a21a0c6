//! Who is in a room, for the clients in it that ask: what the controller says, asked once for all who ask at a time and
//! kept for a moment.
//!
//! Owns: the questions that are open, the answers that are kept, both bounded. Must not: ask for a room that the asker is
//! not in (the core names the room). Talks to: `hub`, which brings questions, `control_link` (the connection to the
//! controller), `bridge` (the lanes by which answers go back).

use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use connect_core::command::{Member, members_text};
use hashbrown::HashMap;
use prometheus::IntCounter;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::{GetRoomInfoRequest, GetRoomInfoResponse};
use ringcast_proto::{RoomId, SessionId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::bridge::{ToShard, ToShardLane};
use crate::clock::unix_micros;

/// Questions that may wait for this task. Further ones are not answered; a client asks again.
const MAX_WAITING: usize = 4096;

/// Rooms that are asked for at a time. Clients of further ones are told to ask again.
const MAX_ASKED: usize = 64;

/// Members that are told of.
const MAX_MEMBERS: u32 = 100;

/// For how long an answer is good.
const KEPT: Duration = Duration::from_secs(1);

/// Answers that are kept; beyond, the old ones are let go of.
const MAX_KEPT: usize = 1024;

/// How long the controller may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A session asks who is in its room.
pub(crate) type Question = (SessionId, RoomId);

/// Where questions go. Copies share the queue.
#[derive(Debug, Clone)]
pub(crate) struct MemberQuestions {
    queue: mpsc::Sender<Question>,
    unanswered: IntCounter,
}

impl MemberQuestions {
    /// Hands a question on; where too many wait it is dropped, and the client asks again.
    pub(crate) fn ask(&self, question: Question) {
        if self.queue.try_send(question).is_err() {
            self.unanswered.inc();
        }
    }
}

/// The queue of questions, and the end that answers them.
pub(crate) fn questions(unanswered: IntCounter) -> (MemberQuestions, mpsc::Receiver<Question>) {
    let (queue, receiver) = mpsc::channel(MAX_WAITING);
    (MemberQuestions { queue, unanswered }, receiver)
}

/// Answers questions until nobody can ask any more.
pub(crate) async fn answer(
    mut questions: mpsc::Receiver<Question>,
    controller: watch::Receiver<Option<Channel>>,
    shards: Vec<Arc<ToShardLane>>,
    unanswered: IntCounter,
) {
    let mut kept: HashMap<RoomId, (Instant, Bytes), RandomState> = HashMap::default();
    let mut open: HashMap<RoomId, Vec<SessionId>, RandomState> = HashMap::default();
    let mut asked = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.recv() => {
                let Some((session, room)) = question else { return };
                let fresh = kept.get(&room).filter(|(since, _)| since.elapsed() < KEPT);
                if let Some((_, frame)) = fresh {
                    tell(&shards, session, frame.clone());
                } else if let Some(waiting) = open.get_mut(&room) {
                    match waiting.len() < MAX_WAITING {
                        true => waiting.push(session),
                        false => unanswered.inc(),
                    }
                } else if let Some(channel) = controller.borrow().clone().filter(|_| open.len() < MAX_ASKED) {
                    open.insert(room.clone(), vec![session]);
                    asked.spawn(async move {
                        let said = timeout(PATIENCE, ask(channel, &room)).await;
                        (room, said.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))))
                    });
                } else {
                    tell(&shards, session, members_text(room.as_str(), unix_micros() / 1000, None));
                }
            }
            Some(Ok((room, said))) = asked.join_next() => {
                let frame = frame(&room, said);
                for session in open.remove(&room).unwrap_or_default() {
                    tell(&shards, session, frame.clone());
                }
                if kept.len() >= MAX_KEPT {
                    kept.retain(|_, (since, _)| since.elapsed() < KEPT);
                }
                if kept.len() < MAX_KEPT {
                    kept.insert(room, (Instant::now(), frame));
                }
            }
        }
    }
}

async fn ask(controller: Channel, room: &RoomId) -> Result<GetRoomInfoResponse, Status> {
    let mut controller = ControllerServiceClient::new(controller);
    let request = GetRoomInfoRequest {
        room_id: room.as_str().to_owned(),
        page_size: MAX_MEMBERS,
        ..Default::default()
    };
    Ok(controller.get_room_info(request).await?.into_inner())
}

fn frame(room: &RoomId, said: Result<GetRoomInfoResponse, Status>) -> Bytes {
    let said = said.inspect_err(|status| tracing::debug!(%status, "the controller does not tell of a room"));
    let users = said.as_ref().ok().map(|said| {
        let users = said.room_info.iter().flat_map(|info| &info.users);
        let members: Vec<Member<'_>> =
            users.map(|user| Member { user_id: &user.user_id, user_name: &user.user_name }).collect();
        (members, !said.next_page_token.is_empty())
    });
    members_text(
        room.as_str(),
        unix_micros() / 1000,
        users.as_ref().map(|(members, more)| (&members[..], *more)),
    )
}

fn tell(shards: &[Arc<ToShardLane>], session: SessionId, frame: Bytes) {
    if let Some(shard) = shards.get(usize::from(session.shard().0)) {
        let taken = shard.push(ToShard::Reply { session, frame });
        debug_assert!(taken.is_ok(), "a lane refuses deliveries only");
    }
}
