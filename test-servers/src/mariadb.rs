//! MariaDB: one server.
//!
//! Owns: how a server is started, what is asked of it through the `mariadb` client.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::certificates::Certificates;
use crate::folder::Folder;
use crate::mariadb_pair::MariaDbPair;
use crate::ports::Port;
use crate::server::Server;
use crate::{client, mariadb_template, wait};

pub(crate) const PACKAGE: &str = "mariadb-server-core";

/// Small files: a test copies them, and writes little.
pub(crate) const FILE_SIZES: [&str; 2] = ["--innodb-log-file-size=8M", "--innodb-flush-method=nosync"];

/// How long a server may take to answer.
pub(crate) const READY: Duration = Duration::from_secs(40);

/// How long a statement may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Who logs in over the network. Not one of those whom `read_only` does not bind.
const USER: &str = "ringcast";
const PASSWORD: &str = "a test's password";

/// How the names of all databases begin, which are the user's.
const DATABASE_PREFIX: &str = "ringcast_";

/// The socket's name, in the server's folder: short, for a socket's path may have 107 bytes.
const SOCKET: &str = "s";

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct MariaDbOptions {
    /// It has a certificate: clients may speak TLS.
    pub tls: bool,
}

/// A server, ready when it is made.
#[derive(Debug)]
pub struct MariaDb {
    // The server ends before its folder is removed.
    server: Server,
    port: Port,
    certificates: Option<Certificates>,
    _folder: Arc<Folder>,
}

impl MariaDb {
    /// One server.
    #[track_caller]
    pub fn primary() -> Self {
        Self::with(MariaDbOptions::default())
    }

    /// One server with options.
    #[track_caller]
    pub fn with(options: MariaDbOptions) -> Self {
        let made = Folder::make().and_then(|folder| {
            let certificates = if options.tls { Some(Certificates::make(folder.path())?) } else { None };
            Self::launch(&Arc::new(folder), 1, certificates)
        });
        let server = made.unwrap_or_else(|error| panic!("mariadb: {error:#}"));
        server.await_answer();
        server.make_user();
        server
    }

    /// A primary and its replica.
    #[track_caller]
    pub fn pair() -> MariaDbPair {
        MariaDbPair::start()
    }

    /// Starts a server in a shared folder; that it answers is to be waited for.
    pub(crate) fn launch(folder: &Arc<Folder>, id: u32, certificates: Option<Certificates>) -> Result<Self> {
        let name = format!("m{id}");
        let own = folder.subfolder(&name)?;
        mariadb_template::copy_to(&own.join("data"))?;
        let mut server = Server::new(&name, "mariadbd", PACKAGE, &own);
        let port = Port::claim();
        let mut args = vec![
            // Has to be the first.
            "--no-defaults".into(),
            format!("--datadir={}", own.join("data").display()),
            format!("--socket={}", own.join(SOCKET).display()),
            format!("--pid-file={}", own.join("pid").display()),
            format!("--port={}", port.number()),
            format!("--server-id={id}"),
        ];
        args.extend(FILE_SIZES.map(str::to_owned));
        args.extend(as_root());
        let fixed = [
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--character-set-server=utf8mb4",
            "--max-connections=500",
            "--log-bin=binlog",
            "--log-slave-updates",
            "--gtid-strict-mode=1",
            // What a killed process has written the kernel still has; only a power cut would need the disk.
            "--sync-binlog=0",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=32M",
            // io_uring counts towards the user's locked memory, of which the services under test need all.
            "--innodb-use-native-aio=0",
            "--performance-schema=0",
            "--slave-net-timeout=5",
            "--master-retry-count=0",
            "--skip-slave-start",
        ];
        args.extend(fixed.map(str::to_owned));
        if let Some(files) = &certificates {
            args.push(format!("--ssl-ca={}", files.authority.display()));
            args.push(format!("--ssl-cert={}", files.certificate.display()));
            args.push(format!("--ssl-key={}", files.key.display()));
        }
        server.set_args(args);
        server.start()?;
        Ok(Self { server, port, certificates, _folder: Arc::clone(folder) })
    }

    /// The user of the network: may do everything in databases whose names begin with `ringcast_`.
    #[track_caller]
    pub(crate) fn make_user(&self) {
        let of_all = DATABASE_PREFIX.replace('_', "\\_");
        self.sql(&format!(
            "create user '{USER}'@'%' identified by '{}';\ngrant all on `{of_all}%`.* to '{USER}'@'%';",
            PASSWORD.replace('\'', "''")
        ));
    }

    /// Where it is: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Who logs in.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// With which password.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// The certificates, where it has one.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Makes an empty database that no other test has; gives its name.
    #[track_caller]
    pub fn fresh_database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{DATABASE_PREFIX}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("create database `{name}`"));
        name
    }

    /// Ends it as `kill -9` does. What was committed stays.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it with the data that it had.
    #[track_caller]
    pub fn start_again(&mut self) {
        if let Err(error) = self.server.start() {
            panic!("mariadb: {error:#}");
        }
        self.await_answer();
    }

    /// Holds it: its connections stay, and nothing answers (SIGSTOP).
    #[track_caller]
    pub fn stop(&mut self) {
        self.server.hold();
    }

    /// Lets it go on (SIGCONT).
    #[track_caller]
    pub fn cont(&mut self) {
        self.server.go_on();
    }

    /// Whether it refuses all writes of the user's from now on.
    #[track_caller]
    pub fn read_only(&self, refuse: bool) {
        self.sql(&format!("set global read_only = {}", u8::from(refuse)));
    }

    /// Runs statements as root; gives the rows, a line each, with tabs between the columns.
    #[track_caller]
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|error| panic!("mariadb: {error:#}\n{}", self.server.said()))
    }

    /// The same; an error where the server gives one or does not answer.
    pub fn try_sql(&self, text: &str) -> Result<String> {
        self.client(text, &["--skip-column-names"])
    }

    /// The value after `name:` in what a statement gives in the long form.
    pub(crate) fn long_field(&self, text: &str, name: &str) -> Option<String> {
        let printed = self.client(text, &["--vertical"]).ok()?;
        let line = printed.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    fn client(&self, text: &str, options: &[&str]) -> Result<String> {
        let mut client = client::command("mariadb", "mariadb-client-core")?;
        client.args(["--no-defaults", "--user=root", "--batch", "--raw"]).args(options);
        client.arg(format!("--socket={}", self.server.folder().join(SOCKET).display()));
        client::run(&mut client, text, LIMIT)
    }

    #[track_caller]
    pub(crate) fn await_answer(&self) {
        let socket = self.server.folder().join(SOCKET);
        let ready = wait::until_so(READY, || {
            assert!(self.server.is_live(), "{} has ended\n{}", self.address(), self.server.said());
            // Costs less than a client's process.
            UnixStream::connect(&socket).is_ok() && self.try_sql("select 1").is_ok()
        });
        assert!(ready, "{} does not answer\n{}", self.address(), self.server.said());
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

/// What root has to say in addition, for a server that must not run as root by mistake.
pub(crate) fn as_root() -> Option<String> {
    // SAFETY: geteuid has no preconditions.
    (unsafe { libc::geteuid() } == 0).then(|| "--user=root".into())
}
