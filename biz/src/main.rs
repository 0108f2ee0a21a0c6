//! The business client: pushes from the command line and tells who got it.
//!
//! Owns: the schedule of the pushes. Talks to: `args` (what to push), `call` (the push managers), `print`.

mod args;
mod call;
#[cfg(test)]
mod call_tests;
mod print;
#[cfg(test)]
mod readme_tests;
mod turns;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use settings::{SettingError, exit_with};
use telemetry::{TraceSource, Traces};
use tokio::sync::mpsc;

use crate::args::{Args, Push};
use crate::call::{Client, Outcome, Tracing};
use crate::print::Summary;

/// How many pushes of an open loop may wait for their answers; a server takes 1024 calls a connection.
const MAX_IN_FLIGHT: usize = 1024;

fn main() -> ExitCode {
    let args: Args = settings::parse_or_exit();
    let push = args.push().unwrap_or_else(|error| exit_with(&error));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let source = TraceSource::Env { alone: true };
            let traces = Traces::open(source, "biz-server", "biz").unwrap_or_else(|error| exit_with(&error));
            let code = runtime.block_on(run(&args, push, &traces));
            traces.shut_down();
            code
        }
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args, push: Push, traces: &Traces) -> ExitCode {
    let client = client(args, traces).unwrap_or_else(|error| exit_with(&error));
    let started = Instant::now();
    let (sender, mut outcomes) = mpsc::channel(MAX_IN_FLIGHT);
    let source = format!("biz-{:08x}", fastrand::u32(..));
    let schedule = Schedule { push, client, repeat: args.repeat, source, outcomes: sender };
    match args.rate {
        Some(rate) => tokio::spawn(schedule.open_loop(rate)),
        None => tokio::spawn(schedule.one_by_one()),
    };
    let mut summary = Summary::default();
    while let Some((number, outcome)) = outcomes.recv().await {
        summary.add(&outcome);
        let told = if args.json { print::json(args, number, &outcome) } else { print::text(args, &outcome) };
        if !tell(&told) {
            break;
        }
    }
    if args.repeat > 1 && !args.json {
        tell(&summary.text(started.elapsed()));
    }
    ExitCode::from(summary.exit_code())
}

fn client(args: &Args, traces: &Traces) -> Result<Client, SettingError> {
    const REMEDY: &str = "give host:port, such as localhost:50053, or several with commas";
    let addresses = args.addresses();
    if addresses.is_empty() {
        return Err(SettingError::new("--address", args.address.join(","), REMEDY));
    }
    let traces = if args.trace { Tracing::All(traces.clone()) } else { Tracing::Sampled(traces.clone()) };
    Client::new(&addresses, traces).map_err(|address| SettingError::new("--address", address, REMEDY))
}

/// False: nobody reads any more.
fn tell(text: &str) -> bool {
    std::io::stdout().lock().write_all(text.as_bytes()).is_ok()
}

struct Schedule {
    push: Push,
    client: Client,
    repeat: u64,
    /// Tells the pushes of this run from others.
    source: String,
    outcomes: mpsc::Sender<(u64, Outcome)>,
}

impl Schedule {
    fn numbered(&self, number: u64) -> Push {
        let mut push = self.push.clone();
        if self.repeat > 1 {
            push.number(&self.source, number);
        }
        push
    }

    /// Each waits for the one before.
    async fn one_by_one(self) {
        for number in 1..=self.repeat {
            let outcome = self.client.push(self.numbered(number), Instant::now()).await;
            if self.outcomes.send((number, outcome)).await.is_err() {
                return;
            }
        }
    }

    /// Each at its time, whatever became of those before. Elapsed times count from that time, so that a schedule
    /// that is not kept shows in them.
    async fn open_loop(self, rate: f64) {
        let started = Instant::now();
        for number in 1..=self.repeat {
            let due = started + Duration::from_secs_f64((number - 1) as f64 / rate);
            tokio::time::sleep_until(due.into()).await;
            // The place for its outcome, taken beforehand, bounds what is in flight.
            let Ok(place) = self.outcomes.clone().reserve_owned().await else { return };
            let (client, push) = (self.client.clone(), self.numbered(number));
            tokio::spawn(async move { place.send((number, client.push(push, due).await)) });
        }
    }
}
