//! Flags and variables by clap, with errors on one line.
//!
//! Owns: the flags that every service has, the wording of what clap refuses.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};

use crate::{File, LogFormat, SettingError, exit_with, load};

/// What every service takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CommonArgs {
    /// The settings file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, print "config ok" and end.
    #[arg(long)]
    pub check_config: bool,
    /// How log lines look; RUST_LOG filters them.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl CommonArgs {
    /// Reads `--config`, else, where `implicit`, `./config.yaml` if there is one.
    pub fn load(&self, implicit: bool) -> Result<File, SettingError> {
        load(self.config.as_deref(), implicit)
    }

    /// Where `--check-config` was given: prints that all is well and ends the process. Call it when everything
    /// has been validated and nothing has been started.
    pub fn end_if_checking(&self) {
        if self.check_config {
            println!("config ok");
            std::process::exit(0);
        }
    }
}

/// Reads flags and variables. Help and version are printed and end the process with 0; anything wrong ends it
/// with 2 and one line.
pub fn parse_or_exit<A: Parser>() -> A {
    parse_from(std::env::args_os()).unwrap_or_else(|error| exit_with(&error))
}

/// The same over given arguments, the program's name first.
pub fn parse_from<A: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<A, SettingError> {
    let args: Vec<OsString> = args.into_iter().collect();
    A::try_parse_from(&args).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        _ => in_one_line(&error, &A::command(), &args),
    })
}

fn in_one_line(error: &clap::Error, command: &Command, args: &[OsString]) -> SettingError {
    let text = |kind| error.get(kind).map(ContextValue::to_string).filter(|text| !text.is_empty());
    let Some(arg) = text(ContextKind::InvalidArg) else {
        return SettingError::key_only(command.get_name(), first_line(error));
    };
    match error.kind() {
        ErrorKind::UnknownArgument => SettingError::key_only(
            arg,
            match text(ContextKind::SuggestedArg) {
                Some(near) => format!("there is no such option; did you mean {near}?"),
                None => "there is no such option; --help lists them".to_owned(),
            },
        ),
        ErrorKind::MissingRequiredArgument => {
            SettingError::key_only(arg.replace('\n', ", "), "is required; --help says more")
        }
        _ => {
            let value = text(ContextKind::InvalidValue);
            let remedy = match (std::error::Error::source(error), text(ContextKind::ValidValue)) {
                (Some(source), _) => source.to_string(),
                (None, Some(valid)) => format!("give one of: {valid}"),
                (None, None) => first_line(error),
            };
            let key = source_of(&arg, command, args);
            SettingError { key, value, remedy }
        }
    }
}

/// What the user has to change: the flag where it was given, else its variable.
fn source_of(arg: &str, command: &Command, args: &[OsString]) -> String {
    let flag = arg.split_whitespace().next().unwrap_or(arg).to_owned();
    let given = args.iter().filter_map(|given| given.to_str()).any(|given| {
        given.strip_prefix(flag.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    if given {
        return flag;
    }
    let declared = command.get_arguments().find(|declared| declared.get_long() == flag.strip_prefix("--"));
    declared.and_then(|declared| declared.get_env()).map_or(flag, |name| name.to_string_lossy().into_owned())
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or("cannot be used");
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{parse_duration, parse_port};
    use std::time::Duration;

    #[derive(Debug, Parser)]
    #[command(name = "service")]
    struct Args {
        #[arg(long, value_parser = parse_port)]
        grpc_port: Option<u16>,
        #[arg(long, value_parser = parse_duration)]
        cache_ttl: Option<Duration>,
        #[arg(long)]
        shards: Option<usize>,
        #[command(flatten)]
        common: CommonArgs,
    }

    fn refused(args: &[&str]) -> String {
        let args = std::iter::once("service").chain(args.iter().copied()).map(OsString::from);
        let line = parse_from::<Args>(args).unwrap_err().to_string();
        assert!(!line.contains('\n'), "more than one line: {line}");
        line
    }

    #[test]
    fn a_bad_flag_names_flag_value_and_remedy() {
        assert_eq!(refused(&["--grpc-port", "70000"]), "--grpc-port = 70000: give a port from 0 to 65535");
        assert_eq!(refused(&["--grpc-port=x"]), "--grpc-port = x: give a port from 0 to 65535");
        assert!(refused(&["--cache-ttl", "300"]).starts_with("--cache-ttl = 300: "));
        assert!(refused(&["--shards", "many"]).starts_with("--shards = many: "));
    }

    #[test]
    fn a_bad_choice_names_the_choices() {
        assert_eq!(refused(&["--log-format", "xml"]), "--log-format = xml: give one of: text, json");
    }

    #[test]
    fn an_unknown_flag_names_the_nearest() {
        let line = refused(&["--grpc-prot", "1"]);
        assert!(line.starts_with("--grpc-prot: there is no such option; did you mean --grpc-port"), "{line}");
        assert_eq!(refused(&["--zzzzz"]), "--zzzzz: there is no such option; --help lists them");
    }

    #[test]
    fn a_flag_without_its_value_says_so() {
        let line = refused(&["--grpc-port"]);
        assert!(line.starts_with("--grpc-port") && line.contains("value"), "{line}");
    }

    #[test]
    fn a_stray_word_is_refused() {
        assert!(refused(&["stray"]).starts_with("stray: "));
    }
}
