//! Where MySQL is, as settings say it.
//!
//! Owns: the variables `DB_*`, the section `database`. Talks to: `source`.

use std::net::IpAddr;

use crate::source::{Source, Variables, not_empty};
use crate::{Database, MysqlStore, SettingError, parse_port};

/// How connections may be encrypted.
const TLS_MODES: [&str; 5] = ["disabled", "preferred", "required", "verify_ca", "verify_identity"];

/// Reads it, where the section or `DB_HOST` is set.
pub(crate) fn read(
    section: Option<&Database>,
    variables: Variables<'_>,
) -> Result<Option<MysqlStore>, SettingError> {
    let source = Source::new("DB", "database", variables);
    if section.is_none() && source.variable("HOST").is_none() {
        return Ok(None);
    }
    let section = section.cloned().unwrap_or_default();
    let ca = source.file("CA_FILE", "ca_file", section.ca_file.as_deref())?;
    let tls = source.value("TLS", "tls", section.tls, tls_mode)?;
    if let (Some(tls), Some(path)) = (&tls, &ca)
        && !tls.starts_with("verify_")
    {
        let name = source.name("CA_FILE", "ca_file");
        let remedy = format!("is not used where TLS is {tls}: set TLS to verify_ca or verify_identity");
        return Err(SettingError::new(name, path.display(), remedy));
    }
    let default_tls = if ca.is_some() { "verify_ca" } else { "preferred" };
    Ok(Some(MysqlStore {
        host: source.value("HOST", "host", section.host, host)?.unwrap_or_else(|| "localhost".into()),
        port: source.value("PORT", "port", section.port, port)?.unwrap_or(3306),
        user: source.value("USER", "user", section.user, not_empty)?.unwrap_or_else(|| "root".into()),
        password: source.password(section.password.as_ref(), section.password_file.as_deref())?,
        database: source
            .value("NAME", "dbname", section.dbname, not_empty)?
            .unwrap_or_else(|| "pubsub".into()),
        tls: tls.unwrap_or_else(|| default_tls.into()),
        ca,
    }))
}

fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let odd = |c: char| c.is_whitespace() || c == ':' || c == '/';
    if bare.parse::<IpAddr>().is_ok() || (!text.is_empty() && !text.contains(odd)) {
        return Ok(bare.into());
    }
    Err("give a host alone, such as localhost; the port is a setting of its own (DB_PORT)".into())
}

fn port(text: &str) -> Result<u16, String> {
    match parse_port(text)? {
        0 => Err("give a port from 1 to 65535".into()),
        port => Ok(port),
    }
}

fn tls_mode(text: &str) -> Result<String, String> {
    match TLS_MODES.contains(&text) {
        true => Ok(text.into()),
        false => Err(format!("give one of: {}", TLS_MODES.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use secrecy::ExposeSecret as _;

    fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Option<MysqlStore>, SettingError> {
        let file = parse(text, "config.yaml").unwrap();
        read(file.database.as_ref(), &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn it_is_used_exactly_where_its_section_or_its_host_is_set() {
        for variables in [&[][..], &[("DB_HOST", "")], &[("DB_PASSWORD", "x"), ("DB_PORT", "1")]] {
            assert!(read_with("", variables).unwrap().is_none(), "{variables:?}");
        }
        let store = read_with("database: {}", &[]).unwrap().unwrap();
        assert_eq!((store.host.as_str(), store.port, store.user.as_str()), ("localhost", 3306, "root"));
        assert_eq!((store.database.as_str(), store.tls.as_str()), ("pubsub", "preferred"));
        assert!(store.password.is_none() && store.ca.is_none());
        assert_eq!(read_with("", &[("DB_HOST", "db.example.org")]).unwrap().unwrap().host, "db.example.org");
    }

    #[test]
    fn a_variable_stands_over_the_section() {
        let text = "database: {host: a, port: 1, user: b, password: c, dbname: d, tls: disabled}";
        let variables =
            [("DB_PORT", "2"), ("DB_USER", "e"), ("DB_PASSWORD", "f"), ("DB_NAME", "g"), ("DB_HOST", "")];
        let store = read_with(text, &variables).unwrap().unwrap();
        assert_eq!((store.host.as_str(), store.port, store.user.as_str()), ("a", 2, "e"));
        assert_eq!((store.database.as_str(), store.tls.as_str()), ("g", "disabled"));
        assert_eq!(store.password.unwrap().expose_secret(), "f");
    }

    #[test]
    fn a_value_that_cannot_be_used_names_key_value_and_remedy() {
        for (text, variables, key, part) in [
            ("", &[("DB_HOST", "db:3306")][..], "DB_HOST", "DB_PORT"),
            ("", &[("DB_HOST", "tcp://10.0.0.1:3306")], "DB_HOST", "host alone"),
            ("", &[("DB_HOST", "a"), ("DB_PORT", "tcp://10.0.0.1:3306")], "DB_PORT", "Kubernetes"),
            ("", &[("DB_HOST", "a"), ("DB_PORT", "0")], "DB_PORT", "1 to 65535"),
            ("", &[("DB_HOST", "a"), ("DB_TLS", "maybe")], "DB_TLS", "verify_identity"),
            ("", &[("DB_HOST", "a"), ("DB_CA_FILE", "/none")], "DB_CA_FILE", "cannot be read"),
            ("database: {host: ''}", &[], "database.host", "host alone"),
            ("database: {port: 0}", &[], "database.port", "1 to 65535"),
            ("database: {dbname: ''}", &[], "database.dbname", "is empty"),
            ("database: {user: ' '}", &[], "database.user", "is empty"),
        ] {
            let error = read_with(text, variables).unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(error.value.is_some() && error.remedy.contains(part), "{error}");
        }
    }

    #[test]
    fn an_authority_means_that_certificates_are_verified() {
        let ca = tempfile::NamedTempFile::new().unwrap();
        let path = ca.path().display().to_string();
        let store = read_with(&format!("database: {{ca_file: '{path}'}}"), &[]).unwrap().unwrap();
        assert_eq!((store.tls.as_str(), store.ca.as_deref()), ("verify_ca", Some(ca.path())));
        let variables = [("DB_HOST", "a"), ("DB_CA_FILE", &path), ("DB_TLS", "required")];
        let error = read_with("", &variables).unwrap_err();
        assert!(error.key == "DB_CA_FILE" && error.remedy.contains("verify_ca"), "{error}");
    }

    #[test]
    fn an_ipv6_host_may_stand_in_brackets() {
        for host in ["::1", "[::1]"] {
            assert_eq!(read_with("", &[("DB_HOST", host)]).unwrap().unwrap().host, "::1");
        }
    }
}
