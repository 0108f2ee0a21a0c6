//! Reflection that lists what a server serves, and nothing else of the package.
//!
//! Owns: which descriptors every server offers. Talks to: the servers of `control`, `push` and `connect-uring`.

use tonic_reflection::pb::{v1, v1alpha};
use tonic_reflection::server::Builder;

use crate::DESCRIPTORS;

/// What every server serves beside its own.
const EVERYWHERE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Reflection for a server of these services, of health and of reflection in both versions. Build it for both:
/// older clients speak only v1alpha.
pub fn reflection(services: &[&str]) -> Builder<'static> {
    let builder = Builder::configure()
        .include_reflection_service(false)
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET);
    EVERYWHERE.iter().chain(services).fold(builder, |builder, service| builder.with_service_name(*service))
}
