//! The push manager as a process of its own.
//!
//! Owns: the order of boot: settings, logs, runtime, service, signals. Talks to: the library of this crate.

use settings::{SettingError, exit_with, init_logs, parse_or_exit};
use telemetry::{ServiceManager, TraceSource};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let args: push::Args = parse_or_exit();
    let common = args.common.clone();
    let mut settings = common
        .load(true)
        .and_then(|file| push::Settings::new(args, &file))
        .unwrap_or_else(|error| exit_with(&error));
    common.end_if_checking();
    init_logs(common.log_format).unwrap_or_else(|error| exit_with(&error));
    settings.traces = TraceSource::Env { alone: true };
    let runtime = match settings.threads {
        1 => Builder::new_current_thread().enable_all().build()?,
        threads => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(usize::from(threads)).thread_name("push").enable_all().build()?
        }
    };
    match runtime.block_on(run(settings)) {
        Err(error) => match error.downcast::<SettingError>() {
            Ok(error) => exit_with(&error),
            Err(error) => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

async fn run(settings: push::Settings) -> anyhow::Result<()> {
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = CancellationToken::new();
    let running = tokio::select! {
        running = push::start(settings, stop.clone()) => running?,
        _ = interrupted.recv() => return Ok(()),
        _ = terminated.recv() => return Ok(()),
    };
    let manager = ServiceManager::from_env();
    manager.ready("takes pushes");
    tokio::spawn(telemetry::keep_alive(manager));
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    tracing::info!("stopping; a second signal ends it now");
    manager.stopping("answers the pushes that are open");
    stop.cancel();
    tokio::select! {
        () = running.stopped() => Ok(()),
        _ = interrupted.recv() => anyhow::bail!("ended by a second signal"),
        _ = terminated.recv() => anyhow::bail!("ended by a second signal"),
    }
}
