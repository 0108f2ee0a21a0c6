//! Where etcd is, as settings say it.
//!
//! Owns: the variables `ETCD_*`, the section `etcd`. Talks to: `source`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::source::{Source, Variables, not_empty};
use crate::{Etcd, EtcdStore, SettingError, parse_address, parse_duration};

/// The lease where none is set.
const DEFAULT_LEASE: Duration = Duration::from_secs(10);

/// A node closes its clients when it was cut off for 8 s, which must be before the others take it for gone.
const LEASE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(60);

/// Reads it, where the section or `ETCD_ENDPOINTS` is set.
pub(crate) fn read(
    section: Option<&Etcd>,
    variables: Variables<'_>,
) -> Result<Option<EtcdStore>, SettingError> {
    let source = Source::new("ETCD", "etcd", variables);
    if section.is_none() && source.variable("ENDPOINTS").is_none() {
        return Ok(None);
    }
    let section = section.cloned().unwrap_or_default();
    let listed = section.endpoints.as_ref().map(|endpoints| endpoints.join(","));
    let lease = section.lease.map(humantime::format_duration);
    let store = EtcdStore {
        endpoints: source
            .value("ENDPOINTS", "endpoints", listed, endpoints)?
            .unwrap_or_else(|| vec!["localhost:2379".into()]),
        user: source.value("USER", "user", section.user.clone(), not_empty)?,
        password: source.password(section.password.as_ref(), section.password_file.as_deref())?,
        ca: source.file("CA_FILE", "ca_file", section.ca_file.as_deref())?,
        certificate: certificate(&source, &section)?,
        lease: source.value("LEASE", "lease", lease, lease_time)?.unwrap_or(DEFAULT_LEASE),
    };
    fits(&store, &source)?;
    Ok(Some(store))
}

fn certificate(source: &Source<'_>, section: &Etcd) -> Result<Option<(PathBuf, PathBuf)>, SettingError> {
    let certificate = source.file("CERT_FILE", "cert_file", section.cert_file.as_deref())?;
    let key = source.file("KEY_FILE", "key_file", section.key_file.as_deref())?;
    let alone = |name: String, path: PathBuf, other: &str| {
        Err(SettingError::new(name, path.display(), format!("stands alone: set {other} as well")))
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(path), None) => alone(source.name("CERT_FILE", "cert_file"), path, "ETCD_KEY_FILE"),
        (None, Some(path)) => alone(source.name("KEY_FILE", "key_file"), path, "ETCD_CERT_FILE"),
        (None, None) => Ok(None),
    }
}

/// What is well by itself and not together.
fn fits(store: &EtcdStore, source: &Source<'_>) -> Result<(), SettingError> {
    match (&store.user, &store.password) {
        (Some(user), None) => {
            let remedy = "has no password: set ETCD_PASSWORD or ETCD_PASSWORD_FILE";
            return Err(SettingError::new(source.name("USER", "user"), user, remedy));
        }
        (None, Some(_)) => {
            let remedy = "a password is set and no user: set this as well, or take the password out";
            return Err(SettingError::key_only(source.name("USER", "user"), remedy));
        }
        _ => {}
    }
    let starts = |scheme: &str| store.endpoints.iter().any(|endpoint| endpoint.starts_with(scheme));
    let secured = store.ca.is_some() || store.certificate.is_some();
    let bare = store.endpoints.iter().any(|endpoint| !endpoint.contains("://"));
    if starts("http://") && (secured || starts("https://")) || (!secured && bare && starts("https://")) {
        let remedy = "some endpoints are with TLS and some without: write https:// before all of them, or before \
                      none and take certificates out";
        let name = source.name("ENDPOINTS", "endpoints");
        return Err(SettingError::new(name, store.endpoints.join(","), remedy));
    }
    Ok(())
}

/// host:port of each member, with or without a scheme.
fn endpoints(text: &str) -> Result<Vec<String>, String> {
    const REMEDY: &str = "separate several by commas; https:// before each means TLS";
    let one = |text: &str| {
        let scheme =
            ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme)).unwrap_or("");
        let bare = &text[scheme.len()..];
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        parse_address(bare).map(|address| format!("{scheme}{address}"))
    };
    let mut endpoints: Vec<String> = Vec::new();
    for item in text.split(',').map(str::trim) {
        let endpoint = one(item).map_err(|error| format!("{error}; {REMEDY}"))?;
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Ok(endpoints)
}

fn lease_time(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text)?;
    if LEASE.contains(&lease) && lease.subsec_nanos() == 0 {
        return Ok(lease);
    }
    Err("give whole seconds from 10s to 60s; the larger, the longer a service that died is taken for alive"
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use secrecy::ExposeSecret as _;

    fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Option<EtcdStore>, SettingError> {
        let file = parse(text, "config.yaml").unwrap();
        read(file.etcd.as_ref(), &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn it_is_used_exactly_where_its_section_or_its_endpoints_are_set() {
        for variables in [&[][..], &[("ETCD_ENDPOINTS", "")], &[("ETCD_USER", "x")]] {
            assert!(read_with("", variables).unwrap().is_none(), "{variables:?}");
        }
        let store = read_with("etcd: {}", &[]).unwrap().unwrap();
        assert_eq!((store.endpoints, store.lease), (vec!["localhost:2379".to_owned()], DEFAULT_LEASE));
        assert!(store.user.is_none() && store.ca.is_none() && store.certificate.is_none());
    }

    #[test]
    fn a_variable_stands_over_the_section() {
        let text = "etcd: {endpoints: ['a:1'], user: u, password: p, lease: 20s}";
        let variables = [("ETCD_ENDPOINTS", "b:2, http://c:3/,b:2"), ("ETCD_LEASE", "15s")];
        let store = read_with(text, &variables).unwrap().unwrap();
        assert_eq!(store.endpoints, ["b:2", "http://c:3"]);
        assert_eq!((store.user.as_deref(), store.password.unwrap().expose_secret()), (Some("u"), "p"));
        assert_eq!(store.lease, Duration::from_secs(15));
    }

    #[test]
    fn a_value_that_cannot_be_used_names_key_value_and_remedy() {
        for (text, key, part) in [
            ("etcd: {endpoints: []}", "etcd.endpoints", "host:port"),
            ("etcd: {endpoints: ['a:1', '']}", "etcd.endpoints", "host:port"),
            ("etcd: {endpoints: ['tcp://a:1']}", "etcd.endpoints", "Kubernetes"),
            ("etcd: {endpoints: ['https://a:1', 'http://b:1']}", "etcd.endpoints", "TLS"),
            ("etcd: {endpoints: ['https://a:1', 'b:1']}", "etcd.endpoints", "TLS"),
            ("etcd: {lease: 1s}", "etcd.lease", "from 10s"),
            ("etcd: {lease: 10500ms}", "etcd.lease", "whole seconds"),
            ("etcd: {user: u}", "etcd.user", "ETCD_PASSWORD"),
            ("etcd: {ca_file: /none}", "etcd.ca_file", "cannot be read"),
        ] {
            let error = read_with(text, &[]).unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(error.value.is_some() && error.remedy.contains(part), "{error}");
        }
        let error = read_with("", &[("ETCD_ENDPOINTS", "localhost")]).unwrap_err();
        assert_eq!((error.key.as_str(), error.value.as_deref()), ("ETCD_ENDPOINTS", Some("localhost")));
        let error = read_with("", &[("ETCD_ENDPOINTS", "a:1"), ("ETCD_PASSWORD", "hunter2")]).unwrap_err();
        assert!(error.key == "etcd.user" && !error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_certificate_and_its_key_go_together() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display().to_string();
        let members = ("ETCD_ENDPOINTS", "a:1");
        let variables = [members, ("ETCD_CERT_FILE", &path), ("ETCD_KEY_FILE", &path)];
        let both = read_with("", &variables).unwrap().unwrap().certificate;
        assert_eq!(both, Some((file.path().into(), file.path().into())));
        for alone in ["ETCD_CERT_FILE", "ETCD_KEY_FILE"] {
            assert_eq!(read_with("", &[members, (alone, &path)]).unwrap_err().key, alone);
        }
    }
}
