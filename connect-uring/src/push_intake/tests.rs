use super::*;
use crate::fake_shards::{FakeNode, FakeShard, PATIENCE};
use ringcast_proto::pubsub::connect_node_service_client::ConnectNodeServiceClient;
use ringcast_proto::pubsub::connect_node_service_server::ConnectNodeServiceServer;
use ringcast_proto::pubsub::{DeliverHello, DeliveryOutcome};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;

/// A push manager's end of a stream.
struct Manager {
    requests: mpsc::Sender<DeliverRequest>,
    responses: Streaming<DeliverResponse>,
}

impl Manager {
    /// Connects, says hello, and is welcomed.
    async fn connect(node: &FakeNode) -> Self {
        let mut manager = Self::connect_silently(node).await;
        let hello = Some(DeliverHello { manager_id: "manager".to_owned() });
        manager.send(DeliverRequest { hello, ..Default::default() }).await;
        let welcome = manager.next().await.unwrap().welcome.expect("the first message is the welcome");
        assert_eq!((welcome.node_id.as_str(), welcome.incarnation), ("node-1", 7));
        manager
    }

    async fn connect_silently(node: &FakeNode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = ConnectNodeServiceServer::new(node.intake.clone());
        let server = ringcast_proto::limited_server().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let mut client = ConnectNodeServiceClient::connect(format!("http://{address}")).await.unwrap();
        let (requests, outgoing) = mpsc::channel(16);
        let responses = client.deliver(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn send(&self, request: DeliverRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn push(&self, deliveries: Vec<pubsub::Delivery>) {
        self.send(DeliverRequest { deliveries, ..Default::default() }).await;
    }

    async fn next(&mut self) -> Result<DeliverResponse, Status> {
        let response = timeout(PATIENCE, self.responses.message()).await.expect("no response")?;
        response.ok_or_else(|| Status::ok("the stream has ended"))
    }

    /// The next outcomes, as many as these.
    async fn outcomes(&mut self, count: usize) -> Vec<DeliveryOutcome> {
        let mut outcomes = Vec::new();
        while outcomes.len() < count {
            outcomes.extend(self.next().await.unwrap().outcomes);
        }
        assert_eq!(outcomes.len(), count);
        outcomes
    }
}

fn to_room(delivery_id: u64, room: &str, text: &str) -> pubsub::Delivery {
    let data = bytes::Bytes::from(text.to_owned());
    pubsub::Delivery {
        delivery_id,
        target: Some(WireTarget::RoomId(room.to_owned())),
        exclude_user_ids: vec!["me".to_owned()],
        content: Some(MessageContent { data, timestamp: 5, ..MessageContent::default() }),
        deadline_ms: 500,
        ..pubsub::Delivery::default()
    }
}

async fn delivered(shard: &mut FakeShard) -> Delivery {
    match shard.next().await {
        ToShard::Deliver(delivery) => delivery,
        other => panic!("no delivery but {other:?}"),
    }
}

#[tokio::test]
async fn a_push_reaches_every_shard_of_its_room_once_and_their_reports_are_summed() {
    let mut node = FakeNode::start(2, "127.0.0.1:1");
    node.open_room(&RoomId::new("room").unwrap(), &[0, 1]).await;
    let mut manager = Manager::connect(&node).await;
    manager.push(vec![to_room(40, "room", "hello"), to_room(41, "room", "again")]).await;
    let mut numbers = Vec::new();
    for shard in &mut node.shards {
        let (first, second) = (delivered(shard).await, delivered(shard).await);
        assert_eq!(first.target, Target::Room(RoomId::new("room").unwrap()));
        assert_eq!(&*first.exclude, [UserId::new("me").unwrap()]);
        assert!(first.report_by_ms.is_some() && !first.shed);
        let json = String::from_utf8(first.frame[2..].to_vec()).unwrap();
        assert!(json.contains(r#""content":"hello""#) && json.contains(r#""user_id":"""#), "{json}");
        numbers = vec![first.id, second.id];
        assert!(shard.told().is_empty());
    }
    // The second push is known first.
    for (shard, sessions) in node.shards.iter().zip([3, 4]) {
        shard.report_written(numbers[1], sessions);
    }
    let outcome = manager.outcomes(1).await[0];
    assert_eq!((outcome.delivery_id, outcome.outcomes.unwrap().written), (41, 7));
    node.shards[0].report_written(numbers[0], 1);
    node.shards[1].report_written(numbers[0], 0);
    let outcome = manager.outcomes(1).await[0];
    let counts = outcome.outcomes.unwrap();
    assert_eq!((outcome.delivery_id, counts.members, counts.written), (40, 1, 1));
}

#[tokio::test]
async fn only_a_push_manager_that_vouches_for_the_node_is_a_sign_of_life() {
    // Of several shards none is asked for a room that nobody has.
    let node = FakeNode::start(2, "127.0.0.1:1");
    node.open_room(&RoomId::new("room").unwrap(), &[0]).await;
    let signs = node.fence_watch().signs;
    let mut manager = Manager::connect(&node).await;
    manager.push(vec![to_room(1, "nobody's", "x")]).await;
    manager.outcomes(1).await;
    assert_eq!(signs.last(), None, "who calls does not know that it is heard, or that others have the node");
    let deliveries = vec![to_room(2, "nobody's", "x")];
    manager.send(DeliverRequest { vouched: true, deliveries, ..Default::default() }).await;
    manager.outcomes(1).await;
    let vouched = signs.last().expect("a sign of life");
    manager.push(vec![to_room(3, "nobody's", "x")]).await;
    manager.outcomes(1).await;
    assert_eq!(signs.last(), Some(vouched));
}

#[tokio::test]
async fn a_push_crosses_only_to_shards_that_have_somebody() {
    let mut node = FakeNode::start(3, "127.0.0.1:1");
    node.open_room(&RoomId::new("room").unwrap(), &[1]).await;
    let mut manager = Manager::connect(&node).await;
    manager.push(vec![to_room(1, "nobody's", "x"), to_room(2, "room", "x")]).await;
    let outcome = manager.outcomes(1).await[0];
    assert_eq!((outcome.delivery_id, outcome.outcomes.unwrap().members), (1, 0), "no shard is asked");
    let id = delivered(&mut node.shards[1]).await.id;
    node.shards[1].report_written(id, 5);
    let outcome = manager.outcomes(1).await[0];
    assert_eq!((outcome.delivery_id, outcome.outcomes.unwrap().written), (2, 5));
    assert!(node.shards.iter_mut().all(|shard| shard.told().is_empty()));
}

#[tokio::test]
async fn what_is_not_valid_is_answered_with_nobody_and_the_stream_lives_on() {
    let mut node = FakeNode::start(1, "127.0.0.1:1");
    let mut manager = Manager::connect(&node).await;
    let no_target = pubsub::Delivery { target: None, ..to_room(1, "room", "x") };
    let no_content = pubsub::Delivery { content: None, ..to_room(2, "room", "x") };
    let too_long = to_room(3, "room", &"x".repeat(1001));
    let bad_room = to_room(4, "", "x");
    let nobody_asks = pubsub::Delivery { report_mode: ReportMode::None as i32, ..to_room(5, "", "x") };
    let fine = pubsub::Delivery { target: Some(WireTarget::Broadcast(true)), ..to_room(6, "", "x") };
    manager.push(vec![no_target, no_content, too_long, bad_room, nobody_asks, fine]).await;
    for (outcome, id) in manager.outcomes(4).await.iter().zip(1..) {
        assert_eq!((outcome.delivery_id, outcome.outcomes.unwrap().members), (id, 0));
    }
    let delivery = delivered(&mut node.shards[0]).await;
    assert_eq!(delivery.target, Target::All);
    node.shards[0].report_written(delivery.id, 2);
    assert_eq!(manager.outcomes(1).await[0].delivery_id, 6);
}

#[tokio::test]
async fn a_push_that_nobody_asks_about_has_no_deadline_and_no_outcome() {
    let mut node = FakeNode::start(1, "127.0.0.1:1");
    let mut manager = Manager::connect(&node).await;
    let quiet = pubsub::Delivery { report_mode: ReportMode::None as i32, ..to_room(1, "room", "x") };
    manager.push(vec![quiet, to_room(2, "room", "x")]).await;
    assert_eq!(delivered(&mut node.shards[0]).await.report_by_ms, None);
    let asked = delivered(&mut node.shards[0]).await;
    node.shards[0].report_written(asked.id, 1);
    assert_eq!(manager.outcomes(1).await[0].delivery_id, 2);
}

#[tokio::test]
async fn a_stream_without_hello_is_refused() {
    let node = FakeNode::start(1, "127.0.0.1:1");
    let mut manager = Manager::connect_silently(&node).await;
    manager.push(vec![to_room(1, "room", "x")]).await;
    assert_eq!(manager.next().await.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_shard_that_falls_too_far_behind_ends_the_stream() {
    let mut node = FakeNode::start(1, "127.0.0.1:1");
    let mut manager = Manager::connect(&node).await;
    let batch: Vec<_> = (0..8192)
        .map(|id| pubsub::Delivery { report_mode: ReportMode::None as i32, ..to_room(id, "room", "x") })
        .collect();
    let sender = manager.requests.clone();
    // Nobody takes anything off the lane: it must not take for ever.
    let flood = tokio::spawn(async move {
        while sender.send(DeliverRequest { deliveries: batch.clone(), ..Default::default() }).await.is_ok() {}
    });
    let status = manager.next().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    drop(manager);
    timeout(PATIENCE, flood).await.expect("the flood goes on").unwrap();
    let told = node.shards[0].told();
    assert!(told.len() <= crate::bridge::REFUSE_ABOVE_ITEMS);
    let shed = told.iter().filter(|item| matches!(item, ToShard::Deliver(delivery) if delivery.shed)).count();
    assert_eq!(told.len() - shed, crate::bridge::SHED_ABOVE_ITEMS);
    timeout(PATIENCE, node.intake.ended()).await.expect("the stream is still there");
}

#[tokio::test]
async fn at_the_end_open_pushes_are_reported_before_the_stream_ends() {
    let mut node = FakeNode::start(1, "127.0.0.1:1");
    let mut manager = Manager::connect(&node).await;
    manager.push(vec![to_room(1, "room", "x")]).await;
    let open = delivered(&mut node.shards[0]).await;
    node.intake.end();
    manager.push(vec![to_room(2, "room", "too late")]).await;
    node.shards[0].report_written(open.id, 1);
    assert_eq!(manager.outcomes(1).await[0].delivery_id, 1);
    assert_eq!(manager.next().await.unwrap_err().code(), tonic::Code::Ok);
    timeout(PATIENCE, node.intake.ended()).await.expect("the stream is still there");
    assert!(node.shards[0].told().is_empty(), "a push was taken after the end");
}
