//! Rooms as callers see them, and what goes wrong.

use std::time::Duration;

use ringcast_proto::pubsub::{
    GetRoomInfoRequest, GetRoomStatsRequest, GetUserNodeRequest, JoinDecision, JoinRoomRequest,
    SetRoomRequest,
};
use sqlx::sqlite::SqlitePoolOptions;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::peers::{Controller, folder, join, settings};

fn info(room: &str, page_size: u32, page_token: &str) -> GetRoomInfoRequest {
    GetRoomInfoRequest { room_id: room.into(), page_size, page_token: page_token.into() }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "ringcast");
    info.reason.clone()
}

#[tokio::test]
async fn errors_carry_details_that_a_program_can_read() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut rpc = controller.rpc().await;

    let unknown = rpc.get_room_info(info("nowhere", 0, "")).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "ROOM_NOT_FOUND"));
    assert_eq!(unknown.get_details_resource_info().unwrap().resource_name, "nowhere");

    let long = "x".repeat(65);
    let cases = [
        (rpc.get_room_info(info("", 0, "")).await.unwrap_err(), "room_id"),
        (rpc.get_room_info(info("r", 1001, "")).await.unwrap_err(), "page_size"),
        (rpc.get_user_node(GetUserNodeRequest { user_id: long.clone() }).await.unwrap_err(), "user_id"),
        (
            rpc.set_room(SetRoomRequest { room_id: "r".into(), max_users: Some(-1), ..Default::default() })
                .await
                .unwrap_err(),
            "max_users",
        ),
        (
            rpc.set_room(SetRoomRequest {
                room_id: "r".into(),
                name: Some("n".repeat(129)),
                ..Default::default()
            })
            .await
            .unwrap_err(),
            "name",
        ),
        (
            rpc.join_room(JoinRoomRequest {
                user_id: "u".into(),
                room_id: "r".into(),
                metadata: [("k".to_owned(), "v".repeat(9000))].into(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
            "metadata",
        ),
    ];
    for (status, field) in cases {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(reason(&status), format!("{}_INVALID", field.to_uppercase()));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, field);
    }

    let request = JoinRoomRequest { user_id: "nobody".into(), room_id: "r".into(), ..Default::default() };
    let offline = rpc.join_room(request).await.unwrap_err();
    assert_eq!((offline.code(), reason(&offline).as_str()), (Code::FailedPrecondition, "USER_OFFLINE"));
    assert!(rpc.get_room_info(info("r", 0, "")).await.is_err(), "what failed made no room");
    controller.stop().await;
}

#[tokio::test]
async fn rooms_and_members_come_in_pages() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    node.send((0..25).map(|id| join(id, &format!("u{id:02}"), "big")).collect()).await;
    node.answers(25).await;
    node.send((100..107).map(|id| join(id, "u00", &format!("small{id}"))).collect()).await;
    node.answers(7).await;

    let mut rpc = controller.rpc().await;
    let (mut users, mut token) = (Vec::new(), String::new());
    loop {
        let page = rpc.get_room_info(info("big", 10, &token)).await.unwrap().into_inner();
        let room = page.room_info.unwrap();
        assert_eq!(room.user_count, 25);
        users.extend(room.users.into_iter().map(|user| user.user_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(users, (0..25).map(|id| format!("u{id:02}")).collect::<Vec<_>>());

    let (mut rooms, mut token) = (Vec::new(), String::new());
    loop {
        let request = GetRoomStatsRequest { page_size: 3, page_token: token };
        let page = rpc.get_room_stats(request).await.unwrap().into_inner();
        assert_eq!((page.total_rooms, page.total_users, page.total_sessions), (8, 25, 32));
        rooms.extend(page.rooms.into_iter().map(|room| (room.room_id, room.user_count)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(rooms.len(), 8);
    assert_eq!((rooms[0].0.as_str(), rooms[0].1), ("big", 25));
    assert!(rooms.is_sorted());

    let found = rpc.get_user_node(GetUserNodeRequest { user_id: "u00".into() }).await.unwrap().into_inner();
    assert_eq!((found.found, found.sessions.len(), found.room_id.as_str()), (true, 8, "small106"));
    assert_eq!((found.node_id.as_str(), found.node_address.as_str()), ("n1", "n1.example:50052"));
    controller.stop().await;
}

#[tokio::test]
async fn there_are_no_more_rooms_than_there_may_be() {
    let data = folder();
    let mut settings = settings(data.path());
    settings.max_rooms = 2;
    let controller = Controller::start(settings).await;
    let mut node = controller.node("n1").await;
    for (id, room, decision) in [
        (1, "a", JoinDecision::Accepted),
        (2, "b", JoinDecision::Accepted),
        (3, "c", JoinDecision::Unavailable),
        (4, "a", JoinDecision::Accepted),
    ] {
        assert_eq!(node.join(id, &format!("u{id}"), room).await, decision);
    }
    let mut rpc = controller.rpc().await;
    let refused = rpc.set_room(SetRoomRequest { room_id: "c".into(), ..Default::default() });
    let refused = refused.await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "TOO_MANY_ROOMS"));
    controller.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_stops_only_joins_that_need_it() {
    let data = folder();
    let controller = Controller::start(settings(data.path())).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "known").await, JoinDecision::Accepted);
    let file = format!("sqlite://{}", data.path().join("controller.sqlite").display());
    let pool = SqlitePoolOptions::new().connect(&file).await.unwrap();
    sqlx::query("DROP TABLE rooms").execute(&pool).await.unwrap();

    assert_eq!(node.join(2, "u2", "new").await, JoinDecision::Unavailable);
    assert_eq!(node.join(3, "u3", "known").await, JoinDecision::Accepted);
    let mut rpc = controller.rpc().await;
    let room = rpc.get_room_info(info("known", 0, "")).await.unwrap().into_inner().room_info.unwrap();
    assert_eq!(room.user_count, 2);
    let away = rpc.get_room_stats(GetRoomStatsRequest::default()).await.unwrap_err();
    assert_eq!((away.code(), reason(&away).as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    assert!(away.get_details_retry_info().is_some());
    controller.stop().await;
}

#[tokio::test]
async fn empty_rooms_are_forgotten_and_occupied_ones_stay() {
    let data = folder();
    let mut settings = settings(data.path());
    settings.empty_room_ttl = Duration::from_secs(1);
    let controller = Controller::start(settings).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "occupied").await, JoinDecision::Accepted);
    let mut rpc = controller.rpc().await;
    rpc.set_room(SetRoomRequest { room_id: "empty".into(), ..Default::default() }).await.unwrap();
    let forgotten = async {
        while rpc.get_room_info(info("empty", 0, "")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    crate::peers::soon("the forgetting", forgotten).await;
    assert!(rpc.get_room_info(info("occupied", 0, "")).await.is_ok());
    let stats = rpc.get_room_stats(GetRoomStatsRequest::default()).await.unwrap().into_inner();
    assert_eq!((stats.total_rooms, stats.rooms[0].room_id.as_str()), (1, "occupied"));
    controller.stop().await;
}
