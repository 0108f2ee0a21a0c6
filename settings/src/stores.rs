//! Cluster stores in a build that has only the embedded ones.
//!
//! Owns: what asks for a cluster store, and the answer.

use crate::{File, SettingError};

/// Refuses settings that ask for MySQL, Redis or etcd: a section of the file, or a variable that is set.
pub fn refuse_cluster_stores(file: &File) -> Result<(), SettingError> {
    refuse(file, |name| std::env::var(name).ok())
}

fn refuse(file: &File, variable: impl Fn(&str) -> Option<String>) -> Result<(), SettingError> {
    for name in ["DB_HOST", "REDIS_ADDR", "ETCD_ENDPOINTS"] {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
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
        assert_eq!(refuse(&File::default(), |_| None), Ok(()));
        assert_eq!(refuse(&File::default(), |_| Some(String::new())), Ok(()), "an empty variable is not set");
    }

    #[test]
    fn a_variable_names_the_build_command_and_the_package() {
        for name in ["DB_HOST", "REDIS_ADDR", "ETCD_ENDPOINTS"] {
            let error =
                refuse(&File::default(), |asked| (asked == name).then(|| "localhost:1".into())).unwrap_err();
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
            let error = refuse(&parse(text, "config.yaml").unwrap(), |_| None).unwrap_err();
            assert_eq!((error.key.as_str(), &error.value), (name, &None));
        }
    }
}
