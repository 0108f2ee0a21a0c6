//! Hands on what the shards say: reports to the push managers, joins and ends to the controller, rooms and users
//! to the interest.
//!
//! Owns: the reading end of every shard's lane. Must not: wait for anyone it hands on to. Talks to: `bridge`,
//! `push_intake`, `control_link`, `interest`, `drain`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use connect_core::{ControlEvent, Report};
use tokio::sync::watch;

use crate::bridge::{AsyncBridgeEnd, FromShard};
use crate::control_link::ControlLink;
use crate::http::NodeStatus;
use crate::interest::Interest;
use crate::lane::KEPT_ITEMS;
use crate::members::MemberQuestions;
use crate::push_intake::PushIntake;

/// What a shard says before others have their turn.
const ITEMS_A_TURN: usize = 256;

/// Where the words of the shards go. Copies share all state.
#[derive(Clone)]
pub(crate) struct Hub {
    intake: PushIntake,
    link: ControlLink,
    status: Arc<NodeStatus>,
    interest: Interest,
    members: MemberQuestions,
    drained: Arc<watch::Sender<usize>>,
}

impl Hub {
    /// A hub that hands on to these.
    pub(crate) fn new(
        intake: PushIntake,
        link: ControlLink,
        status: Arc<NodeStatus>,
        interest: Interest,
        members: MemberQuestions,
    ) -> Self {
        let drained = Arc::new(watch::Sender::new(0));
        Self { intake, link, status, interest, members, drained }
    }

    /// How many shards have ended their drain.
    pub(crate) fn drained(&self) -> watch::Receiver<usize> {
        self.drained.subscribe()
    }

    /// Reads a shard's lane for ever.
    pub(crate) async fn listen(self, shard: usize, mut end: AsyncBridgeEnd) -> io::Result<()> {
        let mut batch = VecDeque::new();
        let (mut reports, mut events) = (Vec::new(), Vec::new());
        let mut taken = 0;
        loop {
            end.next_batch(&mut batch).await?;
            taken += batch.len();
            self.sort(shard, &mut batch, &mut reports, &mut events);
            if !reports.is_empty() {
                self.intake.report(shard, reports.drain(..));
            }
            if !events.is_empty() {
                self.link.events(shard, events.drain(..));
            }
            reports.shrink_to(KEPT_ITEMS);
            events.shrink_to(KEPT_ITEMS);
            // A shard that never pauses must not keep the others and the streams from their turn. Each time would
            // cost a look into epoll.
            if taken > ITEMS_A_TURN {
                taken = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    fn sort(
        &self,
        shard: usize,
        batch: &mut VecDeque<FromShard>,
        reports: &mut Vec<Report>,
        events: &mut Vec<ControlEvent>,
    ) {
        let mut told_census = false;
        for item in batch.drain(..) {
            match item {
                FromShard::Report(report) => reports.push(report),
                FromShard::Control(event) => {
                    self.note(&event);
                    events.push(event);
                }
                FromShard::Members(session, room) => self.members.ask((session, room)),
                FromShard::Census(change) => {
                    self.interest.changed(shard, &change);
                    told_census = true;
                }
                FromShard::Mark => {
                    self.interest.marked(shard);
                    self.link.mark(shard);
                }
                FromShard::Drained => self.drained.send_modify(|drained| *drained += 1),
            }
        }
        if told_census {
            let (users, rooms) = self.interest.counts();
            self.status.set_census(users, rooms);
        }
    }

    /// A join has to be known before its answer comes.
    fn note(&self, event: &ControlEvent) {
        match event {
            ControlEvent::Join { session, probe: false, .. } => {
                self.interest.asked(session.session, &session.user, session.rooms.first());
            }
            ControlEvent::End { session } => self.interest.ended(*session),
            _ => {}
        }
    }
}
