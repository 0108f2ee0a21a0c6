//! The scripts that run in Redis, one for each kind of record, each of them all or nothing.
//!
//! Owns: their texts, and the commands that run and load them.

use std::sync::LazyLock;

use redis::{Cmd, Script};

/// All of them.
pub(super) struct Scripts {
    pub(super) node: Script,
    pub(super) user: Script,
    pub(super) room: Script,
    pub(super) record: Script,
    pub(super) forget: Script,
    pub(super) drop: Script,
    pub(super) held: Script,
    pub(super) members: Script,
    pub(super) entries: Script,
    pub(super) sessions: Script,
}

/// A script's text, after that of what scripts share.
macro_rules! text {
    ($file:literal) => {
        concat!(include_str!("standing.lua"), include_str!($file))
    };
}

const TEXTS: [&str; 10] = [
    text!("node.lua"),
    text!("user.lua"),
    text!("room.lua"),
    text!("record.lua"),
    text!("forget.lua"),
    text!("drop.lua"),
    text!("held.lua"),
    text!("members.lua"),
    text!("entries.lua"),
    text!("sessions.lua"),
];

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let [node, user, room, record, forget, drop, held, members, entries, sessions] = TEXTS.map(Script::new);
    Scripts { node, user, room, record, forget, drop, held, members, entries, sessions }
});

/// The command that runs a script on these keys; the caller adds what the script takes.
pub(super) fn run(script: &Script, keys: &[String]) -> Cmd {
    let mut cmd = redis::cmd("EVALSHA");
    cmd.arg(script.get_hash()).arg(keys.len()).arg(keys);
    cmd
}

/// The commands that make a server know the scripts.
pub(super) fn load() -> impl Iterator<Item = Cmd> {
    TEXTS.iter().map(|text| {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(text);
        cmd
    })
}
