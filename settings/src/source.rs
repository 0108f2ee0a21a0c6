//! One setting of a cluster's store: a variable that is not empty, else the key of the file.
//!
//! Owns: which of the two holds, what an error calls it, the reading of secrets from files.
//! Talks to: `stores_mysql`, `stores_redis`, `stores_etcd`.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use crate::SettingError;

/// The longest password, in bytes. A longer file is surely not one.
const MAX_SECRET_BYTES: usize = 4096;

/// What the environment has, by name.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The settings of one store: variables with a prefix, keys in a section.
pub(crate) struct Source<'a> {
    prefix: &'static str,
    section: &'static str,
    variables: Variables<'a>,
}

impl<'a> Source<'a> {
    /// Such as `DB` and `database`.
    pub(crate) fn new(prefix: &'static str, section: &'static str, variables: Variables<'a>) -> Self {
        Self { prefix, section, variables }
    }

    /// The variable, where it is not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(&self.variable_name(name)).filter(|value| !value.is_empty())
    }

    pub(crate) fn variable_name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    pub(crate) fn key_name(&self, key: &str) -> String {
        format!("{}.{key}", self.section)
    }

    /// What a setting is called where it was set, for errors.
    pub(crate) fn name(&self, name: &str, key: &str) -> String {
        if self.variable(name).is_some() { self.variable_name(name) } else { self.key_name(key) }
    }

    /// One setting as it is read by `read`, whose error is the remedy. An empty key of the file is read, and so
    /// refused where nothing is not a value.
    pub(crate) fn value<T>(
        &self,
        name: &str,
        key: &str,
        of_file: Option<impl ToString>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingError> {
        let given = self.variable(name).or_else(|| of_file.map(|value| value.to_string()));
        let Some(text) = given else { return Ok(None) };
        read(&text).map(Some).map_err(|remedy| SettingError::new(self.name(name, key), text, remedy))
    }

    /// The path of a file that can be read.
    pub(crate) fn file(
        &self,
        name: &str,
        key: &str,
        of_file: Option<&Path>,
    ) -> Result<Option<PathBuf>, SettingError> {
        self.value(name, key, of_file.map(Path::display), |text| match std::fs::File::open(text) {
            Ok(_) => Ok(PathBuf::from(text)),
            Err(error) => Err(format!("cannot be read: {error}")),
        })
    }

    /// The password: itself, or a file that holds it (its last line break does not count). A variable of either
    /// kind stands over both keys of the file. An empty password in the file is none.
    pub(crate) fn password(
        &self,
        password: Option<&SecretString>,
        file: Option<&Path>,
    ) -> Result<Option<SecretString>, SettingError> {
        let both = |one: String, other: String| {
            Err(SettingError::key_only(one, format!("{other} is set as well: set one of them")))
        };
        let in_file = file.map(|path| path.display().to_string());
        match (self.variable("PASSWORD"), self.variable("PASSWORD_FILE")) {
            (Some(_), Some(_)) => {
                return both(self.variable_name("PASSWORD_FILE"), self.variable_name("PASSWORD"));
            }
            (Some(secret), None) => return Ok(Some(secret.into())),
            (None, Some(path)) => return read_secret(self.variable_name("PASSWORD_FILE"), &path).map(Some),
            (None, None) => {}
        }
        match (password.filter(|secret| !secret.expose_secret().is_empty()), in_file) {
            (Some(_), Some(_)) => both(self.key_name("password_file"), self.key_name("password")),
            (Some(secret), None) => Ok(Some(secret.clone())),
            (None, Some(path)) => read_secret(self.key_name("password_file"), &path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

fn read_secret(name: String, path: &str) -> Result<SecretString, SettingError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Err(SettingError::new(name, path, format!("cannot be read: {error}"))),
    };
    let secret = text.strip_suffix('\n').unwrap_or(&text);
    let secret = secret.strip_suffix('\r').unwrap_or(secret);
    match secret.len() {
        0 => Err(SettingError::new(name, path, "is empty: write the password into it, or unset this")),
        1..=MAX_SECRET_BYTES => Ok(secret.into()),
        size => {
            let remedy = format!("holds {size} bytes: give a file with the password alone");
            Err(SettingError::new(name, path, remedy))
        }
    }
}

/// A name that is there.
pub(crate) fn not_empty(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("is empty: give it, or take it out".into()) } else { Ok(text.into()) }
}

/// Yes or no.
pub(crate) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "give true or false".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(
        variables: &[(&str, &str)],
        key: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Option<String>, SettingError> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        let key = key.map(SecretString::from);
        let read = Source::new("DB", "database", &variable).password(key.as_ref(), file)?;
        Ok(read.map(|secret| secret.expose_secret().to_owned()))
    }

    #[test]
    fn a_password_may_stand_in_a_file_whose_last_line_break_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let shown = path.display().to_string();
        for (text, secret) in [("hunter2", "hunter2"), ("hunter2\n", "hunter2"), (" a b \r\n", " a b ")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(password(&[("DB_PASSWORD_FILE", &shown)], None, None), Ok(Some(secret.into())));
            assert_eq!(password(&[], None, Some(&path)), Ok(Some(secret.into())));
        }
        for text in ["", "\n", &"x".repeat(5000)] {
            std::fs::write(&path, text).unwrap();
            let error = password(&[("DB_PASSWORD_FILE", &shown)], None, None).unwrap_err();
            assert_eq!(error.key, "DB_PASSWORD_FILE");
        }
        let missing = folder.path().join("none");
        let error = password(&[], None, Some(&missing)).unwrap_err();
        assert_eq!(error.key, "database.password_file");
        assert!(error.remedy.contains("cannot be read"), "{error}");
    }

    #[test]
    fn a_variable_of_either_kind_stands_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "of-the-file").unwrap();
        let shown = path.display().to_string();
        assert_eq!(password(&[("DB_PASSWORD", "v")], Some("key"), Some(&path)), Ok(Some("v".into())));
        let read = password(&[("DB_PASSWORD_FILE", &shown)], Some("key"), None);
        assert_eq!(read, Ok(Some("of-the-file".into())));
        assert_eq!(password(&[("DB_PASSWORD", "")], Some("key"), None), Ok(Some("key".into())));
        assert_eq!(password(&[], Some(""), None), Ok(None), "an empty password is none");
    }

    #[test]
    fn a_password_that_is_set_twice_is_refused_and_not_shown() {
        let error =
            password(&[("DB_PASSWORD", "hunter2"), ("DB_PASSWORD_FILE", "/x")], None, None).unwrap_err();
        assert_eq!(error.to_string(), "DB_PASSWORD_FILE: DB_PASSWORD is set as well: set one of them");
        let error = password(&[], Some("hunter2"), Some(Path::new("/x"))).unwrap_err();
        assert_eq!(error.key, "database.password_file");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
