//! The files under `deploy/` as data, and what the services' binaries say of what stands in them.
//!
//! Owns: reading, and asking the tools. Must not: judge one file by another; the tests do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringcast_tests::place;
use serde_json::Value;

/// What a planned stop of a node takes at most behind its drain, in seconds: 5 for sessions that are left, 2 each for the
/// words to the controller and to etcd, 3 for threads, 2 for reports, 3 for spans and open connections.
pub(crate) const BEHIND_DRAIN: u64 = 17;
/// What a planned stop of another service takes at most, in seconds: a push manager's open pushes and its tasks 5 each, its
/// spans 2.
pub(crate) const WITHOUT_DRAIN: u64 = 12;
/// The units, with the binary of each.
pub(crate) const UNITS: [(&str, &str); 3] = [
    ("ringcast-controller.service", "control"),
    ("ringcast-push-manager.service", "push"),
    ("connect-node@.service", "connect-uring"),
];
/// Variables that only others beside them refer to.
const OF_NO_SERVICE: [&str; 1] = ["POD_IP"];

/// Variables, or other keys with their values.
pub(crate) type Variables = BTreeMap<String, String>;

/// Checks that a service knows every variable, and takes the values, with the file where there is one.
pub(crate) fn takes(binary: &str, variables: &Variables, file: Option<&str>) {
    let known = known_variables(binary);
    for name in variables.keys().filter(|name| !OF_NO_SERVICE.contains(&name.as_str())) {
        assert!(known.contains(name), "{binary} knows no {name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "a test's password").unwrap();
    let config = folder.path().join("given.yaml");
    std::fs::write(&config, file.unwrap_or("{}")).unwrap();
    let mut command = Command::new(place::binary(binary));
    command.args(["--check-config", "--config"]).arg(&config).current_dir(folder.path()).env_clear();
    for (name, value) in variables.iter().filter(|(name, _)| cfg!(feature = "cluster") || !of_a_store(name)) {
        if name.ends_with("_FILE") {
            command.env(name, &password);
        } else {
            command.env(name, value);
        }
    }
    assert_eq!(output(&mut command).trim(), "config ok", "{binary}: {variables:?}");
}

/// The variables that a service reads: of its flags, of the stores that it uses, of its logs and traces.
pub(crate) fn known_variables(binary: &str) -> BTreeSet<String> {
    let help = output(Command::new(place::binary(binary)).arg("--help").env_clear());
    let flags = help.split("[env: ").skip(1).filter_map(|rest| rest.split(['=', ']']).next());
    let mut known: BTreeSet<String> = flags.map(str::to_owned).collect();
    assert!(known.contains("GRPC_PORT"), "{help}");
    known.insert("RUST_LOG".into());
    let stores = ["DB_", "REDIS_", "ETCD_"];
    for (file, prefixes) in [("config.yaml", &stores[..]), ("telemetry/src/variables.rs", &["OTEL_"][..])] {
        let text = std::fs::read_to_string(place::root().join(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
        let of_this = words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)));
        known.extend(of_this.map(str::to_owned));
    }
    if binary != "control" {
        // Rooms and presence are the controllers'.
        known.retain(|name| !name.starts_with("DB_") && !name.starts_with("REDIS_"));
    }
    known
}

/// The services of the compose file, as its own tool reads them.
pub(crate) fn compose_services() -> BTreeMap<String, Value> {
    let mut compose = Command::new("docker-compose");
    // It looks for the profile from where it runs.
    compose.args(["-f", "docker-compose.yml", "config"]).current_dir(deploy());
    for name in assignments(&read(".env.example")).keys() {
        compose.env_remove(name);
    }
    let text = output(&mut compose);
    let all = documents(&text);
    let services = all[0]["services"].as_object().unwrap();
    services.iter().map(|(name, service)| (name.clone(), service.clone())).collect()
}

/// The variables of a service of the compose file.
pub(crate) fn environment(service: &Value) -> Variables {
    strings(&service["environment"])
}

/// What a service of ours listens on.
pub(crate) fn own_ports(service: &Value) -> BTreeSet<String> {
    ports(&environment(service)).into_values().collect()
}

/// What a service listens on where nothing is said: as the first one of its kind in the compose file.
pub(crate) fn default_ports(binary: &str) -> Variables {
    let services = compose_services();
    let mut of_it = services.values().filter(|service| service["command"] == serde_json::json!([binary]));
    ports(&environment(of_it.next().unwrap()))
}

fn ports(variables: &Variables) -> Variables {
    let keys = ["GRPC_PORT", "METRICS_PORT", "HTTP_PORT"].iter();
    keys.filter_map(|key| Some(((*key).to_owned(), variables.get(*key)?.clone()))).collect()
}

/// The ports that a service of the compose file publishes, outside and inside.
pub(crate) fn published(service: &Value) -> Vec<(String, String)> {
    let of = |port: &Value| match port.as_str() {
        // address:outside:inside/tcp
        Some(text) => {
            let mut parts = text.trim_end_matches("/tcp").rsplit(':').map(str::to_owned);
            let inside = parts.next().unwrap();
            (parts.next().unwrap(), inside)
        }
        None => (port["published"].to_string(), port["target"].to_string()),
    };
    service["ports"].as_array().into_iter().flatten().map(of).collect()
}

/// The command by which the compose file sees that a service is well.
pub(crate) fn health_check(service: &Value) -> Vec<String> {
    let words = service["healthcheck"]["test"].as_array().unwrap_or_else(|| panic!("none: {service}"));
    let mut words = words.iter().map(|word| word.as_str().unwrap().to_owned());
    assert_eq!(words.next().as_deref(), Some("CMD"), "{service}");
    words.collect()
}

/// The strings of an object; numbers and switches as they are written.
pub(crate) fn strings(object: &Value) -> Variables {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    object.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect()
}

/// The binary that a command starts, which is one of ours.
pub(crate) fn binary_of(command: &Value) -> &'static str {
    let first = command[0].as_str().unwrap_or_else(|| panic!("no command: {command}"));
    UNITS.iter().find(|(_, binary)| *binary == first).unwrap_or_else(|| panic!("{first} is none of ours")).1
}

/// `KEY=value` lines, with or without blanks around the sign.
pub(crate) fn assignments(text: &str) -> Variables {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '[']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

/// What a key is set to.
pub(crate) fn value(text: &str, key: &str) -> String {
    assignments(text).remove(key).unwrap_or_else(|| panic!("no {key}"))
}

/// Over how long a planned stop closes sessions, in seconds: the default, as `config.yaml` has it.
pub(crate) fn drain() -> u64 {
    let text = std::fs::read_to_string(place::root().join("config.yaml")).unwrap();
    let drain = text.lines().find_map(|line| line.trim_start_matches(['#', ' ']).strip_prefix("drain: "));
    seconds(drain.unwrap().split_whitespace().next().unwrap())
}

/// Of `45s` or `1m30s`.
pub(crate) fn seconds(text: &str) -> u64 {
    let (minutes, rest) = text.split_once('m').unwrap_or(("0", text));
    let rest = rest.trim_end_matches('s');
    let number = |text: &str| if text.is_empty() { 0 } else { text.parse::<u64>().unwrap() };
    number(minutes) * 60 + number(rest)
}

/// Checks what would be handed to Kubernetes against its schemas.
pub(crate) fn validate(path: &Path) {
    let program = place::python().with_file_name("kubernetes-validate");
    output(Command::new(program).args(["--strict", "--quiet"]).arg(path));
}

/// The documents of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))";
    let mut python = Command::new(place::python());
    python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{text}");
    serde_json::from_slice(&done.stdout).unwrap()
}

/// What a program prints, which has to end well.
pub(crate) fn output(command: &mut Command) -> String {
    let done =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run `cargo xtask setup`"));
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    let err = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {}\n{out}{err}", done.status);
    out
}

/// A file of the folder.
pub(crate) fn read(name: &str) -> String {
    let path = deploy().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folder.
pub(crate) fn deploy() -> PathBuf {
    place::root().join("deploy")
}

/// Whether a variable belongs to one of the cluster's stores.
pub(crate) fn of_a_store(name: &str) -> bool {
    ["DB_", "REDIS_", "ETCD_"].iter().any(|prefix| name.starts_with(prefix))
}
