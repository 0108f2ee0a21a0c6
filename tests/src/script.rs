//! A script that holds WebSocket members in another language, one process for all of them.
//!
//! Owns: the process and its lines of JSON. Talks to: `member`, which gives each member its events.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use tokio::sync::mpsc::UnboundedSender;

use crate::member::{Event, Kind};
use crate::{Variant, place};

type Routes = Arc<Mutex<HashMap<u64, UnboundedSender<Event>>>>;

/// A script that is running.
pub(crate) struct Script {
    child: Mutex<Child>,
    stdin: Mutex<ChildStdin>,
    routes: Routes,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Told {
    Open,
    Text { text: String },
    Binary,
    Closed { code: u16, reason: String },
    Refused { status: u16 },
    Failed { error: String },
}

#[derive(Deserialize)]
struct Line {
    id: u64,
    #[serde(flatten)]
    told: Told,
}

impl Script {
    /// Starts the script of a kind of members.
    pub(crate) fn start(kind: Kind) -> Self {
        let mut command = match kind {
            Kind::Python => {
                let mut command = Command::new(place::python());
                command.arg(place::client_script("members.py"));
                command
            }
            Kind::Node => {
                let mut command = Command::new(place::node());
                command.arg(place::client_script("members.mjs"));
                command
            }
            Kind::Tungstenite => panic!("tungstenite runs in the test itself"),
        };
        Variant::IoUring.apply(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            panic!("{command:?}: both streams were asked for")
        };
        let routes = Routes::default();
        let told = Arc::clone(&routes);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let line: Line =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                let route = told.lock().unwrap_or_else(PoisonError::into_inner).get(&line.id).cloned();
                // A member that was dropped wants to know nothing more.
                let _ = route.map(|route| route.send(event(line.told)));
            }
        });
        Self { child: Mutex::new(child), stdin: Mutex::new(stdin), routes }
    }

    /// Sends a command, and the member's events to this channel from now on.
    pub(crate) fn open(&self, id: u64, url: &str, events: UnboundedSender<Event>) {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, events);
        self.tell(&serde_json::json!({"id": id, "open": url}));
    }

    /// Sends a command.
    pub(crate) fn tell(&self, command: &serde_json::Value) {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(stdin, "{command}").expect("the script reads its commands until the test ends");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn event(told: Told) -> Event {
    match told {
        Told::Open => Event::Open,
        Told::Text { text } => Event::Text(text),
        Told::Binary => Event::Failed("a binary message".into()),
        Told::Closed { code, reason } => Event::Closed(code, reason),
        Told::Refused { status } => Event::Refused(status),
        Told::Failed { error } => Event::Failed(error),
    }
}
