//! The reading of single values, as clap value parsers; the error is the remedy.
//!
//! Owns: what a port, an address and a duration look like.

use std::time::Duration;

/// Reads a port, 0 to 65535; 0 lets the kernel choose one.
pub fn parse_port(text: &str) -> Result<u16, String> {
    no_service_link(text, "a port")?;
    text.parse().map_err(|_| "give a port from 0 to 65535".into())
}

/// Reads `host:port`, where the port is not 0; an IPv6 host stands in brackets.
pub fn parse_address(text: &str) -> Result<String, String> {
    const REMEDY: &str = "give host:port, such as localhost:50051";
    no_service_link(text, "host:port")?;
    if text.contains("://") {
        return Err(format!("{REMEDY}, without a scheme"));
    }
    let (host, port) = text.rsplit_once(':').ok_or(REMEDY)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
        return Err(REMEDY.into());
    }
    if host.contains(':') && !bracketed {
        return Err("put the IPv6 address in brackets, such as [::1]:50051".into());
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(text.into()),
        _ => Err(format!("{REMEDY}; the port is 1 to 65535")),
    }
}

/// Reads one or more `host:port`, separated by commas; what stands there twice counts once.
pub fn parse_addresses(text: &str) -> Result<Vec<String>, String> {
    let mut addresses: Vec<String> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let address =
            parse_address(item).map_err(|error| format!("{error}; separate several by single commas"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Kubernetes sets a variable such as `GRPC_PORT` where a service is called `grpc`.
fn no_service_link(text: &str, wanted: &str) -> Result<(), String> {
    match text.strip_prefix("tcp://").or_else(|| text.strip_prefix("udp://")) {
        Some(rest) => Err(format!(
            "this is a Kubernetes service link to {rest}, not {wanted}: set `enableServiceLinks: false` in the \
             pod's spec, or set this variable to {wanted}"
        )),
        None => Ok(()),
    }
}

/// Reads a duration with its unit: `300s`, `5min`, `250ms`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}: give a number with its unit, such as 300s, 5min or 250ms"))
}

/// The longest address that nodes tell of themselves, in bytes.
const MAX_WS_URL_BYTES: usize = 1024;

/// The address of a WebSocket server, such as `ws://push.example.org:8080/ws`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_ws_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("ws://").or_else(|| text.strip_prefix("wss://"));
    let rest =
        rest.ok_or("give ws:// or wss:// with host, port and path, such as ws://push.example.org:8080/ws")?;
    if rest.is_empty()
        || rest.starts_with('/')
        || text.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err("give a host behind the scheme, and no spaces".into());
    }
    if text.len() > MAX_WS_URL_BYTES {
        return Err(format!("has {} bytes: give at most {MAX_WS_URL_BYTES}", text.len()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_websocket_server_has_its_scheme_and_a_host() {
        for right in ["ws://localhost:8080/ws", "wss://push.example.org/ws", "ws://[::1]:8080/ws"] {
            assert_eq!(parse_ws_url(right).as_deref(), Ok(right));
        }
        let long = format!("ws://h/{}", "x".repeat(MAX_WS_URL_BYTES));
        for wrong in
            ["", "localhost:8080", "http://h/ws", "ws://", "ws:///ws", "ws://h/w s", "ws://h\n", &long]
        {
            assert!(parse_ws_url(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_port_is_a_number_up_to_65535() {
        assert_eq!(parse_port("0"), Ok(0));
        assert_eq!(parse_port("65535"), Ok(65535));
        for wrong in ["", "65536", "-1", "80 ", "http"] {
            assert!(parse_port(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_kubernetes_service_link_is_called_by_its_name() {
        let error = parse_port("tcp://10.43.0.7:50051").unwrap_err();
        assert!(error.contains("Kubernetes service link"), "{error}");
        assert!(error.contains("enableServiceLinks: false"), "{error}");
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for right in ["localhost:50051", "10.0.0.1:1", "[::1]:65535", "controller.default.svc:50051"] {
            assert_eq!(parse_address(right).as_deref(), Ok(right));
        }
        for wrong in ["localhost", ":50051", "a:0", "a:65536", "http://a:1", "::1:5", "a b:1", ""] {
            assert!(parse_address(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn addresses_are_separated_by_commas_and_each_counts_once() {
        assert_eq!(parse_addresses("a:1"), Ok(vec!["a:1".to_owned()]));
        let several = parse_addresses("a:1, b:2,a:1 ,[::1]:3").unwrap();
        assert_eq!(several, ["a:1", "b:2", "[::1]:3"]);
        for wrong in ["", "a:1,", ",a:1", "a:1,,b:2", "a:1 b:2", "a:1;b:2", "a:1,b"] {
            assert!(parse_addresses(wrong).is_err(), "{wrong:?} was taken");
        }
        assert!(parse_addresses("a:1,tcp://10.0.0.1:2").unwrap_err().contains("Kubernetes service link"));
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(parse_duration("300s"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        let error = parse_duration("300").unwrap_err();
        assert!(error.contains("300s"), "{error}");
    }
}
