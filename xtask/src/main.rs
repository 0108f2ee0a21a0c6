//! The developer's commands; `cargo xtask --help` lists them. CI calls the same ones.
//!
//! Owns: the order of steps. Must not: know how a step is done (`setup`, `suite`, `tidy`, `scale`, `step`).

mod scale;
mod setup;
mod step;
mod suite;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use step::Step;

/// How long the compiler may take, in minutes: a machine of two cores needs some twenty.
const BUILD_MINUTES: u64 = 45;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The developer's commands of Ringcast")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need and this machine lacks. Needs root or sudo only for Debian packages.
    Setup,
    /// Set up, build everything with the core's checks and the cluster's stores, run every test.
    Test {
        /// Handed to `cargo test`: a test's name, `--test NAME`, `-- --nocapture`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The same for longer: more simulation seeds, the tests that are marked as too long for every day, the cluster's
    /// faults with 10,000 clients and outages of full length, ten rounds of those that are measured.
    Nightly,
    /// What has to pass before a change lands: format, lints, docs, licences and advisories, build, tests.
    Ci,
    /// Check the rules of style that no compiler knows.
    Tidy,
    /// Hold so many joined clients on one node of this machine, with pings, and tell what they cost. Raises what
    /// the kernel allows for the time of the run; needs root for that.
    Scale {
        /// How many: 10000, 100k, 1M.
        #[arg(value_parser = scale::parse_clients)]
        clients: u64,
        /// After how long without a word a client is pinged, in seconds [default: 25, or longer where the pings of so
        /// many would leave these cores no time for anything else].
        #[arg(long)]
        ping_interval: Option<u64>,
        /// For how long they are held, in seconds.
        #[arg(long, default_value_t = 60)]
        hold: u64,
        /// Hold them once more with the receiving half of TCP, which on a loopback the sender pays for, done by other
        /// cores than the node's, and push then.
        #[arg(long)]
        steer: bool,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().task, &workspace_root()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task, root: &Path) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::set_up(root)?,
        Task::Test { args } => {
            setup::set_up(root)?;
            let all_drivers = args.is_empty();
            return suite::Suite { cargo_args: args, all_drivers, ..suite::Suite::default() }.run(root);
        }
        Task::Nightly => {
            // What is shipped without the cluster; `ci` only has it checked, which takes half the time.
            let build = ["build", "--locked", "--release", "--workspace"];
            Step::new("cargo", &build).minutes(BUILD_MINUTES).env("PROTOC", "/nonexistent").run(root)?;
            setup::set_up(root)?;
            return suite::Suite::nightly().run(root);
        }
        Task::Ci => return ci(root),
        Task::Scale { clients, ping_interval, hold, steer } => {
            scale::run(root, clients, ping_interval, hold, steer)?;
        }
        Task::Tidy => {
            let complaints = tidy::complaints(root)?;
            if !complaints.is_empty() {
                bail!("{}\n{} complaints", complaints.join("\n"), complaints.len());
            }
            println!("tidy");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn ci(root: &Path) -> Result<ExitCode> {
    let cargo = |args: &[&str]| Step::new("cargo", args).minutes(BUILD_MINUTES);
    cargo(&["fmt", "--all", "--check"]).run(root)?;
    let clippy = |features: &[&str]| {
        let args = ["clippy", "--locked", "--workspace", "--all-targets"];
        cargo(&[&args, features, &["--", "-D", "warnings"]].concat())
    };
    // The contracts must be generated, and all but the cluster built, without a protoc.
    clippy(&[]).env("PROTOC", "/nonexistent").run(root)?;
    cargo(&["doc", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run(root)?;
    if step::has("cargo-deny") {
        cargo(&["deny", "--workspace", "check"]).run(root)?;
    } else {
        println!("cargo-deny is not installed: licences and advisories are not checked here");
    }
    setup::set_up(root)?;
    clippy(&suite::CHECKS).run(root)?;
    suite::Suite::default().run(root)
}

fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}
