//! Results on disk: `--json` writes them, `compare` and `report` read them.
//!
//! Owns: the check of the form's version, errors that name the file. Talks to: the file system.

use std::path::Path;

use serde::Deserialize;
use settings::SettingError;

use crate::result::{RunResult, SCHEMA_VERSION};

/// What is read first: nothing else is looked at until the version is right.
#[derive(Deserialize)]
struct Version {
    schema_version: Option<u64>,
}

/// Reads a result. The error names the file, what is wrong with it, and what to do.
pub fn read(path: &Path) -> Result<RunResult, SettingError> {
    let wrong = |what: String| SettingError::key_only(path.display().to_string(), what);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let version: Version = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("is not a result in JSON, as --json writes it: {error}")))?;
    match version.schema_version {
        Some(version) if version == u64::from(SCHEMA_VERSION) => {}
        Some(version) => {
            return Err(wrong(format!(
                "has schema_version {version}, and this loadgen reads {SCHEMA_VERSION}: use the loadgen that \
                 wrote it, or measure again"
            )));
        }
        None => return Err(wrong("has no schema_version: it is not a result of loadgen".into())),
    }
    serde_json::from_str(&text).map_err(|error| wrong(format!("does not have the form of a result: {error}")))
}

/// Writes a result, indented.
pub fn write(path: &Path, result: &RunResult) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(result)?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes any text; the error names the file.
pub fn write_text(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text)
        .map_err(|error| anyhow::anyhow!("{}: cannot be written: {error}", path.display()))
}
