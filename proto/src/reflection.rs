//! Reflection that lists what a server serves, and nothing else of the package.
//!
//! Owns: which descriptors every server offers. Talks to: the servers of `control`, `push` and `connect-uring`.

use tonic_reflection::server::Builder;

use crate::DESCRIPTORS;

/// The health service's name, which every server serves.
const HEALTH: &str = "grpc.health.v1.Health";

/// Reflection for a server of these services and of health. Build it twice: older clients speak only v1alpha.
pub fn reflection(services: &[&str]) -> Builder<'static> {
    let builder = Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(HEALTH);
    services.iter().fold(builder, |builder, service| builder.with_service_name(*service))
}
