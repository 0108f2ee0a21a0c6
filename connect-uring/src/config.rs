//! A node's settings, and the flags and variables that set them over `config.yaml`.
//!
//! Owns: defaults and the check of values. Must not: bind or start anything. Talks to: `settings` (the file's
//! shape and the errors), `node`, which is started with the result.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use connect_core::Limits;
use connect_core::message::MessageLimits;
use ringcast_proto::{NodeId, SessionId};
use settings::{
    CommonArgs, ConnectLimits, EtcdStore, File, SettingError, parse_address, parse_addresses, parse_port,
    parse_ws_url,
};
use telemetry::TraceSource;

use crate::census::MAX_SHARDS;

/// How a node does its I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum DriverChoice {
    /// io_uring, and epoll where the kernel or the container refuses it.
    #[default]
    Auto,
    /// io_uring or no start at all.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll.
    Epoll,
}

/// All settings of one node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The node's id, unique in the system: `connect-node-1`. Another live node with it keeps this one from
    /// starting.
    pub node_id: NodeId,
    /// Where push managers connect: 50052; 0 lets the kernel choose.
    pub grpc_port: u16,
    /// Where clients connect, on all interfaces: 8080; 0 lets the kernel choose.
    pub http_port: u16,
    /// Where `/metrics` is served: 9091; 0 lets the kernel choose.
    pub metrics_port: u16,
    /// The address on which gRPC and metrics listen: 127.0.0.1. The push API has no authentication: open it to
    /// your own services only.
    pub bind: IpAddr,
    /// host:port at which push managers reach the gRPC server; `None`: 127.0.0.1 (or the address that it is bound
    /// to) with its port.
    pub node_addr: Option<String>,
    /// Where clients reach the node, such as `ws://push.example.org:8080/ws`. Empty: ws://localhost:HTTP_PORT/ws while push
    /// managers reach the node on this machine only, else it is not told.
    pub public_ws_url: String,
    /// host:port of the controllers, where no etcd tells of them: 127.0.0.1:50051. Controllers that share no stores are
    /// different systems: name one.
    pub controller_address: Vec<String>,
    /// Where the etcd is by which services find one another; `None`: the controllers are those above.
    pub etcd: Option<EtcdStore>,
    /// Shards, each a thread with its own sessions and its own open files: as many as there are cores. More of
    /// them cost memory and switches, and take more connections where the limit of open files bounds them; fewer
    /// leave cores idle.
    pub shards: u16,
    /// How it does its I/O.
    pub driver: DriverChoice,
    /// Whether `/metrics` also tells of the process: memory, descriptors, CPU. Once a process.
    pub process_metrics: bool,
    /// Whether pushes and joins are traced: by the process that says so.
    pub traces: TraceSource,
    /// The largest payload of a push, in bytes: 1 MiB. Smaller refuses what push managers let through, larger lets
    /// one push fill a session's queue.
    pub push_payload_bytes: usize,
    /// Over how long a planned stop closes the sessions: 20 s. Shorter makes a wave of reconnects, longer has to
    /// fit into what the supervisor waits before it kills.
    pub drain: Duration,
    /// Connections of the node, over all shards: 1,048,576, or as many as the limit of open files allows. Further
    /// clients are refused. Each shard has open files of its own: beyond the limit the node needs more shards.
    pub max_connections: u32,
    /// The key that set `max_connections`: more than the limit of open files allows then stops the start.
    pub connections_key: Option<&'static str>,
    /// What one client may do; `max_sessions` is a shard's part of `max_connections`.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        let shards = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_SHARDS));
        Self {
            node_id: NodeId::new("connect-node-1").expect("a valid id"),
            grpc_port: 50052,
            http_port: 8080,
            metrics_port: 9091,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            node_addr: None,
            public_ws_url: String::new(),
            controller_address: vec!["127.0.0.1:50051".to_owned()],
            etcd: None,
            shards: shards as u16,
            driver: DriverChoice::Auto,
            process_metrics: true,
            traces: TraceSource::Off,
            push_payload_bytes: connect_core::MAX_PUSH_PAYLOAD_BYTES,
            drain: Duration::from_secs(20),
            max_connections: 1 << 20,
            connections_key: None,
            limits: Limits::default(),
        }
    }
}

impl Settings {
    /// Defaults, with `connect:` of the file over them.
    pub fn from_file(file: &File) -> Result<Self, SettingError> {
        let mut settings = Self::default();
        let connect = &file.connect;
        if let Some(id) = &connect.node_id {
            settings.node_id = node_id("connect.node_id", id)?;
        }
        if let Some(driver) = &connect.driver {
            settings.driver = clap::ValueEnum::from_str(driver, false).map_err(|_| {
                SettingError::new("connect.driver", driver, "give one of: auto, io_uring, epoll")
            })?;
        }
        set(&mut settings.grpc_port, connect.grpc_port);
        set(&mut settings.http_port, connect.http_port);
        set(&mut settings.metrics_port, connect.metrics_port);
        set(&mut settings.bind, connect.bind);
        set(&mut settings.public_ws_url, connect.public_ws_url.clone());
        if let Some(text) = &connect.controller_address {
            settings.controller_address = parse_addresses(text)
                .map_err(|remedy| SettingError::new("connect.controller_address", text, remedy))?;
        }
        set(&mut settings.shards, connect.shards);
        settings.node_addr.clone_from(&connect.node_addr);
        settings.set_limits(&connect.limits)?;
        settings.check("connect.shards")?;
        Ok(settings)
    }

    fn set_limits(&mut self, given: &ConnectLimits) -> Result<(), SettingError> {
        let limits = &mut self.limits;
        let bytes = |value: Option<u32>| value.map(|value| value as usize);
        set(&mut self.max_connections, at_least("max_connections", given.max_connections, 1)?);
        self.connections_key = given.max_connections.map(|_| "connect.limits.max_connections");
        set(
            &mut self.push_payload_bytes,
            bytes(at_least("push_payload_bytes", given.push_payload_bytes, 1)?),
        );
        set(&mut self.drain, given.drain);
        set(&mut limits.head_bytes, bytes(at_least("request_head_bytes", given.request_head_bytes, 512)?));
        set(&mut limits.handshake_ms, millis("handshake_timeout", given.handshake_timeout)?);
        if let Some(max_bytes) = bytes(at_least("client_message_bytes", given.client_message_bytes, 125)?) {
            limits.message = MessageLimits { max_bytes, ..limits.message };
        }
        set(&mut limits.send_buffer_bytes, at_least("send_buffer_bytes", given.send_buffer_bytes, 4096)?);
        set(&mut limits.outbox_bytes, at_least("queued_bytes", given.queued_bytes, 4096)?);
        let rooms = at_least("rooms_per_session", given.rooms_per_session, 1)?;
        set(&mut limits.rooms_per_session, bytes(rooms));
        set(&mut limits.pong_ms, millis("pong_timeout", given.pong_timeout)?);
        if let Some(interval) = millis("ping_interval", given.ping_interval)? {
            limits.ping_interval_ms = interval;
            limits.ping_jitter_ms = interval / 10;
        }
        if limits.outbox_bytes < limits.send_buffer_bytes || limits.outbox_bytes > MAX_QUEUED_BYTES {
            return Err(limit_error(
                "queued_bytes",
                limits.outbox_bytes,
                format!(
                    "give {} (send_buffer_bytes, which it contains) to {MAX_QUEUED_BYTES} bytes",
                    limits.send_buffer_bytes
                ),
            ));
        }
        Ok(())
    }

    /// Checks what the types leave open. `shards_key` names where the number of shards came from.
    fn check(&mut self, shards_key: &str) -> Result<(), SettingError> {
        if self.shards == 0 || usize::from(self.shards) > MAX_SHARDS {
            let remedy = format!("give 1 to {MAX_SHARDS}: one a core, or as many as the connections need");
            return Err(SettingError::new(shards_key, self.shards, remedy));
        }
        self.limits.max_sessions =
            self.max_connections.div_ceil(u32::from(self.shards)).min(SessionId::MAX_SLOTS);
        Ok(())
    }

    /// Bounds the connections by the limit of open files, which each shard has for itself.
    pub(crate) fn fit_open_files(&mut self, limit: u64) -> Result<(), SettingError> {
        let each = u32::try_from(limit).unwrap_or(u32::MAX).saturating_sub(OTHER_DESCRIPTORS).max(1);
        let all = each.saturating_mul(u32::from(self.shards));
        if all < self.max_connections {
            // The kernel spreads clients by chance: with no room to spare, many would be refused at first.
            let spread = 5 * each.isqrt();
            let needed = self.max_connections.div_ceil(each.saturating_sub(spread).max(1));
            if let Some(key) = self.connections_key {
                let remedy = format!(
                    "with {limit} open files {} shards hold {all}: give `shards` at least {needed}, or raise the \
                     limit of open files",
                    self.shards
                );
                return Err(SettingError::new(key, self.max_connections, remedy));
            }
            tracing::info!(
                "takes {all} connections, {each} a shard, by the limit of {limit} open files; more shards take more"
            );
            self.max_connections = all;
        }
        self.limits.max_sessions = self.limits.max_sessions.min(each);
        Ok(())
    }
}

/// Open files of a shard that are no clients: rings, lanes, listener and its duplicates, streams.
const OTHER_DESCRIPTORS: u32 = 64;

/// The largest bound of what may wait for one session, in bytes.
const MAX_QUEUED_BYTES: u32 = 512 * 1024 * 1024;

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

fn node_id(key: &str, text: &str) -> Result<NodeId, SettingError> {
    NodeId::new(text).map_err(|error| SettingError::new(key, text, error.to_string()))
}

fn limit_error(key: &str, value: impl ToString, remedy: impl Into<String>) -> SettingError {
    SettingError::new(format!("connect.limits.{key}"), value, remedy)
}

fn at_least(key: &str, given: Option<u32>, least: u32) -> Result<Option<u32>, SettingError> {
    match given {
        Some(value) if value < least => Err(limit_error(key, value, format!("give at least {least}"))),
        given => Ok(given),
    }
}

fn millis(key: &str, given: Option<Duration>) -> Result<Option<u64>, SettingError> {
    const HOUR: Duration = Duration::from_secs(3600);
    match given {
        Some(time) if time < Duration::from_millis(10) || time > HOUR => {
            Err(limit_error(key, format!("{time:?}"), "give 10ms to 1h"))
        }
        given => Ok(given.map(|time| time.as_millis() as u64)),
    }
}

/// A list that is one value on the command line.
#[derive(Debug, Clone)]
struct Addresses(Vec<String>);

fn addresses(text: &str) -> Result<Addresses, String> {
    parse_addresses(text).map(Addresses)
}

/// A connect node: holds WebSocket clients, hands them what push managers send.
#[derive(Debug, clap::Parser)]
#[command(name = "connect-uring", version)]
pub struct Args {
    #[command(flatten)]
    common: CommonArgs,
    /// The node's id, unique in the system [default: connect-node-1].
    #[arg(long, env = "NODE_ID")]
    node_id: Option<String>,
    /// Where push managers connect [default: 50052].
    #[arg(long, env = "GRPC_PORT", value_parser = parse_port)]
    grpc_port: Option<u16>,
    /// Where clients connect [default: 8080].
    #[arg(long, env = "HTTP_PORT", value_parser = parse_port)]
    http_port: Option<u16>,
    /// Where /metrics is served [default: 9091].
    #[arg(long, env = "METRICS_PORT", value_parser = parse_port)]
    metrics_port: Option<u16>,
    /// host:port of the controllers, with commas between, where no etcd tells of them [default: 127.0.0.1:50051].
    #[arg(long, env = "CONTROLLER_ADDRESS", value_parser = addresses)]
    controller_address: Option<Addresses>,
    /// host:port at which push managers reach this node [default: 127.0.0.1:GRPC_PORT].
    #[arg(long, env = "NODE_ADDR", value_parser = parse_address)]
    node_addr: Option<String>,
    /// The address on which gRPC and metrics listen [default: 127.0.0.1].
    #[arg(long, env = "BIND_ADDR")]
    bind: Option<IpAddr>,
    /// Where clients reach this node, such as ws://push.example.org:8080/ws [default: ws://localhost:HTTP_PORT/ws while
    /// NODE_ADDR is on this machine].
    #[arg(long, env = "PUBLIC_WS_URL", value_parser = parse_ws_url)]
    public_ws_url: Option<String>,
    /// Shards, each a thread with its own sessions [default: one a core].
    #[arg(long, env = "SHARDS")]
    shards: Option<u16>,
    /// Connections of the node, over all shards [default: 1048576, or what the open files allow].
    #[arg(long, env = "MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// How I/O is done [default: auto].
    #[arg(long, env = "DRIVER", value_enum)]
    driver: Option<DriverChoice>,
    /// Serve /echo too, which sends every message back: for conformance clients, not for production.
    #[arg(long)]
    echo: bool,
}

impl Args {
    /// What every service takes.
    pub fn common(&self) -> &CommonArgs {
        &self.common
    }

    /// The file with the flags and variables over it.
    pub fn settings(&self, file: &File) -> Result<Settings, SettingError> {
        let mut settings = Settings::from_file(file)?;
        if let Some(id) = &self.node_id {
            settings.node_id = node_id("NODE_ID", id)?;
        }
        set(&mut settings.grpc_port, self.grpc_port);
        set(&mut settings.http_port, self.http_port);
        set(&mut settings.metrics_port, self.metrics_port);
        set(&mut settings.controller_address, self.controller_address.clone().map(|Addresses(all)| all));
        set(&mut settings.bind, self.bind);
        set(&mut settings.public_ws_url, self.public_ws_url.clone());
        set(&mut settings.shards, self.shards);
        set(&mut settings.driver, self.driver);
        if let Some(connections) = self.max_connections {
            settings.max_connections = connections;
            settings.connections_key = Some("MAX_CONNECTIONS");
        }
        if self.node_addr.is_some() {
            settings.node_addr.clone_from(&self.node_addr);
        }
        if self.echo {
            settings.limits.echo = Some(Limits::ECHO);
        }
        settings.check("SHARDS")?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        settings::parse(text, "config.yaml").unwrap()
    }

    fn args(flags: &[&str]) -> Args {
        let line = std::iter::once("connect-uring").chain(flags.iter().copied()).map(Into::into);
        settings::parse_from(line).unwrap()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = file("connect: {grpc_port: 7001, http_port: 7002, limits: {ping_interval: 5s}}");
        let settings =
            args(&["--grpc-port", "7100", "--shards", "3", "--driver", "io_uring"]).settings(&file).unwrap();
        assert_eq!((settings.grpc_port, settings.http_port, settings.metrics_port), (7100, 7002, 9091));
        assert_eq!((settings.shards, settings.driver), (3, DriverChoice::IoUring));
        assert_eq!((settings.limits.ping_interval_ms, settings.limits.ping_jitter_ms), (5000, 500));
        assert!(settings.limits.echo.is_none());
        assert!(args(&["--echo"]).settings(&file).unwrap().limits.echo.is_some());
    }

    #[test]
    fn controllers_are_a_list_with_commas() {
        let file = file("connect: {controller_address: 'a:1, b:2'}");
        assert_eq!(Settings::from_file(&file).unwrap().controller_address, ["a:1", "b:2"]);
        let flag = args(&["--controller-address", "c:3,d:4"]).settings(&file).unwrap();
        assert_eq!(flag.controller_address, ["c:3", "d:4"]);
    }

    #[test]
    fn connections_are_shared_out_to_the_shards() {
        let file = file("connect: {shards: 4, limits: {max_connections: 10}}");
        assert_eq!(Settings::from_file(&file).unwrap().limits.max_sessions, 3);
    }

    #[test]
    fn connections_keep_within_the_open_files_of_the_shards() {
        let mut default = Settings::from_file(&file("connect: {shards: 2}")).unwrap();
        default.fit_open_files(20_000).unwrap();
        assert_eq!((default.limits.max_sessions, default.max_connections), (19_936, 39_872));

        let asked = file("connect: {shards: 2, limits: {max_connections: 1000000}}");
        let error = Settings::from_file(&asked).unwrap().fit_open_files(20_000).unwrap_err().to_string();
        assert!(error.starts_with("connect.limits.max_connections = 1000000: "), "{error}");
        assert!(error.contains("2 shards hold 39872: give `shards` at least 52"), "{error}");
        let asked = args(&["--shards", "56", "--max-connections", "1000000"]);
        let mut enough = asked.settings(&file("{}")).unwrap();
        enough.fit_open_files(20_000).unwrap();
        assert_eq!((enough.limits.max_sessions, enough.max_connections), (17_858, 1_000_000));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        for (text, key) in [
            ("connect: {shards: 0}", "connect.shards = 0: "),
            ("connect: {node_id: ''}", "connect.node_id = \"\": "),
            ("connect: {driver: poll}", "connect.driver = poll: "),
            ("connect: {limits: {queued_bytes: 5000}}", "connect.limits.queued_bytes = 5000: "),
            ("connect: {limits: {handshake_timeout: 0s}}", "connect.limits.handshake_timeout = 0ns: "),
            ("connect: {limits: {max_connections: 0}}", "connect.limits.max_connections = 0: "),
        ] {
            let error = Settings::from_file(&file(text)).unwrap_err().to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }
}
