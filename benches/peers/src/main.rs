//! The command line of the bench: set-up, short runs, long runs, tables of runs that are done.
//!
//! Owns: flags and the order of rounds. Must not: measure.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use peers::bench::{deepen_backlog, pin_to_client_core, set_congestion_control};
use peers::contestant::{Contestant, Options, Place};
use peers::run::{Row, RunOptions, run};
use peers::scenario::{SCENARIOS, Scenario, Times};
use peers::{setup, stop, table};

/// More than this voids a row: what the hypervisor takes falls on one contestant only.
const MAX_STEAL_PERCENT: f64 = 2.0;

/// The same scenarios against Ringcast's node and against small servers made of what others would pick.
///
/// Servers run on core 0, all clients on core 1. TCP's congestion control and receive packet steering are set for the
/// time of a run and put back (root is needed for that). A row in which something was lost, doubled or out of order, or
/// more than 2 % of the time was stolen, is void.
#[derive(Parser)]
#[command(name = "peers", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what the contestants need (apt-get, npm, cargo, g++) and builds the C++ one.
    Setup,
    /// Short: 2 rounds, 4 s windows.
    Quick(Plan),
    /// For figures: 5 rounds, 10 s windows.
    Full(Plan),
    /// Prints the tables of runs that were kept with --json.
    Table {
        /// The files.
        files: Vec<PathBuf>,
        /// Contestants that ratios are made against.
        #[arg(long, value_delimiter = ',', default_value = "floor,uws")]
        ratio: Vec<Contestant>,
    },
}

#[derive(Args)]
struct Plan {
    /// Scenarios, separated by commas: A C2 C10 Csat D E F [default: all].
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<String>,
    /// Contestants beside ours, separated by commas [default: all that are installed, without variants of ours].
    #[arg(long, value_delimiter = ',')]
    against: Vec<Contestant>,
    /// Contestants that ratios are made against.
    #[arg(long, value_delimiter = ',', default_value = "floor,uws")]
    ratio: Vec<Contestant>,
    /// Rounds [default: 2 or 5].
    #[arg(long)]
    rounds: Option<u32>,
    /// The number of the first round, where rounds are run in parts.
    #[arg(long, default_value_t = 0)]
    first_round: u32,
    /// Seconds of a window [default: 4 or 10].
    #[arg(long)]
    window: Option<u64>,
    /// Steers in every scenario, or in none [default: in all but A and Csat].
    #[arg(long)]
    steer: Option<bool>,
    /// The congestion control of all sockets.
    #[arg(long, default_value = "cubic")]
    congestion_control: String,
    /// Ours does not take part beside what --against names.
    #[arg(long)]
    without_ours: bool,
    /// Leaves the machine as it is: no congestion control, no steering; root is not needed.
    #[arg(long)]
    leave_machine: bool,
    /// Measures the programs that are there; by default they are built first, as they are shipped.
    #[arg(long)]
    no_build: bool,
    /// Adds the rows to this file, a JSON object a line.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match obey(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(task: Task) -> Result<()> {
    let place = Place::find()?;
    match task {
        Task::Setup => setup::set_up(&place),
        Task::Quick(plan) => plan.run(place, 2, Times::quick()),
        Task::Full(plan) => plan.run(place, 5, Times::full()),
        Task::Table { files, ratio } => {
            let mut rows = Vec::new();
            for file in files {
                rows.extend(read_rows(&file)?);
            }
            println!("{}", table::tables(&rows, &ratio));
            Ok(())
        }
    }
}

impl Plan {
    fn run(&self, place: Place, rounds: u32, mut times: Times) -> Result<()> {
        if !self.no_build {
            setup::build_ours()?;
        }
        stop::listen()?;
        pin_to_client_core()?;
        if let Some(window) = self.window {
            times.window = std::time::Duration::from_secs(window);
        }
        let scenarios = self.scenarios()?;
        let contestants = self.contestants(&place)?;
        let options = RunOptions {
            place,
            contestants: Options { floor_flags: Vec::new() },
            times,
            set_machine: !self.leave_machine,
            max_steal_percent: MAX_STEAL_PERCENT,
        };
        let _congestion =
            (!self.leave_machine).then(|| set_congestion_control(&self.congestion_control)).transpose()?;
        let _backlog = (!self.leave_machine).then(deepen_backlog).transpose()?;
        let mut rows = Vec::new();
        for scenario in &scenarios {
            for round in self.first_round..self.first_round + self.rounds.unwrap_or(rounds) {
                let mut order = contestants.clone();
                // A B B A: what drifts during a run falls on both alike.
                if round % 2 == 1 {
                    order.reverse();
                }
                for contestant in order {
                    let row = run(contestant, scenario, &options, round)?;
                    println!("{}", line(&row));
                    rows.push(row);
                    if let Some(file) = &self.json {
                        keep(file, rows.last().into_iter())?;
                    }
                }
            }
        }
        println!("{}", table::tables(&rows, &self.ratio));
        Ok(())
    }

    fn scenarios(&self) -> Result<Vec<Scenario>> {
        let mut scenarios = Vec::new();
        for name in &self.scenario {
            scenarios
                .push(Scenario::by_name(name).with_context(|| format!("--scenario {name}: there is none"))?);
        }
        if scenarios.is_empty() {
            scenarios.extend(SCENARIOS);
        }
        if let Some(steered) = self.steer {
            scenarios.iter_mut().for_each(|scenario| scenario.steered = steered);
        }
        Ok(scenarios)
    }

    fn contestants(&self, place: &Place) -> Result<Vec<Contestant>> {
        let asked = |contestant: &Contestant| {
            (self.against.is_empty() && !contestant.is_variant())
                || self.against.contains(contestant)
                || (*contestant == Contestant::IoUring && !self.without_ours)
        };
        let mut there = Vec::new();
        for contestant in Contestant::ALL.into_iter().filter(asked) {
            match contestant.missing(place) {
                None => there.push(contestant),
                Some(reason) => println!("{} does not take part: {reason}", contestant.name()),
            }
        }
        if there.is_empty() {
            bail!("no contestant is there");
        }
        Ok(there)
    }
}

fn line(row: &Row) -> String {
    let what = match &row.void {
        Some(reason) => format!("VOID: {reason}"),
        None if row.deliveries == 0 => format!(
            "{:.0} B each, {:.0} upgrades/s of {:.1} us, p99 {:.2} ms",
            row.rss_per_connection, row.upgrades_per_s, row.upgrade_cpu_us, row.handshake_p99_ms
        ),
        None => format!(
            "{:.2} us ({:.2} + {:.2}), {:.0}/s, p50 {:.2} p99 {:.2} last p99 {:.2} ms, lag p99 {:.2} ms, client {:.2}",
            row.cpu_us,
            row.user_us,
            row.system_us,
            row.deliveries_per_s,
            row.p50_ms,
            row.p99_ms,
            row.last_p99_ms,
            row.lag_p99_ms,
            row.client_cores
        ),
    };
    format!(
        "{} round {} {:<11} {what}, steal {:.1} %",
        row.scenario, row.round, row.contestant, row.steal_percent
    )
}

fn read_rows(file: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("{}", file.display())))
        .collect()
}

/// Adds rows to a file, a JSON object a line.
fn keep<'a>(file: &Path, rows: impl Iterator<Item = &'a Row>) -> Result<()> {
    use std::io::Write as _;
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    for row in rows {
        writeln!(out, "{}", serde_json::to_string(row)?)?;
    }
    Ok(())
}
