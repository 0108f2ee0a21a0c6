//! `run`, `slo`, `list` and `show`: what needs scenarios and a system.
//!
//! Owns: finding both, repeating runs, the bound on `slo`. Must not: measure or judge.
//! Talks to: the library's scenarios, `run`, `profile`; the controller, for how many nodes there are.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use loadgen::live::Live;
use loadgen::objective::Objective;
use loadgen::result::{RunResult, Verdict};
use loadgen::{Scenario, SystemUnderTest, profile, verdict};
use settings::SettingError;

use super::args::{OutputArgs, Profile, RunArgs, SloArgs, SystemArgs};
use super::output;

/// `loadgen slo` ends by then, whatever happens.
const SLO_BOUND: Duration = Duration::from_secs(50);

/// What of that is left for the end: the text, and files.
const SLO_RESERVE: Duration = Duration::from_secs(1);

/// Between two runs the clients of the first leave.
const BETWEEN_RUNS: Duration = Duration::from_secs(2);

/// `loadgen run`.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let scenario = scenario(&args.scenario, &args.set)?;
    let results = runtime()?.block_on(async {
        let mut results = Vec::new();
        for number in 1..=args.repeat {
            if number > 1 {
                tokio::time::sleep(BETWEEN_RUNS).await;
            }
            if args.repeat > 1 && !args.output.quiet {
                eprintln!("run {number} of {}", args.repeat);
            }
            // Anew each time: a node that was killed and started again is another process.
            let system = system(&args.system).await?;
            results.push(run_once(scenario.clone(), system, &args.slo, &args.output).await?);
        }
        anyhow::Ok(results)
    })?;
    output::finish(&results, &args.output)
}

async fn run_once(
    scenario: Scenario,
    system: SystemUnderTest,
    slo: &[Objective],
    output: &OutputArgs,
) -> anyhow::Result<RunResult> {
    let mut live = Live::new(output.quiet);
    let result = loadgen::run(scenario, system, |moment| live.show(moment)).await;
    live.end();
    let mut result = result?;
    profile::judge(&mut result, slo);
    Ok(result)
}

/// `loadgen slo`.
pub(crate) fn slo(args: &SloArgs) -> anyhow::Result<ExitCode> {
    end_within(SLO_BOUND);
    let name = match args.profile {
        Profile::Seed => "seed",
    };
    let scenario = scenario(name, &[])?;
    let result = runtime()?.block_on(async {
        let run = async {
            let system = system(&args.system).await?;
            let remark = judged_nodes(&system).await;
            let mut result = run_once(scenario, system, &[], &args.output).await?;
            // It says the same as the run's own, and of how many.
            result.remarks.retain(|own| !own.ends_with("judged"));
            result.remarks.insert(0, remark);
            anyhow::Ok(result)
        };
        let bound = SLO_BOUND - SLO_RESERVE;
        tokio::time::timeout(bound, run)
            .await
            .with_context(|| format!("the run was not done within {} s", bound.as_secs()))?
    })?;
    output::finish(&[result], &args.output)
}

/// Ends the process by itself, should anything hold it up: who waits for the answer gets one.
fn end_within(bound: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(bound);
        eprintln!("\nINVALID slo: not done within {} s", bound.as_secs());
        std::process::exit(verdict::exit_code(Verdict::Invalid).into());
    });
}

/// `judged 1 node of 1: connect-node-1`.
async fn judged_nodes(system: &SystemUnderTest) -> String {
    let listed = system.listed_nodes().await;
    let names: Vec<&str> = system.nodes.iter().map(|node| node.name.as_str()).collect();
    let (judged, plural) = (names.len(), if names.len() == 1 { "node" } else { "nodes" });
    let of = listed.map_or("an unknown number".into(), |listed| listed.max(judged).to_string());
    format!("judged {judged} {plural} of {of}: {}", names.join(", "))
}

/// `loadgen list`.
pub(crate) fn list() -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    for name in Scenario::names() {
        let scenario = Scenario::builtin(name, &[])?;
        text.push_str(&format!("{name:<16} {}\n", scenario.about.trim()));
    }
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}

/// `loadgen show`.
pub(crate) fn show(name: &str) -> anyhow::Result<ExitCode> {
    let scenario = scenario(name, &[])?;
    let text = match Scenario::builtin_text(name) {
        Some(text) => text.to_owned(),
        None => std::fs::read_to_string(name)?,
    };
    let mut text = text.trim_end().to_owned() + "\n\n# All parameters, as --set takes them:\n";
    for (key, value) in scenario.parameters() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!("#   {key}={}\n", value.trim()));
    }
    output::print(&text);
    Ok(ExitCode::SUCCESS)
}

/// A scenario by its name, or from a file.
fn scenario(name: &str, set: &[String]) -> Result<Scenario, SettingError> {
    let is_file =
        [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending)) || name.contains('/');
    let found =
        if is_file { Scenario::from_file(Path::new(name), set) } else { Scenario::builtin(name, set) };
    found.map_err(|error| SettingError::key_only(name, format!("{error:#}")))
}

/// Where the system is, as the flags say and the controller knows.
async fn system(args: &SystemArgs) -> anyhow::Result<SystemUnderTest> {
    let mut nodes = Vec::new();
    for node in &args.node {
        nodes.push(address("--node", node)?);
    }
    let mut system = match (&args.peer, nodes.as_slice()) {
        (Some(peer), [node]) => SystemUnderTest::peer(peer, *node, None),
        (Some(_), _) => {
            return Err(SettingError::key_only("--peer", "needs one --node: where that server is").into());
        }
        (None, _) => {
            SystemUnderTest::find(&bare_all(&args.controller), &bare_all(&args.push), &nodes).await?
        }
    };
    for (role, pid) in &args.pid {
        set_pid(&mut system, role, *pid)?;
    }
    Ok(system)
}

/// Lays a process id at the part of the system that is named by its role or its name.
fn set_pid(system: &mut SystemUnderTest, role: &str, pid: u32) -> Result<(), SettingError> {
    let mut found = false;
    for (service, its_role) in system
        .controllers
        .iter_mut()
        .map(|service| (service, "controller"))
        .chain(system.managers.iter_mut().map(|service| (service, "push-manager")))
    {
        if role == its_role || role == service.name {
            service.pid = Some(pid);
            found = true;
        }
    }
    for node in
        system.nodes.iter_mut().filter(|node| role == "node" || role == node.role || role == node.name)
    {
        node.pid = Some(pid);
        found = true;
    }
    if found {
        return Ok(());
    }
    let nodes: Vec<&str> = system.nodes.iter().map(|node| node.name.as_str()).collect();
    let remedy =
        format!("there is no such part; give controller, push-manager, node or one of: {}", nodes.join(", "));
    Err(SettingError::new("--pid", format!("{role}={pid}"), remedy))
}

/// A host and port as an address; IPv4 where there is a choice, since that is where services listen.
fn address(flag: &str, text: &str) -> Result<SocketAddr, SettingError> {
    let wrong =
        |why: String| SettingError::new(flag, text, format!("give host:port, such as localhost:8080{why}"));
    let found: Vec<SocketAddr> =
        bare(text).to_socket_addrs().map_err(|error| wrong(format!(" ({error})")))?.collect();
    found
        .iter()
        .find(|address| address.is_ipv4())
        .or(found.first())
        .copied()
        .ok_or_else(|| wrong(String::new()))
}

/// Without a scheme.
fn bare(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/')
}

fn bare_all(addresses: &[String]) -> Vec<String> {
    addresses
        .iter()
        .map(|address| bare(address.trim()).to_owned())
        .filter(|address| !address.is_empty())
        .collect()
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    loadgen::raise_open_files();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")
}
