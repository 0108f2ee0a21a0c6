//! Promise: every file under `deploy/` passes the tool that is made for it and fits the others and the services' own
//! settings; what the compose file, the units and the overlays would start runs as plain processes with the same settings,
//! under the seccomp profile and under the units' filters, with HAProxy before it.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

#[path = "deployment_files/files.rs"]
mod files;
#[path = "deployment_files/pods.rs"]
mod pods;
#[path = "deployment_files/run.rs"]
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use ringcast_tests::place;
use serde_json::{Value, json};

use files::{
    BEHIND_DRAIN, UNITS, Variables, WITHOUT_DRAIN, assignments, binary_of, compose_services, deploy,
    documents, drain, environment, health_check, known_variables, output, own_ports, published, read,
    seconds, strings, takes, validate, value,
};
use pods::{pod, pod_ports, pod_settings, probed, restricted, selected};
use run::{by_compose, by_units, checks_of_compose, serve, under, unit_calls};

/// The highest exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: &str = "15";
const OVERLAYS: [&str; 2] = ["single", "ha"];
/// Where the units expect the binaries.
const UNIT_BINARIES: &str = "/usr/local/bin/";

#[test]
fn compose_passes_its_checker_and_agrees_with_the_services() {
    let services = compose_services();
    let ours: Vec<&Value> = services.values().filter(|service| !service["build"].is_null()).collect();
    assert_eq!(ours.len(), 5, "a controller, a push manager and three nodes");
    for (name, service) in &services {
        let image = service["image"].as_str().unwrap();
        let tag = image.rsplit_once(':').unwrap_or_else(|| panic!("{name}: {image} has no tag")).1;
        assert!(tag.contains('.') && !tag.contains("latest"), "{name}: {image} is not pinned");
        for other in service["depends_on"].as_object().into_iter().flatten() {
            assert_eq!(other.1["condition"], "service_healthy", "{name} waits for {}", other.0);
            assert!(!services[other.0]["healthcheck"].is_null(), "{name} waits for {}'s health", other.0);
        }
    }
    let profile = "seccomp:./seccomp/ringcast.json";
    for service in ours {
        let grace = seconds(service["stop_grace_period"].as_str().unwrap());
        assert!(grace > drain() + BEHIND_DRAIN, "{grace} s are too few: {service}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{service}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true", profile]), "{service}");
        assert_eq!((&service["read_only"], &service["user"]), (&json!(true), &json!("10001:10001")));
        assert_eq!(service["restart"], "unless-stopped", "{service}");
        assert!(!service["healthcheck"].is_null(), "{service}");
        let binary = binary_of(&service["command"]);
        takes(binary, &environment(service), None);
        compose_ports(&services, service);
        if binary == "connect-uring" {
            assert_eq!(service["ulimits"]["nofile"]["hard"], 1_048_576, "{service}");
        }
    }
}

/// A service publishes what it listens on, is asked for its health there, and is where the others look for it.
fn compose_ports(services: &BTreeMap<String, Value>, service: &Value) {
    let own = own_ports(service);
    let published_here = published(service);
    assert!(published_here.iter().all(|(outside, inside)| outside == inside), "{published_here:?}");
    let inside: BTreeSet<String> = published_here.into_iter().map(|(_, inside)| inside).collect();
    assert_eq!(inside, own, "{service}");
    let asked = health_check(service).pop().unwrap();
    let asked = asked.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.split('/').next()).unwrap();
    assert!(own.contains(asked), "asked for its health at {asked}: {service}");
    let variables = environment(service);
    for (key, value) in &variables {
        let Some((host, port)) = value.rsplit_once(':') else { continue };
        let Some(other) = services.get(host) else { continue };
        if other["build"].is_null() {
            let takes: Vec<String> = published(other).into_iter().map(|(_, inside)| inside).collect();
            assert!(takes.iter().any(|takes| takes == port), "{key} = {value}: {host} takes {takes:?}");
        } else {
            assert_eq!(port, environment(other)["GRPC_PORT"], "{key} = {value}");
            // What a service says of itself ends like this; where it looks for others, in _ADDRESS.
            assert!(!key.ends_with("_ADDR") || other == service, "{key} = {value} is another one");
        }
    }
    if let Some(url) = variables.get("PUBLIC_WS_URL") {
        assert!(url.ends_with(&format!(":{}/ws", variables["HTTP_PORT"])), "{url}: {service}");
    }
}

#[test]
fn the_image_holds_what_compose_and_kubernetes_start() {
    let text = read("Dockerfile");
    let toolchain = std::fs::read_to_string(place::root().join("rust-toolchain.toml")).unwrap();
    let channel = toolchain.split("channel = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    for line in [format!("FROM rust:{channel}-"), format!("RUSTUP_TOOLCHAIN={channel}\n")] {
        assert!(text.contains(&line), "the toolchain is {channel}: {line}");
    }
    // What was linked against one Debian's libraries runs on that one.
    let debians: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("FROM ")).map(debian_of).collect();
    assert_eq!(debians.len(), 1, "{debians:?}");
    for line in ["--features cluster", "STOPSIGNAL SIGTERM", "USER 10001:10001", "protobuf-compiler"] {
        assert!(text.contains(line), "{line} is not in the Dockerfile");
    }
    for (_, binary) in UNITS {
        assert!(text.contains(&format!("target/release/{binary} ")), "{binary} is not in the image");
    }
}

#[test]
fn overlays_render_and_validate_and_their_first_pods_serve() {
    let example = deploy().join("k8s/overlays/ha/passwords.example.yaml");
    validate(&example);
    for overlay in OVERLAYS {
        let folder = tempfile::tempdir().unwrap();
        let rendered = folder.path().join("rendered.yaml");
        let mut kubectl = Command::new("kubectl");
        let text = output(kubectl.arg("kustomize").arg(deploy().join("k8s/overlays").join(overlay)));
        std::fs::write(&rendered, &text).unwrap();
        validate(&rendered);
        let all = documents(&text);
        let workloads: Vec<&Value> = all.iter().filter(|one| !pod(one).is_null()).collect();
        assert_eq!(workloads.len(), 3, "{overlay}: controllers, push managers and nodes");
        let mut first_pods = Vec::new();
        for one in all.iter().filter(|one| one["kind"] != "Namespace") {
            // Without one it lands wherever the caller happens to be, and nothing there finds it.
            assert_eq!(one["metadata"]["namespace"], "ringcast", "{overlay}: {one}");
        }
        for workload in workloads {
            restricted(pod(workload));
            probed(pod(workload));
            first_pods.push(pod_settings(&all, workload));
            pod_ports(&all, workload);
            // A number beside an autoscaler would undo its work at each apply.
            let scaled = overlay == "ha" && workload["metadata"]["name"] == "connect-node";
            assert_eq!(workload["spec"]["replicas"].is_null(), scaled, "{overlay}: {}", workload["metadata"]);
        }
        selected(&all);
        let profile = deploy().join("seccomp/ringcast.json");
        serve(first_pods, |_| profile.clone(), async |_| ());
    }
}

#[test]
fn the_overlay_for_high_availability_has_what_the_quick_start_lists() {
    let mut kubectl = Command::new("kubectl");
    let all = documents(&output(kubectl.arg("kustomize").arg(deploy().join("k8s/overlays/ha"))));
    let find = |kind: &str, name: &str| {
        let found = all.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("no {kind} {name}"))
    };
    for (kind, name) in [("StatefulSet", "ringcast-controller"), ("Deployment", "ringcast-push-manager")] {
        assert!(find(kind, name)["spec"]["replicas"].as_u64().unwrap() >= 3, "{name}");
        let balancer = find("Service", name);
        assert!(balancer["spec"]["clusterIP"].is_null(), "{name} has one address for all");
    }
    let update = &find("Deployment", "ringcast-push-manager")["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(update["maxUnavailable"], 0, "{update}");
    let scaler = &find("HorizontalPodAutoscaler", "connect-node")["spec"];
    let target = &scaler["scaleTargetRef"];
    find(target["kind"].as_str().unwrap(), target["name"].as_str().unwrap());
    assert_eq!(scaler["metrics"][0]["pods"]["metric"]["name"], "ringcast_node_connections");
    assert!(scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"].as_u64().unwrap() >= 600);
    let variables: Variables =
        all.iter().filter(|one| one["kind"] == "ConfigMap").flat_map(|map| strings(&map["data"])).collect();
    for name in ["ETCD_ENDPOINTS", "REDIS_ADDR", "CONTROLLER_ADDRESS"] {
        assert_eq!(variables[name].split(',').count(), 3, "{name} = {}", variables[name]);
    }
    let controllers = find("StatefulSet", "ringcast-controller");
    let service = controllers["spec"]["serviceName"].as_str().unwrap();
    let named: Vec<String> =
        (0..3).map(|number| format!("ringcast-controller-{number}.{service}:50051")).collect();
    assert_eq!(variables["CONTROLLER_ADDRESS"], named.join(","));
    assert!(!variables["REDIS_SENTINEL_MASTER"].is_empty() && !variables["DB_HOST"].is_empty());
}

#[test]
fn units_are_valid_and_hardened_and_wait_for_the_drain() {
    let folder = units_with_our_binaries();
    for (unit, binary) in UNITS {
        let path = folder.path().join(unit);
        let mut verify = Command::new("systemd-analyze");
        let done = verify.arg("verify").arg(&path).output().expect("systemd-analyze");
        // It prints what it finds and ends with 0 none the less; it may also find faults in this machine's units.
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let ours = said.lines().filter(|line| line.contains(unit) || line.contains("/ringcast-"));
        assert_eq!(ours.count(), 0, "{unit}: {said}");
        assert!(done.status.success(), "{unit}: {said}");
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", "--no-pager"]).arg(format!("--threshold={EXPOSURE}"));
        output(security.arg(&path));

        let text = read(&format!("systemd/{unit}"));
        for line in ["Type=notify", "Restart=on-failure", "NoNewPrivileges=yes", "DynamicUser=yes"] {
            assert!(text.lines().any(|found| found == line), "{unit}: {line}");
        }
        let flags = value(&text, "ExecStart").replace("%i", "connect-node-1");
        let mut given = Command::new(place::binary(binary));
        given
            .args(flags.split_whitespace().skip(1))
            .arg("--check-config")
            .current_dir(folder.path())
            .env_clear();
        assert_eq!(output(&mut given).trim(), "config ok", "{unit}: {flags}");
        assert_eq!(value(&text, "RestartPreventExitStatus"), "2", "{unit}: what a restart does not mend");
        let stop: u64 = value(&text, "TimeoutStopSec").parse().unwrap();
        assert!(value(&text, "WatchdogSec").parse::<u64>().unwrap() >= 10, "{unit}");
        if binary == "connect-uring" {
            assert!(stop > drain() + BEHIND_DRAIN, "{unit}: {stop} s are too few");
            let files: u64 = value(&text, "LimitNOFILE").parse().unwrap();
            let allowed: u64 = value(&read("sysctl/90-ringcast.conf"), "fs.nr_open").parse().unwrap();
            assert!(files <= allowed, "{files} open files, fs.nr_open is {allowed}");
        } else {
            assert!(stop > WITHOUT_DRAIN, "{unit}: {stop} s are too few");
        }
    }
    for (file, binary) in [
        ("controller.env.example", "control"),
        ("push-manager.env.example", "push"),
        ("connect-node.env.example", "connect-uring"),
    ] {
        takes(binary, &assignments(&read(&format!("systemd/{file}"))), None);
    }
    let drop_in = read("systemd/ringcast-controller.service.d/50-passwords.conf").replace("Environment=", "");
    for name in assignments(&drop_in).keys().filter(|name| name.ends_with("_FILE")) {
        assert!(known_variables("control").contains(name), "{name}");
    }
}

#[test]
fn kernel_settings_are_ones_that_the_kernel_has() {
    for (key, value) in assignments(&read("sysctl/90-ringcast.conf")) {
        // A key with a dash may be missing on older kernels.
        let Some(path) = key.strip_prefix('-').is_none().then(|| key.replace('.', "/")) else { continue };
        let path = Path::new("/proc/sys").join(path);
        assert!(path.exists(), "{} is not there", path.display());
        assert!(value.split([' ', '-']).all(|word| word.parse::<u64>().is_ok()), "{key} = {value}");
    }
}

#[test]
fn haproxy_takes_its_file_and_knows_the_ports() {
    let path = deploy().join("haproxy/haproxy.cfg");
    let path_variable = "/usr/sbin:/usr/bin:/sbin:/bin";
    output(Command::new("haproxy").env("PATH", path_variable).args(["-c", "-f"]).arg(path));
    let text = read("haproxy/haproxy.cfg");
    for service in compose_services().values().filter(|service| !service["build"].is_null()) {
        let variables = environment(service);
        let line = match variables.get("HTTP_PORT") {
            Some(port) => format!("127.0.0.1:{port}\n"),
            None => format!("127.0.0.1:{} port {}\n", variables["GRPC_PORT"], variables["METRICS_PORT"]),
        };
        assert!(text.contains(&line), "no server at {line}");
    }
    let asked: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("http-check send ")).collect();
    let asks =
        |path: &str| asked.iter().filter(|line| line.starts_with(&format!("meth GET uri {path} "))).count();
    assert_eq!((asks("/health"), asks("/metrics"), asked.len()), (1, 2, 3), "{asked:?}");
}

#[test]
fn alerts_fire_when_they_should_and_not_before() {
    let folder = deploy().join("prometheus");
    output(Command::new("promtool").args(["check", "config", "prometheus.yml"]).current_dir(&folder));
    output(Command::new("promtool").args(["test", "rules", "alerts_test.yml"]).current_dir(&folder));
    let text = read("prometheus/prometheus.yml");
    for (name, service) in compose_services().iter().filter(|(_, service)| !service["build"].is_null()) {
        let target = format!("{name}:{}", environment(service)["METRICS_PORT"]);
        assert!(text.contains(&target), "{target} is not asked");
    }
}

#[test]
fn the_seccomp_profile_is_narrow_and_every_service_runs_under_it() {
    let profile = deploy().join("seccomp/ringcast.json");
    let parsed: Value = serde_json::from_str(&read("seccomp/ringcast.json")).unwrap();
    assert_eq!(parsed["defaultAction"], "SCMP_ACT_ERRNO");
    let names: BTreeSet<&str> = parsed["syscalls"].as_array().unwrap().iter().flat_map(names_of).collect();
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(names.contains(call), "{call}");
    }
    for call in ["bpf", "mount", "ptrace", "unshare", "setns", "init_module", "keyctl", "vfork"] {
        assert!(!names.contains(call), "{call} is of no use to a service");
    }
    let folder = tempfile::tempdir().unwrap();
    let pipe =
        |name: &str| format!("import os; os.mkfifo({:?})", folder.path().join(name).display().to_string());
    // A call that needs no privilege, and that the profile does not have.
    assert!(Command::new(place::python()).args(["-c", &pipe("a")]).status().unwrap().success());
    let python = place::python();
    let refused = under(&profile, &python).args(["-c", &pipe("b")]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("PermissionError"), "{said}");
    assert!(!said.contains("left out"), "the profile has a name that is none: {said}");
    let fork = under(&profile, &python).args(["-c", "import os; os.fork()"]).output().unwrap();
    assert!(!fork.status.success(), "a service makes threads, and no processes");
    serve(by_compose(), |_| profile.clone(), checks_of_compose);
}

#[test]
fn every_service_runs_under_the_filter_of_its_unit() {
    let folder = tempfile::tempdir().unwrap();
    for (unit, binary) in UNITS {
        let calls = unit_calls(&read(&format!("systemd/{unit}")));
        assert!(!calls.contains("mount") && !calls.contains("ptrace"), "{unit}");
        assert_eq!(calls.contains("io_uring_setup"), binary == "connect-uring", "{unit}");
        let rule = json!({"names": calls, "action": "SCMP_ACT_ALLOW"});
        let filter = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]});
        std::fs::write(folder.path().join(binary), filter.to_string()).unwrap();
    }
    serve(by_units(), |binary| folder.path().join(binary), async |_| ());
}

/// Of `debian:bookworm-slim`, and of an image that is built on it: `bookworm`.
fn debian_of(image: &str) -> &str {
    let tag = image.split(' ').next().and_then(|image| image.split(':').nth(1)).unwrap();
    tag.split('-').find(|word| word.len() > 5 && word.bytes().all(|byte| byte.is_ascii_lowercase())).unwrap()
}

fn names_of(rule: &Value) -> impl Iterator<Item = &str> {
    rule["names"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The units in a folder, with the binaries under test in the place of installed ones.
fn units_with_our_binaries() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let drop_ins = "ringcast-controller.service.d";
    std::fs::create_dir(folder.path().join(drop_ins)).unwrap();
    let passwords = format!("{drop_ins}/50-passwords.conf");
    std::fs::copy(deploy().join("systemd").join(&passwords), folder.path().join(&passwords)).unwrap();
    for (unit, binary) in UNITS {
        let text = read(&format!("systemd/{unit}"));
        let installed = format!("ExecStart={UNIT_BINARIES}{binary}");
        assert!(text.contains(&installed), "{unit}");
        let here = format!("ExecStart={}", place::binary(binary).display());
        std::fs::write(folder.path().join(unit), text.replace(&installed, &here)).unwrap();
    }
    folder
}
