//! MariaDB: killed and started again, its replica promoted, read-only.

use std::time::Duration;

use ringcast_proto::pubsub::SetRoomRequest;
use ringcast_tests::cluster::{Bounds, Drill, DrillPlan, Figures};
use ringcast_tests::eventually;
use ringcast_tests::grpc::Controller;
use tonic::Code;

/// A room that is set before the fault and read after it.
const ROOM: &str = "room-0";

const WORKS_AGAIN: Duration = Duration::from_secs(20);

pub(crate) async fn dies() -> Figures {
    let mut drill = Drill::begin("MariaDB dies", DrillPlan::default()).await;
    set_room(&drill, "before").await.expect("the store takes it");
    drill.fault();
    drill.cluster.maria.primary().kill();
    refuses(&drill).await;
    drill.load_for(drill.times.store_down).await;
    // Rooms whose settings are known take members all the same.
    drill.some_join(Duration::from_secs(15)).await;
    drill.pushes_went_on(0.8);
    drill.cluster.maria.primary().start_again();
    back(&mut drill, Some("before")).await;
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn held() -> Figures {
    let mut drill = Drill::begin("MariaDB is held", DrillPlan::default()).await;
    set_room(&drill, "before").await.expect("the store takes it");
    drill.fault();
    // Its connections stay, and nothing answers.
    drill.cluster.maria.primary().stop();
    refuses(&drill).await;
    drill.load_for(drill.times.store_down).await;
    drill.some_join(Duration::from_secs(15)).await;
    drill.pushes_went_on(0.8);
    drill.cluster.maria.primary().cont();
    back(&mut drill, None).await;
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn promoted() -> Figures {
    let mut drill = Drill::begin("MariaDB's replica is promoted", DrillPlan::default()).await;
    set_room(&drill, "before").await.expect("the store takes it");
    drill.fault();
    drill.cluster.maria.promote();
    drill.some_join(Duration::from_secs(15)).await;
    back(&mut drill, Some("before")).await;
    drill.end(Bounds::announced(0.01)).await
}

pub(crate) async fn read_only() -> Figures {
    let mut drill = Drill::begin("MariaDB is read-only", DrillPlan::default()).await;
    set_room(&drill, "before").await.expect("the store takes it");
    drill.fault();
    drill.cluster.maria.primary().read_only(true);
    refuses(&drill).await;
    drill.some_join(Duration::from_secs(15)).await;
    drill.load_for(drill.times.store_down).await;
    drill.pushes_went_on(0.8);
    drill.cluster.maria.primary().read_only(false);
    back(&mut drill, Some("before")).await;
    drill.end(Bounds::announced(0.01)).await
}

/// Sets the room's name at every controller in turn; the first error.
async fn set_room(drill: &Drill, name: &str) -> Result<(), tonic::Status> {
    for service in &drill.cluster.controllers {
        let request =
            SetRoomRequest { room_id: ROOM.into(), name: Some(name.into()), ..SetRoomRequest::default() };
        // Without a question whether it answers, for what it would be asked stands in the store, too.
        let mut controller = Controller::connect(service.grpc).await.expect("the controller is there");
        controller.0.set_room(request).await?;
    }
    Ok(())
}

/// The fault bites: what has to be written is answered "try again", and soon.
async fn refuses(drill: &Drill) {
    let began = std::time::Instant::now();
    let status = set_room(drill, "meanwhile").await.expect_err("the store takes nothing");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "an answer in time: {:?}", began.elapsed());
}

/// What was set before is there, where it is known what that is, and can be set anew.
async fn back(drill: &mut Drill, name: Option<&str>) {
    let controller = drill.cluster.controller(0).await;
    eventually("the room is as it was", WORKS_AGAIN, async || {
        let room = controller.room(ROOM).await.map_err(|status| status.to_string())?;
        let found = room.metadata.unwrap_or_default().name;
        if name.is_none_or(|name| found == name) { Ok(()) } else { Err(found) }
    })
    .await;
    eventually("rooms can be set again", WORKS_AGAIN, async || set_room(drill, "after").await).await;
    let took = drill.since_fault();
    drill.figures.note("rooms can be set again, from the fault", took);
    assert_eq!(drill.lost(), 0, "no client notices: {:?}", drill.endings());
}
