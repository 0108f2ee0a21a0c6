//! Several controllers whose rooms are in one MySQL.

use std::path::Path;
use std::time::Duration;

use control::Settings;
use ringcast_proto::pubsub::{GetRoomInfoRequest, JoinDecision, SetRoomRequest};
use settings::MysqlStore;
use test_servers::{Forwarder, MariaDb};

use crate::peers::{Controller, folder, settings as embedded, soon};

fn settings(data: &Path, mysql: &MysqlStore) -> Settings {
    Settings { mysql: Some(mysql.clone()), ..embedded(data) }
}

fn database(server: &MariaDb) -> MysqlStore {
    MysqlStore {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: server.user().into(),
        password: Some(server.password().into()),
        database: server.fresh_database(),
        tls: "preferred".into(),
        ca: None,
    }
}

fn seats(room: &str, max_users: i32) -> SetRoomRequest {
    SetRoomRequest { room_id: room.into(), max_users: Some(max_users), ..Default::default() }
}

#[tokio::test]
async fn what_is_set_at_one_controller_holds_for_joins_at_another() {
    let server = MariaDb::primary();
    let mysql = database(&server);
    let (data_a, data_b) = (folder(), folder());
    let a = Controller::start(settings(data_a.path(), &mysql)).await;
    let b = Controller::start(settings(data_b.path(), &mysql)).await;
    a.rpc().await.set_room(seats("small", 1)).await.unwrap();
    let mut node = b.node("n1").await;
    assert_eq!(node.join(1, "u1", "small").await, JoinDecision::Accepted);
    assert_eq!(node.join(2, "u2", "small").await, JoinDecision::RoomFull);
    assert_eq!(node.join(3, "u3", "new").await, JoinDecision::Accepted);
    let asked = GetRoomInfoRequest { room_id: "new".into(), ..Default::default() };
    a.rpc().await.get_room_info(asked).await.expect("a join at b made it");
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn while_the_server_is_away_rooms_that_are_known_are_joined() {
    let mut server = MariaDb::primary();
    let mysql = database(&server);
    let data = folder();
    let controller = Controller::start(settings(data.path(), &mysql)).await;
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "known").await, JoinDecision::Accepted);
    server.kill();
    assert_eq!(node.join(2, "u2", "new").await, JoinDecision::Unavailable);
    assert_eq!(node.join(3, "u3", "known").await, JoinDecision::Accepted);
    server.start_again();
    assert_eq!(node.join(4, "u4", "new").await, JoinDecision::Accepted);
    controller.stop().await;
}

#[tokio::test]
async fn a_controller_serves_when_its_server_has_come() {
    let server = MariaDb::primary();
    let front = Forwarder::start(&server.address());
    front.refuse();
    let mysql = MysqlStore { port: front.port(), ..database(&server) };
    let data = folder();
    let settings = settings(data.path(), &mysql);
    let starting = tokio::spawn(async move { Controller::start(settings).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!starting.is_finished());
    front.heal();
    let controller = soon("the start", starting).await.unwrap();
    let mut node = controller.node("n1").await;
    assert_eq!(node.join(1, "u1", "r").await, JoinDecision::Accepted);
    controller.stop().await;
}
