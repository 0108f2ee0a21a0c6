//! The one kind of error that a setting can have.
//!
//! Owns: its one line and its exit code.

use std::fmt;

/// The exit code of a process that a setting stopped.
pub const EXIT_CODE: i32 = 2;

/// The longest value that is repeated in a message, in characters.
const MAX_SHOWN: usize = 200;

/// A setting that cannot be used. Its `Display` is one line: `key = value: remedy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingError {
    /// The setting, as the user named it: a variable, a flag, or a key of the file.
    pub key: String,
    /// What it was set to; `None` where it is the key itself that is wrong, or where the value is a secret.
    pub value: Option<String>,
    /// What is wrong with it and what to do.
    pub remedy: String,
}

impl SettingError {
    /// A setting with a value that cannot be used.
    pub fn new(key: impl Into<String>, value: impl ToString, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), value: Some(value.to_string()), remedy: remedy.into() }
    }

    /// A setting that should not be there, or is missing.
    pub fn key_only(key: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), value: None, remedy: remedy.into() }
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.key))?;
        if let Some(value) = &self.value {
            write!(f, " = {}", shown(value))?;
        }
        write!(f, ": {}", one_line(&self.remedy))
    }
}

impl std::error::Error for SettingError {}

/// Prints the error and ends the process with [`EXIT_CODE`].
pub fn exit_with(error: &SettingError) -> ! {
    eprintln!("error: {error}");
    std::process::exit(EXIT_CODE)
}

/// A value as a message shows it: on one line, not without bound, visible when it is empty.
fn shown(value: &str) -> String {
    if value.is_empty() {
        return "\"\"".into();
    }
    let mut shown: String = value.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if value.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line_whatever_the_value() {
        let error = SettingError::new("HTTP_PORT", "80\n80", "give\na number");
        assert_eq!(error.to_string(), "HTTP_PORT = 80\\n80: give a number");
    }

    #[test]
    fn an_empty_value_is_visible_and_a_long_one_is_cut() {
        assert_eq!(SettingError::new("NODE_ID", "", "x").to_string(), "NODE_ID = \"\": x");
        assert!(SettingError::new("NODE_ID", "x".repeat(10_000), "y").to_string().chars().count() < 250);
    }
}
