//! The contestants: what each is, whether it is there, how it is started.
//!
//! Owns: command lines and the few settings that each gets. Must not: measure. Talks to: `process`; `setup` builds and
//! installs what is missing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::bench::{CLIENT_CORE, SERVER_CORE};
use crate::process::Process;
use crate::stop;

/// How long a contestant may take to be ready.
const READY: Duration = Duration::from_secs(15);

/// The ports of contestants: below the ephemeral ones, so that no client's socket takes them first.
const FIRST_PORT: u16 = 23_000;
const PORTS: u16 = 1_000;

/// Where nginx keeps the module of Debian's package.
pub const NCHAN_MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// A server that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Contestant {
    /// The least program that can do it: one epoll thread, a plain send to each member.
    Floor,
    /// uWebSockets in C++: its own publish to a topic.
    Uws,
    /// tokio-tungstenite as most people write it: a task and a channel a client, default settings.
    Tungstenite,
    /// Node's `ws`, a loop over a room's sockets.
    NodeWs,
    /// nginx with nchan.
    Nchan,
    /// Ours: connect-uring on io_uring, one shard, fed through Deliver.
    IoUring,
    /// Ours on its epoll driver.
    Epoll,
    /// Ours on io_uring, which is asked to report the fate of no push.
    NoReports,
    /// Ours on io_uring with two shards, on the one core.
    TwoShards,
}

impl Contestant {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 9] = [
        Self::Floor,
        Self::Uws,
        Self::Nchan,
        Self::NodeWs,
        Self::Tungstenite,
        Self::IoUring,
        Self::Epoll,
        Self::NoReports,
        Self::TwoShards,
    ];

    /// Another form of one that is there already: takes part where it is named.
    pub fn is_variant(self) -> bool {
        matches!(self, Self::NoReports | Self::TwoShards)
    }

    /// Whether it is a node of ours.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::IoUring | Self::Epoll | Self::NoReports | Self::TwoShards)
    }

    /// Its name in tables and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Uws => "uws",
            Self::Tungstenite => "tungstenite",
            Self::NodeWs => "node-ws",
            Self::Nchan => "nchan",
            Self::IoUring => "io-uring",
            Self::Epoll => "epoll",
            Self::NoReports => "no-reports",
            Self::TwoShards => "two-shards",
        }
    }

    /// Why it cannot take part; `None`: it can.
    pub fn missing(self, place: &Place) -> Option<String> {
        let needed: &[PathBuf] = &match self {
            Self::Floor => vec![place.binary("peer-floor")],
            Self::Tungstenite => vec![place.binary("peer-tungstenite")],
            Self::Uws => vec![place.uws()],
            Self::NodeWs => vec![place.servers.join("node/node_modules/ws")],
            Self::Nchan => vec![PathBuf::from("/usr/sbin/nginx"), PathBuf::from(NCHAN_MODULE)],
            Self::IoUring | Self::Epoll | Self::NoReports | Self::TwoShards => {
                vec![place.binary("connect-uring"), place.binary("control")]
            }
        };
        let missing = needed.iter().find(|path| !path.exists())?;
        let remedy = match self {
            Self::Uws | Self::NodeWs | Self::Nchan => "cargo run --release -p peers -- setup",
            _ => "cargo build --release -p peers -p connect-uring -p control",
        };
        Some(format!("{} is not there: {remedy}", missing.display()))
    }

    /// Starts it and waits until it takes clients.
    pub fn start(self, place: &Place, options: &Options) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let here = folder.path().to_owned();
        let http = free_port()?;
        let port = http.to_string();
        let simple = |program: &Path, args: &[&str]| -> Result<Started> {
            let server = Process::start(program, args, SERVER_CORE, &here, self.name())?;
            Ok(Started { server, others: Vec::new(), intake: Intake::Sockets(local(http)) })
        };
        let mut started = match self {
            Self::Floor => {
                let mut args = vec![port.as_str()];
                args.extend(options.floor_flags.iter().map(String::as_str));
                simple(&place.binary("peer-floor"), &args)?
            }
            Self::Tungstenite => simple(&place.binary("peer-tungstenite"), &[&port])?,
            Self::Uws => simple(&place.uws(), &[&port])?,
            Self::NodeWs => {
                let script = place.servers.join("node/server.js");
                simple(Path::new("node"), &[&script.to_string_lossy(), &port])?
            }
            Self::Nchan => {
                let template = std::fs::read_to_string(place.servers.join("nchan.conf"))?;
                let config = template.replace("@PORT@", &port).replace("@MODULE@", NCHAN_MODULE);
                std::fs::write(here.join("nginx.conf"), config)?;
                let prefix = here.to_string_lossy().into_owned();
                simple(Path::new("/usr/sbin/nginx"), &["-p", &prefix, "-c", "nginx.conf", "-e", "error.log"])?
            }
            ours => start_node(ours, place, &here, http)?,
        };
        let ready = stop::wait_for(&format!("{} takes clients", self.name()), READY, || {
            if self.is_ours() { takes_joins(local(http)) } else { TcpStream::connect(local(http)).is_ok() }
        });
        started.server.check().with_context(|| self.name())?;
        ready.with_context(|| started.server.last_words())?;
        let Started { server, others, intake } = started;
        Ok(Running { server, _others: others, addr: local(http), intake, _folder: folder })
    }
}

/// What can be varied of contestants.
#[derive(Debug, Clone)]
pub struct Options {
    /// Further arguments of the floor program.
    pub floor_flags: Vec<String>,
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder of our binaries.
    pub binaries: PathBuf,
    /// The sources of the servers that are not built by cargo.
    pub servers: PathBuf,
}

impl Place {
    /// Beside this program, or, in a test, a folder up.
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe()?;
        let folder =
            own.ancestors().skip(1).find(|folder| folder.file_name().is_none_or(|name| name != "deps"));
        let servers = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers");
        Ok(Self { binaries: folder.context("a program lies in a folder")?.to_owned(), servers })
    }

    /// One of our binaries.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// The folder of what `setup` builds.
    pub fn built(&self) -> PathBuf {
        self.binaries.join("peers-built")
    }

    fn uws(&self) -> PathBuf {
        self.built().join("uws")
    }
}

/// Where publishes go.
#[derive(Debug, Clone, Copy)]
pub enum Intake {
    /// WebSocket messages on `/pub?room_id=R`.
    Sockets(SocketAddr),
    /// The node's own gRPC stream.
    Deliver {
        /// Where it is.
        addr: SocketAddr,
        /// Whether the fate of every push is asked for.
        reports: bool,
    },
}

/// A contestant that runs.
pub struct Running {
    /// What is measured.
    pub server: Process,
    /// What it needs and is not measured.
    _others: Vec<Process>,
    /// Where subscribers connect.
    pub addr: SocketAddr,
    /// Where publishes go.
    pub intake: Intake,
    _folder: TempDir,
}

struct Started {
    server: Process,
    others: Vec<Process>,
    intake: Intake,
}

/// A controller on the client's core and a node on the server's.
fn start_node(which: Contestant, place: &Place, here: &Path, http: u16) -> Result<Started> {
    let [grpc, metrics, control_grpc, control_metrics] =
        [free_port()?, free_port()?, free_port()?, free_port()?];
    let control = format!(
        "server: {{id: control1, port: {control_grpc}, metrics_port: {control_metrics}, data_dir: {}}}\n\
         room: {{default_max_users: 0}}\n",
        here.join("rooms").display()
    );
    // Peers ping after two minutes of silence or never: ours is set alike, so that a window holds the same work.
    let node = format!(
        "connect:\n  node_id: node0001\n  http_port: {http}\n  grpc_port: {grpc}\n  metrics_port: {metrics}\n  \
         controller_address: 127.0.0.1:{control_grpc}\n  shards: {}\n  driver: {}\n  \
         limits: {{ping_interval: 120s}}\n",
        if which == Contestant::TwoShards { 2 } else { 1 },
        if which == Contestant::Epoll { "epoll" } else { "io_uring" }
    );
    let start = |binary: &str, config: &str, core: usize| -> Result<Process> {
        let path = here.join(format!("{binary}.yaml"));
        std::fs::write(&path, config)?;
        Process::start(&place.binary(binary), &["--config", &path.to_string_lossy()], core, here, binary)
    };
    let controller = start("control", &control, CLIENT_CORE)?;
    stop::wait_for("the controller listens", READY, || TcpStream::connect(local(control_grpc)).is_ok())
        .with_context(|| controller.last_words())?;
    let server = start("connect-uring", &node, SERVER_CORE)?;
    let intake = Intake::Deliver { addr: local(grpc), reports: which != Contestant::NoReports };
    Ok(Started { server, others: vec![controller], intake })
}

/// Whether a join would be accepted: a plain GET is told what a join would be told, 426 where it would.
fn takes_joins(addr: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /ws?user_id=probe&room_id=probe HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = [0; 512];
        let count = stream.read(&mut answer)?;
        Ok(answer[..count].starts_with(b"HTTP/1.1 426"))
    };
    ask().unwrap_or(false)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A port that nobody listens on; each is given out once a round of the range.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let port = FIRST_PORT + (NEXT.fetch_add(1, Ordering::Relaxed) + offset) % PORTS;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST_PORT} and {}", FIRST_PORT + PORTS)
}
