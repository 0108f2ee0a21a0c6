//! The liar's gRPC: a push manager that says that all was written, a controller that says that clients have left.

use std::net::SocketAddr;
use std::pin::Pin;

use ringcast_proto::pubsub::controller_service_server::{ControllerService, ControllerServiceServer};
use ringcast_proto::pubsub::push_manager_service_server::{PushManagerService, PushManagerServiceServer};
use ringcast_proto::pubsub::streamed_push::Push;
use ringcast_proto::pubsub::streamed_result::Result as Streamed;
use ringcast_proto::pubsub::*;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::Liar;

type Answer<T> = Result<Response<T>, Status>;

/// Serves both; the address.
pub(crate) async fn serve(liar: Liar) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(PushManagerServiceServer::new(Doors(liar.clone())))
        .add_service(ControllerServiceServer::new(Doors(liar)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    addr
}

struct Doors(Liar);

impl Doors {
    fn room(&self, request: PushToRoomRequest) -> PushToRoomResponse {
        let text = String::from_utf8(request.content.unwrap_or_default().data.to_vec()).unwrap();
        let written = self.0.push(&request.room_id, &text);
        let total = Some(Outcomes { members: written, written, ..Outcomes::default() });
        let report = Some(DeliveryReport { total, ..DeliveryReport::default() });
        PushToRoomResponse { success: true, report, ..PushToRoomResponse::default() }
    }
}

#[tonic::async_trait]
impl PushManagerService for Doors {
    type PushStreamStream = Pin<Box<dyn Stream<Item = Result<PushStreamResponse, Status>> + Send>>;

    async fn push_to_room(&self, request: Request<PushToRoomRequest>) -> Answer<PushToRoomResponse> {
        Ok(Response::new(self.room(request.into_inner())))
    }

    async fn push_to_user(&self, _: Request<PushToUserRequest>) -> Answer<PushToUserResponse> {
        Err(Status::unimplemented("rooms only"))
    }

    async fn broadcast_message(
        &self,
        _: Request<BroadcastMessageRequest>,
    ) -> Answer<BroadcastMessageResponse> {
        Err(Status::unimplemented("rooms only"))
    }

    async fn push_stream(
        &self,
        request: Request<Streaming<PushStreamRequest>>,
    ) -> Answer<Self::PushStreamStream> {
        let (liar, mut pushes) = (Doors(self.0.clone()), request.into_inner());
        let (answer, answers) = tokio::sync::mpsc::channel(1024);
        tokio::spawn(async move {
            while let Some(Ok(message)) = pushes.next().await {
                let results = message.pushes.into_iter().map(|push| {
                    let Some(Push::Room(request)) = push.push else { panic!("rooms only") };
                    let result = Some(Streamed::Room(liar.room(request)));
                    StreamedResult { push_id: push.push_id, result }
                });
                let results = results.collect();
                if answer.send(Ok(PushStreamResponse { results })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

#[tonic::async_trait]
impl ControllerService for Doors {
    async fn join_room(&self, _: Request<JoinRoomRequest>) -> Answer<JoinRoomResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    /// Says so, and does nothing.
    async fn leave_room(&self, _: Request<LeaveRoomRequest>) -> Answer<LeaveRoomResponse> {
        Ok(Response::new(LeaveRoomResponse { success: true, sessions: 1, ..LeaveRoomResponse::default() }))
    }

    async fn get_room_info(&self, _: Request<GetRoomInfoRequest>) -> Answer<GetRoomInfoResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_user_node(&self, _: Request<GetUserNodeRequest>) -> Answer<GetUserNodeResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_room_stats(&self, _: Request<GetRoomStatsRequest>) -> Answer<GetRoomStatsResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn set_room(&self, _: Request<SetRoomRequest>) -> Answer<SetRoomResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn list_nodes(&self, _: Request<ListNodesRequest>) -> Answer<ListNodesResponse> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn select_connect_node(
        &self,
        _: Request<SelectConnectNodeRequest>,
    ) -> Answer<SelectConnectNodeResponse> {
        Err(Status::unimplemented("nobody asks"))
    }
}
