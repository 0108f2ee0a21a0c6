//! What is served beside pushes, and how it ends.

use std::time::{Duration, Instant};

use ringcast_proto::pubsub::{PushStreamRequest, PushToRoomRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::controller::FakeController;
use crate::node::{Behaviour, FakeNode};
use crate::{PATIENCE, System, soon, to_room, total, unknown, written};

/// What /metrics says.
pub(crate) async fn metrics(system: &System) -> String {
    let mut stream = TcpStream::connect(system.running.metrics_addr).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    soon("the metrics", stream.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

#[tokio::test]
async fn the_figures_add_up() {
    let node = FakeNode::start("a", Behaviour::Answer(written(3)));
    let system = System::with_room(&[(&node, 3)]).await;
    for _ in 0..4 {
        system.push(to_room("r", PATIENCE)).await;
    }
    system.push(to_room("none", PATIENCE)).await;
    let refused = PushToRoomRequest::default();
    assert!(system.client.clone().push_to_room(refused).await.is_err());
    let text = metrics(&system).await;
    for line in [
        "ringcast_push_pushes_total{result=\"delivered\",scope=\"room\"} 4",
        "ringcast_push_pushes_total{result=\"nobody\",scope=\"room\"} 1",
        "ringcast_push_outcomes_total{outcome=\"written\"} 12",
        "ringcast_push_refused_total{reason=\"ROOM_ID_INVALID\"} 1",
        "ringcast_push_duration_seconds_count{scope=\"room\"} 5",
        "ringcast_push_duration_seconds_bucket{scope=\"room\",le=\"0.05\"}",
        "ringcast_push_node_links{state=\"up\"} 1",
        "ringcast_push_node_links{state=\"down\"} 0",
        "ringcast_push_queue_length{node=\"a\"} 0",
        "ringcast_push_routes_rooms 1",
        "ringcast_push_routes_nodes 1",
        "ringcast_push_routes_stale_seconds 0",
        "ringcast_push_routes_set_aside 0",
        "ringcast_push_routes_stale{reason=\"feed_lost\"} 0",
        "ringcast_push_feeds{state=\"followed\"} 1",
        "ringcast_push_feeds{state=\"lost\"} 0",
        &format!("ringcast_push_feed_number{{controller=\"{}\"}} 3", system.controller.address),
        "ringcast_push_open 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn health_follows_the_routes() {
    let controller = FakeController::start();
    controller.mute(true);
    let system = System::start(controller).await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", system.running.grpc_addr)).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    for service in ["", "pubsub.PushManagerService"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::NotServing);
    }
    let request = HealthCheckRequest { service: "pubsub.PushManagerService".into() };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    system.controller.mute(false);
    let mut next = async || soon("health", watch.message()).await.unwrap().unwrap().status();
    while next().await != ServingStatus::Serving {}
    system.stop.cancel();
    while next().await != ServingStatus::NotServing {}
}

#[tokio::test]
async fn reflection_tells_the_services() {
    let system = System::start(FakeController::start()).await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", system.running.grpc_addr)).unwrap();
    let mut client = ServerReflectionClient::new(endpoint.connect().await.unwrap());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = soon("reflection", answers.message()).await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"pubsub.PushManagerService"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    assert!(!names.contains(&"pubsub.ControllerService"), "only what is served here: {names:?}");
}

#[tokio::test]
async fn a_stop_answers_what_is_open_and_ends() {
    let node = FakeNode::start("a", Behaviour::Silent);
    let system = System::with_room(&[(&node, 1)]).await;
    let mut client = system.client.clone();
    let open = tokio::spawn(async move { client.push_to_room(to_room("r", Duration::from_secs(1))).await });
    soon("the push", node.has_received(1)).await;
    let (_sender, messages) = mpsc::channel::<PushStreamRequest>(1);
    let mut stream =
        system.client.clone().push_stream(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let started = Instant::now();
    system.stop.cancel();
    assert_eq!(total(&soon("the answer", open).await.unwrap().unwrap().into_inner()), unknown(1));
    let ended = soon("the stream's end", stream.message()).await.unwrap_err();
    assert_eq!(ended.code(), tonic::Code::Unavailable);
    soon("the end", system.running.stopped()).await;
    assert!(started.elapsed() < Duration::from_secs(4), "it took {:?}", started.elapsed());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let settings = push::Settings { grpc_port: port, metrics_port: 0, ..Default::default() };
    let error = push::start(settings, Default::default()).await.unwrap_err();
    let error = error.downcast::<settings::SettingError>().unwrap().to_string();
    assert!(error.starts_with(&format!("GRPC_PORT = {port}: the port is taken")), "{error}");
}
