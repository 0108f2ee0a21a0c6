//! The command line.
//!
//! Owns: flags, their help, their checks. Must not: do what they ask for.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use loadgen::objective::Objective;

const EXAMPLES: &str = "\
Examples:
  loadgen list
  loadgen run room
  loadgen run room --set stages.0.loads.0.rate=200 --slo 'room_push p99 < 5 ms'
  loadgen run idle --repeat 5 --json idle.json --html idle.html
  loadgen slo
  loadgen compare before.json after.json
  loadgen compare --a a-1.json --a a-2.json --a a-3.json --b b-1.json --b b-2.json --b b-3.json

Exit codes:
   0  PASS: every objective holds
  99  FAIL: at least one does not
   3  INVALID: the generator was the limit, or something that was to be judged was not measured
   2  the command line or a file is wrong";

const RUN_HELP: &str = "\
Objectives, for --slo:
  room_push(100) last-receiver p99 < 50 ms     user_push each-receiver p99 < 10 ms
  broadcast(1000) last-receiver p99 < 100 ms   join p99 < 50 ms
  connections >= 10000                         node connections >= 10000
  lost = 0   (duplicate, reordered, corrupt, after_leave, contradictions, unanswered, errors)
  node cores < 1   controller rss < 512 MB   node bytes_per_connection < 400   system cores < 2
  deliveries_per_s > 100000                    cpu_us_per_delivery(node) < 4.5
Without --slo a run is held to the rows of its tables that it measures (see loadgen/README.md). Correctness
(lost, duplicate, reordered, corrupt, after_leave, contradictions = 0) is always held, unless --slo speaks of it.";

/// Open-loop load for Ringcast, and a verdict.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version, arg_required_else_help = false, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a scenario against a running system and judge it
    Run(RunArgs),
    /// Judge a running system by the expected figures, within 50 s
    Slo(SloArgs),
    /// The scenarios that there are
    List,
    /// A scenario with all its parameters, as YAML that `run` takes
    Show {
        /// Its name, or a file
        scenario: String,
    },
    /// Two results side by side
    Compare(CompareArgs),
    /// Show results that were kept, judged anew where --slo is given
    Report(ReportArgs),
    /// The JSON Schema of --json
    Schema,
}

/// Where the system is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SystemArgs {
    /// A controller's gRPC address; of several, the first that answers is asked
    #[arg(
        long,
        env = "CONTROLLER_ADDRESS",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "localhost:50051"
    )]
    pub(crate) controller: Vec<String>,
    /// A push manager's gRPC address; repeated, they take turns
    #[arg(
        long,
        env = "PUSH_MANAGER_ADDRESS",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "localhost:50053"
    )]
    pub(crate) push: Vec<String>,
    /// A node's HTTP address; repeated. Without it the controller is asked
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) node: Vec<String>,
    /// The node is no Ringcast but a server of this name: only its HTTP port is used
    #[arg(long, value_name = "NAME", requires = "node")]
    pub(crate) peer: Option<String>,
    /// A process to measure by /proc where it has no metrics, such as node=4711; repeated
    #[arg(long, value_name = "ROLE=PID", value_parser = parse_pid)]
    pub(crate) pid: Vec<(String, u32)>,
}

/// What becomes of the result.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    /// Keep the result; of several runs each with its number before the ending
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the result as one page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Only the verdict and its objectives, and no line while it runs
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// `loadgen run`.
#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct RunArgs {
    /// A scenario's name (`loadgen list`), or a YAML file
    pub(crate) scenario: String,
    /// Changes a parameter, such as clients.0.count=500; repeated (`loadgen show` has them)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<String>,
    /// Holds the run to this instead of its defaults; repeated
    #[arg(long, value_name = "OBJECTIVE", value_parser = parse_objective)]
    pub(crate) slo: Vec<Objective>,
    /// How many times; the median and the worst are shown, and the worst decides
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) repeat: u32,
    #[command(flatten)]
    pub(crate) system: SystemArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `loadgen slo`.
#[derive(Debug, clap::Args)]
pub(crate) struct SloArgs {
    /// Which figures
    #[arg(long, value_enum, default_value_t)]
    pub(crate) profile: Profile,
    #[command(flatten)]
    pub(crate) system: SystemArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Sets of expected figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Profile {
    /// The performance and resources of tests/quickstart.zh.md
    #[default]
    Seed,
}

/// `loadgen compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// The result on the left
    #[arg(value_name = "A.json", conflicts_with_all = ["a", "b"], requires = "right")]
    pub(crate) left: Option<PathBuf>,
    /// The result on the right
    #[arg(value_name = "B.json")]
    pub(crate) right: Option<PathBuf>,
    /// One of several results on the left; repeated
    #[arg(long, value_name = "FILE", requires = "b")]
    pub(crate) a: Vec<PathBuf>,
    /// One of several results on the right; repeated
    #[arg(long, value_name = "FILE", requires = "a")]
    pub(crate) b: Vec<PathBuf>,
}

/// `loadgen report`.
#[derive(Debug, clap::Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct ReportArgs {
    /// What --json wrote; several are shown as runs of the same
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Judges anew by this; repeated
    #[arg(long, value_name = "OBJECTIVE", value_parser = parse_objective)]
    pub(crate) slo: Vec<Objective>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    text.parse()
}

fn parse_setting(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.trim().is_empty() => Ok(text.into()),
        _ => Err("give key=value, such as ramp.rate=500".into()),
    }
}

fn parse_pid(text: &str) -> Result<(String, u32), String> {
    let parsed =
        text.split_once('=').and_then(|(role, pid)| pid.parse().ok().map(|pid| (role.to_owned(), pid)));
    parsed
        .filter(|(role, pid)| !role.is_empty() && *pid > 0)
        .ok_or_else(|| "give role=pid, such as node=4711".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, settings::SettingError> {
        settings::parse_from(std::iter::once("loadgen").chain(args.iter().copied()).map(Into::into))
    }

    fn refused(args: &[&str]) -> String {
        let line = parse(args).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn a_run_takes_its_flags() {
        let args = parse(&[
            "run",
            "room-push",
            "--set",
            "rate=50",
            "--set",
            "a.b=c=d",
            "--slo",
            "lost = 0",
            "--slo",
            "room_push p99 < 5 ms",
            "--push",
            "a:1",
            "--push",
            "b:2",
            "--controller",
            "e:5,f:6",
            "--node",
            "c:3,d:4",
            "--pid",
            "node=7",
            "--repeat",
            "5",
        ])
        .unwrap();
        let Command::Run(run) = args.command else { panic!("no run") };
        assert_eq!(run.set, ["rate=50", "a.b=c=d"]);
        assert_eq!(
            run.slo.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["lost = 0", "room_push p99 < 5 ms"]
        );
        assert_eq!(
            (run.system.push, run.system.node),
            (vec!["a:1".into(), "b:2".into()], vec!["c:3".into(), "d:4".into()])
        );
        assert_eq!(run.system.controller, ["e:5", "f:6"]);
        assert_eq!((run.system.pid, run.repeat), (vec![("node".to_owned(), 7)], 5));
    }

    #[test]
    fn the_ports_of_a_fresh_system_are_the_defaults() {
        let Command::Slo(slo) = parse(&["slo"]).unwrap().command else { panic!("no slo") };
        assert_eq!(
            (slo.system.controller, slo.system.push),
            (vec!["localhost:50051".to_owned()], vec!["localhost:50053".to_owned()])
        );
        assert!(slo.system.node.is_empty());
    }

    #[test]
    fn what_is_wrong_gets_one_line_with_its_remedy() {
        assert_eq!(
            refused(&["run", "x", "--slo", "room_push p98 < 50 ms"]),
            "--slo = room_push p98 < 50 ms: p98: give one of: p50, p90, p99, p99.9, p99.99, max"
        );
        assert_eq!(
            refused(&["run", "x", "--set", "rate"]),
            "--set = rate: give key=value, such as ramp.rate=500"
        );
        assert_eq!(refused(&["run", "x", "--pid", "node"]), "--pid = node: give role=pid, such as node=4711");
        assert!(refused(&["run", "x", "--repeat", "0"]).starts_with("--repeat = 0: "));
        assert!(refused(&["run"]).contains("SCENARIO"));
        assert!(refused(&["slo", "--profile", "own"]).contains("seed"));
        assert!(refused(&["compare", "a.json"]).contains("B.json"));
    }
}
