//! Begins and ends spans, and hands those that have ended to the exporter.
//!
//! Owns: the exporter, its queue and its thread, both bounded by the SDK (`OTEL_BSP_*`), and the count of what became of
//! spans. Must not: wait for the collector: a span that finds the queue full is dropped and counted.
//! Talks to: a collector, over OTLP/HTTP, from a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanExporter as ExportsSpans, SpanProcessor as _,
};
use prometheus::{IntCounterVec, Opts, Registry};
use settings::SettingError;

use crate::context::TraceParent;
use crate::sampler::Sampler;
use crate::span::{Kind, Span};
use crate::variables;

/// How long the end of a service waits for its last spans to be taken.
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// What says how traces are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceSource {
    /// There are none.
    #[default]
    Off,
    /// The environment's `OTEL_*` variables.
    Env {
        /// The process is this one service, so that `OTEL_SERVICE_NAME` is its name.
        alone: bool,
    },
}

/// The traces of one service. Copies share all state. Switched off, every call is one comparison.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Live>>);

#[derive(Debug)]
struct Live {
    sampler: Sampler,
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    spans: IntCounterVec,
}

impl Traces {
    /// None at all.
    pub fn off() -> Self {
        Self::default()
    }

    /// As `source` says. `service` is how the service is called where the environment says nothing, and `instance` which
    /// of them this is. Starts a thread, and opens descriptors.
    ///
    /// # Errors
    /// Where a variable has a value that cannot be used.
    pub fn open(source: TraceSource, service: &str, instance: &str) -> Result<Self, SettingError> {
        let TraceSource::Env { alone } = source else { return Ok(Self::off()) };
        let Some(read) = variables::read(|key| std::env::var(key).ok())? else { return Ok(Self::off()) };
        let name = read.service_name.filter(|_| alone).unwrap_or_else(|| service.to_owned());
        let wrong = |error: &dyn std::fmt::Display| {
            SettingError::new("OTEL_EXPORTER_OTLP_ENDPOINT", &read.endpoint, error.to_string())
        };
        let exporter =
            opentelemetry_otlp::SpanExporter::builder().with_http().build().map_err(|error| wrong(&error))?;
        let spans = IntCounterVec::new(
            Opts::new(
                "ringcast_spans_total",
                "Spans of sampled traces, by what became of them; the rest waits.",
            ),
            &["result"],
        )
        .map_err(|error| wrong(&error))?;
        for result in ["ended", "exported", "failed", "left_out"] {
            spans.with_label_values(&[result]);
        }
        let exporter = Counted {
            inner: exporter,
            spans: spans.clone(),
            endpoint: read.endpoint,
            loud: read.endpoint_is_set,
            failing: AtomicBool::new(false),
        };
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        let resource = Resource::builder()
            .with_service_name(name)
            .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        processor.set_resource(&resource);
        let scope = InstrumentationScope::builder("ringcast").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self(Some(Arc::new(Live { sampler: read.sampler, processor, scope, spans }))))
    }

    /// Shows the counts in a service's metrics.
    ///
    /// # Errors
    /// Where they are there already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        match &self.0 {
            Some(live) => registry.register(Box::new(live.spans.clone())),
            None => Ok(()),
        }
    }

    /// Begins the span of something that was asked for: of the trace that the asker gave, or of a new one. `None`: it
    /// is not sampled.
    pub fn begin(&self, name: &'static str, kind: Kind, parent: Option<&str>) -> Option<Span> {
        let live = self.0.as_ref()?;
        match parent.and_then(TraceParent::parse) {
            Some(parent) => live.sampler.follows(&parent).then(|| Span::of(&parent, name, kind)),
            None => live.sampler.draw().map(|trace| Span::root(trace, name, kind)),
        }
    }

    /// Begins the span of something that belongs to another's trace or to none: where the asker gave no sampled one,
    /// there is none here.
    pub fn join(&self, name: &'static str, kind: Kind, parent: &str) -> Option<Span> {
        if parent.is_empty() {
            return None;
        }
        self.0.as_ref()?;
        let parent = TraceParent::parse(parent).filter(|parent| parent.sampled)?;
        Some(Span::of(&parent, name, kind))
    }

    /// Begins a trace that is kept, whatever is sampled, where traces are on at all.
    pub fn begin_kept(&self, name: &'static str, kind: Kind) -> Option<Span> {
        self.0.as_ref()?;
        let always = Sampler { ratio: 1.0, parent_based: false };
        always.draw().map(|trace| Span::root(trace, name, kind))
    }

    /// A sampled trace is not followed here: too many are under way.
    pub fn leave_out(&self) {
        if let Some(live) = &self.0 {
            live.spans.with_label_values(&["left_out"]).inc();
        }
    }

    /// A span ends now.
    pub fn end(&self, span: Span) {
        self.end_at(span, Instant::now());
    }

    /// A span has ended then.
    pub fn end_at(&self, span: Span, end: Instant) {
        let Some(live) = &self.0 else { return };
        live.spans.with_label_values(&["ended"]).inc();
        live.processor.on_end(span.ended(end, live.scope.clone()));
    }

    /// Sends what has ended; waits for at most 2 s. Blocks: not for a runtime's thread.
    pub fn shut_down(&self) {
        let Some(live) = &self.0 else { return };
        if let Err(error) = live.processor.shutdown_with_timeout(LAST_EXPORT) {
            tracing::debug!(%error, "the last spans were not taken");
        }
    }
}

/// The exporter, which says what becomes of spans.
#[derive(Debug)]
struct Counted {
    inner: opentelemetry_otlp::SpanExporter,
    spans: IntCounterVec,
    endpoint: String,
    /// Where a collector was asked for, it is told that none is there. Else it is quiet: most machines have none.
    loud: bool,
    failing: AtomicBool,
}

impl Counted {
    fn note(&self, spans: usize, result: &OTelSdkResult) {
        let label = if result.is_ok() { "exported" } else { "failed" };
        self.spans.with_label_values(&[label]).inc_by(spans as u64);
        let failed_before = self.failing.swap(result.is_err(), Relaxed);
        match result {
            Err(error) if !failed_before && self.loud => {
                tracing::warn!(endpoint = self.endpoint, %error, "spans are not taken; they are dropped until they are");
            }
            Err(error) if !failed_before => {
                tracing::debug!(endpoint = self.endpoint, %error, "spans are not taken");
            }
            Ok(()) if failed_before => tracing::info!(endpoint = self.endpoint, "spans are taken again"),
            _ => {}
        }
    }
}

impl ExportsSpans for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        self.note(spans, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
