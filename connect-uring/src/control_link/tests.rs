use super::*;
use crate::bridge::FromShard;
use crate::fake_shards::{FakeNode, FakeShard, PATIENCE, session};
use connect_core::{CensusChange, SessionInfo, Target};
use registry::{Directory, Lease};
use ringcast_proto::UserId;
use ringcast_proto::pubsub::node_link_service_server::{NodeLinkService, NodeLinkServiceServer};
use ringcast_proto::pubsub::node_message::Message as Said;
use ringcast_proto::pubsub::session_event::Event;
use ringcast_proto::pubsub::{
    BatchTaken, ControllerHeartbeat, JoinAnswer, NodeRegistered, SessionBatch, SessionRooms,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response};

type Answers = mpsc::Sender<Result<ControllerMessage, Status>>;

/// A link, as the fake controller has it.
struct Link {
    inbound: Streaming<NodeMessage>,
    answers: Answers,
}

/// A controller that hands every link to the test.
struct FakeController {
    links: mpsc::Sender<Link>,
}

#[tonic::async_trait]
impl NodeLinkService for FakeController {
    type LinkStream = ReceiverStream<Result<ControllerMessage, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (answers, outgoing) = mpsc::channel(64);
        let link = Link { inbound: request.into_inner(), answers };
        self.links.send(link).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

async fn controller() -> (String, mpsc::Receiver<Link>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, links) = mpsc::channel(4);
    let service = NodeLinkServiceServer::new(FakeController { links: sender });
    let server = ringcast_proto::limited_server().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, links)
}

impl Link {
    /// What the node says next, heartbeats left out; `None` at the end.
    async fn next(&mut self) -> Option<Said> {
        loop {
            let message = timeout(PATIENCE, self.inbound.message()).await.expect("the node says nothing");
            match message.unwrap()?.message {
                Some(Said::Heartbeat(_)) => {}
                message => return message,
            }
        }
    }

    async fn batch(&mut self) -> SessionBatch {
        match self.next().await {
            Some(Said::Batch(batch)) => batch,
            other => panic!("no batch but {other:?}"),
        }
    }

    async fn answer(&self, message: Message) {
        self.answers.send(Ok(ControllerMessage { message: Some(message) })).await.unwrap();
    }

    async fn take(&self, number: u64) {
        self.answer(Message::BatchTaken(BatchTaken { number })).await;
    }

    /// The next link, up to its registration and the shards' being asked.
    async fn accept(links: &mut mpsc::Receiver<Self>, shards: &mut [FakeShard]) -> Self {
        let mut link = timeout(PATIENCE, links.recv()).await.expect("no link").unwrap();
        link.register(shards).await;
        link
    }

    /// Reads the registration and answers it; gives the link's number.
    async fn register(&mut self, shards: &mut [FakeShard]) -> u64 {
        let number = match self.next().await {
            Some(Said::Register(register)) => {
                assert_eq!(register.node_id, "node-1");
                register.link
            }
            other => panic!("no registration but {other:?}"),
        };
        let registered = NodeRegistered { controller_id: "controller".to_owned(), lease_ms: 10_000 };
        self.answer(Message::Registered(registered)).await;
        for shard in shards {
            assert!(matches!(shard.next().await, ToShard::ControllerReachable(true)));
            assert!(matches!(shard.next().await, ToShard::Snapshot));
        }
        number
    }

    /// Reads snapshot parts up to the last; gives the sessions' ids in order.
    async fn snapshot(&mut self) -> Vec<u64> {
        let mut sessions = Vec::new();
        loop {
            match self.next().await {
                Some(Said::Snapshot(part)) => {
                    sessions.extend(part.sessions.iter().map(|session| session.session_id));
                    if part.last {
                        sessions.sort_unstable();
                        return sessions;
                    }
                }
                other => panic!("no snapshot but {other:?}"),
            }
        }
    }
}

fn info(shard: u16, slot: u32) -> SessionInfo {
    SessionInfo {
        session: session(shard, slot),
        user: UserId::new(&format!("user-{shard}-{slot}")).unwrap(),
        user_name: "name".to_owned(),
        rooms: vec![RoomId::new("room").unwrap()],
        metadata: vec![("device".to_owned(), "phone".to_owned())],
        connected_unix_ms: 12_000,
    }
}

fn join(shard: u16, slot: u32) -> ControlEvent {
    ControlEvent::Join { session: info(shard, slot), probe: false, traceparent: None }
}

fn snapshot(sessions: Vec<SessionInfo>) -> ControlEvent {
    ControlEvent::Snapshot { sessions, last: true }
}

/// A node of two shards with an empty snapshot behind it.
async fn linked() -> (FakeNode, Link, mpsc::Receiver<Link>) {
    let (address, mut links) = controller().await;
    let mut node = FakeNode::start(2, &address);
    tokio::spawn(node.link.clone().run());
    let mut link = Link::accept(&mut links, &mut node.shards).await;
    for shard in &node.shards {
        shard.say_control([snapshot(Vec::new())]);
    }
    assert!(link.snapshot().await.is_empty());
    (node, link, links)
}

#[tokio::test]
async fn a_join_goes_out_in_a_batch_and_its_answer_reaches_its_shard() {
    let (mut node, mut link, _links) = linked().await;
    node.shards[1].say_control([join(1, 5)]);
    let batch = link.batch().await;
    assert_eq!((batch.number, batch.events.len()), (1, 1));
    let Some(Event::Join(asked)) = &batch.events[0].event else { panic!("no join: {batch:?}") };
    let asked = asked.session.as_ref().unwrap();
    assert_eq!((asked.user_id.as_str(), asked.room_ids.as_slice()), ("user-1-5", &["room".to_owned()][..]));
    assert_eq!((asked.connected_at, asked.metadata["device"].as_str()), (12, "phone"));
    link.take(1).await;
    let decision = pubsub::JoinDecision::RoomFull as i32;
    let answer = JoinAnswer { session_id: asked.session_id, decision, message: String::new() };
    // An answer for a shard that there is not is nobody's.
    let nobody = JoinAnswer { session_id: session(9, 1).as_u64(), ..answer.clone() };
    link.answer(Message::JoinAnswers(JoinAnswers { answers: vec![nobody, answer] })).await;
    match node.shards[1].next().await {
        ToShard::JoinAnswered { session: answered, decision } => {
            assert_eq!((answered, decision), (session(1, 5), JoinDecision::RoomFull));
        }
        other => panic!("no answer but {other:?}"),
    }
    assert!(node.shards[0].told().is_empty());
}

#[tokio::test]
async fn whom_a_shard_is_told_to_let_in_is_pushed_to_from_then_on() {
    let (mut node, mut link, _links) = linked().await;
    node.shards[1].say_control([join(1, 5)]);
    link.batch().await;
    link.take(1).await;
    let targets = [Target::User(info(1, 5).user), Target::Room(info(1, 5).rooms[0].clone())];
    assert!(targets.iter().all(|target| node.shards_for(target).is_empty()));
    let decision = pubsub::JoinDecision::Accepted as i32;
    let answer = JoinAnswer { session_id: session(1, 5).as_u64(), decision, message: String::new() };
    link.answer(Message::JoinAnswers(JoinAnswers { answers: vec![answer] })).await;
    assert!(matches!(node.shards[1].next().await, ToShard::JoinAnswered { .. }));
    assert!(matches!(node.shards[1].next().await, ToShard::Mark), "no mark follows");
    assert!(targets.iter().all(|target| node.shards_for(target) == [1]), "the shard says nothing of it yet");

    // The user came and stays; of the room the shard says nothing, as it does where the session was gone already.
    let came = CensusChange::UserCame(info(1, 5).user);
    node.shards[1].say([FromShard::Census(came), FromShard::Mark]);
    let settled = async {
        while !node.shards_for(&targets[1]).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, settled).await.expect("what is in doubt stays so");
    assert_eq!(node.shards_for(&targets[0]), [1]);
}

#[tokio::test]
async fn unacknowledged_batches_are_few_and_what_waits_shares_one() {
    let (node, mut link, _links) = linked().await;
    for slot in 0..4 {
        node.shards[0].say_control([join(0, slot)]);
        assert_eq!(link.batch().await.number, u64::from(slot) + 1);
    }
    node.shards[0].say_control((4..2000).map(|slot| join(0, slot)));
    // The fifth has to wait for a word on the first.
    link.take(1).await;
    let batch = link.batch().await;
    assert_eq!((batch.number, batch.events.len()), (5, 1024));
    link.take(5).await;
    assert_eq!(link.batch().await.events.len(), 2000 - 4 - 1024);
}

#[tokio::test]
async fn a_new_link_begins_with_a_snapshot_and_events_from_before_it_are_left_out() {
    let (mut node, mut link, mut links) = linked().await;
    node.shards[0].say_control([join(0, 1)]);
    link.batch().await;
    drop(link);
    node.shards[0].say_control([ControlEvent::End { session: session(0, 8) }]);
    let mut link = Link::accept(&mut links, &mut node.shards).await;
    // Said before the shard came to its snapshot, which contains it.
    node.shards[0].say_control([ControlEvent::End { session: session(0, 9) }]);
    let (first, second) = (vec![info(0, 2), info(0, 3)], vec![info(0, 4)]);
    node.shards[0].say_control([
        ControlEvent::Snapshot { sessions: first, last: false },
        snapshot(second),
        join(0, 1),
    ]);
    node.shards[1].say_control([snapshot(vec![info(1, 1)])]);
    let expected =
        [session(0, 2), session(0, 3), session(0, 4), session(1, 1)].map(|session| session.as_u64());
    assert_eq!(link.snapshot().await, expected);
    // The open join came again, as the first event of the first batch.
    let batch = link.batch().await;
    assert_eq!((batch.number, batch.events.len()), (1, 1));
    assert!(matches!(&batch.events[0].event, Some(Event::Join(_))));
}

#[tokio::test]
async fn few_shards_are_asked_for_their_snapshot_at_a_time() {
    let (address, mut links) = controller().await;
    let mut node = FakeNode::start(5, &address);
    tokio::spawn(node.link.clone().run());
    let (first, rest) = node.shards.split_at_mut(2);
    let mut link = Link::accept(&mut links, first).await;
    for shard in &mut *rest {
        assert!(matches!(shard.next().await, ToShard::ControllerReachable(true)));
        assert!(shard.told().is_empty(), "a shard was asked before its turn");
        // It speaks before it is asked: its snapshot will contain it.
        shard.say_control([join(4, 1)]);
    }
    for shard in first {
        shard.say_control([snapshot(Vec::new())]);
    }
    for (number, shard) in rest.iter_mut().enumerate() {
        assert!(matches!(shard.next().await, ToShard::Snapshot));
        shard.say_control([snapshot(vec![info(number as u16, 1)])]);
    }
    assert_eq!(link.snapshot().await.len(), 3);
    node.shards[4].say_control([ControlEvent::End { session: session(4, 1) }]);
    let batch = link.batch().await;
    assert_eq!(batch.events.len(), 1, "what was said before the snapshot is not said again: {batch:?}");
}

#[tokio::test]
async fn a_command_goes_to_the_shards_that_have_its_sessions_and_is_answered_once() {
    let (mut node, mut link, _links) = linked().await;
    let sessions = [session(0, 1), session(1, 1), session(1, 2)];
    let rooms = SessionRooms {
        session_ids: sessions.iter().map(|session| session.as_u64()).collect(),
        room_id: "other".to_owned(),
    };
    let command = SessionCommand { command_id: 3, command: Some(Command::AddRoom(rooms)) };
    link.answer(Message::Command(command)).await;
    let mut number = None;
    for (shard, expected) in node.shards.iter_mut().zip([&sessions[..1], &sessions[1..]]) {
        match shard.next().await {
            ToShard::ChangeRooms { command, sessions, room, add: true } => {
                assert_eq!((sessions.as_slice(), room.as_str()), (expected, "other"));
                assert_eq!(*number.get_or_insert(command), command);
            }
            other => panic!("no command but {other:?}"),
        }
    }
    let command = number.unwrap();
    node.shards[1].say_control([ControlEvent::RoomsChanged { command, sessions: vec![session(1, 2)] }]);
    node.shards[0].say_control([ControlEvent::RoomsChanged { command, sessions: vec![session(0, 1)] }]);
    match link.next().await {
        Some(Said::CommandResult(mut result)) => {
            result.session_ids.sort_unstable();
            let expected = [session(0, 1), session(1, 2)].map(|session| session.as_u64());
            assert_eq!((result.command_id, result.session_ids.as_slice()), (3, &expected[..]));
        }
        other => panic!("no result but {other:?}"),
    }
    // Nobody to ask: answered at once.
    let rooms = SessionRooms { session_ids: Vec::new(), room_id: "other".to_owned() };
    let command = SessionCommand { command_id: 4, command: Some(Command::RemoveRoom(rooms)) };
    link.answer(Message::Command(command)).await;
    assert!(matches!(link.next().await, Some(Said::CommandResult(result)) if result.command_id == 4));
}

#[tokio::test]
async fn a_command_is_answered_by_a_shard_whose_snapshot_is_still_to_come() {
    let (address, mut links) = controller().await;
    let mut node = FakeNode::start(5, &address);
    tokio::spawn(node.link.clone().run());
    let (first, rest) = node.shards.split_at_mut(2);
    let mut link = Link::accept(&mut links, first).await;
    let last = rest.last_mut().unwrap();
    assert!(matches!(last.next().await, ToShard::ControllerReachable(true)));
    let rooms = SessionRooms { session_ids: vec![session(4, 1).as_u64()], room_id: "other".to_owned() };
    let command = SessionCommand { command_id: 7, command: Some(Command::AddRoom(rooms)) };
    link.answer(Message::Command(command)).await;
    let ToShard::ChangeRooms { command, sessions, .. } = last.next().await else { panic!("no command") };
    // The answer to a command of a former link is none to this one.
    last.say_control([ControlEvent::RoomsChanged { command: command + 1, sessions: Vec::new() }]);
    last.say_control([ControlEvent::RoomsChanged { command, sessions }]);
    match link.next().await {
        Some(Said::CommandResult(result)) => {
            assert_eq!((result.command_id, result.session_ids), (7, vec![session(4, 1).as_u64()]));
        }
        other => panic!("no result but {other:?}"),
    }
}

#[tokio::test]
async fn a_controller_that_is_silent_is_given_up() {
    let (mut node, link, mut links) = linked().await;
    link.answer(Message::Heartbeat(ControllerHeartbeat {})).await;
    let second = timeout(Duration::from_secs(60), links.recv()).await;
    assert!(second.expect("the silent controller was kept").is_some());
    // It does not answer this time either: joins do not wait for ever.
    assert!(matches!(node.shards[0].next().await, ToShard::ControllerReachable(false)));
}

#[tokio::test]
async fn a_node_moves_to_another_controller_and_a_join_under_way_is_answered_there() {
    let (first, second) = (controller().await, controller().await);
    let directory = Directory::fixed(vec![first.0, second.0]);
    let mut node = FakeNode::with(1, directory);
    tokio::spawn(node.link.clone().run());
    // By its name and chance the node comes to one of them.
    let (mut lost, mut left) = (first.1, second.1);
    let mut link = tokio::select! {
        link = lost.recv() => link.unwrap(),
        link = left.recv() => {
            std::mem::swap(&mut lost, &mut left);
            link.unwrap()
        }
    };
    let number = link.register(&mut node.shards).await;
    node.shards[0].say_control([snapshot(vec![info(0, 1)])]);
    assert_eq!(link.snapshot().await, [session(0, 1).as_u64()]);
    node.shards[0].say_control([join(0, 5)]);
    assert_eq!(link.batch().await.events.len(), 1);
    // The controller goes with all that it knew.
    drop((link, lost));

    let mut link = timeout(PATIENCE, left.recv()).await.expect("no link").unwrap();
    assert!(link.register(&mut node.shards).await > number, "a later link has a larger number");
    // The shard asks again for what is open, as it does behind every snapshot.
    node.shards[0].say_control([snapshot(vec![info(0, 1)]), join(0, 5)]);
    assert_eq!(link.snapshot().await, [session(0, 1).as_u64()], "the session stayed");
    let batch = link.batch().await;
    assert!(matches!(&batch.events[0].event, Some(Event::Join(_))), "{batch:?}");
    let decision = pubsub::JoinDecision::Accepted as i32;
    let answer = JoinAnswer { session_id: session(0, 5).as_u64(), decision, message: String::new() };
    link.answer(Message::JoinAnswers(JoinAnswers { answers: vec![answer] })).await;
    match node.shards[0].next().await {
        ToShard::JoinAnswered { session: answered, decision } => {
            assert_eq!((answered, decision), (session(0, 5), JoinDecision::Accepted));
        }
        other => panic!("a join was refused in between: {other:?}"),
    }
}

#[tokio::test]
async fn joins_are_refused_when_no_controller_is_found() {
    let (mut node, link, links) = linked().await;
    drop((link, links));
    for shard in &mut node.shards {
        assert!(matches!(shard.next().await, ToShard::ControllerReachable(false)));
    }
}

#[tokio::test]
async fn a_controller_is_called_only_when_the_nodes_id_is_its_own() {
    let (address, mut links) = controller().await;
    let mut node = FakeNode::start(1, &address);
    node.lease.send_replace(Lease::Waiting);
    node.status.set_starting(true);
    let running = tokio::spawn(node.link.clone().run());
    assert!(timeout(Duration::from_millis(300), links.recv()).await.is_err());
    let renewed = std::time::Instant::now();
    node.lease.send_replace(Lease::Held { renewed });
    let link = Link::accept(&mut links, &mut node.shards).await;
    node.lease.send_replace(Lease::Lost { renewed });
    link.answer(Message::Heartbeat(ControllerHeartbeat {})).await;
    assert!(timeout(Duration::from_millis(300), links.recv()).await.is_err(), "the link was given up");
    node.lease.send_replace(Lease::Taken);
    let error = timeout(PATIENCE, running).await.expect("the node goes on").unwrap().unwrap_err().to_string();
    assert!(error.starts_with("NODE_ID = node-1: another live node has this id"), "{error}");
}

#[tokio::test]
async fn a_node_that_is_cut_off_closes_its_clients_and_opens_with_the_first_sign_of_life() {
    let (mut node, link, mut links) = linked().await;
    let cut = Instant::now();
    tokio::spawn(node.fence_watch().run());
    // From now on the controller hangs, as at the other end of a cut cable: it takes links and says nothing.
    let fenced = loop {
        match node.shards[0].next_within(2 * PATIENCE).await {
            ToShard::Fence(on) => break on,
            ToShard::ControllerReachable(reachable) => assert!(!reachable),
            other => panic!("the shard is told {other:?}"),
        }
    };
    // What the controller said last was a moment before.
    assert!(fenced && cut.elapsed() > Duration::from_millis(7900) && cut.elapsed() < Duration::from_secs(9));
    drop(link);
    let health = node.status.answer(connect_core::HttpRequest::Health);
    assert_eq!((health.status, &health.body[..]), (503, &br#"{"status":"fenced"}"#[..]));
    // The node calls again and again, and is answered at last.
    tokio::spawn(async move {
        let mut answered = Vec::new();
        while let Some(link) = links.recv().await {
            let registered = NodeRegistered { controller_id: "controller".to_owned(), lease_ms: 10_000 };
            let message = ControllerMessage { message: Some(Message::Registered(registered)) };
            // The node may have given this one up.
            let _ = link.answers.send(Ok(message)).await;
            answered.push(link);
        }
    });
    loop {
        match node.shards[0].next().await {
            ToShard::Fence(on) => break assert!(!on),
            ToShard::ControllerReachable(_) | ToShard::Snapshot => {}
            other => panic!("the shard is told {other:?}"),
        }
    }
    assert_eq!(node.status.answer(connect_core::HttpRequest::Health).status, 200);
}

#[tokio::test]
async fn an_id_that_stays_taken_ends_the_node_and_only_after_a_lease() {
    let (address, mut links) = controller().await;
    let node = FakeNode::start(1, &address);
    let began = Instant::now();
    let running = tokio::spawn(node.link.clone().run());
    tokio::spawn(async move {
        while let Some(link) = links.recv().await {
            // The node may have gone already.
            let _ = link.answers.send(Err(Status::already_exists("node-1 is alive"))).await;
        }
    });
    let error = running.await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("NODE_ID = node-1: another live node has this id"), "{error}");
    assert!(began.elapsed() >= Duration::from_secs(12) && began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_node_that_leaves_says_so_last() {
    let (node, mut link, _links) = linked().await;
    node.shards[0].say_control([ControlEvent::End { session: session(0, 1) }]);
    node.status.set_draining();
    let leaving = node.link.clone();
    let left = tokio::spawn(async move { leaving.leave().await });
    let mut last = link.next().await;
    if let Some(Said::Batch(_)) = last {
        last = link.next().await;
    }
    assert!(matches!(last, Some(Said::Deregister(_))), "{last:?}");
    assert!(link.next().await.is_none());
    drop(link);
    timeout(PATIENCE, left).await.expect("the link is not over").unwrap();
}
