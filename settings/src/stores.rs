//! The cluster's stores: which of them are used, and where they are.
//!
//! Owns: what asks for a store, and the answer of a build that has only the embedded ones.
//! Talks to: `stores_mysql`, `stores_redis`, `stores_etcd`, which read what is set of each.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::source::Variables;
use crate::{File, SettingError, stores_etcd, stores_mysql, stores_redis};

/// Where etcd is.
#[derive(Debug, Clone, Default)]
pub struct EtcdStore {
    /// host:port of its members, each with or without `http://` or `https://`.
    pub endpoints: Vec<String>,
    /// Who logs in; `None`: nobody does.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<SecretString>,
    /// The authority that signed the members' certificates; setting it means TLS.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, where the members ask for one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// How long a service that says nothing is still listed: 10 s.
    pub lease: Duration,
}

impl EtcdStore {
    /// For how long a service whose id is taken tries again: the lease of a former start of it has run out by then.
    pub fn id_patience(&self) -> Duration {
        self.lease + Duration::from_secs(2)
    }
}

/// Where Redis is.
#[derive(Debug, Clone, Default)]
pub struct RedisStore {
    /// host:port of one server, of some members of a cluster, or of sentinels.
    pub addresses: Vec<String>,
    /// The addresses are sentinels of a master with this name.
    pub sentinel_master: Option<String>,
    /// The addresses are members of a Redis Cluster.
    pub cluster: bool,
    /// Who logs in; `None`: the default user.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<SecretString>,
    /// The number of the database; a cluster has 0 only.
    pub db: u32,
    /// Whether connections are TLS.
    pub tls: bool,
    /// The authority that signed the certificates; `None`: the system's.
    pub ca: Option<PathBuf>,
}

/// Where MySQL is.
#[derive(Debug, Clone, Default)]
pub struct MysqlStore {
    /// Its host.
    pub host: String,
    /// Its port: 3306.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// With which password.
    pub password: Option<SecretString>,
    /// The database.
    pub database: String,
    /// Whether connections are TLS: `disabled`, `preferred`, `required`, `verify_ca` or `verify_identity`.
    pub tls: String,
    /// The authority that signed its certificate.
    pub ca: Option<PathBuf>,
}

/// The cluster's stores; what is not set is embedded.
#[derive(Debug, Clone, Default)]
pub struct Stores {
    /// Rooms.
    pub mysql: Option<MysqlStore>,
    /// Presence.
    pub redis: Option<RedisStore>,
    /// Discovery.
    pub etcd: Option<EtcdStore>,
}

/// Reads where the stores are: each is used exactly where its section of the file, or its variable (`DB_HOST`,
/// `REDIS_ADDR`, `ETCD_ENDPOINTS`), is set. A build without the `cluster` refuses each of them.
pub fn stores(file: &File, cluster: bool) -> Result<Stores, SettingError> {
    stores_with(file, cluster, &of_environment)
}

/// Refuses settings that ask for MySQL, Redis or etcd: a section of the file, or a variable that is set.
pub fn refuse_cluster_stores(file: &File) -> Result<(), SettingError> {
    refuse(file, &of_environment)
}

fn of_environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn stores_with(file: &File, cluster: bool, variables: Variables<'_>) -> Result<Stores, SettingError> {
    if !cluster {
        refuse(file, variables)?;
        return Ok(Stores::default());
    }
    Ok(Stores {
        mysql: stores_mysql::read(file.database.as_ref(), variables)?,
        redis: stores_redis::read(file.redis.as_ref(), variables)?,
        etcd: stores_etcd::read(file.etcd.as_ref(), variables)?,
    })
}

fn refuse(file: &File, variables: Variables<'_>) -> Result<(), SettingError> {
    for name in ["DB_HOST", "REDIS_ADDR", "ETCD_ENDPOINTS"] {
        if let Some(value) = variables(name).filter(|value| !value.is_empty()) {
            return Err(SettingError::new(name, value, remedy("unset it")));
        }
    }
    let sections = [
        ("database", file.database.is_some()),
        ("redis", file.redis.is_some()),
        ("etcd", file.etcd.is_some()),
    ];
    match sections.into_iter().find(|(_, set)| *set) {
        Some((name, _)) => Err(SettingError::key_only(name, remedy("take the section out"))),
        None => Ok(()),
    }
}

fn remedy(otherwise: &str) -> String {
    format!(
        "this binary has the embedded stores only: install protobuf-compiler (Debian: `apt-get install \
         protobuf-compiler`) and build with `cargo build --release --features cluster`, or {otherwise}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn the_embedded_stores_need_no_setting() {
        assert_eq!(refuse(&File::default(), &|_| None), Ok(()));
        assert_eq!(
            refuse(&File::default(), &|_| Some(String::new())),
            Ok(()),
            "an empty variable is not set"
        );
    }

    #[test]
    fn a_variable_names_the_build_command_and_the_package() {
        for name in ["DB_HOST", "REDIS_ADDR", "ETCD_ENDPOINTS"] {
            let error =
                refuse(&File::default(), &|asked| (asked == name).then(|| "localhost:1".into())).unwrap_err();
            assert_eq!(error.key, name);
            assert!(error.remedy.contains("cargo build --release --features cluster"), "{error}");
            assert!(error.remedy.contains("protobuf-compiler"), "{error}");
        }
    }

    #[test]
    fn a_section_is_refused_by_its_name_and_shows_no_password() {
        for (name, text) in [
            ("database", "database: {host: localhost, password: root123}"),
            ("redis", "redis: {addr: localhost:6379, password: hunter2, db: 0}"),
            ("etcd", "etcd: {endpoints: [localhost:2379]}"),
        ] {
            let error = refuse(&parse(text, "config.yaml").unwrap(), &|_| None).unwrap_err();
            assert_eq!((error.key.as_str(), &error.value), (name, &None));
        }
    }

    #[test]
    fn a_build_without_the_cluster_refuses_what_a_build_with_it_uses() {
        let quick_start = "{database: {host: a}, redis: {addr: 'b:1'}, etcd: {endpoints: ['c:2']}}";
        let file = parse(quick_start, "config.yaml").unwrap();
        let stores = stores_with(&file, true, &|_| None).unwrap();
        assert_eq!(stores.mysql.unwrap().host, "a");
        assert_eq!(stores.redis.unwrap().addresses, ["b:1"]);
        assert_eq!(stores.etcd.unwrap().endpoints, ["c:2"]);
        assert_eq!(stores_with(&file, false, &|_| None).unwrap_err().key, "database");
    }

    #[test]
    fn nothing_set_is_embedded_in_both_builds() {
        for cluster in [true, false] {
            let stores = stores_with(&File::default(), cluster, &|_| Some(String::new())).unwrap();
            assert!(stores.mysql.is_none() && stores.redis.is_none() && stores.etcd.is_none());
        }
    }

    #[test]
    fn one_store_may_be_used_without_the_others() {
        let variable = |name: &str| (name == "ETCD_ENDPOINTS").then(|| "a:1,b:2".to_owned());
        let stores = stores_with(&File::default(), true, &variable).unwrap();
        assert!(stores.mysql.is_none() && stores.redis.is_none());
        assert_eq!(stores.etcd.unwrap().endpoints, ["a:1", "b:2"]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let text =
            "{database: {password: hunter2}, redis: {password: hunter2}, etcd: {user: u, password: hunter2}}";
        let stores = stores_with(&parse(text, "config.yaml").unwrap(), true, &|_| None).unwrap();
        assert!(!format!("{stores:?}").contains("hunter2"));
    }
}
