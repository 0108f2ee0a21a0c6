//! Ringcast in one process: controller, push manager and connect nodes on embedded stores, over real loopback
//! gRPC.
//!
//! Owns: the order of start and stop. Must not: do what a service does.
//! Talks to: the services' `start`, `config`, `services`, `nodes`, `banner`.

mod banner;
mod config;
mod nodes;
mod ports;
mod services;
mod variables;

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;

use settings::SettingError;
use telemetry::ServiceManager;
use tokio::runtime::Builder;

use banner::{Banner, NodeLine, Ports};
use config::{Args, Plan};
use nodes::Nodes;
use services::Services;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = settings::parse_or_exit();
    let plan = read(&args).unwrap_or_else(|error| settings::exit_with(&error));
    args.common.end_if_checking();
    match run(plan) {
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

fn read(args: &Args) -> Result<Plan, SettingError> {
    settings::init_logs(args.common.log_format)?;
    variables::refuse_ambiguous()?;
    let file = args.common.load(false)?;
    settings::refuse_cluster_stores(&file)?;
    Plan::new(args, file)
}

fn run(plan: Plan) -> anyhow::Result<()> {
    plan.check_ports()?;
    let ids: Vec<(String, u16)> =
        plan.nodes.iter().map(|node| (node.node_id.to_string(), node.shards)).collect();
    // First: shards take descriptor tables of their own, which must not hold a copy of anything that is opened
    // by a runtime or a store.
    let nodes = connect_uring::start(plan.nodes)?;
    let mut lines: Vec<NodeLine> =
        ids.into_iter().zip(&nodes).map(|(id, node)| node_line(id, node)).collect();
    let runtime = Builder::new_multi_thread().thread_name("services").enable_all().build()?;
    runtime.block_on(async {
        let mut nodes = Nodes::watch(nodes)?;
        let starting = async {
            let services = Services::start(plan.control, plan.push).await?;
            for known in services::wait_for_nodes(&plan.controller, lines.len()).await? {
                if let Some(line) = lines.iter_mut().find(|line| line.id == known.node_id) {
                    line.driver = known.driver;
                }
            }
            anyhow::Ok(services)
        };
        let services = tokio::select! {
            services = starting => services,
            stopped = nodes.serve() => match stopped {
                Ok(()) => return nodes.drain().await,
                Err(error) => Err(error),
            },
        };
        let services = match services {
            Ok(services) => services,
            Err(error) => {
                let _ = nodes.drain().await;
                return Err(error);
            }
        };
        let banner = Banner {
            controller: ports(services.control.grpc_addr, services.control.metrics_addr),
            push_manager: ports(services.push.grpc_addr, services.push.metrics_addr),
            nodes: lines,
            data_dir: plan.data_dir,
        };
        // A closed standard output keeps nobody from serving.
        let _ = std::io::stdout().write_all(banner.text().as_bytes());
        let manager = ServiceManager::from_env();
        manager.ready("serves");
        tokio::spawn(telemetry::keep_alive(manager));
        let served = nodes.serve().await;
        manager.stopping("closes sessions over the drain");
        let drained = nodes.drain().await;
        let stopped = services.stop().await;
        served.and(drained).and(stopped)
    })
}

fn node_line((id, shards): (String, u16), node: &connect_uring::Node) -> NodeLine {
    let ports = ports(node.grpc_addr, node.metrics_addr);
    NodeLine { id, ports, http: node.http_addr.port(), shards, driver: String::new() }
}

fn ports(grpc: SocketAddr, metrics: SocketAddr) -> Ports {
    Ports { grpc: grpc.port(), metrics: metrics.port() }
}
