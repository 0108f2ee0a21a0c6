//! The settings of all services of one process, from flags, variables and the file that `--config` names.
//!
//! Owns: what each node gets. Must not: know a service's defaults (its own settings do).
//! Talks to: `variables`, `ports`, the services' settings.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use settings::{CommonArgs, File, SettingError};
use telemetry::TraceSource;

use crate::ports::{self, MAX_NODES};

/// Where the embedded stores keep their data.
const DATA_DIR: &str = "./ringcast-data";

/// Ringcast in one process: controller, push manager and connect nodes on embedded stores.
#[derive(Debug, clap::Parser)]
#[command(name = "ringcast", version)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    /// How many connect nodes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    pub(crate) nodes: u16,
    /// Where rooms are kept [default: ./ringcast-data].
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How nodes do their I/O [default: auto].
    #[arg(long, env = "DRIVER", value_enum)]
    pub(crate) driver: Option<connect_uring::DriverChoice>,
    /// Serve /echo too, which sends every message back: for conformance clients, not for production.
    #[arg(long)]
    pub(crate) echo: bool,
    /// The address on which gRPC and metrics listen [default: 127.0.0.1].
    #[arg(long, env = "BIND_ADDR")]
    pub(crate) bind: Option<IpAddr>,
    /// How many users a room takes that says nothing else; 0 = no limit [default: 100].
    #[arg(long, env = "ROOM_MAX_USERS")]
    pub(crate) room_max_users: Option<u32>,
    /// The controller's id [default: controller-1].
    #[arg(long, env = "CONTROLLER_ID")]
    pub(crate) controller_id: Option<String>,
    /// The push manager's id [default: push-manager-1].
    #[arg(long, env = "MANAGER_ID")]
    pub(crate) manager_id: Option<String>,
}

/// The settings of everything that this process runs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) control: control::Settings,
    pub(crate) push: push::Settings,
    pub(crate) nodes: Vec<connect_uring::Settings>,
    pub(crate) data_dir: PathBuf,
    /// host:port of the controller.
    pub(crate) controller: String,
}

impl Plan {
    /// Lays the flags over the file and divides it among the services.
    pub(crate) fn new(args: &Args, mut file: File) -> Result<Self, SettingError> {
        overlay(args, &mut file);
        let data_dir = file.server.data_dir.get_or_insert_with(|| DATA_DIR.into()).clone();
        let mut control = control::Settings::from_args(&control::Args::default(), &file)?;
        if control.grpc_addr.port() == 0 {
            return Err(SettingError::new("server.port", 0, "the other services must know it: give a port"));
        }
        // All services are here: they meet on this machine, whatever the file says for services of their own.
        let controller = reachable(control.grpc_addr);
        file.push.controller_address = Some(controller.clone());
        file.connect.controller_address = Some(controller.clone());
        let mut push = push::Settings::new(push::Args::default(), &file)?;
        let nodes = (1..=args.nodes).map(|n| node(args, &file, n)).collect::<Result<Vec<_>, _>>()?;
        control.expected_nodes = Some(nodes.iter().map(|node| node.node_id.clone()).collect());
        // Each service is called by its own name, whatever OTEL_SERVICE_NAME says.
        let traces = TraceSource::Env { alone: false };
        (control.traces, push.traces) = (traces, traces);
        // The process is told of once, by the first node.
        control.process_metrics = false;
        push.process_metrics = false;
        Ok(Self { control, push, nodes, data_dir, controller })
    }

    /// Checks every port before anything is started, each by its key of the file.
    pub(crate) fn check_ports(&self) -> Result<(), SettingError> {
        let (control, push) = (&self.control, &self.push);
        let mut ports = vec![
            ("server.port", control.grpc_addr),
            ("server.metrics_port", control.metrics_addr),
            ("push.grpc_port", (push.bind, push.grpc_port).into()),
            ("push.metrics_port", (push.bind, push.metrics_port).into()),
        ];
        for node in &self.nodes {
            ports.push(("connect.http_port", (Ipv4Addr::UNSPECIFIED, node.http_port).into()));
            ports.push(("connect.grpc_port", (node.bind, node.grpc_port).into()));
            ports.push(("connect.metrics_port", (node.bind, node.metrics_port).into()));
        }
        let mut taken = HashMap::new();
        for (key, address) in ports {
            if address.port() != 0
                && let Some(other) = taken.insert(address.port(), key)
            {
                let remedy =
                    format!("{other} has this port already: set another one in a file that --config names");
                return Err(SettingError::new(key, address.port(), remedy));
            }
            settings::check_port_free(key, address)?;
        }
        Ok(())
    }
}

fn overlay(args: &Args, file: &mut File) {
    for bind in [&mut file.server.bind, &mut file.push.bind, &mut file.connect.bind] {
        *bind = args.bind.or(*bind);
    }
    if args.data_dir.is_some() {
        file.server.data_dir.clone_from(&args.data_dir);
    }
    if args.controller_id.is_some() {
        file.server.id.clone_from(&args.controller_id);
    }
    if args.manager_id.is_some() {
        file.push.id.clone_from(&args.manager_id);
    }
    file.room.default_max_users = args.room_max_users.or(file.room.default_max_users);
}

/// The settings of node `n`, from 1.
fn node(args: &Args, file: &File, n: u16) -> Result<connect_uring::Settings, SettingError> {
    let mut file = file.clone();
    let connect = &mut file.connect;
    if args.nodes > 1 {
        let named = [
            ("connect.node_id", &connect.node_id),
            ("connect.node_addr", &connect.node_addr),
            ("connect.public_ws_url", &connect.public_ws_url),
        ];
        if let Some((key, Some(value))) = named.into_iter().find(|(_, value)| value.is_some()) {
            return Err(SettingError::new(
                key,
                value,
                format!("fits one node, and there are {}: take it out", args.nodes),
            ));
        }
    }
    let own = ports::of_node(n);
    connect.node_id.get_or_insert_with(|| format!("connect-node-{n}"));
    connect.http_port = Some(ports::counted_from(connect.http_port, n, own.http));
    connect.grpc_port = Some(ports::counted_from(connect.grpc_port, n, own.grpc));
    connect.metrics_port = Some(ports::counted_from(connect.metrics_port, n, own.metrics));
    // The page moves between the nodes of this machine by what `/nodes` tells it. A port that the kernel is to choose
    // cannot be told.
    if let Some(port) = connect.http_port.filter(|&port| port != 0) {
        connect.public_ws_url.get_or_insert_with(|| format!("ws://localhost:{port}/ws"));
    }
    connect.shards.get_or_insert_with(|| shards_a_node(cores(), args.nodes));
    let mut settings = connect_uring::Settings::from_file(&file)?;
    settings.driver = args.driver.unwrap_or(settings.driver);
    if args.echo {
        settings.limits.echo = Some(connect_core::Limits::ECHO);
    }
    settings.process_metrics = n == 1;
    settings.traces = TraceSource::Env { alone: false };
    Ok(settings)
}

/// How the other services reach a listener of this process.
fn reachable(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address.to_string()
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn shards_a_node(cores: usize, nodes: u16) -> u16 {
    u16::try_from(cores / usize::from(nodes)).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(flags: &[&str], file: &str) -> Result<Plan, SettingError> {
        let line = std::iter::once("ringcast").chain(flags.iter().copied()).map(Into::into);
        Plan::new(&settings::parse_from::<Args>(line)?, settings::parse(file, "ringcast.yaml")?)
    }

    #[test]
    fn three_nodes_have_ids_and_ports_of_their_own() {
        let plan = plan(&["--nodes", "3"], "").unwrap();
        let of =
            |n: usize| (plan.nodes[n].node_id.to_string(), plan.nodes[n].http_port, plan.nodes[n].grpc_port);
        assert_eq!(of(0), ("connect-node-1".to_owned(), 8080, 50052));
        assert_eq!(of(2), ("connect-node-3".to_owned(), 8082, 50056));
        assert_eq!(plan.control.expected_nodes.unwrap().len(), 3);
        assert_eq!(plan.nodes.iter().filter(|node| node.process_metrics).count(), 1);
    }

    #[test]
    fn nodes_tell_a_page_on_this_machine_where_they_are() {
        let urls =
            |plan: Plan| -> Vec<String> { plan.nodes.into_iter().map(|node| node.public_ws_url).collect() };
        let expected = ["ws://localhost:8080/ws", "ws://localhost:8081/ws"];
        assert_eq!(urls(plan(&["--nodes", "2"], "").unwrap()), expected);
        let told = "connect: {public_ws_url: 'wss://push.example.org/ws'}";
        assert_eq!(urls(plan(&[], told).unwrap()), ["wss://push.example.org/ws"]);
    }

    #[test]
    fn services_meet_at_the_controllers_port() {
        let plan = plan(&[], "{server: {port: 20001}, push: {controller_address: 'elsewhere:5'}}").unwrap();
        assert_eq!(plan.push.controller_address, ["127.0.0.1:20001"]);
        assert_eq!(plan.nodes[0].controller_address, ["127.0.0.1:20001"]);
    }

    #[test]
    fn a_bound_address_is_where_services_meet() {
        assert_eq!(plan(&["--bind", "0.0.0.0"], "").unwrap().controller, "127.0.0.1:50051");
        assert_eq!(plan(&["--bind", "::1"], "").unwrap().controller, "[::1]:50051");
        assert!(plan(&[], "server: {port: 0}").unwrap_err().to_string().starts_with("server.port = 0: "));
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = "{server: {data_dir: /a, id: c}, room: {default_max_users: 5}}";
        let plan =
            plan(&["--data-dir", "/b", "--room-max-users", "7", "--controller-id", "d"], file).unwrap();
        assert_eq!(plan.data_dir, PathBuf::from("/b"));
        assert_eq!(plan.control.data_dir, PathBuf::from("/b"));
        assert_eq!((plan.control.id.as_str(), plan.control.default_max_users), ("d", 7));
    }

    #[test]
    fn one_id_does_not_fit_two_nodes() {
        assert!(plan(&[], "connect: {node_id: edge-1}").is_ok());
        let error = plan(&["--nodes", "2"], "connect: {node_id: edge-1}").unwrap_err().to_string();
        assert!(error.starts_with("connect.node_id = edge-1: "), "{error}");
    }

    #[test]
    fn nodes_share_the_cores_and_have_at_least_one_shard() {
        assert_eq!(shards_a_node(8, 1), 8);
        assert_eq!(shards_a_node(8, 3), 2);
        assert_eq!(shards_a_node(2, 3), 1);
    }

    #[test]
    fn two_services_with_one_port_are_refused() {
        let plan =
            plan(&[], "{server: {port: 20001, metrics_port: 20002}, push: {grpc_port: 20002}}").unwrap();
        let error = plan.check_ports().unwrap_err().to_string();
        assert!(error.starts_with("push.grpc_port = 20002: server.metrics_port has this port"), "{error}");
    }

    #[test]
    fn nodes_are_bounded() {
        assert!(plan(&["--nodes", "0"], "").unwrap_err().to_string().starts_with("--nodes = 0: "));
        assert!(plan(&["--nodes", "65"], "").is_err());
    }
}
