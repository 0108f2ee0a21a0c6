//! What has to hold of the pods that an overlay makes, and which no tool checks.
//!
//! Talks to: `files`, which asks the services what they take.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::files::{
    BEHIND_DRAIN, Variables, binary_of, default_ports, deploy, drain, seconds, strings, takes,
};
use crate::run::Start;

/// The pod that a workload makes.
pub(crate) fn pod(one: &Value) -> &Value {
    &one["spec"]["template"]["spec"]
}

/// What the namespace asks of each pod, and what keeps our own variables ours.
pub(crate) fn restricted(pod: &Value) {
    assert_eq!(pod["enableServiceLinks"], false, "{pod}");
    assert_eq!(pod["automountServiceAccountToken"], false, "{pod}");
    let (context, container) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
    assert_eq!((&context["runAsNonRoot"], &context["runAsUser"]), (&json!(true), &json!(10001)), "{pod}");
    let seccomp = &context["seccompProfile"];
    assert_eq!(seccomp["type"], "Localhost", "{pod}");
    assert!(deploy().join("seccomp").join(seccomp["localhostProfile"].as_str().unwrap()).exists());
    assert_eq!(container["allowPrivilegeEscalation"], false, "{pod}");
    assert_eq!(container["readOnlyRootFilesystem"], true, "{pod}");
    assert_eq!(container["capabilities"]["drop"], json!(["ALL"]), "{pod}");
    let constraints = pod["topologySpreadConstraints"].as_array().map_or(0, Vec::len);
    assert_eq!(constraints, 2, "machines and zones: {pod}");
}

/// Three probes, of which the last depends on nobody else, and time enough for a planned stop.
pub(crate) fn probed(pod: &Value) {
    let container = &pod["containers"][0];
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert!(container[probe].is_object(), "{probe} of {container}");
    }
    let alive = container["livenessProbe"]["httpGet"]["path"].as_str().unwrap();
    // /health says 503 of a node that drains or is cut off, which no restart would mend.
    assert!(["/stats", "/metrics"].contains(&alive), "{alive}");
    let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    if binary_of(&container["command"]) == "connect-uring" {
        assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/health", "{container}");
        assert!(grace > before + drain() + BEHIND_DRAIN, "{grace} s are too few behind {before}");
    } else {
        assert!(container["readinessProbe"]["grpc"]["port"].is_u64(), "{container}");
        assert!(grace > before + BEHIND_DRAIN, "{grace} s are too few behind {before}");
    }
}

/// Every port that is named, asked, let through or told of is one that the service listens on by its default.
pub(crate) fn pod_ports(all: &[Value], workload: &Value) {
    let container = &pod(workload)["containers"][0];
    let names = [("GRPC_PORT", "grpc"), ("METRICS_PORT", "metrics"), ("HTTP_PORT", "ws")];
    let ports = default_ports(binary_of(&container["command"]));
    let listens: Variables =
        names.iter().filter_map(|(key, name)| Some(((*name).to_owned(), ports.get(*key)?.clone()))).collect();
    let port = |name: &str| listens.get(name).unwrap_or_else(|| panic!("no port {name} of {listens:?}"));
    let named = container["ports"].as_array().unwrap().iter();
    let named: Variables = named
        .map(|port| (port["name"].as_str().unwrap().to_owned(), port["containerPort"].to_string()))
        .collect();
    assert_eq!(named, listens);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let (probe, grpc) = (&container[probe]["httpGet"], &container[probe]["grpc"]["port"]);
        match (probe["port"].as_str(), probe["path"].as_str()) {
            (Some("ws"), Some("/health" | "/stats")) | (Some("metrics"), Some("/metrics")) => {
                port(probe["port"].as_str().unwrap());
            }
            (None, None) => assert_eq!(grpc.to_string(), *port("grpc")),
            other => panic!("nothing answers {other:?}"),
        }
    }
    let scraped = &workload["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(
        (&scraped["prometheus.io/port"], &scraped["prometheus.io/path"]),
        (&json!(port("metrics")), &json!("/metrics"))
    );
    for variable in container["env"].as_array().unwrap() {
        let (name, value) =
            (variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or_default());
        if let Some((_, told)) = value.split_once("$(POD_IP):") {
            let of = if name == "PUBLIC_WS_URL" { "ws" } else { "grpc" };
            assert_eq!(told.split('/').next(), Some(&port(of)[..]), "{name} = {value}");
        }
    }
    let labels = strings(&workload["spec"]["template"]["metadata"]["labels"]);
    let selects = |selector: &Value| {
        let wanted = strings(selector);
        !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    for service in all.iter().filter(|one| one["kind"] == "Service" && selects(&one["spec"]["selector"])) {
        for offered in service["spec"]["ports"].as_array().unwrap() {
            port(offered["targetPort"].as_str().unwrap_or_else(|| panic!("by its name: {offered}")));
        }
    }
    let policies = all.iter().filter(|one| one["kind"] == "NetworkPolicy");
    let mut let_through = BTreeSet::new();
    for policy in policies.filter(|policy| selects(&policy["spec"]["podSelector"]["matchLabels"])) {
        let rules = policy["spec"]["ingress"].as_array().unwrap().iter();
        let ports = rules.flat_map(|rule| rule["ports"].as_array().unwrap());
        let_through.extend(ports.map(|port| port["port"].to_string()));
    }
    assert_eq!(let_through, listens.values().cloned().collect(), "what the network policies let through");
}

/// The variables and the file of a pod's container are settings of its service; what it would be started with.
pub(crate) fn pod_settings(all: &[Value], workload: &Value) -> Start {
    let pod = pod(workload);
    let container = &pod["containers"][0];
    let map = |name: &Value| {
        let found = all.iter().find(|one| one["kind"] == "ConfigMap" && one["metadata"]["name"] == *name);
        found.unwrap_or_else(|| panic!("no ConfigMap {name}"))
    };
    let mut variables = Variables::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        variables.extend(strings(&map(&source["configMapRef"]["name"])["data"]));
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap();
        let from = &variable["valueFrom"];
        let value = match (variable["value"].as_str(), from["fieldRef"]["fieldPath"].as_str()) {
            (Some(text), _) => expanded(text, &variables),
            (None, Some("metadata.name")) => "name-0".into(),
            (None, Some("status.podIP")) => "10.0.0.1".into(),
            _ if from["resourceFieldRef"]["resource"] == "requests.cpu" => "1".into(),
            _ => panic!("{variable}"),
        };
        variables.insert(name.into(), value);
    }
    let volumes = pod["volumes"].as_array().unwrap();
    let config = volumes.iter().find(|volume| volume["name"] == "config").unwrap();
    let file = map(&config["configMap"]["name"])["data"]["config.yaml"].as_str().unwrap();
    let told = file.lines().find_map(|line| line.trim().strip_prefix("drain: ")).map(seconds);
    assert_eq!(told, Some(drain()), "the drain by which the times here are reckoned");
    let binary = binary_of(&container["command"]);
    takes(binary, &variables, Some(file));
    // The kubelet's, for others to refer to.
    variables.remove("POD_IP");
    let name = workload["metadata"]["name"].as_str().unwrap().to_owned();
    Start { name, binary, variables, file: Some(file.to_owned()) }
}

/// `$(NAME)` by what stands before it; what does not would be left as it is.
fn expanded(text: &str, before: &Variables) -> String {
    let Some((head, rest)) = text.split_once("$(") else { return text.into() };
    let (name, tail) = rest.split_once(')').unwrap();
    let value = before.get(name).unwrap_or_else(|| panic!("{name} does not stand before {text}"));
    format!("{head}{value}{}", expanded(tail, before))
}

/// Every selector finds pods, and every kind of pod has a budget and a policy.
pub(crate) fn selected(all: &[Value]) {
    let labels = |one: &Value| strings(&one["spec"]["template"]["metadata"]["labels"]);
    let pods: Vec<Variables> = all.iter().filter(|one| !pod(one).is_null()).map(labels).collect();
    for kind in ["Service", "PodDisruptionBudget", "NetworkPolicy"] {
        let mut found = BTreeSet::new();
        for one in all.iter().filter(|one| one["kind"] == kind) {
            let spec = &one["spec"];
            let selector = match kind {
                "Service" => &spec["selector"],
                "PodDisruptionBudget" => &spec["selector"]["matchLabels"],
                _ => &spec["podSelector"]["matchLabels"],
            };
            let wanted = strings(selector);
            let fits = |pod: &Variables| wanted.iter().all(|(key, value)| pod.get(key) == Some(value));
            let places: Vec<usize> = (0..pods.len()).filter(|place| fits(&pods[*place])).collect();
            assert!(!places.is_empty(), "{kind} {} finds no pod", one["metadata"]["name"]);
            if !wanted.is_empty() {
                found.extend(places);
            }
        }
        assert_eq!(found.len(), pods.len(), "a kind of pod has no {kind}");
    }
}
