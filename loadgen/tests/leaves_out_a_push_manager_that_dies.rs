//! Promise: a push manager that dies under a publisher of several is left out until it is back; what it had is unknown,
//! the others take the rest, and no push is sent twice.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loadgen::{Aim, Doors, PublishPlan, PublishReport, Publisher, PushResult, Stamp, Target, Via};
use ringcast_proto::pubsub::push_manager_service_server::{PushManagerService, PushManagerServiceServer};
use ringcast_proto::pubsub::streamed_push::Push;
use ringcast_proto::pubsub::streamed_result::Result as Streamed;
use ringcast_proto::pubsub::*;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

const PUSHES: u64 = 600;
const RATE: f64 = 200.0;
const STREAMS: u64 = 6;

/// The pushes that all push managers took, and how often each.
type Taken = Arc<Mutex<HashMap<(u32, u64), u32>>>;

#[derive(Clone)]
struct FakeManager(Taken);

impl FakeManager {
    fn take(&self, request: PushToRoomRequest) -> PushToRoomResponse {
        let stamp = Stamp::find(&request.content.unwrap().data).unwrap();
        *self.0.lock().unwrap().entry((stamp.stream, stamp.seq)).or_default() += 1;
        let total = Some(Outcomes { members: 1, written: 1, ..Outcomes::default() });
        let report = Some(DeliveryReport { total, ..DeliveryReport::default() });
        PushToRoomResponse { success: true, report, ..PushToRoomResponse::default() }
    }
}

#[tonic::async_trait]
impl PushManagerService for FakeManager {
    type PushStreamStream = BoxStream<PushStreamResponse>;

    async fn push_to_room(
        &self,
        request: Request<PushToRoomRequest>,
    ) -> Result<Response<PushToRoomResponse>, Status> {
        Ok(Response::new(self.take(request.into_inner())))
    }

    async fn push_to_user(
        &self,
        _: Request<PushToUserRequest>,
    ) -> Result<Response<PushToUserResponse>, Status> {
        Err(Status::unimplemented("rooms only"))
    }

    async fn broadcast_message(
        &self,
        _: Request<BroadcastMessageRequest>,
    ) -> Result<Response<BroadcastMessageResponse>, Status> {
        Err(Status::unimplemented("rooms only"))
    }

    async fn push_stream(
        &self,
        requests: Request<Streaming<PushStreamRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let own = self.clone();
        let results = requests.into_inner().map(move |request| {
            let result = |push: StreamedPush| {
                let Some(Push::Room(room)) = push.push else { panic!("rooms only") };
                StreamedResult { push_id: push.push_id, result: Some(Streamed::Room(own.take(room))) }
            };
            Ok(PushStreamResponse { results: request?.pushes.into_iter().map(result).collect() })
        });
        Ok(Response::new(Box::pin(results)))
    }
}

/// A push manager on a runtime of its own, with which its connections end.
struct Manager {
    runtime: Option<Runtime>,
    address: SocketAddr,
    taken: Taken,
}

impl Manager {
    fn start() -> Self {
        let listener = (0..1_000)
            .find_map(|_| std::net::TcpListener::bind(("127.0.0.1", fastrand::u16(10_000..32_000))).ok())
            .unwrap();
        let address = listener.local_addr().unwrap();
        let mut own = Self { runtime: None, address, taken: Taken::default() };
        own.serve(listener);
        own
    }

    fn serve(&mut self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let service = PushManagerServiceServer::new(FakeManager(self.taken.clone()));
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        self.runtime = Some(runtime);
    }

    fn die(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    fn start_again(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match std::net::TcpListener::bind(self.address) {
                Ok(listener) => return self.serve(listener),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn plan(via: Via) -> PublishPlan {
    let aim = |number: u64| Aim {
        target: Target::Room { room: format!("room-{}", number % STREAMS), exclude: Vec::new() },
        stream: (number % STREAMS) as u32,
        seq: number / STREAMS,
    };
    let mut plan = PublishPlan::to(Target::All, 0, PUSHES, RATE).via(via);
    plan.aim = Arc::new(aim);
    plan
}

fn wait_until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Publishes through two, of which one dies and comes back meanwhile.
async fn publish_through_a_death(via: Via) -> (PublishReport, [Manager; 2], usize) {
    let (mut dying, living) = (Manager::start(), Manager::start());
    let managers = vec![dying.address.to_string(), living.address.to_string()];
    let publisher = Publisher::through(Doors { managers, ..Doors::default() });
    let pushing = tokio::spawn(async move { publisher.publish(plan(via)).await.unwrap() });
    let (dying, living, before) = tokio::task::spawn_blocking(move || {
        wait_until("both are pushed through", || dying.taken() > 50 && living.taken() > 50);
        dying.die();
        let before = dying.taken();
        let others = living.taken();
        wait_until("the other takes the rest", || living.taken() > others + 100);
        dying.start_again();
        (dying, living, before)
    })
    .await
    .unwrap();
    (pushing.await.unwrap(), [dying, living], before)
}

fn assert_all_accounted(report: &PublishReport, managers: &[Manager; 2], before: usize) {
    let mut taken: HashMap<(u32, u64), u32> = HashMap::new();
    for manager in managers {
        for (push, times) in manager.taken.lock().unwrap().iter() {
            *taken.entry(*push).or_default() += times;
        }
    }
    assert!(taken.values().all(|times| *times == 1), "no push is sent twice");
    let (mut reported, mut refused, mut unknown) = (0, 0, 0);
    for number in 0..PUSHES {
        let push = ((number % STREAMS) as u32, number / STREAMS);
        match report.results.get(&number) {
            Some(PushResult::Reported(_)) => {
                reported += 1;
                assert!(taken.contains_key(&push), "{push:?} was reported");
            }
            Some(PushResult::Refused(..)) => {
                refused += 1;
                assert!(!taken.contains_key(&push), "{push:?} was refused");
            }
            Some(PushResult::Unknown(..)) => unknown += 1,
            None => panic!("push {number} has no end"),
        }
    }
    println!("{reported} reported, {refused} refused, {unknown} unknown");
    assert!(refused + unknown < 20, "it is left out: {refused} refused, {unknown} unknown");
    assert!(managers[0].taken() > before + 20, "it is used again when it is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_through_the_other() {
    let (report, managers, before) = publish_through_a_death(Via::Stream).await;
    assert_all_accounted(&report, &managers, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_through_the_other() {
    let (report, managers, before) = publish_through_a_death(Via::Unary).await;
    assert_all_accounted(&report, &managers, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_not_there_at_the_start_is_left_out_and_none_is_an_error() {
    let living = Manager::start();
    let mut gone = Manager::start();
    gone.die();
    let nobody = gone.address.to_string();
    for via in [Via::Stream, Via::Unary] {
        let managers = vec![nobody.clone(), living.address.to_string()];
        let publisher = Publisher::through(Doors { managers, ..Doors::default() });
        let mut few = plan(via);
        few.count = 20;
        let report = publisher.publish(few).await.unwrap();
        assert_eq!(report.refused(), 0, "{via:?}: {:?}", report.results);
        let publisher = Publisher::through(Doors { managers: vec![nobody.clone()], ..Doors::default() });
        assert!(publisher.publish(plan(via)).await.is_err(), "{via:?}");
    }
}
