//! etcd: one member or a cluster of them.
//!
//! Owns: its members, how they are started, what is asked of them through `etcdctl`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::certificates::Certificates;
use crate::folder::Folder;
use crate::ports::Port;
use crate::server::{Server, said_by};
use crate::{client, wait};

/// How long a cluster may take to have a leader, on a machine that compiles meanwhile.
const READY: Duration = Duration::from_secs(30);

/// How long one `etcdctl` may take; its own limits are shorter.
const LIMIT: Duration = Duration::from_secs(20);

/// How large a value `fill` puts, in bytes: etcd takes requests of up to 1.5 MiB.
const FILLING: usize = 1 << 20;

/// What `fill` puts, and `disarm` deletes.
const FILL_PREFIX: &str = "/test-servers/fill/";

/// How a cluster is started.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// How many members: 1 or 3.
    pub members: usize,
    /// How many bytes the database may have before it raises its alarm; `None`: etcd's own 2 GB.
    pub quota: Option<u64>,
    /// Who logs in must be `root` with this password.
    pub root_password: Option<String>,
    /// Clients speak TLS.
    pub tls: bool,
    /// Clients must have a certificate, too.
    pub ask_for_certificates: bool,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self { members: 1, quota: None, root_password: None, tls: false, ask_for_certificates: false }
    }
}

struct Member {
    server: Server,
    clients: Port,
    peers: Port,
}

/// A running cluster.
pub struct Etcd {
    // Servers end before their folder is removed.
    members: Vec<Member>,
    options: EtcdOptions,
    certificates: Option<Certificates>,
    /// Counts the clusters that had these ports: members of an older one are not heard.
    generation: u32,
    has_auth: bool,
    _folder: Folder,
}

impl Etcd {
    /// A cluster of 1 or 3 members, ready to be written to.
    #[track_caller]
    pub fn start(members: usize) -> Self {
        Self::with(EtcdOptions { members, ..EtcdOptions::default() })
    }

    /// The same with options.
    #[track_caller]
    pub fn with(options: EtcdOptions) -> Self {
        match Self::prepare(options) {
            Ok(mut etcd) => {
                etcd.boot();
                etcd
            }
            Err(error) => panic!("etcd: {error:#}"),
        }
    }

    fn prepare(options: EtcdOptions) -> Result<Self> {
        let folder = Folder::make()?;
        let certificates = if options.tls || options.ask_for_certificates {
            Some(Certificates::make(folder.path())?)
        } else {
            None
        };
        let mut members = Vec::new();
        for i in 0..options.members {
            let own = folder.subfolder(&name(i))?;
            let server = Server::new(&name(i), "etcd", "etcd-server", &own);
            members.push(Member { server, clients: Port::claim(), peers: Port::claim() });
        }
        Ok(Self { members, options, certificates, generation: 0, has_auth: false, _folder: folder })
    }

    /// Starts all members as a new cluster.
    #[track_caller]
    fn boot(&mut self) {
        self.generation += 1;
        self.has_auth = false;
        for i in 0..self.members.len() {
            let args = self.args(i);
            self.members[i].server.set_args(args);
            let started = self.members[i].server.start();
            self.or_panic(started);
        }
        self.await_leader();
        if let Some(password) = self.options.root_password.clone() {
            let user = format!("root:{password}");
            for args in
                [&["user", "add", &user][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
            {
                let done = self.etcdctl(args);
                self.or_panic(done);
            }
            self.has_auth = true;
        }
    }

    fn args(&self, i: usize) -> Vec<String> {
        let peer = |i: usize| format!("http://{}", self.members[i].peers.address());
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let clients = format!("{scheme}://{}", self.members[i].clients.address());
        let cluster: Vec<String> =
            (0..self.members.len()).map(|i| format!("{}={}", name(i), peer(i))).collect();
        let mut args = vec![
            format!("--name={}", name(i)),
            "--data-dir=data".into(),
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={}", peer(i)),
            format!("--initial-advertise-peer-urls={}", peer(i)),
            format!("--initial-cluster={}", cluster.join(",")),
            format!("--initial-cluster-token=generation-{}", self.generation),
            "--initial-cluster-state=new".into(),
            "--logger=zap".into(),
            "--log-level=warn".into(),
            // What a killed process has written the kernel still has; only a power cut would need the disk.
            "--unsafe-no-fsync".into(),
            // A password is hashed as cheaply as etcd allows, not for tenths of a second.
            "--bcrypt-cost=4".into(),
        ];
        args.extend(self.options.quota.map(|bytes| format!("--quota-backend-bytes={bytes}")));
        if let Some(files) = &self.certificates {
            args.push(format!("--cert-file={}", files.certificate.display()));
            args.push(format!("--key-file={}", files.key.display()));
            if self.options.ask_for_certificates {
                args.push("--client-cert-auth".into());
                args.push(format!("--trusted-ca-file={}", files.authority.display()));
            }
        }
        args
    }

    /// Where the members are: `127.0.0.1:port`, in their order, whether they run or not.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.clients.address().to_string()).collect()
    }

    /// The certificates, where clients speak TLS.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// Which member leads; waits for one that does.
    #[track_caller]
    pub fn leader(&self) -> usize {
        match wait::until(READY, || self.leader_now()) {
            Some(leader) => leader,
            None => panic!("etcd has had no leader for {READY:?}\n{}", self.said()),
        }
    }

    /// Ends a member as `kill -9` does. Its data stays.
    pub fn kill(&mut self, i: usize) {
        self.members[i].server.kill();
    }

    /// Holds a member: its connections stay, and nothing answers (SIGSTOP).
    #[track_caller]
    pub fn stop(&mut self, i: usize) {
        self.members[i].server.hold();
    }

    /// Lets a held member go on (SIGCONT).
    #[track_caller]
    pub fn cont(&mut self, i: usize) {
        self.members[i].server.go_on();
    }

    /// Starts a killed member with its data. Where a majority lives then, it is waited for.
    #[track_caller]
    pub fn start_again(&mut self, i: usize) {
        let started = self.members[i].server.start();
        self.or_panic(started);
        let majority = self.live().len() > self.members.len() / 2;
        let address = self.members[i].clients.address();
        let ready = wait::until_so(READY, || {
            if majority {
                let health = ["endpoint", "health"];
                self.command(&[i], &health)
                    .is_ok_and(|mut health| client::run(&mut health, "", LIMIT).is_ok())
            } else {
                std::net::TcpStream::connect(address).is_ok()
            }
        });
        assert!(ready, "{} is not back\n{}", name(i), self.said());
    }

    /// All members are ended, their data is removed, and a new, empty cluster starts on the same ports.
    #[track_caller]
    pub fn wipe(&mut self) {
        for member in &mut self.members {
            member.server.kill();
            let data = member.server.folder().join("data");
            if let Err(error) = std::fs::remove_dir_all(&data) {
                panic!("cannot remove {}: {error}", data.display());
            }
        }
        self.boot();
    }

    /// Puts a value.
    #[track_caller]
    pub fn put(&self, key: &str, value: &str) {
        let done = self.try_put(key, value);
        self.or_panic(done);
    }

    /// Puts a value; an error where the cluster does not take it.
    pub fn try_put(&self, key: &str, value: &str) -> Result<()> {
        let live = self.live();
        // By stdin, where an empty value is none, or as an argument, which may have 128 KiB at most.
        if value.is_empty() {
            return client::run(&mut self.command(&live, &["put", "--", key, ""])?, "", LIMIT).map(drop);
        }
        client::run(&mut self.command(&live, &["put", "--", key])?, value, LIMIT).map(drop)
    }

    /// The value of a key.
    #[track_caller]
    pub fn get(&self, key: &str) -> Option<String> {
        self.prefix(&["get", "--", key]).pop().map(|(_, value)| value)
    }

    /// All keys with this beginning and their values. No value may have a line break.
    #[track_caller]
    pub fn get_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        self.prefix(&["get", "--prefix", "--", prefix])
    }

    /// Deletes a key.
    #[track_caller]
    pub fn delete(&self, key: &str) {
        let done = self.etcdctl(&["del", "--", key]);
        self.or_panic(done);
    }

    /// Forgets all revisions before the current one: a watch that is behind them is refused.
    #[track_caller]
    pub fn compact(&self) {
        let revision = self.fields().and_then(|fields| number(&fields, "Revision").context("no revision"));
        let revision = self.or_panic(revision).to_string();
        let done = self.etcdctl(&["compact", "--", &revision]);
        self.or_panic(done);
    }

    /// Puts until the quota is used up and the cluster refuses: for a cluster with a small `quota`.
    #[track_caller]
    pub fn fill(&self) {
        let quota = usize::try_from(self.options.quota.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
        assert!(quota <= 64 * FILLING, "a quota of {quota} bytes is too large to be filled");
        let filling = "x".repeat(FILLING);
        for i in 0..=2 * quota / FILLING {
            if let Err(error) = self.try_put(&format!("{FILL_PREFIX}{i}"), &filling) {
                let text = format!("{error:#}");
                assert!(text.contains("space exceeded"), "{text}\n{}", self.said());
                return;
            }
        }
        panic!("etcd takes more than its quota of {quota} bytes");
    }

    /// Takes away what `fill` has put, and the alarm.
    #[track_caller]
    pub fn disarm(&self) {
        let done = self.etcdctl(&["del", "--prefix", "--", FILL_PREFIX]);
        self.or_panic(done);
        self.compact();
        for args in [&["defrag"][..], &["alarm", "disarm"]] {
            let done = self.etcdctl(args);
            self.or_panic(done);
        }
    }

    /// Runs `etcdctl` with these arguments against all live members, and gives what it printed.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        client::run(&mut self.command(&self.live(), args)?, "", LIMIT)
    }

    fn command(&self, members: &[usize], args: &[&str]) -> Result<Command> {
        let addresses: Vec<String> =
            members.iter().map(|i| self.members[*i].clients.address().to_string()).collect();
        let mut etcdctl = client::command("etcdctl", "etcd-client")?;
        etcdctl.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", addresses.join(",")));
        etcdctl.args(["--dial-timeout=5s", "--command-timeout=5s"]);
        if let Some(password) = self.options.root_password.as_ref().filter(|_| self.has_auth) {
            etcdctl.arg(format!("--user=root:{password}"));
        }
        if let Some(files) = &self.certificates {
            etcdctl.arg("--cacert").arg(&files.authority);
            etcdctl.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
        }
        etcdctl.args(args);
        Ok(etcdctl)
    }

    /// Members that run and are not held.
    fn live(&self) -> Vec<usize> {
        let live = |(i, member): (usize, &Member)| member.server.is_live().then_some(i);
        self.members.iter().enumerate().filter_map(live).collect()
    }

    #[track_caller]
    fn await_leader(&self) {
        let mut last = String::new();
        let ready = wait::until_so(READY, || {
            let all = self.live().len() == self.members.len();
            assert!(all, "a member of etcd has ended\n{}", self.said());
            // All members answer, and the cluster takes writes.
            let answer = self.fields().and_then(|_| self.try_put("/test-servers/ready", ""));
            answer.map_err(|error| last = format!("{error:#}")).is_ok()
        });
        assert!(ready, "etcd is not ready: {last}\n{}", self.said());
        let done = self.etcdctl(&["del", "/test-servers/ready"]);
        self.or_panic(done);
    }

    /// The member that says that it leads.
    fn leader_now(&self) -> Option<usize> {
        self.live().into_iter().find(|i| {
            let status = self.command(&[*i], &["endpoint", "status", "-w", "fields"]);
            let fields =
                status.and_then(|mut status| client::run(&mut status, "", LIMIT)).unwrap_or_default();
            let leader = number(&fields, "Leader");
            leader.is_some() && leader == number(&fields, "MemberID")
        })
    }

    /// What the live members say of themselves.
    fn fields(&self) -> Result<String> {
        self.etcdctl(&["endpoint", "status", "-w", "fields"])
    }

    #[track_caller]
    fn prefix(&self, args: &[&str]) -> Vec<(String, String)> {
        let printed = self.etcdctl(args);
        let printed = self.or_panic(printed);
        let lines: Vec<&str> = printed.lines().collect();
        let pair = |pair: &[&str]| Some((pair.first()?.to_string(), pair.get(1)?.to_string()));
        lines.chunks(2).filter_map(pair).collect()
    }

    fn said(&self) -> String {
        said_by(self.members.iter().map(|member| &member.server))
    }

    #[track_caller]
    fn or_panic<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| panic!("etcd: {error:#}\n{}", self.said()))
    }
}

fn name(i: usize) -> String {
    format!("member-{i}")
}

/// The number in a line `"Name" : 5`.
fn number(fields: &str, name: &str) -> Option<u64> {
    let line = fields.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")))?;
    line.trim().parse().ok()
}
