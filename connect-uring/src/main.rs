//! The connect node as a process of its own: settings, start, signals, exit code.
//!
//! Owns: the boot order and what a signal does. Must not: know how a node works. Talks to: `connect_uring`.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use connect_uring::{Args, Drainer, Pulse, Settings};
use settings::SettingError;
use telemetry::{ServiceManager, TraceSource};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = settings::parse_or_exit();
    let settings = read(&args).unwrap_or_else(|error| settings::exit_with(&error));
    args.common().end_if_checking();
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<SettingError>() {
            Some(error) => settings::exit_with(error),
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn read(args: &Args) -> Result<Settings, SettingError> {
    settings::init_logs(args.common().log_format)?;
    let file = args.common().load(true)?;
    let stores = settings::stores(&file, cfg!(feature = "cluster"))?;
    // Rooms and presence are the controller's, wherever they are.
    let traces = TraceSource::Env { alone: true };
    Ok(Settings { etcd: stores.etcd, traces, ..args.settings(&file)? })
}

fn run(settings: Settings) -> anyhow::Result<()> {
    let nodes = connect_uring::start(vec![settings])?;
    for node in &nodes {
        tracing::info!(http = %node.http_addr, grpc = %node.grpc_addr, metrics = %node.metrics_addr, "serving");
    }
    let drainers = nodes.iter().map(connect_uring::Node::drainer).collect();
    let pulses = nodes.iter().map(connect_uring::Node::pulse).collect();
    // Only now: handlers write to a descriptor, and a shard that starts later would keep a copy of it.
    let mut signals = Signals::install()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || signals.obey(drainers, pulses))?;
    nodes.into_iter().try_for_each(connect_uring::Node::wait)
}

/// SIGTERM and SIGINT.
struct Signals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// The first signal begins the planned stop, the second one ends the process at once.
    /// Until then the service manager hears that all shards turn.
    fn obey(&mut self, drainers: Vec<Drainer>, mut pulses: Vec<Pulse>) {
        let manager = ServiceManager::from_env();
        self.next(async {
            while !pulses.iter().all(Pulse::has_its_id) {
                tokio::time::sleep(LOOK).await;
            }
            manager.ready("takes clients");
            look_after(manager, &mut pulses).await
        });
        manager.stopping("closes its sessions over the drain");
        drainers.iter().for_each(Drainer::drain);
        let second = self.next(look_after(manager, &mut pulses));
        std::process::exit(128 + second.as_raw_value());
    }

    fn next(&mut self, meanwhile: impl Future<Output = Infallible>) -> SignalKind {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => SignalKind::terminate(),
                _ = self.interrupt.recv() => SignalKind::interrupt(),
                never = meanwhile => match never {},
            }
        })
    }
}

/// How often it is looked whether the node has its id.
const LOOK: Duration = Duration::from_millis(50);

/// Says that the nodes are alive, while every shard turns. During the drain shards end one by one: what does not end then is
/// the service manager's to end.
async fn look_after(manager: ServiceManager, pulses: &mut [Pulse]) -> Infallible {
    let Some(pulse) = manager.pulse() else { return std::future::pending().await };
    loop {
        tokio::time::sleep(pulse).await;
        if pulses.iter_mut().all(Pulse::beats) {
            manager.alive();
        }
    }
}
