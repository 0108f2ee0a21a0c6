//! Promise: a wrong setting stops the start with exit code 2 and one line that names the key, the value and what to
//! do; `--check-config` tells without starting.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use ringcast_tests::ports::free_port;
use ringcast_tests::{Process, place};

/// How long a service may take to find that its settings are wrong.
const TIMEOUT: Duration = Duration::from_secs(10);

struct Case {
    binary: &'static str,
    env: Vec<(&'static str, String)>,
    /// `config.yaml` in the folder that it starts in.
    file: Option<&'static str>,
    args: Vec<&'static str>,
    /// What the line is to hold.
    says: Vec<String>,
}

fn case(binary: &'static str, says: &[&str]) -> Case {
    let says = says.iter().map(|word| (*word).to_owned()).collect();
    Case { binary, env: Vec::new(), file: None, args: Vec::new(), says }
}

impl Case {
    fn env(mut self, key: &'static str, value: &str) -> Self {
        self.env.push((key, value.into()));
        self
    }

    fn file(mut self, text: &'static str) -> Self {
        self.file = Some(text);
        self
    }

    fn arg(mut self, arg: &'static str) -> Self {
        self.args.push(arg);
        self
    }

    /// Runs it to its end; gives its exit code, stdout and stderr.
    fn run(&self) -> (Option<i32>, String, String) {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = self.file {
            std::fs::write(folder.path().join("config.yaml"), text).unwrap();
        }
        let mut command = Command::new(place::binary(self.binary));
        command.args(&self.args).current_dir(folder.path()).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        let mut process = Process::start(self.binary, &mut command);
        let status = process.wait(TIMEOUT);
        let (out, err) = process.output();
        (status.code(), out, err)
    }
}

/// Ports of one service, so that no other test's are in the way.
fn on_free_ports(mut case: Case) -> Case {
    for key in ["GRPC_PORT", "METRICS_PORT", "HTTP_PORT"] {
        let given = case.env.iter().any(|(name, _)| *name == key);
        if !given && (key != "HTTP_PORT" || case.binary == "connect-uring") {
            case.env.push((key, free_port().to_string()));
        }
    }
    case
}

/// What binaries with the embedded stores only, such as those beside a test that was built without `cluster`, say of
/// a cluster's settings.
#[cfg(not(feature = "cluster"))]
fn cluster_cases() -> Vec<Case> {
    vec![
        case("control", &["etcd", "--features cluster", "protobuf-compiler"])
            .file("etcd:\n  endpoints: [\"a:2379\"]\n"),
        case("connect-uring", &["ETCD_ENDPOINTS", "--features cluster"]).env("ETCD_ENDPOINTS", "a:2379"),
    ]
}

/// What binaries with the cluster's stores find wrong in their settings.
#[cfg(feature = "cluster")]
fn cluster_cases() -> Vec<Case> {
    vec![
        case("connect-uring", &["ETCD_ENDPOINTS", "nowhere"]).env("ETCD_ENDPOINTS", "nowhere"),
        case("control", &["lease", "1s"]).file("etcd:\n  endpoints: [\"127.0.0.1:1\"]\n  lease: 1s\n"),
        case("control", &["sentinel_master"])
            .file("redis:\n  addr: 127.0.0.1:1\n  cluster: true\n  sentinel_master: m\n"),
    ]
}

#[test]
fn each_wrong_setting_is_named_in_one_line() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let taken = taken.local_addr().unwrap().port().to_string();
    let cases = [
        case("control", &["GRPC_PORT", "abc"]).env("GRPC_PORT", "abc"),
        case("control", &["GRPC_PORT", "70000"]).env("GRPC_PORT", "70000"),
        case("push", &["GRPC_PORT", "tcp://10.0.0.1:50053", "Kubernetes"])
            .env("GRPC_PORT", "tcp://10.0.0.1:50053"),
        case("control", &["GRPC_PORT", &taken]).env("GRPC_PORT", &taken),
        case("push", &["METRICS_PORT", &taken]).env("METRICS_PORT", &taken),
        case("connect-uring", &["HTTP_PORT", &taken]).env("HTTP_PORT", &taken),
        case("control", &["ROOM_MAX_USERS", "-5"]).env("ROOM_MAX_USERS", "-5"),
        case("connect-uring", &["NODE_ID", "control character"]).env("NODE_ID", "a\tb"),
        case("connect-uring", &["CONTROLLER_ADDRESS", "nowhere"]).env("CONTROLLER_ADDRESS", "nowhere"),
        case("control", &["prot", "config.yaml"]).file("server:\n  prot: 50051\n"),
        case("control", &["config.yaml"]).file("server: [\n"),
        case("connect-uring", &["driver", "fast"]).file("connect:\n  driver: fast\n"),
        case("connect-uring", &["shards", "0"]).file("connect:\n  shards: 0\n"),
        case("connect-uring", &["ping_interval", "soon"])
            .file("connect:\n  limits:\n    ping_interval: soon\n"),
        case("push", &["--config", "missing.yaml"]).arg("--config").arg("missing.yaml"),
        case("push", &["--nonsense"]).arg("--nonsense"),
    ];
    for case in cases.into_iter().chain(cluster_cases()).map(on_free_ports) {
        let (code, _, err) = case.run();
        let what = format!("{} {:?} {:?} {:?}: {err}", case.binary, case.env, case.file, case.args);
        assert_eq!(code, Some(2), "{what}");
        let lines: Vec<&str> = err.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "one line: {what}");
        for word in &case.says {
            assert!(lines[0].contains(word), "{word:?} is missing: {what}");
        }
    }
}

#[test]
fn a_setting_that_fits_several_services_is_refused_by_all_in_one() {
    let (code, _, err) = case("ringcast", &[]).env("GRPC_PORT", "50099").run();
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("GRPC_PORT"), "{err}");
}

#[test]
fn a_check_starts_nothing() {
    for binary in ["control", "push", "connect-uring", "ringcast"] {
        let (code, out, err) = case(binary, &[]).arg("--check-config").run();
        assert_eq!((code, out.trim()), (Some(0), "config ok"), "{binary}: {err}");
    }
    let wrong = case("control", &[]).file("server:\n  port: no\n").arg("--check-config");
    assert_eq!(wrong.run().0, Some(2));
}
