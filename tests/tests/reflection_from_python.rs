//! Promise: a client in another language that knows nothing but what reflection tells it lists the services of all
//! three servers and calls them.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::process::{Command, Output};

use ringcast_tests::{Service, System, SystemPlan, place};

fn grpc(service: &Service, before: &[&str], after: &[&str]) -> Output {
    let mut command = Command::new(place::python());
    command.arg(place::client_script("reflection_client.py")).arg("-plaintext").args(before);
    command.arg(service.grpc.to_string()).args(after).output().expect("Python starts")
}

fn listed(service: &Service, by: &[&str]) -> Vec<String> {
    let output = grpc(service, by, &["list"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn called(service: &Service, data: &str, method: &str) -> serde_json::Value {
    let output = grpc(service, &["-d", data], &[method]);
    assert!(output.status.success(), "{method}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_listed_and_called() {
    let system = System::start(SystemPlan::nodes(1)).await;
    for (service, own) in [
        (
            &system.control,
            &["pubsub.ControllerService", "pubsub.NodeLinkService", "pubsub.RouteFeedService"][..],
        ),
        (&system.push, &["pubsub.PushManagerService"]),
        (&system.nodes[0], &["pubsub.ConnectNodeService"]),
    ] {
        for (by, reflection) in [(&[][..], "v1"), (&["-v1alpha"], "v1alpha")] {
            let mut names = listed(service, by);
            assert!(names.contains(&format!("grpc.reflection.{reflection}.ServerReflection")), "{names:?}");
            names.retain(|name| !name.starts_with("grpc.reflection."));
            let mut served = own.to_vec();
            served.insert(0, "grpc.health.v1.Health");
            assert_eq!(names, served, "{} lists what it serves, by {reflection}", service.id);
        }
        let health = called(service, "{}", "grpc.health.v1.Health/Check");
        assert_eq!(health["status"], "SERVING", "{}: {health}", service.id);
    }
    let stats = called(&system.control, "{}", "pubsub.ControllerService/GetRoomStats");
    assert_eq!((&stats["total_rooms"], &stats["total_users"]), (&0.into(), &0.into()), "{stats}");
    let push = called(
        &system.push,
        r#"{"user_id": "nobody", "content": {"data": "eA=="}}"#,
        "pubsub.PushManagerService/PushToUser",
    );
    assert_eq!(
        (&push["success"], &push["report"]["total"]["offline"]),
        (&false.into(), &"1".into()),
        "{push}"
    );

    let refused =
        grpc(&system.control, &["-d", r#"{"room_id": "none"}"#], &["pubsub.ControllerService/GetRoomInfo"]);
    let not_found = 64 + 5;
    assert_eq!(refused.status.code(), Some(not_found), "{refused:?}");
}
