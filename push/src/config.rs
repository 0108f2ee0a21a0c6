//! The settings of the push manager: flags over environment over `config.yaml` over defaults.
//!
//! Owns: names, defaults, bounds. Talks to: `settings`, which reads them.

use std::net::{IpAddr, Ipv4Addr};

use ringcast_proto::NodeId;
use settings::{EtcdStore, SettingError};
use telemetry::TraceSource;

/// The bounds of `push_payload_bytes`: larger payloads would not fit beside others into a message to a node.
const PAYLOAD_BYTES: std::ops::RangeInclusive<u32> = 1..=8 * 1024 * 1024;

/// The bounds of `threads`.
const THREADS: std::ops::RangeInclusive<u16> = 1..=256;

/// Push messages to rooms, users and everyone over the connect nodes.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "push", version, about = "The Ringcast push manager")]
pub struct Args {
    /// The id of this push manager [default: push-manager-1]
    #[arg(long, env = "MANAGER_ID", value_name = "ID")]
    pub manager_id: Option<String>,
    /// The port of the push API [default: 50053]
    #[arg(long, env = "GRPC_PORT", value_name = "PORT", value_parser = settings::parse_port)]
    pub grpc_port: Option<u16>,
    /// The port of /metrics [default: 9094]
    #[arg(long, env = "METRICS_PORT", value_name = "PORT", value_parser = settings::parse_port)]
    pub metrics_port: Option<u16>,
    /// The address on which both listen [default: 127.0.0.1]
    #[arg(long, env = "BIND_ADDR", value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// Where the controllers are, separated by commas, where etcd does not say it [default: localhost:50051]
    #[arg(long, env = "CONTROLLER_ADDRESS", value_name = "HOST:PORT,...", value_parser = addresses)]
    pub controller_address: Option<String>,
    /// Where others reach the push API, told by etcd [default: the address on which it listens]
    #[arg(long, env = "MANAGER_ADDR", value_name = "HOST:PORT", value_parser = settings::parse_address)]
    pub manager_addr: Option<String>,
    /// The largest payload of a push, in bytes [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    pub push_payload_bytes: Option<u32>,
    /// Threads [default: one for every two cores]
    #[arg(long, env = "THREADS", value_name = "NUMBER")]
    pub threads: Option<u16>,
    /// What every service takes.
    #[command(flatten)]
    pub common: settings::CommonArgs,
}

/// The settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its id; nodes and controllers see it. Two with one id work, but cannot be told apart in logs; with etcd the
    /// second does not start.
    pub manager_id: String,
    /// On which address gRPC and metrics listen. Beyond loopback anyone who reaches it can push.
    pub bind: IpAddr,
    /// The port of the push API; 0: the kernel chooses.
    pub grpc_port: u16,
    /// The port of /metrics; 0: the kernel chooses.
    pub metrics_port: u16,
    /// host:port of each controller, where there is no etcd. None that answers: every push is refused as UNAVAILABLE.
    /// One too few: pushes miss the sessions whose nodes have their link to it.
    pub controller_address: Vec<String>,
    /// Where etcd is, which then says where the controllers are.
    pub etcd: Option<EtcdStore>,
    /// host:port at which others reach the push API, for etcd to tell; `None`: where it listens.
    pub manager_addr: Option<String>,
    /// The largest payload, in bytes, 1 to 8 MiB. Too small refuses pushes; too large lets few of them fill the
    /// queues of slow nodes and clients.
    pub push_payload_bytes: usize,
    /// How many threads serve, as a process of its own. With one nothing is handed from thread to thread, which
    /// is the cheapest for each push. Too few: pushes wait for a core. Too many: each push costs more, for wake-ups.
    pub threads: u16,
    /// Whether /metrics tells of the process, too: by one service in a process.
    pub process_metrics: bool,
    /// Whether pushes are traced: by the process that says so.
    pub traces: TraceSource,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            manager_id: "push-manager-1".into(),
            bind: Ipv4Addr::LOCALHOST.into(),
            grpc_port: 50053,
            metrics_port: 9094,
            controller_address: vec!["localhost:50051".into()],
            etcd: None,
            manager_addr: None,
            push_payload_bytes: 1024 * 1024,
            threads: default_threads(),
            process_metrics: true,
            traces: TraceSource::Off,
        }
    }
}

impl Settings {
    /// Lays flags and environment over the file over the defaults.
    pub fn new(args: Args, file: &settings::File) -> Result<Self, SettingError> {
        // Rooms and presence are the controllers'; their stores may stand in the file that all services read.
        let etcd = settings::stores(file, cfg!(feature = "cluster"))?.etcd;
        let defaults = Self::default();
        let file = &file.push;
        let manager_id = args.manager_id.or(file.id.clone()).unwrap_or(defaults.manager_id);
        NodeId::new(&manager_id)
            .map_err(|error| SettingError::new("MANAGER_ID", &manager_id, error.to_string()))?;
        let payload = args.push_payload_bytes.or(file.push_payload_bytes);
        if let Some(bytes) = payload.filter(|bytes| !PAYLOAD_BYTES.contains(bytes)) {
            let remedy = format!("give {} to {}", PAYLOAD_BYTES.start(), PAYLOAD_BYTES.end());
            return Err(SettingError::new("push.push_payload_bytes", bytes, remedy));
        }
        let threads = args.threads.or(file.threads).unwrap_or(defaults.threads);
        if !THREADS.contains(&threads) {
            let remedy = format!("give {} to {}", THREADS.start(), THREADS.end());
            return Err(SettingError::new("push.threads", threads, remedy));
        }
        Ok(Self {
            manager_id,
            bind: args.bind.or(file.bind).unwrap_or(defaults.bind),
            grpc_port: args.grpc_port.or(file.grpc_port).unwrap_or(defaults.grpc_port),
            metrics_port: args.metrics_port.or(file.metrics_port).unwrap_or(defaults.metrics_port),
            controller_address: match args.controller_address.or(file.controller_address.clone()) {
                Some(given) => split(&given)?,
                None => defaults.controller_address,
            },
            etcd,
            manager_addr: args.manager_addr.or(file.addr.clone()),
            push_payload_bytes: payload.map_or(defaults.push_payload_bytes, |bytes| bytes as usize),
            threads,
            process_metrics: true,
            traces: TraceSource::Off,
        })
    }
}

fn addresses(given: &str) -> Result<String, String> {
    settings::parse_addresses(given).map(|_| given.to_owned())
}

fn split(given: &str) -> Result<Vec<String>, SettingError> {
    settings::parse_addresses(given).map_err(|remedy| SettingError::new("CONTROLLER_ADDRESS", given, remedy))
}

/// One for every two cores: nodes, or the other services, need the rest.
fn default_threads() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores / 2).unwrap_or(u16::MAX).clamp(*THREADS.start(), *THREADS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_lie_over_the_file_over_defaults() {
        let file = settings::File {
            push: settings::Push {
                id: Some("from-file".into()),
                grpc_port: Some(1),
                metrics_port: Some(2),
                ..Default::default()
            },
            ..Default::default()
        };
        let args = Args { grpc_port: Some(7), ..Default::default() };
        let settings = Settings::new(args, &file).unwrap();
        let told = (settings.manager_id.as_str(), settings.grpc_port, settings.metrics_port);
        assert_eq!(told, ("from-file", 7, 2));
        assert_eq!(settings.controller_address, ["localhost:50051"]);
    }

    #[test]
    fn controllers_are_separated_by_commas() {
        let file = settings::parse("push: {controller_address: 'a:1,b:2'}", "config.yaml").unwrap();
        let of = |args: Args| Settings::new(args, &file).unwrap().controller_address;
        assert_eq!(of(Args::default()), ["a:1", "b:2"]);
        let args = Args { controller_address: Some("c:3, d:4".into()), ..Default::default() };
        assert_eq!(of(args), ["c:3", "d:4"], "flags and variables lie over the file");
        use clap::Parser as _;
        let wrong = Args::try_parse_from(["push", "--controller-address", "a:1,b"]).unwrap_err().to_string();
        assert!(wrong.contains("give host:port"), "{wrong}");
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let file = settings::File::default();
        let refused = |args: Args| Settings::new(args, &file).unwrap_err().to_string();
        let long = Args { manager_id: Some("x".repeat(65)), ..Default::default() };
        assert!(refused(long).starts_with("MANAGER_ID = xxx"));
        let none = Args { push_payload_bytes: Some(0), ..Default::default() };
        assert_eq!(refused(none), "push.push_payload_bytes = 0: give 1 to 8388608");
        let none = Args { threads: Some(0), ..Default::default() };
        assert_eq!(refused(none), "push.threads = 0: give 1 to 256");
    }
}
