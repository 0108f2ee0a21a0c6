//! A collector of traces: PyPI's decoder of OTLP in a process of its own, and the spans that it was sent.
//!
//! Owns: what a test asks of spans. Must not: know how the system makes them.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::{Process, eventually, place};

/// How long spans may take to be exported.
const PATIENCE: Duration = Duration::from_secs(15);

/// A span, as the collector prints it.
#[derive(Debug, Clone, Deserialize)]
pub struct Span {
    /// What the service says of itself.
    pub resource: HashMap<String, Value>,
    /// What was done.
    pub name: String,
    /// The trace, in hexadecimal.
    pub trace_id: String,
    /// The span, in hexadecimal.
    pub span_id: String,
    /// Of which span it is a step; empty: of none.
    pub parent_span_id: String,
    /// When it began, in nanoseconds since the Unix epoch.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// What is told of it.
    pub attributes: HashMap<String, Value>,
    /// What happened meanwhile.
    pub events: Vec<Event>,
    /// Why it did not come to what it was to.
    pub error: Option<String>,
}

/// Something that happened in a span.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// What happened.
    pub name: String,
    /// What is told of it.
    pub attributes: HashMap<String, Value>,
}

impl Span {
    /// The service whose step it is.
    pub fn service(&self) -> &str {
        self.resource["service.name"].as_str().expect("as the collector prints it")
    }

    /// An attribute that is a number.
    pub fn number(&self, attribute: &str) -> u64 {
        self.attributes[attribute].as_u64().expect("as the collector prints it")
    }

    /// How many sessions were dropped, by reason.
    pub fn dropped(&self) -> Vec<(&str, u64)> {
        let dropped = self.events.iter().filter(|event| event.name == "dropped");
        dropped
            .map(|event| {
                let sessions = event.attributes["sessions"].as_u64().expect("as the collector prints it");
                (event.attributes["reason"].as_str().expect("as the collector prints it"), sessions)
            })
            .collect()
    }
}

/// The collector; it ends with this.
pub struct Collector {
    process: Process,
    /// Where spans are to be sent, as `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
}

impl Collector {
    /// Starts it.
    pub async fn start() -> Self {
        let mut command = Command::new(place::python());
        command.arg(place::client_script("otlp_collector.py"));
        let process = Process::start("collector", &mut command);
        let port = eventually("the collector listens", PATIENCE, async || {
            let out = process.stdout();
            let line = out.lines().next().ok_or("nothing yet")?;
            serde_json::from_str::<Value>(line).ok().and_then(|line| line["port"].as_u64()).ok_or("no port")
        })
        .await;
        Self { process, endpoint: format!("http://127.0.0.1:{port}") }
    }

    /// The environment of a service whose spans are to come here at once, as `sampler` decides.
    pub fn variables(&self, sampler: &str) -> Vec<(String, String)> {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint[..]),
            ("OTEL_TRACES_SAMPLER", sampler),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ];
        variables.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
    }

    /// All that has come.
    pub fn spans(&self) -> Vec<Span> {
        let out = self.process.stdout();
        // The last line may not be whole yet.
        let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).expect("as the collector prints it"))
            .collect()
    }

    /// The trace, once it has so many spans of this name, the one that is nobody's step, and no step of a span that is
    /// missing: each service exports its own.
    pub async fn trace(&self, id: &str, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans {name} of {id}"), PATIENCE, async || {
            let spans: Vec<Span> = self.spans().into_iter().filter(|span| span.trace_id == id).collect();
            let found = spans.iter().filter(|span| span.name == name).count();
            let root = spans.iter().any(|span| span.parent_span_id.is_empty());
            let there = |id: &str| id.is_empty() || spans.iter().any(|span| span.span_id == id);
            let whole = root && spans.iter().all(|span| there(&span.parent_span_id));
            if found == count && whole { Ok(spans) } else { Err(format!("{spans:#?}")) }
        })
        .await
    }
}

/// The one span of this service and name.
pub fn only<'a>(spans: &'a [Span], service: &str, name: &str) -> &'a Span {
    let found: Vec<&Span> =
        spans.iter().filter(|span| span.service() == service && span.name == name).collect();
    assert_eq!(found.len(), 1, "{service} {name}: {spans:#?}");
    found[0]
}

/// The steps of a span.
pub fn children<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.parent_span_id == parent.span_id).collect()
}
