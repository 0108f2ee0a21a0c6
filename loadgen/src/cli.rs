//! The commands.
//!
//! Owns: which command does what, and with which code it ends. Talks to: `args`, and the library for all else.

mod args;
mod output;
mod running;

use std::path::PathBuf;
use std::process::ExitCode;

use loadgen::compare::Named;
use loadgen::result::RunResult;
use loadgen::{compare, kept, profile, schema, verdict};
use settings::{SettingError, exit_with};

use args::{Args, Command, CompareArgs, ReportArgs};

/// Reads the command line, does what it asks for, and tells the exit code.
pub(crate) fn main() -> ExitCode {
    let args: Args = settings::parse_or_exit();
    let done = match args.command {
        Command::Compare(args) => compare_results(&args),
        Command::Report(args) => report(&args),
        Command::Schema => {
            output::print(&(schema::json_schema() + "\n"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => running::run(&args),
        Command::Slo(args) => running::slo(&args),
        Command::List => running::list(),
        Command::Show { scenario } => running::show(&scenario),
    };
    done.unwrap_or_else(|error| match error.downcast_ref::<SettingError>() {
        Some(error) => exit_with(error),
        None => {
            // A run that did not come about says nothing of the system.
            eprintln!("INVALID: {error:#}");
            ExitCode::from(verdict::exit_code(loadgen::result::Verdict::Invalid))
        }
    })
}

fn compare_results(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let side = |one: &Option<PathBuf>, several: &[PathBuf]| -> Result<Vec<Named>, SettingError> {
        let files = one.iter().chain(several);
        files.map(|file| Ok((file.display().to_string(), kept::read(file)?))).collect()
    };
    let (a, b) = (side(&args.left, &args.a)?, side(&args.right, &args.b)?);
    if a.is_empty() || b.is_empty() {
        let remedy = "give two results: loadgen compare a.json b.json, or --a a.json --b b.json";
        return Err(SettingError::key_only("compare", remedy).into());
    }
    output::print(&compare::render(&a, &b));
    Ok(ExitCode::SUCCESS)
}

fn report(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let mut results: Vec<RunResult> =
        args.files.iter().map(|file| kept::read(file)).collect::<Result<_, _>>()?;
    for result in results.iter_mut().filter(|result| !args.slo.is_empty() || result.objectives.is_empty()) {
        profile::judge(result, &args.slo);
    }
    output::finish(&results, &args.output)
}
