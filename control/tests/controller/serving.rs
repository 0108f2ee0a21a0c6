//! What every server of ours offers beside its own services: health, reflection, metrics, a planned stop.

use ringcast_proto::pubsub::JoinDecision;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::peers::{Controller, Follower, folder, settings, soon};

pub(crate) async fn scrape(controller: &Controller) -> String {
    let mut stream = TcpStream::connect(controller.metrics).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    soon("the scrape", stream.read_to_string(&mut text)).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "r").await, JoinDecision::Accepted);
    assert_eq!(node.join(2, "", "r").await, JoinDecision::Invalid);
    let _follower = Follower::follow(&controller).await;
    let mut rpc = controller.rpc().await;
    let unknown = ringcast_proto::pubsub::GetRoomInfoRequest { room_id: "x".into(), ..Default::default() };
    assert!(rpc.get_room_info(unknown).await.is_err());
    let text = scrape(&controller).await;
    for line in [
        "ringcast_controller_rooms 1",
        "ringcast_controller_users 1",
        "ringcast_controller_sessions 1",
        "ringcast_controller_nodes{state=\"ready\"} 1",
        "ringcast_controller_joins_total{decision=\"accepted\"} 1",
        "ringcast_controller_joins_total{decision=\"invalid\"} 1",
        "ringcast_controller_join_confirm_seconds_count 1",
        "ringcast_controller_feed_followers 1",
        "ringcast_controller_feed_cut_offs_total 0",
        "ringcast_controller_store_errors_total 0",
        "ringcast_controller_grpc_handled_total{code=\"NotFound\",method=\"GetRoomInfo\"} 1",
    ] {
        assert!(text.lines().any(|got| got == line), "{line} is not in\n{text}");
    }
    for edge in ["0.01", "0.05", "0.1"] {
        assert!(text.contains(&format!("join_confirm_seconds_bucket{{le=\"{edge}\"}}")), "{text}");
    }
    assert!(!text.contains("process_"), "they were not asked for");
    controller.stop().await;
}

#[tokio::test]
async fn health_knows_every_service() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut health = HealthClient::new(controller.channel().await);
    for service in ["", "pubsub.ControllerService", "pubsub.NodeLinkService", "pubsub.RouteFeedService"] {
        let check = HealthCheckRequest { service: service.into() };
        let status = health.check(check).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    controller.stop().await;
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let channel = controller.channel().await;

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    let answer = soon("reflection", answers.message()).await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["pubsub.ControllerService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "pubsub.ControllerService".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap().into_inner();
    assert!(soon("reflection", answers.message()).await.unwrap().is_some());
    controller.stop().await;
}

#[tokio::test]
async fn a_stop_turns_health_first_and_ends_all_streams() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    let mut follower = Follower::follow(&controller).await;
    let mut health = HealthClient::new(controller.channel().await);
    let watch = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap();
    let mut watch = watch.into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let told = async {
        let status = soon("the watch", watch.message()).await.unwrap().unwrap().status();
        assert_eq!(status, ServingStatus::NotServing);
        drop(watch);
    };
    tokio::join!(controller.stop(), told);
    assert_eq!(node.next().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(follower.update().await.unwrap_err().code(), Code::Unavailable);
}
