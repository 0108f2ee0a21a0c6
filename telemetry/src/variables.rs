//! What OpenTelemetry's variables say (specification, "OpenTelemetry Environment Variable Specification"), as far as
//! they mean something here. The exporter and the queue before it read theirs themselves: `OTEL_EXPORTER_OTLP_*`,
//! `OTEL_BSP_*`, `OTEL_RESOURCE_ATTRIBUTES`.
//!
//! Owns: which values are taken, and the errors for the others. Must not: export.

use settings::SettingError;

use crate::sampler::Sampler;

/// Where spans go when nothing else is said: OTLP over HTTP to this machine.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

/// The share of new traces that are kept when nothing else is said.
const DEFAULT_RATIO: f64 = 0.01;

/// How traces are set.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Variables {
    /// How a service is called; its own name where nothing is said.
    pub(crate) service_name: Option<String>,
    pub(crate) sampler: Sampler,
    /// Where spans go, for people.
    pub(crate) endpoint: String,
    /// Somebody has said where, so he wants to know when nobody is there.
    pub(crate) endpoint_is_set: bool,
}

/// Reads them; `None`: no traces are wanted.
pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Option<Variables>, SettingError> {
    // An empty value is none (specification, "Parsing empty value").
    let get = |key: &str| get(key).filter(|value| !value.trim().is_empty());
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    match get("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(SettingError::new("OTEL_TRACES_EXPORTER", other, "give otlp or none")),
    }
    for key in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
        if let Some(other) = get(key).filter(|protocol| protocol != "http/protobuf") {
            let remedy = "only http/protobuf is spoken here; collectors take it on port 4318";
            return Err(SettingError::new(key, other, remedy));
        }
    }
    let mut endpoint = None;
    for key in ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"] {
        let Some(value) = get(key) else { continue };
        if !value.starts_with("http://") {
            let remedy = "give http://host:port of a collector that is near: TLS is for it to speak";
            return Err(SettingError::new(key, value, remedy));
        }
        endpoint.get_or_insert(value);
    }
    Ok(Some(Variables {
        service_name: get("OTEL_SERVICE_NAME"),
        sampler: sampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG"))?,
        endpoint_is_set: endpoint.is_some(),
        endpoint: endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
    }))
}

fn sampler(name: Option<String>, argument: Option<String>) -> Result<Sampler, SettingError> {
    let ratio = match &argument {
        None => None,
        Some(text) => match text.trim().parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Some(ratio),
            _ => {
                let remedy = "give the share of traces that are kept, 0 to 1";
                return Err(SettingError::new("OTEL_TRACES_SAMPLER_ARG", text, remedy));
            }
        },
    };
    let name = name.unwrap_or_else(|| "parentbased_traceidratio".to_owned());
    let (parent_based, kind) = match name.strip_prefix("parentbased_") {
        Some(kind) => (true, kind),
        None => (false, &name[..]),
    };
    let ratio = match kind {
        "always_on" => 1.0,
        "always_off" => 0.0,
        "traceidratio" => ratio.unwrap_or(DEFAULT_RATIO),
        _ => {
            let remedy = "give always_on, always_off, traceidratio, or parentbased_ and one of these";
            return Err(SettingError::new("OTEL_TRACES_SAMPLER", &name, remedy));
        }
    };
    Ok(Sampler { ratio, parent_based })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(set: &[(&str, &str)]) -> Result<Option<Variables>, SettingError> {
        read(|key| set.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn one_in_a_hundred_goes_to_this_machine_where_nothing_is_said() {
        for set in [&[][..], &[("OTEL_TRACES_SAMPLER", ""), ("OTEL_SDK_DISABLED", "false")]] {
            let read = variables(set).unwrap().unwrap();
            assert_eq!(read.sampler, Sampler { ratio: 0.01, parent_based: true });
            assert_eq!((&read.endpoint[..], read.endpoint_is_set), ("http://localhost:4318", false));
            assert_eq!(read.service_name, None);
        }
    }

    #[test]
    fn samplers_are_called_as_everywhere() {
        for (name, argument, ratio, parent_based) in [
            ("always_on", "", 1.0, false),
            ("parentbased_always_off", "0.5", 0.0, true),
            ("traceidratio", "0.25", 0.25, false),
            ("parentbased_traceidratio", "", 0.01, true),
        ] {
            let set = [("OTEL_TRACES_SAMPLER", name), ("OTEL_TRACES_SAMPLER_ARG", argument)];
            let read = variables(&set).unwrap().unwrap();
            assert_eq!(read.sampler, Sampler { ratio, parent_based }, "{name}");
        }
    }

    #[test]
    fn what_switches_traces_off_does() {
        for set in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(variables(&[set]), Ok(None), "{set:?}");
        }
    }

    #[test]
    fn the_endpoint_of_traces_goes_before_the_one_of_all_signals() {
        let set = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/v1/traces"),
        ];
        let read = variables(&set).unwrap().unwrap();
        assert_eq!((&read.endpoint[..], read.endpoint_is_set), ("http://traces:4318/v1/traces", true));
    }

    #[test]
    fn what_cannot_be_done_is_an_error_with_key_value_and_remedy() {
        for (key, value, remedy) in [
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp or none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://far:4318", "http://host:port"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost:4318", "http://host:port"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5", "0 to 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN", "0 to 1"),
        ] {
            let error = variables(&[(key, value)]).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(value) && error.contains(remedy), "{error}");
        }
    }
}
