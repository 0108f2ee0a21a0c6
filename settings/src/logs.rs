//! Logs: to standard error, as text or as JSON, filtered by `RUST_LOG` (default `info`).
//!
//! Owns: the set-up of the subscriber. Must not: decide what is logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::SettingError;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. A second call in the same process changes nothing.
pub fn init_logs(format: LogFormat) -> Result<(), SettingError> {
    let filter = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = if filter.is_empty() { "info".to_owned() } else { filter };
    let parsed = EnvFilter::try_new(&filter).map_err(|error| {
        SettingError::new(
            "RUST_LOG",
            &filter,
            format!("{error}: give a filter such as info or control=debug"),
        )
    })?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr).with_ansi(colours);
    // An error only says that a subscriber is there already.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
