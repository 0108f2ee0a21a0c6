//! What compose, the units and the first pods of an overlay would start, as plain processes under seccomp filters.
//!
//! Owns: the processes, their stores, the filters of the units. Talks to: `files` and `pods`, which have their settings.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ringcast_tests::grpc::{Controller, Pusher, assert_accounted, total};
use ringcast_tests::{Kind, Members, Process, Variant, enter_own_network, eventually, http, place};

use crate::files::{
    Variables, assignments, binary_of, compose_services, default_ports, deploy, environment, health_check,
    output, read,
};

const READY: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(45);

/// Where everything runs.
const HERE: &str = "127.0.0.1";

/// Where HAProxy takes clients here.
const AT_HAPROXY: &str = "127.0.0.1:8060";

/// The documented ports.
static PORTS: Mutex<()> = Mutex::new(());

/// A process that a file of the folder would start.
pub(crate) struct Start {
    /// What it is called there.
    pub(crate) name: String,
    /// The binary, one of ours.
    pub(crate) binary: &'static str,
    /// Its environment.
    pub(crate) variables: Variables,
    /// The file that it reads by `--config`.
    pub(crate) file: Option<String>,
}

/// What the compose file would start.
pub(crate) fn by_compose() -> Vec<Start> {
    let ours = compose_services().into_iter().filter(|(_, service)| !service["build"].is_null());
    ours.map(|(name, service)| Start {
        name,
        binary: binary_of(&service["command"]),
        variables: environment(&service),
        file: None,
    })
    .collect()
}

/// What the units would start by their examples of an environment: one of each.
pub(crate) fn by_units() -> Vec<Start> {
    let passwords =
        read("systemd/ringcast-controller.service.d/50-passwords.conf").replace("Environment=", "");
    let of = |(binary, file): (&'static str, &str)| {
        let mut variables = assignments(&read(&format!("systemd/{file}.env.example")));
        match binary {
            "control" => variables
                .extend(assignments(&passwords).into_iter().filter(|(key, _)| key.ends_with("_FILE"))),
            // By the unit: the instance is the id.
            "connect-uring" => drop(variables.insert("NODE_ID".into(), "connect-node-1".into())),
            _ => {}
        }
        Start { name: file.into(), binary, variables, file: None }
    };
    [("control", "controller"), ("push", "push-manager"), ("connect-uring", "connect-node")].map(of).into()
}

/// Starts them, each with its own settings and the filter that `filter_of` names for its binary, pushes from one end to
/// the other, does what is `more` to do, and stops them.
pub(crate) fn serve(starts: Vec<Start>, filter_of: impl Fn(&str) -> PathBuf, more: impl AsyncFn(&Path)) {
    // Where a network of one's own may not be had, the tests share the ports of this machine.
    let _ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    enter_own_network();
    // The stores take ports that are free, among which those of the nodes may be.
    let held = [8080, 8081, 8082].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let sentinels = starts.iter().any(|start| start.variables.contains_key("REDIS_SENTINEL_MASTER"));
    let stores = Stores::start(sentinels);
    drop(held);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = Vec::new();
        for Start { name, binary, mut variables, file } in starts {
            for (key, value) in &mut variables {
                if key.ends_with("_ADDR") || key.ends_with("_ADDRESS") {
                    *value = all_here(value);
                }
            }
            variables.insert("OTEL_SDK_DISABLED".into(), "true".into());
            variables.insert("DATA_DIR".into(), folder.path().join(&name).display().to_string());
            stores.place(&mut variables);
            let mut command = under(&filter_of(binary), &place::binary(binary));
            if let Some(file) = file {
                let path = folder.path().join(format!("{name}.yaml"));
                std::fs::write(&path, file).unwrap();
                command.arg("--config").arg(path);
            }
            command.current_dir(folder.path()).env_clear().env("PATH", "/usr/bin:/bin").envs(&variables);
            Variant::IoUring.apply(&mut command);
            // Where it is found, also where its settings leave that to the default.
            for (key, port) in default_ports(binary) {
                variables.entry(key).or_insert(port);
            }
            processes.push((variables, Process::start(&name, &mut command)));
        }
        push_to_everybody(&processes).await;
        more(folder.path()).await;
        // Nodes first: they tell their controller that they leave.
        processes.sort_by_key(|(variables, _)| !variables.contains_key("NODE_ID"));
        for (_, process) in &mut processes {
            process.signal(libc::SIGTERM);
            assert_eq!(process.wait(END).code(), Some(0), "{}: {}", process.name(), process.stderr());
        }
    });
}

/// Addresses with this machine in the place of every other: all are here.
fn all_here(addresses: &str) -> String {
    let here = |address: &str| match address.rsplit_once(':') {
        Some((_, port)) => format!("{HERE}:{port}"),
        // Where to listen.
        None if address == "0.0.0.0" => address.to_owned(),
        None => HERE.to_owned(),
    };
    addresses.split(',').map(here).collect::<Vec<_>>().join(",")
}

/// That the compose file's health checks pass, and that HAProxy does its work before what it started.
pub(crate) async fn checks_of_compose(folder: &Path) {
    for service in compose_services().values().filter(|service| !service["build"].is_null()) {
        let check = health_check(service);
        output(Command::new(&check[0]).args(&check[1..]));
    }
    push_by_haproxy(folder).await;
}

/// A member on each node, and a push that reaches all of them.
async fn push_to_everybody(processes: &[(Variables, Process)]) {
    let local = |port: &String| format!("{HERE}:{port}").parse::<SocketAddr>().unwrap();
    let nodes: Vec<_> = processes.iter().filter_map(|(has, _)| has.get("HTTP_PORT")).map(local).collect();
    let (manager, _) = processes.iter().find(|(has, _)| has.contains_key("MANAGER_ID")).unwrap();
    let manager = local(&manager["GRPC_PORT"]);
    let pusher = eventually("the push manager has its routes", READY, async || {
        let pusher = Pusher::connect(manager).await.map_err(|error| error.to_string())?;
        pusher.user("nobody-is-called-so", b"?").await.map_err(|status| status.to_string())?;
        Ok::<_, String>(pusher)
    })
    .await;
    let mut members = Members::default();
    let mut people = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        eventually("a node is healthy and takes clients", READY, async || {
            let status = |path| http::get(*node, path).map_or(0, |answer| answer.status);
            let told = (status("/health"), status("/ws?user_id=probe&room_id=probe"));
            if told == (200, 426) { Ok(()) } else { Err(told) }
        })
        .await;
        let stats = http::get(*node, "/stats").unwrap().json().unwrap();
        assert_eq!(stats["driver"], "io_uring", "{stats}");
        people.push(members.join(Kind::Tungstenite, *node, &format!("user-{number}"), "room-001").await);
    }
    let answer = pusher.room("room-001", b"Hello everyone!").await.expect("an answer");
    assert_accounted(&answer.report);
    assert_eq!(total(&answer.report).written, nodes.len() as u64, "{answer:?}");
    for person in &mut people {
        assert_eq!(person.push().await.unwrap().content, b"Hello everyone!");
    }
    let figures: String = processes
        .iter()
        .map(|(has, _)| http::get(local(&has["METRICS_PORT"]), "/metrics").unwrap().body)
        .collect();
    let alerts = read("prometheus/alerts.yml");
    let words = alerts.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    for name in words.filter(|word| word.starts_with("ringcast_")) {
        assert!(figures.contains(&format!("\n{name}")), "alerts look at {name}, which no service has");
    }
}

/// Clients, pushes and questions by way of HAProxy with its own file.
async fn push_by_haproxy(folder: &Path) {
    let text = read("haproxy/haproxy.cfg");
    // It takes its open files at the start, and this machine may have few; nor may every user listen at 80.
    let small = text.replace("maxconn 100000", "maxconn 1000").replace("maxconn 30000", "maxconn 300");
    let small = small.replace("bind :80\n", &format!("bind {AT_HAPROXY}\n"));
    let path = folder.join("haproxy.cfg");
    std::fs::write(&path, &small).unwrap();
    let mut command = Command::new("haproxy");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-db", "-f"]).arg(&path);
    let mut haproxy = Process::start("haproxy", &mut command);
    let clients: SocketAddr = AT_HAPROXY.parse().unwrap();
    eventually("a node answers by way of HAProxy", READY, async || {
        let answer = http::get(clients, "/health").map_err(|error| error.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    })
    .await;
    let mut members = Members::default();
    let mut people = Vec::new();
    for number in 0..3 {
        people
            .push(members.join(Kind::Tungstenite, clients, &format!("balanced-{number}"), "balanced").await);
    }
    let pusher = Pusher::connect(([127, 0, 0, 1], 50063).into()).await.unwrap();
    let answer = pusher.room("balanced", b"Hello by HAProxy!").await.expect("an answer");
    let by_node: Vec<u64> =
        answer.report.unwrap().nodes.iter().map(|node| node.outcomes.unwrap().written).collect();
    assert_eq!(by_node, [1, 1, 1], "by the fewest connections");
    for person in &mut people {
        assert_eq!(person.push().await.unwrap().content, b"Hello by HAProxy!");
    }
    let controller = Controller::connect(([127, 0, 0, 1], 50062).into()).await.unwrap();
    assert!(controller.sessions().await.unwrap() >= 3);
    drop(people);
    haproxy.signal(libc::SIGTERM);
    haproxy.wait(END);
}

/// The stores that the compose file would start: real ones where the services can use them.
#[cfg(feature = "cluster")]
struct Stores {
    etcd: test_servers::Etcd,
    redis: Option<test_servers::Redis>,
    sentinels: Option<test_servers::RedisSentinel>,
    mysql: test_servers::MariaDb,
    database: String,
    password: tempfile::NamedTempFile,
}

#[cfg(feature = "cluster")]
impl Stores {
    fn start(sentinels: bool) -> Self {
        let mysql = test_servers::MariaDb::primary();
        let mut password = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut password, mysql.password().as_bytes()).unwrap();
        let database = mysql.fresh_database();
        let etcd = test_servers::Etcd::start(1);
        let redis = (!sentinels).then(test_servers::Redis::plain);
        let sentinels = sentinels.then(test_servers::Redis::sentinel);
        Self { etcd, redis, sentinels, mysql, database, password }
    }

    /// Puts them in the place of those which the file names.
    fn place(&self, variables: &mut Variables) {
        // None of them has a password.
        variables.remove("REDIS_PASSWORD_FILE");
        let redis = match &self.sentinels {
            Some(sentinels) => sentinels.addresses().join(","),
            None => self.redis.iter().map(test_servers::Redis::address).collect(),
        };
        let master =
            self.sentinels.as_ref().map_or_else(String::new, |sentinels| sentinels.master_name().to_string());
        let here = [
            ("ETCD_ENDPOINTS", self.etcd.endpoints().join(",")),
            ("REDIS_ADDR", redis),
            ("REDIS_SENTINEL_MASTER", master),
            ("DB_HOST", "127.0.0.1".into()),
            ("DB_PORT", self.mysql.port().to_string()),
            ("DB_USER", self.mysql.user().into()),
            ("DB_NAME", self.database.clone()),
            ("DB_PASSWORD_FILE", self.password.path().display().to_string()),
        ];
        for (name, value) in here {
            if let Some(old) = variables.get_mut(name) {
                *old = value;
            }
        }
        if variables.contains_key("DB_HOST") {
            // Which a file may leave at its default.
            variables.insert("DB_PORT".into(), self.mysql.port().to_string());
        }
    }
}

#[cfg(not(feature = "cluster"))]
struct Stores;

#[cfg(not(feature = "cluster"))]
impl Stores {
    fn start(_sentinels: bool) -> Self {
        Self
    }

    /// A build without the cluster has only the embedded ones.
    fn place(&self, variables: &mut Variables) {
        variables.retain(|name, _| !crate::files::of_a_store(name));
    }
}

/// A program under a seccomp filter.
pub(crate) fn under(filter: &Path, program: &Path) -> Command {
    let mut command = Command::new(place::python());
    command.arg(deploy().join("seccomp/run_under.py")).arg(filter).arg(program);
    command
}

/// The system calls that a unit's filter lets through (systemd.exec(5), `SystemCallFilter=`).
pub(crate) fn unit_calls(text: &str) -> BTreeSet<String> {
    let mut calls = expand("@default");
    for line in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (less, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
        for name in names.split_whitespace() {
            let named = expand(name);
            if less {
                calls.retain(|call| !named.contains(call));
            } else {
                calls.extend(named);
            }
        }
    }
    calls
}

/// A system call, or those of a set of systemd's.
fn expand(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let text = output(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", name]));
    let members =
        text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    members.flat_map(expand).collect()
}
