//! Where Redis is, as settings say it.
//!
//! Owns: the variables `REDIS_*`, the section `redis`. Talks to: `source`.

use crate::source::{Source, Variables, not_empty, switch};
use crate::{Redis, RedisStore, SettingError, parse_addresses};

/// Reads it, where the section or `REDIS_ADDR` is set.
pub(crate) fn read(
    section: Option<&Redis>,
    variables: Variables<'_>,
) -> Result<Option<RedisStore>, SettingError> {
    let source = Source::new("REDIS", "redis", variables);
    if section.is_none() && source.variable("ADDR").is_none() {
        return Ok(None);
    }
    let section = section.cloned().unwrap_or_default();
    let ca = source.file("CA_FILE", "ca_file", section.ca_file.as_deref())?;
    let tls = source.value("TLS", "tls", section.tls, switch)?;
    let store = RedisStore {
        addresses: source
            .value("ADDR", "addr", section.addr, parse_addresses)?
            .unwrap_or_else(|| vec!["localhost:6379".into()]),
        sentinel_master: source.value(
            "SENTINEL_MASTER",
            "sentinel_master",
            section.sentinel_master,
            not_empty,
        )?,
        cluster: source.value("CLUSTER", "cluster", section.cluster, switch)?.unwrap_or(false),
        user: source.value("USER", "user", section.user, not_empty)?,
        password: source.password(section.password.as_ref(), section.password_file.as_deref())?,
        db: source.value("DB", "db", section.db, number)?.unwrap_or(0),
        tls: tls.unwrap_or(ca.is_some()),
        ca,
    };
    fits(&store, &source)?;
    Ok(Some(store))
}

/// What is well by itself and not together.
fn fits(store: &RedisStore, source: &Source<'_>) -> Result<(), SettingError> {
    let refused = |name: &str, key: &str, value: &dyn std::fmt::Display, remedy: &str| {
        Err(SettingError::new(source.name(name, key), value, remedy))
    };
    if let (Some(master), true) = (&store.sentinel_master, store.cluster) {
        let remedy = "a Redis Cluster has no sentinels: set this or REDIS_CLUSTER, not both";
        return refused("SENTINEL_MASTER", "sentinel_master", master, remedy);
    }
    if store.cluster && store.db != 0 {
        return refused("DB", "db", &store.db, "a Redis Cluster has database 0 only: give 0");
    }
    if store.addresses.len() > 1 && !store.cluster && store.sentinel_master.is_none() {
        let remedy = "several addresses are members of a Redis Cluster (REDIS_CLUSTER=true) or sentinels \
                      (REDIS_SENTINEL_MASTER): say which, or give one address";
        return refused("ADDR", "addr", &store.addresses.join(","), remedy);
    }
    // The server's own name for whoever does not log in.
    if let (Some(user), None) = (store.user.as_ref().filter(|user| *user != "default"), &store.password) {
        return refused("USER", "user", user, "has no password: set REDIS_PASSWORD or REDIS_PASSWORD_FILE");
    }
    match &store.ca {
        Some(path) if !store.tls => {
            let remedy = "is not used without TLS: set REDIS_TLS to true or take it out";
            refused("CA_FILE", "ca_file", &path.display(), remedy)
        }
        _ => Ok(()),
    }
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "give the number of a database, such as 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use secrecy::ExposeSecret as _;

    fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Option<RedisStore>, SettingError> {
        let file = parse(text, "config.yaml").unwrap();
        read(file.redis.as_ref(), &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn it_is_used_exactly_where_its_section_or_its_address_is_set() {
        for variables in [&[][..], &[("REDIS_ADDR", "")], &[("REDIS_PASSWORD", "x"), ("REDIS_DB", "1")]] {
            assert!(read_with("", variables).unwrap().is_none(), "{variables:?}");
        }
        let store = read_with("redis: {}", &[]).unwrap().unwrap();
        assert_eq!((store.addresses, store.db), (vec!["localhost:6379".to_owned()], 0));
        assert!(!store.tls && !store.cluster && store.user.is_none() && store.password.is_none());
    }

    #[test]
    fn a_variable_stands_over_the_section() {
        let text = "redis: {addr: 'a:1', password: '', db: 3, user: u, tls: true}";
        let variables = [("REDIS_ADDR", "b:2"), ("REDIS_PASSWORD", "p"), ("REDIS_TLS", "false")];
        let store = read_with(text, &variables).unwrap().unwrap();
        assert_eq!((store.addresses, store.db, store.tls), (vec!["b:2".to_owned()], 3, false));
        assert_eq!((store.user.as_deref(), store.password.unwrap().expose_secret()), (Some("u"), "p"));
    }

    #[test]
    fn several_addresses_are_a_cluster_or_sentinels() {
        let addresses = ("REDIS_ADDR", "a:1, b:2");
        let store = read_with("", &[addresses, ("REDIS_CLUSTER", "true")]).unwrap().unwrap();
        assert!(store.cluster && store.addresses == ["a:1", "b:2"]);
        let store = read_with("redis: {sentinel_master: main}", &[addresses]).unwrap().unwrap();
        assert_eq!(store.sentinel_master.as_deref(), Some("main"));
        let error = read_with("", &[addresses]).unwrap_err();
        assert!(error.key == "REDIS_ADDR" && error.remedy.contains("REDIS_CLUSTER"), "{error}");
    }

    #[test]
    fn a_value_that_cannot_be_used_names_key_value_and_remedy() {
        for (text, key, part) in [
            ("redis: {addr: ''}", "redis.addr", "host:port"),
            ("redis: {addr: 'tcp://10.0.0.1:6379'}", "redis.addr", "Kubernetes"),
            ("redis: {addr: 'a:1', cluster: true, db: 1}", "redis.db", "0 only"),
            ("redis: {sentinel_master: m, cluster: true}", "redis.sentinel_master", "not both"),
            ("redis: {sentinel_master: ''}", "redis.sentinel_master", "is empty"),
            ("redis: {user: u}", "redis.user", "REDIS_PASSWORD"),
            ("redis: {ca_file: /none/ca.pem}", "redis.ca_file", "cannot be read"),
        ] {
            let error = read_with(text, &[]).unwrap_err();
            assert_eq!(error.key, key, "{error}");
            assert!(error.value.is_some() && error.remedy.contains(part), "{error}");
        }
        for (variable, value, part) in [
            ("REDIS_ADDR", "redis://a:1", "without a scheme"),
            ("REDIS_DB", "tcp://10.0.0.1:6379", "number"),
            ("REDIS_TLS", "maybe", "true or false"),
        ] {
            let error = read_with("redis: {}", &[(variable, value)]).unwrap_err();
            assert_eq!((error.key.as_str(), error.value.as_deref()), (variable, Some(value)));
            assert!(error.remedy.contains(part), "{error}");
        }
    }

    #[test]
    fn an_authority_means_tls() {
        let ca = tempfile::NamedTempFile::new().unwrap();
        let text = format!("redis: {{ca_file: '{}'}}", ca.path().display());
        let store = read_with(&text, &[]).unwrap().unwrap();
        assert!(store.tls && store.ca.as_deref() == Some(ca.path()));
        let error = read_with(&text, &[("REDIS_TLS", "false")]).unwrap_err();
        assert_eq!(error.key, "redis.ca_file");
    }
}
