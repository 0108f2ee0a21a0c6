//! The controller as a process of its own: settings, checks, start, and the signals that stop it.

use control::{Args, Settings};
use settings::{SettingError, check_port_free, exit_with};
use telemetry::{ServiceManager, TraceSource};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Args = settings::parse_or_exit();
    let settings = check(&args).unwrap_or_else(|error| exit_with(&error));
    args.common.end_if_checking();
    for (key, address) in [("GRPC_PORT", settings.grpc_addr), ("METRICS_PORT", settings.metrics_addr)] {
        check_port_free(key, address).unwrap_or_else(|error| exit_with(&error));
    }
    settings::init_logs(args.common.log_format).unwrap_or_else(|error| exit_with(&error));
    settings::warn_if_open(settings.grpc_addr.ip());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(settings)));
    if let Err(error) = ended {
        match error.downcast::<SettingError>() {
            Ok(setting) => exit_with(&setting),
            Err(error) => {
                eprintln!("error: {error:#}");
                std::process::exit(1);
            }
        }
    }
}

fn check(args: &Args) -> Result<Settings, SettingError> {
    let file = args.common.load(true)?;
    let stores = settings::stores(&file, cfg!(feature = "cluster"))?;
    let traces = TraceSource::Env { alone: true };
    Ok(Settings { traces, ..Settings::from_args(args, &file)?.on(stores) })
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let stop = CancellationToken::new();
    let (id, data) = (settings.id.clone(), settings.data_dir.clone());
    let [terminate, interrupt] = &mut signals;
    // The start may wait for a store that is away.
    let running = tokio::select! {
        started = control::start(settings, stop.clone()) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let (grpc, metrics) = (running.grpc_addr, running.metrics_addr);
    tracing::info!(id, %grpc, %metrics, data = %data.display(), "the controller serves");
    let manager = ServiceManager::from_env();
    manager.ready("takes joins");
    tokio::spawn(telemetry::keep_alive(manager));
    let stopped = running.stopped();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            result = &mut stopped => return result,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.is_cancelled() {
            // A second signal ends it now.
            std::process::exit(130);
        }
        manager.stopping("ends its streams");
        stop.cancel();
    }
}
