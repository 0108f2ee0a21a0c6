//! What is tried elsewhere and what is not, against servers that refuse, hang, break off and say UNAVAILABLE.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use ringcast_proto::pubsub::push_manager_service_server::{PushManagerService, PushManagerServiceServer};
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, BroadcastMessageResponse, PushStreamRequest, PushStreamResponse,
    PushToRoomRequest, PushToRoomResponse, PushToUserRequest, PushToUserResponse,
};
use telemetry::Traces;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::args::Push;
use crate::call::{Client, Failure, Outcome, Tracing};

/// What a push manager of these tests does with every push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Answers that it was delivered.
    Answers,
    /// Says that it is not ready, or is being stopped: nothing was pushed.
    NotTaken(&'static str),
    /// Says UNAVAILABLE as a proxy does, which does not tell what became of the push.
    Unavailable,
    /// Finds the push wrong.
    FindsItWrong,
    /// Never answers.
    Hangs,
}

#[derive(Debug)]
struct FakeManager {
    manner: Manner,
    asked: Arc<AtomicUsize>,
}

impl FakeManager {
    async fn answer(&self) -> Result<Response<PushToRoomResponse>, Status> {
        self.asked.fetch_add(1, SeqCst);
        match self.manner {
            Manner::Answers => Ok(Response::new(PushToRoomResponse { success: true, ..Default::default() })),
            Manner::NotTaken(reason) => Err(refusal(Code::Unavailable, reason, true)),
            Manner::Unavailable => Err(Status::unavailable("upstream connect error or disconnect")),
            Manner::FindsItWrong => Err(refusal(Code::InvalidArgument, "ROOM_ID_INVALID", false)),
            Manner::Hangs => std::future::pending().await,
        }
    }
}

fn refusal(code: Code, reason: &str, again: bool) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "ringcast", std::collections::HashMap::<String, String>::new());
    if again {
        details.set_retry_info(Some(Duration::from_millis(20)));
    }
    Status::with_error_details(code, "no", details)
}

#[tonic::async_trait]
impl PushManagerService for FakeManager {
    type PushStreamStream = BoxStream<PushStreamResponse>;

    async fn push_to_room(
        &self,
        _: Request<PushToRoomRequest>,
    ) -> Result<Response<PushToRoomResponse>, Status> {
        self.answer().await
    }

    async fn push_to_user(
        &self,
        _: Request<PushToUserRequest>,
    ) -> Result<Response<PushToUserResponse>, Status> {
        Err(Status::unimplemented("no test pushes to users"))
    }

    async fn broadcast_message(
        &self,
        _: Request<BroadcastMessageRequest>,
    ) -> Result<Response<BroadcastMessageResponse>, Status> {
        Err(Status::unimplemented("no test pushes to everyone"))
    }

    async fn push_stream(
        &self,
        _: Request<Streaming<PushStreamRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        Err(Status::unimplemented("no test opens a stream"))
    }
}

/// A listener below the range of ephemeral ports, so that nobody's client takes the port of one that has ended.
async fn listener() -> TcpListener {
    for _ in 0..1_000 {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", fastrand::u16(10_000..32_000))).await {
            return listener;
        }
    }
    panic!("no free port");
}

/// Starts a push manager; where it is, and how often it was asked.
async fn manager(manner: Manner) -> (String, Arc<AtomicUsize>) {
    let (listener, asked) = (listener().await, Arc::new(AtomicUsize::new(0)));
    let address = listener.local_addr().unwrap().to_string();
    let service = PushManagerServiceServer::new(FakeManager { manner, asked: asked.clone() });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, asked)
}

/// An address at which nobody listens.
async fn nobody() -> String {
    listener().await.local_addr().unwrap().to_string()
}

/// A server that takes one stream after the other and ends each in this way, without an answer.
async fn breaks_off(how: BreakOff) -> (String, Arc<AtomicUsize>) {
    let (listener, asked) = (listener().await, Arc::new(AtomicUsize::new(0)));
    let address: SocketAddr = listener.local_addr().unwrap();
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let counted = counted.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    counted.fetch_add(1, SeqCst);
                    match how {
                        BreakOff::RefusesTheStream => respond.send_reset(h2::Reason::REFUSED_STREAM),
                        BreakOff::CancelsTheStream => respond.send_reset(h2::Reason::CANCEL),
                        BreakOff::DropsTheConnection => return,
                    }
                }
            });
        }
    });
    (address.to_string(), asked)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BreakOff {
    RefusesTheStream,
    CancelsTheStream,
    DropsTheConnection,
}

fn room_push(deadline_ms: u32) -> Push {
    Push::Room(PushToRoomRequest { room_id: "r".into(), deadline_ms, ..Default::default() })
}

/// Pushes until this address had its turn first, which the start by chance leaves open; the outcomes.
async fn push_through(addresses: &[String], times: usize) -> Vec<Outcome> {
    let client = Client::new(addresses, Tracing::Sampled(Traces::off())).unwrap();
    let mut outcomes = Vec::new();
    for _ in 0..times {
        outcomes.push(client.push(room_push(0), Instant::now()).await);
    }
    outcomes
}

fn asked(count: &AtomicUsize) -> usize {
    count.load(SeqCst)
}

#[tokio::test]
async fn pushes_go_to_all_in_turn() {
    let (a, b) = (manager(Manner::Answers).await, manager(Manner::Answers).await);
    let outcomes = push_through(&[a.0.clone(), b.0.clone()], 6).await;
    assert!(outcomes.iter().all(|outcome| outcome.answer.as_ref().is_ok_and(|answer| answer.success)));
    assert_eq!((asked(&a.1), asked(&b.1)), (3, 3));
    let answers = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().ok());
    assert_eq!(answers.filter(|answer| answer.address == a.0).count(), 3, "each says who answered");
}

#[tokio::test]
async fn one_that_is_not_there_costs_no_push() {
    let there = manager(Manner::Answers).await;
    let outcomes = push_through(&[nobody().await, there.0, nobody().await], 4).await;
    assert!(outcomes.iter().all(|outcome| outcome.answer.is_ok()), "{outcomes:?}");
    assert_eq!(asked(&there.1), 4);
}

#[tokio::test]
async fn one_that_takes_nothing_costs_no_push() {
    for reason in ["ROUTES_NOT_READY", "STOPPING"] {
        let (takes, other) = (manager(Manner::Answers).await, manager(Manner::NotTaken(reason)).await);
        let outcomes = push_through(&[other.0, takes.0], 4).await;
        assert!(outcomes.iter().all(|outcome| outcome.answer.is_ok()), "{reason}: {outcomes:?}");
        assert_eq!(asked(&takes.1), 4);
        assert_eq!(asked(&other.1), 1, "it is left out after that");
    }
}

#[tokio::test]
async fn a_stream_that_was_refused_is_tried_elsewhere() {
    let (takes, refuses) = (manager(Manner::Answers).await, breaks_off(BreakOff::RefusesTheStream).await);
    let outcomes = push_through(&[refuses.0, takes.0], 2).await;
    assert!(outcomes.iter().all(|outcome| outcome.answer.is_ok()), "{outcomes:?}");
    assert_eq!((asked(&takes.1), asked(&refuses.1)), (2, 1));
}

#[tokio::test]
async fn what_was_handed_over_and_not_answered_for_is_unknown_and_not_sent_again() {
    for how in [BreakOff::DropsTheConnection, BreakOff::CancelsTheStream] {
        let (takes, breaks) = (manager(Manner::Answers).await, breaks_off(how).await);
        let outcomes = push_through(&[breaks.0.clone(), takes.0.clone()], 2).await;
        assert_eq!((asked(&takes.1), asked(&breaks.1)), (1, 1), "{how:?}: each push went to one only");
        let unknown: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.answer.as_ref().err()).collect();
        assert!(
            matches!(&unknown[..], [Failure::Unknown { address, .. }] if *address == breaks.0),
            "{how:?}: {outcomes:?}"
        );
    }
}

#[tokio::test]
async fn an_unavailable_that_does_not_say_what_became_of_the_push_is_unknown() {
    let (takes, proxy) = (manager(Manner::Answers).await, manager(Manner::Unavailable).await);
    let outcomes = push_through(&[proxy.0.clone(), takes.0], 2).await;
    assert_eq!((asked(&takes.1), asked(&proxy.1)), (1, 1));
    let unknown = outcomes.iter().find_map(|outcome| outcome.answer.as_ref().err());
    assert!(
        matches!(unknown, Some(Failure::Unknown { why, .. }) if why.contains("upstream")),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn one_that_hangs_is_unknown_at_the_calls_deadline() {
    let hangs = manager(Manner::Hangs).await;
    let client = Client::new(&[hangs.0, nobody().await], Tracing::Sampled(Traces::off())).unwrap();
    let began = Instant::now();
    let outcome = client.push(room_push(100), Instant::now()).await;
    let took = began.elapsed();
    assert!(matches!(outcome.answer, Err(Failure::Unknown { .. })), "{outcome:?}");
    assert!((Duration::from_millis(5_000)..Duration::from_millis(6_500)).contains(&took), "{took:?}");
    assert_eq!(asked(&hangs.1), 1);
}

#[tokio::test]
async fn a_refusal_is_the_answer_wherever_it_came_from() {
    let (one, other) = (manager(Manner::FindsItWrong).await, manager(Manner::FindsItWrong).await);
    let outcome = &push_through(&[one.0, other.0], 1).await[0];
    let refused = matches!(&outcome.answer, Err(Failure::Refused { code: Code::InvalidArgument, reason, .. })
        if reason == "ROOM_ID_INVALID");
    assert!(refused, "{outcome:?}");
    assert_eq!(asked(&one.1) + asked(&other.1), 1);
}

#[tokio::test]
async fn where_none_is_there_each_is_named_and_the_caller_is_not_kept() {
    let (one, other) = (nobody().await, nobody().await);
    let began = Instant::now();
    let outcome = &push_through(&[one.clone(), other.clone()], 1).await[0];
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let Err(Failure::Unreachable(asked)) = &outcome.answer else { panic!("{outcome:?}") };
    let mut addresses: Vec<&String> = asked.iter().map(|(address, _)| address).collect();
    addresses.sort();
    let mut expected = [&one, &other];
    expected.sort();
    assert_eq!(addresses, expected);
    assert!(asked.iter().all(|(_, why)| why.contains("refused")), "{asked:?}");
}

#[tokio::test]
async fn where_all_take_nothing_the_last_word_is_theirs() {
    let stopping = manager(Manner::NotTaken("STOPPING")).await;
    let outcome = &push_through(&[stopping.0, nobody().await], 1).await[0];
    assert!(
        matches!(&outcome.answer, Err(Failure::Refused { reason, .. }) if reason == "STOPPING"),
        "{outcome:?}"
    );
    assert_eq!(asked(&stopping.1), 4, "it was asked again, within the call's deadline");
}

#[tokio::test]
async fn one_that_does_not_answer_for_a_push_is_asked_last_for_a_while() {
    let (takes, breaks) = (manager(Manner::Answers).await, breaks_off(BreakOff::CancelsTheStream).await);
    let outcomes = push_through(&[breaks.0, takes.0], 6).await;
    let unknown = outcomes.iter().filter(|outcome| outcome.answer.is_err()).count();
    assert_eq!((unknown, asked(&breaks.1), asked(&takes.1)), (1, 1, 5), "{outcomes:?}");
}
