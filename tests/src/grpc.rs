//! gRPC calls as a backend makes them.
//!
//! Owns: channels with a time limit, requests with defaults. Must not: retry.

use std::net::SocketAddr;
use std::time::Duration;

use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use ringcast_proto::pubsub::push_manager_service_client::PushManagerServiceClient;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, BroadcastMessageResponse, DeliveryReport, GetRoomInfoRequest,
    GetRoomStatsRequest, GetUserNodeRequest, GetUserNodeResponse, MessageContent, Outcomes,
    PushToRoomRequest, PushToRoomResponse, PushToUserRequest, PushToUserResponse, RoomInfo,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Error};

/// How long a call may take; longer than any deadline that a test gives a push.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest message of either side.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

async fn channel(addr: SocketAddr) -> Result<Channel, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
    endpoint.connect_timeout(Duration::from_secs(5)).timeout(TIMEOUT).connect().await
}

/// A client of a controller.
#[derive(Clone)]
pub struct Controller(pub ControllerServiceClient<Channel>);

impl Controller {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Result<Self, Error> {
        Ok(Self(ControllerServiceClient::new(channel(addr).await?)))
    }

    /// A room with the first page of its users.
    pub async fn room(&self, room: &str) -> Result<RoomInfo, Status> {
        let request = GetRoomInfoRequest { room_id: room.into(), ..GetRoomInfoRequest::default() };
        let answer = self.0.clone().get_room_info(request).await?;
        answer.into_inner().room_info.ok_or_else(|| Status::internal("an answer without a room"))
    }

    /// How many users are in a room; one that does not exist has none.
    pub async fn room_users(&self, room: &str) -> Result<u32, Status> {
        match self.room(room).await {
            Ok(room) => Ok(room.user_count),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(0),
            Err(status) => Err(status),
        }
    }

    /// Where a user is.
    pub async fn user(&self, user: &str) -> Result<GetUserNodeResponse, Status> {
        Ok(self.0.clone().get_user_node(GetUserNodeRequest { user_id: user.into() }).await?.into_inner())
    }

    /// How many sessions there are.
    pub async fn sessions(&self) -> Result<u64, Status> {
        Ok(self.0.clone().get_room_stats(GetRoomStatsRequest::default()).await?.into_inner().total_sessions)
    }
}

/// A client of a push manager.
#[derive(Clone)]
pub struct Pusher(pub PushManagerServiceClient<Channel>);

impl Pusher {
    /// Connects.
    pub async fn connect(addr: SocketAddr) -> Result<Self, Error> {
        let client = PushManagerServiceClient::new(channel(addr).await?);
        Ok(Self(
            client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES),
        ))
    }

    /// A push to a room.
    pub async fn room(&self, room: &str, data: &[u8]) -> Result<PushToRoomResponse, Status> {
        self.room_request(room_push(room, data)).await
    }

    /// A push to a room, as the request says.
    pub async fn room_request(&self, request: PushToRoomRequest) -> Result<PushToRoomResponse, Status> {
        Ok(self.0.clone().push_to_room(request).await?.into_inner())
    }

    /// A push to a user.
    pub async fn user(&self, user: &str, data: &[u8]) -> Result<PushToUserResponse, Status> {
        let request =
            PushToUserRequest { user_id: user.into(), content: text(data), ..PushToUserRequest::default() };
        Ok(self.0.clone().push_to_user(request).await?.into_inner())
    }

    /// A push to everyone.
    pub async fn all(&self, data: &[u8], deadline_ms: u32) -> Result<BroadcastMessageResponse, Status> {
        let request = BroadcastMessageRequest {
            content: text(data),
            deadline_ms,
            ..BroadcastMessageRequest::default()
        };
        Ok(self.0.clone().broadcast_message(request).await?.into_inner())
    }
}

/// The request of a push to a room.
pub fn room_push(room: &str, data: &[u8]) -> PushToRoomRequest {
    PushToRoomRequest { room_id: room.into(), content: text(data), ..PushToRoomRequest::default() }
}

/// A text payload.
pub fn text(data: &[u8]) -> Option<MessageContent> {
    Some(MessageContent { data: data.to_vec().into(), ..MessageContent::default() })
}

/// The totals of a report; zeros where there is none, which no test takes for a delivery.
pub fn total(report: &Option<DeliveryReport>) -> Outcomes {
    report.as_ref().and_then(|report| report.total).unwrap_or_default()
}

/// Members = the sum of the outcomes, in all and by node.
pub fn assert_accounted(report: &Option<DeliveryReport>) {
    let report = report.as_ref().expect("every answer carries a report");
    let mut by_node = 0;
    for (name, outcomes) in report
        .nodes
        .iter()
        .map(|node| (node.node_id.as_str(), node.outcomes.unwrap_or_default()))
        .chain([("all", report.total.unwrap_or_default())])
    {
        assert_eq!(outcomes.members, sum(&outcomes), "{name}: {outcomes:?}");
        by_node += if name == "all" { 0 } else { outcomes.members };
    }
    let total = report.total.unwrap_or_default();
    assert_eq!(by_node + total.offline, total.members, "the nodes make up the whole: {report:?}");
}

/// The sum of all outcomes but `members`.
pub fn sum(outcomes: &Outcomes) -> u64 {
    let Outcomes {
        members: _,
        written,
        queued,
        dropped_slow,
        dropped_closed,
        dropped_shed,
        offline,
        unknown,
    } = outcomes;
    written + queued + dropped_slow + dropped_closed + dropped_shed + offline + unknown
}
