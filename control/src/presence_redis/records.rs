//! Nodes' records: what controllers tell one another of a node.
//!
//! Owns: their fields in Redis, and what writing one says.

use std::collections::HashMap;

use redis::{Cmd, Value};
use ringcast_proto::NodeId;

use super::batch::unexpected;
use super::keys;
use super::scripts::{self, SCRIPTS};
use crate::presence::NodeCard;
use crate::presence_store::{NodeRecord, PresenceError};

/// What became of a record that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there.
    Done,
    /// It is there, and was not before.
    Made,
    /// A later link or incarnation has the node.
    Fenced,
    /// A later word of the same link was there before.
    Late,
}

/// The commands that write a record: the node's id among all, then the record.
pub(super) fn write(record: &NodeRecord, turn: &str) -> [Cmd; 2] {
    let card = &record.card;
    let flag = |set: bool| if set { "1" } else { "0" };
    let mut command = scripts::run(&SCRIPTS.record, &[keys::record(&card.id)]);
    command.arg(keys::digits(card.incarnation)).arg(turn);
    command.arg(&["grpc_address", &card.grpc_address, "public_ws_url", &card.public_ws_url]);
    command.arg(&["version", &card.version, "driver", &card.driver, "controller", &record.controller]);
    command.arg("capacity").arg(card.capacity).arg("connections").arg(record.connections);
    command.arg("sessions").arg(record.sessions).arg(&["whole", flag(record.whole)]);
    command.arg(&["linked", flag(record.linked), "draining", flag(record.draining)]);
    [name(&card.id), command]
}

/// The command that writes that all of a node has been told in this turn.
pub(super) fn write_synced(node: &NodeId, incarnation: u64, turn: &str) -> Cmd {
    let mut command = scripts::run(&SCRIPTS.record, &[keys::record(node)]);
    let incarnation = keys::digits(incarnation);
    command
        .arg(&incarnation)
        .arg(turn)
        .arg(&["whole", "1"])
        .arg("synced")
        .arg(format!("{incarnation}{turn}"));
    command
}

/// The command that puts a node's id among all.
pub(super) fn name(node: &NodeId) -> Cmd {
    let mut command = redis::cmd("SADD");
    command.arg(keys::NODES).arg(node.as_str());
    command
}

/// What the script answered that writes a record.
pub(super) fn read_written(answer: Value) -> Result<Written, PresenceError> {
    let word: String = redis::from_redis_value(answer).map_err(unexpected)?;
    match word.as_str() {
        "written" => Ok(Written::Done),
        "made" => Ok(Written::Made),
        "fenced" => Ok(Written::Fenced),
        "late" => Ok(Written::Late),
        other => Err(PresenceError(format!("the record's script answered {other:?}"))),
    }
}

/// A record from its fields; `None`: there is none. What cannot be read counts as empty.
pub(super) fn read(id: &NodeId, answer: Value) -> Result<Option<NodeRecord>, PresenceError> {
    let mut fields: HashMap<String, String> = redis::from_redis_value(answer).map_err(unexpected)?;
    let mut text = |name: &str| fields.remove(name).unwrap_or_default();
    let Some(incarnation) = keys::number(&text("incarnation")) else { return Ok(None) };
    let link = keys::link_of(&text("turn")).unwrap_or_default();
    let card = NodeCard {
        id: id.clone(),
        incarnation,
        grpc_address: text("grpc_address"),
        public_ws_url: text("public_ws_url"),
        capacity: text("capacity").parse().unwrap_or_default(),
        version: text("version"),
        driver: text("driver"),
    };
    Ok(Some(NodeRecord {
        card,
        link,
        controller: text("controller"),
        whole: text("whole") == "1",
        linked: text("linked") == "1",
        draining: text("draining") == "1",
        connections: text("connections").parse().unwrap_or_default(),
        sessions: text("sessions").parse().unwrap_or_default(),
    }))
}
