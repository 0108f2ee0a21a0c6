//! The lane, one rule a test.

use std::collections::HashMap;

use ringcast_proto::NodeId;

use super::*;

fn lane(begun: bool) -> Lane {
    Lane::new(NodeAt { id: NodeId::new("n").unwrap(), incarnation: 1, link: 1 }, begun)
}

/// A lane whose store holds what memory holds.
fn clean() -> Lane {
    let mut lane = lane(true);
    lane.snapshot_is_whole();
    assert_eq!(lane.next(), Work::Sync);
    lane.synced();
    assert!(lane.is_clean());
    lane
}

fn session(id: u64) -> SessionId {
    SessionId::from_u64(id)
}

fn user(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

fn room(id: &str) -> RoomId {
    RoomId::new(id).unwrap()
}

fn arrival(id: u64, user: &str) -> Arrival {
    Arrival {
        session: session(id),
        user: UserId::new(user).unwrap(),
        user_name: String::new(),
        metadata: HashMap::new(),
        connected_at: 0,
    }
}

fn ask(lane: &mut Lane, id: u64) {
    assert!(lane.ask(arrival(id, "u"), room("r"), 1, Instant::now()));
}

fn batch(lane: &mut Lane) -> Vec<Change> {
    match lane.next() {
        Work::Apply(changes) => changes,
        other => panic!("{other:?} instead of a batch"),
    }
}

fn ended(id: u64, rooms: &[&str]) -> Change {
    Change::End { session: session(id), user: user("u"), rooms: rooms.iter().map(|id| room(id)).collect() }
}

#[test]
fn a_link_begins_then_syncs_when_its_snapshot_is_whole() {
    let mut lane = lane(false);
    assert_eq!(lane.next(), Work::Begin);
    lane.begun();
    assert_eq!(lane.next(), Work::Idle, "nothing can be synchronised before the snapshot");
    lane.snapshot_is_whole();
    assert_eq!(lane.next(), Work::Sync);
    assert!(!lane.is_clean());
    assert!(lane.tell(ended(1, &["r"])));
    lane.synced();
    assert_eq!(
        batch(&mut lane),
        [ended(1, &["r"])],
        "what happened during the synchronisation is told after it"
    );
}

#[test]
fn a_join_is_decided_by_its_verdict() {
    let mut lane = clean();
    ask(&mut lane, 1);
    ask(&mut lane, 2);
    let changes = batch(&mut lane);
    let decided = lane.applied(changes, &[Verdict::Done, Verdict::Full]).unwrap();
    assert!(matches!(&decided[0], Decided::Joined { arrival, .. } if arrival.session == session(1)));
    assert!(matches!(&decided[1], Decided::JoinFull { session: full } if *full == session(2)));
    assert!(!lane.is_asked(session(1)) && !lane.is_asked(session(2)));
    assert_eq!(lane.next(), Work::Idle);
}

#[test]
fn a_join_whose_session_ends_meanwhile_is_taken_back_and_not_decided() {
    let mut lane = clean();
    ask(&mut lane, 1);
    let changes = batch(&mut lane);
    assert!(lane.end(session(1), None));
    assert!(lane.applied(changes, &[Verdict::Done]).unwrap().is_empty());
    assert_eq!(batch(&mut lane), [ended(1, &["r"])]);
}

#[test]
fn a_join_that_is_asked_again_with_the_same_id_is_decided_for_the_later_one_only() {
    let mut lane = clean();
    ask(&mut lane, 1);
    assert!(lane.end(session(1), None));
    ask(&mut lane, 1);
    let changes = batch(&mut lane);
    assert_eq!(changes.len(), 3);
    let decided = lane.applied(changes, &[Verdict::Done; 3]).unwrap();
    assert_eq!(decided.len(), 1, "{decided:?}");
}

#[test]
fn a_lost_link_takes_its_joins_back_without_ending_live_sessions() {
    let mut lane = clean();
    ask(&mut lane, 1);
    ask(&mut lane, 2);
    let changes = batch(&mut lane);
    assert!(lane.withdraw_all(|id| id == session(2)));
    assert!(lane.applied(changes, &[Verdict::Done; 2]).unwrap().is_empty());
    let back = batch(&mut lane);
    assert!(back.contains(&ended(1, &["r"])), "{back:?}");
    assert!(
        back.contains(&Change::Exit { session: session(2), user: user("u"), room: room("r") }),
        "{back:?}"
    );
}

#[test]
fn a_live_session_ends_with_its_rooms_and_the_one_that_it_asked_for() {
    let mut lane = clean();
    ask(&mut lane, 1);
    let _ = batch(&mut lane);
    assert!(lane.end(session(1), Some((user("u"), vec![room("x")]))));
    lane.in_flight.clear();
    assert_eq!(batch(&mut lane), [ended(1, &["x", "r"])]);
}

#[test]
fn what_goes_wrong_lets_the_joins_go_and_synchronises_anew() {
    let mut lane = clean();
    ask(&mut lane, 1);
    let _ = batch(&mut lane);
    ask(&mut lane, 2);
    let mut let_go = lane.spoil();
    let_go.sort_unstable();
    assert_eq!(let_go, [session(1), session(2)]);
    assert!(!lane.is_known());
    assert!(lane.end(session(3), Some((user("u"), vec![room("r")]))));
    assert_eq!(
        lane.queued(),
        0,
        "a dirty lane keeps nothing: memory is what the store will be made equal to"
    );
    assert_eq!(lane.next(), Work::Begin);
    lane.begun();
    assert_eq!(lane.next(), Work::Sync);
    assert!(lane.applied(Vec::new(), &[]).unwrap().is_empty(), "a late verdict decides nothing");
    lane.synced();
    assert!(lane.is_clean());
}

#[test]
fn a_lane_that_is_spoiled_while_it_is_synchronised_begins_anew() {
    let mut lane = lane(true);
    lane.snapshot_is_whole();
    assert_eq!(lane.next(), Work::Sync);
    assert!(lane.spoil().is_empty());
    lane.synced();
    assert!(!lane.is_clean(), "what was synchronised is lost");
    assert_eq!(lane.next(), Work::Begin);
}

#[test]
fn a_fenced_verdict_or_a_missing_one_decides_nothing() {
    for verdicts in [&[Verdict::Fenced][..], &[]] {
        let mut lane = clean();
        ask(&mut lane, 1);
        let changes = batch(&mut lane);
        assert!(lane.applied(changes, verdicts).is_none());
        assert_eq!(lane.spoil(), [session(1)]);
    }
}

#[test]
fn a_fenced_lane_does_nothing_any_more_not_even_remove_the_node() {
    let mut lane = clean();
    ask(&mut lane, 1);
    assert_eq!(lane.fence(), [session(1)]);
    assert!(lane.spoil().is_empty());
    assert_eq!(lane.next(), Work::Over);
    lane.leave(record());
    assert_eq!(lane.next(), Work::Over);
}

#[test]
fn a_node_that_is_gone_is_taken_out_until_that_is_done() {
    let mut lane = clean();
    ask(&mut lane, 1);
    lane.leave(record());
    assert_eq!(lane.next(), Work::Remove(Box::new(record())));
    assert!(lane.spoil().is_empty());
    assert_eq!(lane.next(), Work::Remove(Box::new(record())), "a failure is tried again");
    lane.removed();
    assert_eq!(lane.next(), Work::Over);
}

#[test]
fn a_batch_and_the_queue_have_their_bounds() {
    let mut lane = clean();
    for id in 0..MAX_QUEUED as u64 {
        assert_eq!(lane.takes_joins(), (id as usize) < MAX_QUEUED / 2, "{id}");
        assert!(lane.tell(ended(id, &[])));
    }
    assert!(!lane.tell(ended(0, &[])), "nothing bounds the queue");
    assert_eq!(batch(&mut lane).len(), MAX_BATCH);
    assert_eq!(lane.queued(), MAX_QUEUED);
}

fn record() -> NodeRecord {
    let card = crate::presence::NodeCard {
        id: NodeId::new("n").unwrap(),
        incarnation: 1,
        grpc_address: String::new(),
        public_ws_url: String::new(),
        capacity: 0,
        version: String::new(),
        driver: String::new(),
    };
    NodeRecord {
        card,
        link: 1,
        controller: "c".into(),
        whole: true,
        linked: false,
        draining: false,
        connections: 0,
        sessions: 0,
    }
}

#[test]
fn a_session_that_ends_takes_back_the_seats_it_asked_for() {
    let mut lane = clean();
    let ask = |lane: &mut Lane, id: u64, into: &str| {
        let (reply, _) = oneshot::channel();
        assert!(lane.ask_seat(arrival(id, "u"), room(into), 1, reply));
    };
    ask(&mut lane, 1, "x");
    ask(&mut lane, 2, "y");
    let changes = batch(&mut lane);
    assert!(lane.end(session(1), Some((user("u"), vec![room("r")]))));
    // A node forgets a session with the word that ends it: no other word would find this room any more.
    let decided = lane.applied(changes, &[Verdict::Done; 2]).unwrap();
    assert_eq!(decided.len(), 2);
    assert_eq!(batch(&mut lane), [ended(1, &["r", "x"])]);
    assert!(lane.applied(vec![ended(1, &["r", "x"])], &[Verdict::Done]).unwrap().is_empty());
    assert!(lane.end(session(2), Some((user("u"), vec![room("r"), room("y")]))));
    assert_eq!(batch(&mut lane), [ended(2, &["r", "y"])], "what was decided is in memory");
}
