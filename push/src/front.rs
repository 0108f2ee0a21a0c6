//! What serves a call: the push API at once, everything else (health, reflection) by tonic's router.
//!
//! Owns: that choice. Must not: know what a call is about. Talks to: `lib`, which serves it.
//!
//! The router matches a path, boxes a service and wraps both bodies anew for each call. That is a part of what a call
//! costs that no push needs.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::Either;
use ringcast_proto::pubsub::push_manager_service_server::PushManagerServiceServer;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService as _;
use tonic::service::Routes;

use crate::push_service::PushService;

type PushServer = PushManagerServiceServer<PushService>;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    /// The push API.
    pub(crate) push: PushServer,
    /// All else; it answers what nobody knows.
    pub(crate) others: Routes,
}

impl Service<Request<Body>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<BoxFuture<Response<Body>, Infallible>, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The push API is always ready.
        Service::<Request<Body>>::poll_ready(&mut self.others, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_push(request.uri().path()) {
            Either::Left(self.push.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

/// The path of a call is the service's name and the method's, each behind a slash.
fn is_push(path: &str) -> bool {
    let behind = path.strip_prefix('/').and_then(|path| path.strip_prefix(PushServer::NAME));
    behind.is_some_and(|method| method.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_of_the_push_api_are_its_own() {
        assert!(is_push("/pubsub.PushManagerService/PushToUser"));
        for other in ["/pubsub.PushManagerServices/PushToUser", "/grpc.health.v1.Health/Check", "/", ""] {
            assert!(!is_push(other), "{other}");
        }
    }
}
