//! Pushes to a room, to a user and to everyone, then many pushes on one stream; a line for each.
//!
//! ```sh
//! cargo run --release -p example-push -- [ROOM] [USER] [STREAMED]
//! ```
//!
//! `PUSH_MANAGER_ADDRESS` names the push managers, separated by commas (localhost:50053). The exit code is the highest
//! of all pushes: 0 delivered, 1 not delivered, 2 the command line is wrong, 3 refused, 4 unreachable or unknown.

mod push_managers;
mod push_stream;

use std::process::ExitCode;
use std::sync::Arc;

use ringcast_proto::pubsub::{
    BroadcastMessageRequest, MessageContent, MessageType, Outcomes, PushToRoomRequest, PushToUserRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::push_managers::{Outcome, Push, PushManagers};
use crate::push_stream::PushStream;

/// How long the push manager waits for the sessions before it reports, in milliseconds.
const DEADLINE_MS: u32 = 2_000;

const USAGE: &str = "usage: example-push [ROOM] [USER] [STREAMED]; PUSH_MANAGER_ADDRESS=host:port,...";

// On one thread tasks begin in the order in which they were spawned, and so do their pushes.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |place: usize, default: &str| words.get(place).map_or(default, String::as_str).to_owned();
    let addresses = std::env::var("PUSH_MANAGER_ADDRESS").ok().filter(|given| !given.is_empty());
    let addresses: Vec<String> = addresses
        .unwrap_or_else(|| "localhost:50053".to_owned())
        .split(',')
        .map(|address| address.trim().to_owned())
        .filter(|address| !address.is_empty())
        .collect();
    let count = word(2, "100").parse::<u32>().ok().filter(|_| words.len() <= 3 && !addresses.is_empty());
    let (Some(count), Ok(managers)) = (count, PushManagers::new(&addresses)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    ExitCode::from(push_all(Arc::new(managers), &word(0, "room-001"), &word(1, "user-001"), count).await)
}

/// All pushes; the highest exit code.
async fn push_all(managers: Arc<PushManagers>, room: &str, user: &str, count: u32) -> u8 {
    let mut highest = 0;
    for (what, push) in [
        (format!("room {room}"), room_push(room, "Hello everyone!")),
        (format!("user {user}"), user_push(user)),
        ("everyone".to_owned(), broadcast()),
    ] {
        let outcome = managers.push(&push).await;
        println!("{}", line(&what, &push, &outcome));
        highest = highest.max(exit_code(&outcome));
    }
    // All at once: the stream bounds what is in flight, and keeps the order.
    let stream = Arc::new(PushStream::new(managers));
    let mut ticks = JoinSet::new();
    for number in 1..=count {
        let (stream, push) = (stream.clone(), room_push(room, &format!("tick {number}")));
        ticks.spawn(async move {
            let outcome = stream.push(&push).await;
            println!("{}", line(&format!("stream {number}"), &push, &outcome));
            exit_code(&outcome)
        });
    }
    ticks.join_all().await.into_iter().fold(highest, u8::max)
}

fn room_push(room: &str, text: &str) -> Push {
    Push::Room(PushToRoomRequest {
        room_id: room.to_owned(),
        content: content(text, MessageType::Text, &[]),
        message_id: message_id(),
        deadline_ms: DEADLINE_MS,
        ..PushToRoomRequest::default()
    })
}

fn user_push(user: &str) -> Push {
    let languages = [("source_language", "en"), ("target_language", "zh")];
    Push::User(PushToUserRequest {
        user_id: user.to_owned(),
        content: content("你好！", MessageType::Translation, &languages),
        message_id: message_id(),
        deadline_ms: DEADLINE_MS,
        ..PushToUserRequest::default()
    })
}

fn broadcast() -> Push {
    Push::Broadcast(BroadcastMessageRequest {
        content: content("System announcement", MessageType::System, &[]),
        message_id: message_id(),
        deadline_ms: DEADLINE_MS,
        ..BroadcastMessageRequest::default()
    })
}

/// What to push; clients get the metadata as it is.
fn content(text: &str, kind: MessageType, metadata: &[(&str, &str)]) -> Option<MessageContent> {
    let metadata = metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Some(MessageContent { r#type: kind.into(), data: text.to_owned().into(), timestamp: 0, metadata })
}

/// An id of our own names the message in every log, also where no answer comes back.
fn message_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// One line for people.
fn line(what: &str, push: &Push, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answer { success, message, report } => {
            let word = if *success { "delivered".to_owned() } else { format!("not delivered ({message})") };
            let total = report.total.unwrap_or_default();
            let mut counts = vec![format!("members {}", total.members)];
            let named = named(&total).into_iter().filter(|(_, sessions)| *sessions > 0);
            counts.extend(named.map(|(name, sessions)| format!("{name} {sessions}")));
            if report.routes_stale_ms > 0 {
                // Sessions that joined since then may have been missed.
                counts.push(format!("routes {} ms old", report.routes_stale_ms));
            }
            format!("{what}: {word}; {}", counts.join(", "))
        }
        Outcome::Refused { code, reason, message } => {
            let words = [code_name(*code), reason.clone()].join(" ");
            format!("{what}: refused {}; {message}", words.trim_end())
        }
        Outcome::Unreachable => format!("{what}: unreachable; nothing was pushed"),
        Outcome::Unknown(why) => {
            let id = match push {
                Push::Room(push) => &push.message_id,
                Push::User(push) => &push.message_id,
                Push::Broadcast(push) => &push.message_id,
            };
            format!("{what}: unknown; message {id} may have arrived: {why}")
        }
    }
}

fn named(total: &Outcomes) -> [(&'static str, u64); 7] {
    [
        ("written", total.written),
        ("queued", total.queued),
        ("dropped_slow", total.dropped_slow),
        ("dropped_closed", total.dropped_closed),
        ("dropped_shed", total.dropped_shed),
        ("offline", total.offline),
        ("unknown", total.unknown),
    ]
}

/// `InvalidArgument` as the standard writes it: INVALID_ARGUMENT.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// As the business client's.
fn exit_code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Answer { success: true, .. } => 0,
        Outcome::Answer { success: false, .. } => 1,
        Outcome::Refused { .. } => 3,
        Outcome::Unreachable | Outcome::Unknown(_) => 4,
    }
}
