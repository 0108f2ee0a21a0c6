//! What happens while loads run: nodes that die, clients that go.
//!
//! Owns: doing it. Must not: know when. Talks to: the fleets, processes by their ids, the controller.

use std::process::{Command, Stdio};

use ringcast_proto::pubsub::LeaveRoomRequest;
use ringcast_proto::pubsub::controller_service_client::ControllerServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::fleet::Fleet;
use crate::lane_grpc::channel;
use crate::plan::Leave;
use crate::run_clients::Clients;
use crate::run_loads::{room_name, user_name};
use crate::scenario::{Action, Deed, Group, Scenario};
use crate::system::SystemUnderTest;

/// Calls to the controller that are made at a time.
const CALLS_AT_A_TIME: usize = 32;

/// Does it; what was done, or why it was not, in a few words.
pub(crate) async fn act(
    action: &Action,
    scenario: &Scenario,
    system: &SystemUnderTest,
    clients: &Clients,
) -> String {
    let place = scenario.group(action.group.as_deref()).unwrap_or(0);
    let group = &scenario.clients[place];
    let count = (group.count as f64 * action.share).round() as usize;
    let Some(fleet) = clients.fleet(place) else {
        return format!("nothing done: group {} has not connected yet", group.name);
    };
    match action.what {
        Deed::Kill => signal(system, action.node, libc::SIGKILL, "killed"),
        Deed::Terminate => signal(system, action.node, libc::SIGTERM, "told to stop"),
        Deed::Command => shell(action.command.as_deref().unwrap_or_default()),
        Deed::Close => {
            fleet.leave(0..count, Leave::Close);
            format!("{count} clients close")
        }
        Deed::Reset if group.reconnect.is_some() => {
            fleet.lose(0..count);
            format!("{count} clients are reset and come back")
        }
        Deed::Reset => {
            fleet.leave(0..count, Leave::Reset);
            format!("{count} clients are reset")
        }
        Deed::Deaf => {
            fleet.leave(0..count, Leave::Deaf);
            format!("{count} clients stop to read")
        }
        Deed::Hear => {
            fleet.hear(0..count);
            format!("{count} clients read again")
        }
        Deed::Churn => {
            fleet.churn(action.rate);
            format!("{} clients a second leave and come back", action.rate)
        }
        Deed::LeaveRoom => match leave_room(system, group, fleet, count).await {
            Ok(left) => format!("{left} clients have left their rooms"),
            Err(error) => format!("nothing done: {error:#}"),
        },
    }
}

fn signal(system: &SystemUnderTest, number: usize, signal: libc::c_int, done: &str) -> String {
    let Some(node) = system.nodes.get(number - 1) else {
        return format!("nothing done: there is no node {number}, only {}", system.nodes.len());
    };
    let Some(pid) = node.pid.and_then(|pid| libc::pid_t::try_from(pid).ok()).filter(|pid| *pid > 1) else {
        return format!("nothing done: the process of {} is not known", node.name);
    };
    let others =
        system.nodes.iter().filter(|other| other.name != node.name).map(|other| (&other.name, other.pid));
    let services =
        system.managers.iter().chain(&system.controllers).map(|service| (&service.name, service.pid));
    if let Some((other, _)) = others.chain(services).find(|(_, other)| *other == node.pid) {
        return format!("nothing done: {other} is in the same process as {}", node.name);
    }
    // SAFETY: no memory is passed; the process is one that the run was told of.
    match unsafe { libc::kill(pid, signal) } {
        0 => format!("{} {done}", node.name),
        _ => format!("nothing done: {}: {}", node.name, std::io::Error::last_os_error()),
    }
}

fn shell(command: &str) -> String {
    let child = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    match child {
        Ok(mut child) => {
            // Somebody has to take its end; what it is does not matter.
            std::thread::spawn(move || drop(child.wait()));
            format!("command `{command}`")
        }
        Err(error) => format!("nothing done: `{command}`: {error}"),
    }
}

/// A connection to the first controller that is there.
async fn controller(system: &SystemUnderTest) -> anyhow::Result<Channel> {
    let mut why = anyhow::anyhow!("there is no controller to ask");
    for controller in &system.controllers {
        match channel(&controller.grpc).await {
            Ok(channel) => return Ok(channel),
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// Takes the first clients of a group out of their rooms; how many were.
async fn leave_room(
    system: &SystemUnderTest,
    group: &Group,
    fleet: &Fleet,
    count: usize,
) -> anyhow::Result<usize> {
    let client = ControllerServiceClient::new(controller(system).await?);
    let (mut calls, mut left, mut next) = (JoinSet::new(), 0, 0);
    loop {
        while next < count && calls.len() < CALLS_AT_A_TIME {
            let (number, mut client) = (next, client.clone());
            let room_id = room_name(group, number / group.members());
            let user_id = user_name(group, number);
            let request = LeaveRoomRequest { user_id, room_id, ..LeaveRoomRequest::default() };
            calls.spawn(async move {
                let answer = client.leave_room(request).await;
                (number, answer.is_ok_and(|answer| answer.into_inner().success))
            });
            next += 1;
        }
        match calls.join_next().await {
            None => return Ok(left),
            Some(Ok((number, true))) => {
                fleet.left_room(number..number + 1);
                left += 1;
            }
            Some(_) => {}
        }
    }
}
