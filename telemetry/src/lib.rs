//! How services are watched from outside: traces over OTLP/HTTP, a budget for what traffic may cause a second, and the
//! word to the service manager that started them.
//!
//! Owns: what OpenTelemetry's `OTEL_*` variables mean here, the W3C trace context, the exporter and its thread, systemd's
//! notifications. Must not: know what a push or a join is; be called by a shard.
//! Talks to: each service, which begins and ends spans of what it does; `settings`, whose errors it uses.

mod context;
mod per_second;
mod sampler;
mod service_manager;
mod span;
mod traces;
mod variables;

pub use context::{TRACEPARENT, TraceParent};
pub use per_second::PerSecond;
pub use service_manager::{ServiceManager, keep_alive};
pub use span::{Kind, Span, attribute};
pub use traces::{TraceSource, Traces};
