//! The controller's settings: what each is, its default and unit, and what too small or too large does.
//!
//! Owns: flags, variables, defaults. Must not: read anything but the command line, the environment and the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use ringcast_proto::NodeId;
use settings::SettingError;
use telemetry::TraceSource;

/// The seed's gRPC port.
const GRPC_PORT: u16 = 50051;
const METRICS_PORT: u16 = 9090;
const DATA_DIR: &str = "./ringcast-data";

/// What the controller is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its id, which nodes are told.
    pub id: String,
    /// Where gRPC listens; port 0 takes a free one.
    pub grpc_addr: SocketAddr,
    /// Where `/metrics` is served; port 0 takes a free one.
    pub metrics_addr: SocketAddr,
    /// host:port at which nodes, push managers and other controllers reach its gRPC server; `None`: where that
    /// listens.
    pub addr: Option<String>,
    /// How services find one another.
    pub discovery: Discovery,
    /// host:port of the other controllers, where none is discovered: they are asked to do their part of a call.
    pub peers: Vec<String>,
    /// The folder of the store, which is made where it is not there.
    pub data_dir: PathBuf,
    /// Where rooms are stored; `None`: in the folder.
    pub mysql: Option<settings::MysqlStore>,
    /// Where controllers share presence; `None`: each has its own, in memory.
    pub redis: Option<settings::RedisStore>,
    /// How many users a room takes that says nothing else (100); 0 = no limit.
    pub default_max_users: u32,
    /// The age at which a room's settings are read anew (300 s). Small: the store is asked often.
    pub cache_ttl: Duration,
    /// How many rooms there may be (1,000,000). Joins to more are answered "unavailable".
    pub max_rooms: u64,
    /// How long an empty room is kept (24 h).
    pub empty_room_ttl: Duration,
    /// The nodes that are waited for after a start; `None`: those that were registered when it was last up.
    pub expected_nodes: Option<Vec<NodeId>>,
    /// Whether `/metrics` also tells of the process; once a process.
    pub process_metrics: bool,
    /// Whether joins are traced: by the process that says so.
    pub traces: TraceSource,
    /// Times; the defaults are what `spec` promises.
    pub timing: Timing,
}

/// How services find one another.
#[derive(Debug, Clone, Default)]
pub enum Discovery {
    /// By addresses that are set; nobody registers.
    #[default]
    Fixed,
    /// By etcd.
    #[cfg(feature = "cluster")]
    Etcd(settings::EtcdStore),
}

impl Discovery {
    /// For how long another one may have the controller's id.
    pub(crate) fn id_patience(&self) -> Duration {
        match self {
            // Nobody looks for whose it is.
            Self::Fixed => Duration::MAX,
            #[cfg(feature = "cluster")]
            Self::Etcd(store) => store.id_patience(),
        }
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long a node stays without its link (10 s). Short: a flap costs its members' presence. Long: members of
    /// a dead node are counted for longer.
    pub lease: Duration,
    /// A node that says nothing for this long has lost its link (5 s).
    pub link_silence: Duration,
    /// How often a node hears from the controller (1 s).
    pub link_heartbeat: Duration,
    /// How long a join may wait for settings or for the nodes that are to come back (4 s); a node waits 5 s.
    pub join_wait: Duration,
    /// A follower that owes an acknowledgement for this long is cut off (2 s). Joins wait for it until then.
    pub follower_ack: Duration,
    /// When nothing else was sent to a follower for this long, it gets a heartbeat (250 ms).
    pub feed_heartbeat: Duration,
    /// How long a unary call may take (5 s).
    pub call: Duration,
    /// How often deadlines are looked at (50 ms).
    pub tick: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            link_silence: Duration::from_secs(5),
            link_heartbeat: Duration::from_secs(1),
            join_wait: Duration::from_secs(4),
            follower_ack: Duration::from_secs(2),
            feed_heartbeat: Duration::from_millis(250),
            call: Duration::from_secs(5),
            tick: Duration::from_millis(50),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            id: "controller-1".to_owned(),
            grpc_addr: SocketAddr::new(loopback, GRPC_PORT),
            metrics_addr: SocketAddr::new(loopback, METRICS_PORT),
            addr: None,
            discovery: Discovery::Fixed,
            peers: Vec::new(),
            data_dir: PathBuf::from(DATA_DIR),
            mysql: None,
            redis: None,
            default_max_users: 100,
            cache_ttl: Duration::from_secs(300),
            max_rooms: 1_000_000,
            empty_room_ttl: Duration::from_secs(24 * 3600),
            expected_nodes: None,
            process_metrics: true,
            traces: TraceSource::Off,
            timing: Timing::default(),
        }
    }
}

/// The Ringcast controller: rooms, users, nodes and the numbered route feed.
#[derive(Debug, Clone, Default, Parser)]
#[command(name = "control", version)]
pub struct Args {
    /// The controller's id [default: controller-1].
    #[arg(long, env = "CONTROLLER_ID")]
    id: Option<String>,
    /// The gRPC port [default: 50051].
    #[arg(long, env = "GRPC_PORT", value_parser = settings::parse_port)]
    grpc_port: Option<u16>,
    /// The metrics port [default: 9090].
    #[arg(long, env = "METRICS_PORT", value_parser = settings::parse_port)]
    metrics_port: Option<u16>,
    /// The address on which gRPC and metrics listen [default: 127.0.0.1].
    #[arg(long = "bind", env = "BIND_ADDR")]
    bind: Option<IpAddr>,
    /// host:port at which nodes, push managers and other controllers reach it [default: where gRPC listens].
    #[arg(long, env = "CONTROLLER_ADDR", value_parser = settings::parse_address)]
    addr: Option<String>,
    /// host:port of the other controllers, separated by commas, where there is no etcd to find them by.
    #[arg(long, env = "CONTROLLER_PEERS", value_delimiter = ',', value_parser = settings::parse_address)]
    peers: Vec<String>,
    /// How many users a room takes that says nothing else; 0 = no limit [default: 100].
    #[arg(long, env = "ROOM_MAX_USERS")]
    room_max_users: Option<u32>,
    /// How many rooms there may be [default: 1000000].
    #[arg(long, env = "MAX_ROOMS")]
    max_rooms: Option<u32>,
    /// The age at which a room's settings are read anew [default: 300s].
    #[arg(long, env = "ROOM_CACHE_TTL", value_parser = settings::parse_duration)]
    room_cache_ttl: Option<Duration>,
    /// The folder of the store [default: ./ringcast-data].
    #[arg(long, env = "DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Flags of every service.
    #[command(flatten)]
    pub common: settings::CommonArgs,
}

impl Settings {
    /// Lays flags and variables over the file over the defaults.
    pub fn from_args(args: &Args, file: &settings::File) -> Result<Self, SettingError> {
        let defaults = Self::default();
        let (server, room) = (&file.server, &file.room);
        let bind = args.bind.or(server.bind).unwrap_or(defaults.grpc_addr.ip());
        let grpc_port = args.grpc_port.or(server.port).unwrap_or(GRPC_PORT);
        let metrics_port = args.metrics_port.or(server.metrics_port).unwrap_or(METRICS_PORT);
        let id = args.id.clone().or_else(|| server.id.clone()).unwrap_or(defaults.id);
        // Ids of services follow the same rules as ids of nodes.
        if let Err(error) = NodeId::new(&id) {
            return Err(SettingError::new("CONTROLLER_ID", id, error.to_string()));
        }
        if grpc_port == metrics_port && grpc_port != 0 {
            let remedy = "gRPC has this port already: set another one";
            return Err(SettingError::new("METRICS_PORT", metrics_port, remedy));
        }
        let max_rooms = args.max_rooms.or(room.max_rooms).map_or(defaults.max_rooms, u64::from);
        if max_rooms == 0 {
            return Err(SettingError::new("room.max_rooms", 0, "nobody could join: give 1 or more"));
        }
        let peers = match (&args.peers, &server.peers) {
            (flags, Some(text)) if flags.is_empty() => settings::parse_addresses(text)
                .map_err(|remedy| SettingError::new("server.peers", text, remedy))?,
            (flags, _) => flags.clone(),
        };
        Ok(Self {
            id,
            grpc_addr: SocketAddr::new(bind, grpc_port),
            metrics_addr: SocketAddr::new(bind, metrics_port),
            addr: args.addr.clone().or_else(|| server.addr.clone()),
            peers,
            data_dir: args.data_dir.clone().or_else(|| server.data_dir.clone()).unwrap_or(defaults.data_dir),
            default_max_users: args
                .room_max_users
                .or(room.default_max_users)
                .unwrap_or(defaults.default_max_users),
            cache_ttl: args.room_cache_ttl.or(room.cache_ttl).unwrap_or(defaults.cache_ttl),
            max_rooms,
            ..Self::default()
        })
    }

    /// The same on the cluster's stores, those of them that are set.
    #[must_use]
    pub fn on(self, stores: settings::Stores) -> Self {
        let settings::Stores { mysql, redis, etcd } = stores;
        #[cfg(feature = "cluster")]
        let discovery = etcd.map_or(Discovery::Fixed, Discovery::Etcd);
        // A build without the cluster is given none.
        #[cfg(not(feature = "cluster"))]
        let discovery = etcd.map_or(Discovery::Fixed, |_| Discovery::Fixed);
        Self { mysql, redis, discovery, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &[&str]) -> Args {
        Args::try_parse_from([&["control"], flags].concat()).unwrap()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "server: {id: c9, port: 1, data_dir: /d, addr: 'c9:1', peers: 'a:1,b:2'}\nroom: {default_max_users: 7, cache_ttl: 9s}\n";
        let file = settings::parse(text, "config.yaml").unwrap();
        let settings =
            Settings::from_args(&args(&["--grpc-port", "2", "--room-max-users", "0"]), &file).unwrap();
        assert_eq!(
            (settings.addr.as_deref(), &*settings.peers),
            (Some("c9:1"), &["a:1".to_owned(), "b:2".into()][..])
        );
        assert_eq!(settings.id, "c9");
        assert_eq!(settings.grpc_addr.to_string(), "127.0.0.1:2");
        assert_eq!(settings.metrics_addr.port(), 9090);
        assert_eq!((settings.default_max_users, settings.cache_ttl), (0, Duration::from_secs(9)));
        assert_eq!(settings.data_dir, PathBuf::from("/d"));
    }

    #[test]
    fn controllers_are_told_where_they_and_the_others_are() {
        let flags = args(&["--addr", "c1.example:50051", "--peers", "c2.example:50051,[::1]:7"]);
        let settings = Settings::from_args(&flags, &settings::File::default()).unwrap();
        assert_eq!(settings.addr.as_deref(), Some("c1.example:50051"));
        assert_eq!(settings.peers, ["c2.example:50051", "[::1]:7"]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_key() {
        for (flags, key) in [
            (["--id", ""], "CONTROLLER_ID"),
            (["--grpc-port", "9090"], "METRICS_PORT"),
            (["--max-rooms", "0"], "room.max_rooms"),
        ] {
            let error = Settings::from_args(&args(&flags), &settings::File::default()).unwrap_err();
            assert_eq!(error.key, key);
        }
    }
}
