//! What the way of a push costs: a controller, a push manager and a node as processes of their own, user pushes by
//! gRPC, and the CPU time of each process and thread divided by the pushes.
//!
//! `--programs` names a folder of built programs; given twice or more, their rounds alternate, so that two builds are
//! compared in one run. `--rate 0` pushes as fast as answers come.
//!
//! Owns: the rounds and what is printed. Must not: judge. Talks to: `processes`, `caller`, and the load generator's
//! clients.

mod caller;
mod processes;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use loadgen::{Fleet, FleetPlan};

use crate::caller::{Load, Told, Via};
use crate::processes::{System, Used};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the way of a push from gRPC to the client.
#[derive(Debug, Clone, Parser)]
struct Args {
    /// A folder with `control`, `push` and `connect-uring`; several are compared.
    #[arg(long, default_value = "target/release")]
    programs: Vec<PathBuf>,
    /// How pushes are handed in.
    #[arg(long, value_enum, default_value = "stream")]
    via: Via,
    /// Pushes a second; 0: as many as are answered.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// For how many seconds a round pushes.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds of each folder.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Pushes in one message of a stream; 0: what comes due in a millisecond.
    #[arg(long, default_value_t = 0)]
    batch: usize,
    /// Pushes in flight where the rate is 0.
    #[arg(long, default_value_t = 2_048)]
    in_flight: usize,
    /// HTTP/2 connections of unary calls.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Users with a connection each, pushed to in turn.
    #[arg(long, default_value_t = 256)]
    users: usize,
    /// Shards of the node.
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// Ask for no reports.
    #[arg(long)]
    unreported: bool,
    /// The core of the push manager, apart from all else.
    #[arg(long)]
    push_core: Option<usize>,
    /// The core of all else.
    #[arg(long)]
    other_core: Option<usize>,
    /// The first of eight ports to listen on.
    #[arg(long, default_value_t = 24_000)]
    port: u16,
    /// Says the process ids and waits so many seconds after the joins, for a profiler to attach.
    #[arg(long, default_value_t = 0)]
    wait: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(core) = args.other_core {
        processes::pin_self(core)?;
    }
    for round in 0..args.rounds {
        // A B B A: what drifts in the machine hits both alike.
        let mut order: Vec<&PathBuf> = args.programs.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for programs in order {
            run(&args, programs).with_context(|| format!("the programs in {}", programs.display()))?;
        }
    }
    Ok(())
}

fn run(args: &Args, programs: &std::path::Path) -> anyhow::Result<()> {
    let system = System::start(programs, args.shards, args.port, args.push_core, args.other_core)?;
    let plan = FleetPlan::new(system.http, args.users, "u", |number| format!("r{number}"));
    let fleet = Fleet::connect(plan)?;
    fleet.run_until(Duration::from_secs(30), |totals| totals.live == args.users)?;
    if args.wait > 0 {
        println!("{}", system.pids());
        std::thread::sleep(Duration::from_secs(args.wait));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let load = |seconds| Load {
        via: args.via,
        rate: args.rate,
        pushes: if args.rate == 0 { u64::MAX } else { args.rate * seconds },
        time: Duration::from_secs(seconds),
        batch: if args.batch > 0 { args.batch } else { (args.rate / 1000).clamp(1, 1024) as usize },
        in_flight: args.in_flight,
        connections: args.connections,
        users: args.users,
        reported: !args.unreported,
    };
    // The first second warms tables, connections and allocators; its stamps are of other streams.
    runtime.block_on(caller::push(&system.push_address, load(1), caller::WARM_UP))?;
    settle(&fleet, args.users)?;
    let before = system.used()?;
    let warmed = fleet.totals().received;
    let told = runtime.block_on(caller::push(&system.push_address, load(args.seconds), caller::MEASURED))?;
    settle(&fleet, args.users)?;
    let used = system.used()?.since(&before);
    let received = fleet.totals().received - warmed;
    let report = fleet.report()?;
    print(args, programs, &told, &used);
    println!("  received {received} at {}", report.last_receiver(caller::MEASURED..u32::MAX));
    let disorder = report.disorder();
    // Calls that overlap may be accepted in any order.
    let ordered = args.via == Via::Unary || disorder.1 == 0;
    ensure!(disorder.0 == 0 && ordered, "doubled or out of order: {disorder:?}");
    ensure!(received == told.pushes, "{received} of {} pushes arrived", told.pushes);
    Ok(())
}

/// Waits until nothing more arrives.
fn settle(fleet: &Fleet, users: usize) -> anyhow::Result<()> {
    let mut last = None;
    for _ in 0..200 {
        let totals = fleet.totals();
        ensure!(totals.live == users, "clients were lost: {totals:?}");
        if last.replace(totals.received) == Some(totals.received) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("pushes arrive for ever")
}

fn print(args: &Args, programs: &std::path::Path, told: &Told, used: &Used) {
    let each = |ns: u64| ns as f64 / 1e3 / told.pushes as f64;
    println!(
        "{}: {:?} {} asked for, {:.0}/s done, {} shards, reports {}: push + node {:.2} us a push",
        programs.display(),
        args.via,
        args.rate,
        told.pushes as f64 / told.time.as_secs_f64(),
        args.shards,
        !args.unreported,
        used.processes[..2].iter().map(|process| each(process.total_ns())).sum::<f64>(),
    );
    for process in &used.processes {
        let threads: Vec<String> = process
            .threads
            .iter()
            .filter(|(_, thread)| each(thread.ns) >= 0.05)
            .map(|(name, thread)| {
                let runs = thread.runs as f64 / told.pushes as f64;
                format!("{name} {:.2} us in {runs:.2} runs", each(thread.ns))
            })
            .collect();
        println!(
            "  {:<14}{:>7.2} us (user {:.0} %): {}",
            process.name,
            each(process.total_ns()),
            100.0 * process.user_share,
            threads.join(", ")
        );
    }
    println!("  answered {} at {}; the caller's lag {}", told.answered.count(), told.answered, told.lag);
}
