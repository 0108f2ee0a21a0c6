//! The push API: each call is checked, accepted, and answered when all is known or at its deadline.
//!
//! Owns: the gRPC service. Must not: route or count. Talks to: `request`, `dispatch`, `answer`, `push_stream`.

use std::sync::Arc;

use ringcast_proto::pubsub::push_manager_service_server::PushManagerService;
use ringcast_proto::pubsub::{
    BroadcastMessageRequest, BroadcastMessageResponse, PushStreamRequest, PushToRoomRequest,
    PushToRoomResponse, PushToUserRequest, PushToUserResponse,
};
use telemetry::TRACEPARENT;
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::answer::{Finished, Waiter};
use crate::push_stream::{Intake, Results};
use crate::push_trace;
use crate::request::{Push, Refusal, keep_within_timeout};

/// The service.
#[derive(Debug)]
pub(crate) struct PushService {
    intake: Intake,
}

impl PushService {
    /// Serves what comes in by `intake`.
    pub(crate) fn new(intake: Intake) -> Self {
        Self { intake }
    }

    async fn call(&self, push: Result<Push, Refusal>, metadata: &MetadataMap) -> Result<Finished, Status> {
        let mut push = push.map_err(|refusal| {
            self.intake.metrics.refused(&refusal);
            refusal.into_status()
        })?;
        keep_within_timeout(&mut push, metadata);
        let parent = metadata.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        push_trace::begin(&self.intake.traces, &mut push, parent);
        let span = push.span.clone();
        let (answer, answered) = oneshot::channel();
        self.intake.dispatch.accept([(Arc::new(push), Waiter::Call(answer))]);
        match answered.await {
            Ok(answer) => answer.map_err(|refusal| {
                if let Some(mut span) = span {
                    span.fail(refusal.reason);
                    self.intake.traces.end(*span);
                }
                refusal.into_status()
            }),
            Err(_) => Err(Status::internal("the push was lost inside the push manager")),
        }
    }
}

#[tonic::async_trait]
impl PushManagerService for PushService {
    async fn push_to_room(
        &self,
        request: Request<PushToRoomRequest>,
    ) -> Result<Response<PushToRoomResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let finished = self.call(self.intake.checker.room(request), &metadata).await?;
        Ok(Response::new(finished.into_room()))
    }

    async fn push_to_user(
        &self,
        request: Request<PushToUserRequest>,
    ) -> Result<Response<PushToUserResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let finished = self.call(self.intake.checker.user(request), &metadata).await?;
        Ok(Response::new(finished.into_user()))
    }

    async fn broadcast_message(
        &self,
        request: Request<BroadcastMessageRequest>,
    ) -> Result<Response<BroadcastMessageResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let finished = self.call(self.intake.checker.broadcast(request), &metadata).await?;
        Ok(Response::new(finished.into_broadcast()))
    }

    type PushStreamStream = Results;

    async fn push_stream(
        &self,
        request: Request<Streaming<PushStreamRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        Ok(Response::new(self.intake.open_stream(request.into_inner())))
    }
}
