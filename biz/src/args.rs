//! The command line: what to push, to whom, how often.
//!
//! Owns: flags, their checks, the requests that they come to. Must not: call anyone.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;

use ringcast_proto::pubsub::{
    BroadcastMessageRequest, MessageContent, MessageType, PushToRoomRequest, PushToUserRequest, ReportMode,
};
use settings::SettingError;

/// The largest payload that is read at all, in bytes; the push manager takes 1 MiB by default.
const MAX_PAYLOAD_BYTES: u64 = 16 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  biz --action push-to-room --room room-001 --message 'Hello everyone!'
  biz --action push-to-room --room room-001 --exclude user-001,user-002 --message 'Hello, the others!'
  biz --action push-to-user --user user-001 --type TRANSLATION --message '你好！'
  biz --action broadcast --type SYSTEM --message 'System announcement'
  biz --action push-to-room --room room-001 --type AUDIO --file sound.opus --metadata codec=opus --json
  biz --action push-to-room --room room-001 --message tick --repeat 1000 --rate 50

Exit codes (of several pushes, the highest):
  0  delivered: at least one session was written or queued
  1  not delivered: nobody is there, or all were dropped, or what became of it is not known
  2  the command line is wrong
  3  refused: the push manager answered an error
  4  unreachable: no push manager could be reached; or unknown: the push was handed over and never answered for

Several push managers take turns, from one on that chance chooses. A push is tried at another one only where it
surely was not taken: no connection, or an answer that says so. So nothing is ever pushed twice; what was handed over
and not answered for is unknown.";

/// Push from the command line and see who got it.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "biz", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What to do
    #[arg(long, value_enum)]
    pub(crate) action: Action,
    /// The room, for push-to-room
    #[arg(long, value_name = "ID")]
    pub(crate) room: Option<String>,
    /// The user, for push-to-user
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,
    /// The payload
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) message: Option<String>,
    /// The payload from a file; - is the standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// What kind of payload it is: TEXT, AUDIO, VIDEO, TRANSLATION or SYSTEM, in any case
    #[arg(long = "type", value_name = "TYPE", default_value = "TEXT", value_parser = parse_type)]
    pub(crate) message_type: MessageType,
    /// Users who are not to get a room push; repeated or with commas
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    pub(crate) exclude: Vec<String>,
    /// Handed on to the clients; repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_metadata)]
    pub(crate) metadata: Vec<(String, String)>,
    /// How many pushes; several are numbered for the clients by the metadata `seq` and `source`
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) repeat: u64,
    /// Pushes a second, whether or not the ones before are answered; without it each waits for the one before
    #[arg(long, value_name = "R", value_parser = parse_rate)]
    pub(crate) rate: Option<f64>,
    /// One JSON object a push
    #[arg(long)]
    pub(crate) json: bool,
    /// The push managers, which take turns; repeated or with commas, the scheme is optional
    #[arg(
        long,
        env = "PUSH_MANAGER_ADDRESS",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = "localhost:50053"
    )]
    pub(crate) address: Vec<String>,
    /// How long to wait for the report, 1 to 60000; the push manager's default is 1000
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) deadline_ms: Option<u32>,
    /// Ask for no report: every session then counts as queued
    #[arg(long)]
    pub(crate) no_report: bool,
    /// Trace every push, whatever share of them OTEL_TRACES_SAMPLER_ARG says, and print the trace's id
    #[arg(long)]
    pub(crate) trace: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Action {
    /// Push to everyone in a room
    PushToRoom,
    /// Push to one user, on all devices
    PushToUser,
    /// Push to everyone
    Broadcast,
}

impl Action {
    /// As it is given.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PushToRoom => "push-to-room",
            Self::PushToUser => "push-to-user",
            Self::Broadcast => "broadcast",
        }
    }
}

/// How long the push manager waits for the report of a push that says nothing else, in milliseconds.
const DEFAULT_DEADLINE_MS: u32 = 1_000;

/// One push, ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Push {
    /// To a room.
    Room(PushToRoomRequest),
    /// To a user.
    User(PushToUserRequest),
    /// To everyone.
    Broadcast(BroadcastMessageRequest),
}

impl Push {
    /// Numbers one of several pushes, so that clients can see whether one is missing: `seq` counts from 1 for each `source`.
    /// What the caller said himself stays.
    pub(crate) fn number(&mut self, source: &str, number: u64) {
        let content = match self {
            Self::Room(push) => &mut push.content,
            Self::User(push) => &mut push.content,
            Self::Broadcast(push) => &mut push.content,
        };
        if let Some(content) = content.as_mut().filter(|content| !content.metadata.contains_key("seq")) {
            content.metadata.insert("seq".to_owned(), number.to_string());
            content.metadata.entry("source".to_owned()).or_insert_with(|| source.to_owned());
        }
    }

    /// After how many milliseconds the push manager answers at the latest.
    pub(crate) fn deadline_ms(&self) -> u32 {
        let given = match self {
            Self::Room(push) => push.deadline_ms,
            Self::User(push) => push.deadline_ms,
            Self::Broadcast(push) => push.deadline_ms,
        };
        if given == 0 { DEFAULT_DEADLINE_MS } else { given }
    }
}

impl Args {
    /// What the push is for, for people.
    pub(crate) fn target(&self) -> &str {
        let target = match self.action {
            Action::PushToRoom => &self.room,
            Action::PushToUser => &self.user,
            Action::Broadcast => &None,
        };
        target.as_deref().unwrap_or("everyone")
    }

    /// Where the push managers are; a comma too many is no address.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.address
            .iter()
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .collect()
    }

    /// The push that the flags describe; reads the payload.
    pub(crate) fn push(&self) -> Result<Push, SettingError> {
        self.check()?;
        let content = Some(MessageContent {
            r#type: self.message_type.into(),
            data: self.payload()?.into(),
            timestamp: 0,
            metadata: self.metadata.iter().cloned().collect::<HashMap<_, _>>(),
        });
        let deadline_ms = self.deadline_ms.unwrap_or(0);
        let report_mode = if self.no_report { ReportMode::None } else { ReportMode::Full }.into();
        let message_id = String::new();
        Ok(match self.action {
            Action::PushToRoom => Push::Room(PushToRoomRequest {
                room_id: self.room.clone().unwrap_or_default(),
                content,
                exclude_user_ids: self.exclude.clone(),
                message_id,
                deadline_ms,
                report_mode,
            }),
            Action::PushToUser => Push::User(PushToUserRequest {
                user_id: self.user.clone().unwrap_or_default(),
                content,
                message_id,
                deadline_ms,
                report_mode,
            }),
            Action::Broadcast => {
                Push::Broadcast(BroadcastMessageRequest { content, message_id, deadline_ms, report_mode })
            }
        })
    }

    /// What belongs together. A flag that would be ignored is refused: who excludes a user from a broadcast must
    /// not believe that it worked.
    fn check(&self) -> Result<(), SettingError> {
        let name = self.action.name();
        let needed = |flag: &str| Err(SettingError::key_only(flag, format!("is needed by --action {name}")));
        let senseless =
            |flag: &str| Err(SettingError::key_only(flag, format!("has no meaning for --action {name}")));
        let (room, user) = (self.action == Action::PushToRoom, self.action == Action::PushToUser);
        match () {
            () if room && self.room.is_none() => needed("--room"),
            () if user && self.user.is_none() => needed("--user"),
            () if !room && self.room.is_some() => senseless("--room"),
            () if !user && self.user.is_some() => senseless("--user"),
            () if !room && !self.exclude.is_empty() => senseless("--exclude"),
            () if self.message.is_some() && self.file.is_some() => {
                Err(SettingError::key_only("--file", "cannot stand beside --message: give one of them"))
            }
            () if self.message.is_none() && self.file.is_none() => {
                Err(SettingError::key_only("--message", "is needed, or --file"))
            }
            () => Ok(()),
        }
    }

    fn payload(&self) -> Result<Vec<u8>, SettingError> {
        let Some(path) = &self.file else {
            return Ok(self.message.clone().unwrap_or_default().into_bytes());
        };
        let wrong = |what: String| SettingError::new("--file", path.display(), what);
        let mut payload = Vec::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().lock().take(MAX_PAYLOAD_BYTES + 1).read_to_end(&mut payload)
        } else {
            std::fs::File::open(path)
                .and_then(|file| file.take(MAX_PAYLOAD_BYTES + 1).read_to_end(&mut payload))
        };
        match read {
            Err(error) => Err(wrong(format!("cannot be read: {error}"))),
            Ok(bytes) if bytes as u64 > MAX_PAYLOAD_BYTES => {
                Err(wrong(format!("is too large: at most {MAX_PAYLOAD_BYTES} bytes")))
            }
            Ok(_) => Ok(payload),
        }
    }
}

fn parse_type(text: &str) -> Result<MessageType, String> {
    MessageType::from_str_name(&text.to_ascii_uppercase())
        .ok_or_else(|| "give TEXT, AUDIO, VIDEO, TRANSLATION or SYSTEM".into())
}

fn parse_metadata(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("give key=value".into()),
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (0.001..=100_000.0).contains(rate));
    rate.ok_or_else(|| "give pushes a second, 0.001 to 100000".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Args, SettingError> {
        settings::parse_from(std::iter::once("biz").chain(args.split_whitespace()).map(Into::into))
    }

    fn push(args: &str) -> Push {
        parse(args).unwrap().push().unwrap()
    }

    /// The one line that a wrong command line gets.
    fn refused(args: &str) -> String {
        let line = parse(args).and_then(|args| args.push().map(drop)).unwrap_err().to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    }

    #[test]
    fn a_room_push_carries_all_flags() {
        let Push::Room(push) = push(
            "--action push-to-room --room r --message hi --type translation --exclude a,b --exclude c \
             --metadata k=v --metadata x=a=b --deadline-ms 250 --no-report",
        ) else {
            panic!("no room push")
        };
        assert_eq!((push.room_id.as_str(), push.deadline_ms), ("r", 250));
        assert_eq!(push.exclude_user_ids, ["a", "b", "c"]);
        assert_eq!(push.report_mode(), ReportMode::None);
        let content = push.content.unwrap();
        assert_eq!(content.r#type(), MessageType::Translation);
        assert_eq!(&content.data[..], b"hi");
        assert_eq!(content.metadata["k"], "v");
        assert_eq!(content.metadata["x"], "a=b");
    }

    #[test]
    fn several_pushes_are_numbered_and_the_callers_own_numbers_stay() {
        let metadata = |mut push: Push| {
            push.number("run-1", 7);
            let Push::Room(push) = push else { panic!("no room push") };
            push.content.unwrap().metadata
        };
        let numbered = metadata(push("--action push-to-room --room r --message hi"));
        assert_eq!((&numbered["seq"][..], &numbered["source"][..]), ("7", "run-1"));
        let own = metadata(push("--action push-to-room --room r --message hi --metadata seq=1"));
        assert_eq!((&own["seq"][..], own.contains_key("source")), ("1", false));
    }

    #[test]
    fn the_other_actions_become_their_requests() {
        let Push::User(user) = push("--action push-to-user --user u --message -x") else {
            panic!("no user push")
        };
        assert_eq!((user.user_id.as_str(), user.report_mode()), ("u", ReportMode::Full));
        assert_eq!(&user.content.unwrap().data[..], b"-x", "a message may begin with a dash");
        let Push::Broadcast(all) = push("--action broadcast --message x --type SYSTEM") else {
            panic!("no broadcast")
        };
        assert_eq!(all.content.unwrap().r#type(), MessageType::System);
    }

    #[test]
    fn what_is_missing_or_senseless_gets_one_line() {
        assert_eq!(
            refused("--action push-to-room --message x"),
            "--room: is needed by --action push-to-room"
        );
        assert_eq!(
            refused("--action push-to-user --message x"),
            "--user: is needed by --action push-to-user"
        );
        assert_eq!(refused("--action broadcast"), "--message: is needed, or --file");
        assert_eq!(
            refused("--action broadcast --message x --exclude u"),
            "--exclude: has no meaning for --action broadcast"
        );
        assert!(refused("--message x").starts_with("--action <ACTION>: is required"));
        assert!(refused("--action shout --message x").contains("push-to-room, push-to-user, broadcast"));
        let kind = refused("--action broadcast --message x --type smell");
        assert_eq!(kind, "--type = smell: give TEXT, AUDIO, VIDEO, TRANSLATION or SYSTEM");
        assert_eq!(refused("--action broadcast --message x --metadata k"), "--metadata = k: give key=value");
        assert!(refused("--action broadcast --message x --repeat 0").starts_with("--repeat = 0: "));
        assert!(refused("--action broadcast --message x --rate 0").starts_with("--rate = 0: "));
        assert!(
            refused("--action broadcast --message x --file y").starts_with("--file: cannot stand beside")
        );
        assert!(
            refused("--action broadcast --file /nowhere").starts_with("--file = /nowhere: cannot be read")
        );
    }

    #[test]
    fn the_payload_comes_from_a_file_as_it_is() {
        let path = std::env::temp_dir().join(format!("biz-payload-{}", std::process::id()));
        std::fs::write(&path, [0xff, 0x00, b'\n']).unwrap();
        let pushed = push(&format!("--action broadcast --file {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        let Push::Broadcast(pushed) = pushed else { panic!("no broadcast") };
        assert_eq!(&pushed.content.unwrap().data[..], [0xff, 0x00, b'\n']);
    }

    #[test]
    fn there_may_be_several_addresses() {
        let addresses =
            |flags: &str| parse(&format!("--action broadcast --message x {flags}")).unwrap().addresses();
        assert_eq!(addresses(""), ["localhost:50053"]);
        assert_eq!(addresses("--address push:1"), ["push:1"]);
        assert_eq!(addresses("--address a:1,http://b:2, --address c:3"), ["a:1", "http://b:2", "c:3"]);
        assert!(addresses("--address ,").is_empty());
    }

    #[test]
    fn a_push_without_a_deadline_has_the_push_managers() {
        assert_eq!(push("--action broadcast --message x").deadline_ms(), 1_000);
        assert_eq!(push("--action broadcast --message x --deadline-ms 70").deadline_ms(), 70);
    }
}
