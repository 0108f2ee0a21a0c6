//! Redis: one server.
//!
//! Owns: how a server is started, what is asked of it through `redis-cli`. Sentinels and clusters are made of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::certificates::Certificates;
use crate::folder::Folder;
use crate::ports::Port;
use crate::redis_cluster::RedisCluster;
use crate::redis_sentinel::RedisSentinel;
use crate::server::Server;
use crate::{client, wait};

/// How long a server may take to answer.
pub(crate) const READY: Duration = Duration::from_secs(30);

/// How long one `redis-cli` may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// What clients must log in with.
    pub password: Option<String>,
    /// Clients speak TLS, and nothing else.
    pub tls: bool,
}

/// A server, ready when it is made.
#[derive(Debug)]
pub struct Redis {
    // The server ends before its folder is removed.
    server: Server,
    port: Port,
    _folder: Arc<Folder>,
    password: Option<String>,
    certificates: Option<Certificates>,
}

impl Redis {
    /// One server without a password.
    #[track_caller]
    pub fn plain() -> Self {
        Self::with(RedisOptions::default())
    }

    /// One server with options.
    #[track_caller]
    pub fn with(options: RedisOptions) -> Self {
        let made = Folder::make().and_then(|folder| {
            let certificates = if options.tls { Some(Certificates::make(folder.path())?) } else { None };
            let mut redis = Self::in_folder(&Arc::new(folder), "redis", "redis-server")?;
            redis.password = options.password;
            redis.certificates = certificates;
            redis.set_args(&[]);
            Ok(redis)
        });
        let mut redis = made.unwrap_or_else(|error| panic!("redis: {error:#}"));
        redis.start_again();
        redis
    }

    /// A primary and a replica that three sentinels watch.
    #[track_caller]
    pub fn sentinel() -> RedisSentinel {
        RedisSentinel::start()
    }

    /// A Redis Cluster of three primaries with a replica each.
    #[track_caller]
    pub fn cluster() -> RedisCluster {
        RedisCluster::start()
    }

    /// A server in a shared folder, not started yet.
    pub(crate) fn in_folder(folder: &Arc<Folder>, name: &str, program: &'static str) -> Result<Self> {
        let package = if program == "redis-sentinel" { "redis-sentinel" } else { "redis-server" };
        let server = Server::new(name, program, package, &folder.subfolder(name)?);
        let folder = Arc::clone(folder);
        Ok(Self { server, port: Port::claim(), _folder: folder, password: None, certificates: None })
    }

    /// The usual arguments, and `more`.
    pub(crate) fn set_args(&mut self, more: &[&str]) {
        let number = self.port.number().to_string();
        let mut args: Vec<String> = Vec::new();
        // Each command is in the file before it is answered, so a server that was killed has its data again.
        args.extend(
            "--bind 127.0.0.1 --save  --appendonly yes --appendfsync no".split(' ').map(str::to_owned),
        );
        // Replicas come at once, not after the usual five seconds in which more of them might.
        args.extend("--repl-diskless-sync-delay 0".split(' ').map(str::to_owned));
        if let Some(files) = &self.certificates {
            let file = |path: &PathBuf| path.display().to_string();
            args.extend(
                ["--port", "0", "--tls-port", &number, "--tls-auth-clients", "no"].map(str::to_owned),
            );
            args.extend(["--tls-cert-file".into(), file(&files.certificate)]);
            args.extend(["--tls-key-file".into(), file(&files.key)]);
            args.extend(["--tls-ca-cert-file".into(), file(&files.authority)]);
        } else {
            args.extend(["--port".into(), number]);
        }
        if let Some(password) = &self.password {
            args.extend(["--requirepass".into(), password.clone()]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        self.server.set_args(args);
    }

    /// Nothing but a configuration file, which says all.
    pub(crate) fn set_only_arg(&mut self, file: &Path) {
        self.server.set_args([file]);
    }

    /// Where it is: `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.port.address().to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// What clients log in with.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The certificates, where clients speak TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Ends it as `kill -9` does. Its data stays.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it with the data that it had.
    #[track_caller]
    pub fn start_again(&mut self) {
        if let Err(error) = self.launch() {
            panic!("redis: {error:#}");
        }
        self.await_answer();
    }

    /// Starts it without any data, as after the loss of a disk; ends it before where it runs.
    #[track_caller]
    pub fn start_again_empty(&mut self) {
        self.server.kill();
        let data = self.server.folder().join("appendonlydir");
        if let Err(error) = std::fs::remove_dir_all(&data) {
            panic!("cannot remove {}: {error}", data.display());
        }
        self.start_again();
    }

    /// Starts the process; whether it answers is for the caller to see.
    pub(crate) fn launch(&mut self) -> Result<()> {
        self.server.start()
    }

    #[track_caller]
    pub(crate) fn await_answer(&self) {
        let ready = wait::until_so(READY, || {
            assert!(self.server.is_live(), "{} has ended\n{}", self.address(), self.server.said());
            self.try_command(&["ping"]).is_ok_and(|pong| pong == "PONG")
        });
        assert!(ready, "{} does not answer\n{}", self.address(), self.server.said());
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

    /// For so many ms it takes commands and answers none (CLIENT PAUSE).
    #[track_caller]
    pub fn pause(&self, ms: u64) {
        self.command(&["client", "pause", &ms.to_string()]);
    }

    /// Runs a command and gives what `redis-cli` prints for its answer.
    #[track_caller]
    pub fn command(&self, args: &[&str]) -> String {
        self.try_command(args).unwrap_or_else(|error| panic!("redis: {error:#}\n{}", self.server.said()))
    }

    /// The same; an error where the server gives one or does not answer.
    pub fn try_command(&self, args: &[&str]) -> Result<String> {
        self.try_command_with(&[], args)
    }

    /// The same with options of `redis-cli`.
    pub(crate) fn try_command_with(&self, options: &[&str], args: &[&str]) -> Result<String> {
        let mut cli = self.cli()?;
        cli.args(options).args(args);
        let mut printed = client::run(&mut cli, "", LIMIT)?;
        printed.truncate(printed.trim_end_matches('\n').len());
        Ok(printed)
    }

    /// The keys that match a pattern, sorted.
    #[track_caller]
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        let printed = self.try_command_with(&["--scan", "--pattern", pattern], &[]);
        let printed = printed.unwrap_or_else(|error| panic!("redis: {error:#}\n{}", self.server.said()));
        let mut keys: Vec<String> = printed.lines().map(str::to_owned).collect();
        keys.sort();
        // A scan may tell a key twice.
        keys.dedup();
        keys
    }

    /// A line `name:value` of INFO; `None`: the server does not answer or has none.
    pub(crate) fn info(&self, section: &str, name: &str) -> Option<String> {
        let text = self.try_command(&["info", section]).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    }

    /// Whether it runs and is not held.
    pub(crate) fn is_live(&self) -> bool {
        self.server.is_live()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Its own folder.
    pub(crate) fn data_folder(&self) -> &Path {
        self.server.folder()
    }

    fn cli(&self) -> Result<Command> {
        let mut cli = client::command("redis-cli", "redis-tools")?;
        // -e: an error of the server is one of the command.
        cli.args(["-e", "-h", "127.0.0.1", "-p", &self.port.number().to_string()]);
        if let Some(password) = &self.password {
            cli.env("REDISCLI_AUTH", password);
        }
        if let Some(files) = &self.certificates {
            cli.arg("--tls").arg("--cacert").arg(&files.authority);
        }
        Ok(cli)
    }
}
