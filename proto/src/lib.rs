//! The contracts of Ringcast: the gRPC services of package `pubsub`, generated from `pubsub/*.proto`, and the
//! typed ids that all parts share.
//!
//! Owns: names and field numbers on the wire, the bounds of ids. Must not: hold any behaviour of a service.

mod grpc_limits;
mod ids;
mod outcomes;
mod reflection;

pub use grpc_limits::{
    GRPC_KEEPALIVE_INTERVAL, GRPC_KEEPALIVE_TIMEOUT, MAX_GRPC_MESSAGE_BYTES, limited_server,
};
pub use ids::{
    IdError, MAX_ID_BYTES, MAX_USER_NAME_BYTES, NodeId, RoomId, SessionId, ShardId, UserId, check_id,
    check_user_name,
};

pub use reflection::reflection;

/// Messages and services generated from the `.proto` files, whose comments they carry.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::too_many_lines)]
pub mod pubsub {
    tonic::include_proto!("pubsub");
}

/// The encoded `FileDescriptorSet` of package `pubsub`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pubsub_descriptor.bin"));
