//! Promise: the examples of a backend in Python, Node and Rust push to rooms, users and everyone, say what became of
//! each push in the same words, and push nothing twice when their push manager goes.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringcast_tests::grpc::Pusher;
use ringcast_tests::ports::free_port;
use ringcast_tests::{
    Kind, Member, Members, PushFrame, Service, System, SystemPlan, Variant, eventually, place,
};

const ROOM: &str = "room-001";

/// How long a program may run.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    Node,
    Rust,
}

const LANGUAGES: [Language; 3] = [Language::Python, Language::Node, Language::Rust];

/// The folder of a test: what is generated for Python, and what the programs print.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        let output = |flag: &str| format!("--{flag}={}", desk.0.path().display());
        let made = Command::new(examples_python())
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(place::root().join("proto"))
            .args([output("python_out"), output("grpc_python_out")])
            .arg("pubsub/push_manager.proto")
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        desk
    }

    /// Starts a program with these words against these push managers.
    fn start(&self, language: Language, addresses: &[String], words: &[&str]) -> Run {
        let examples = place::root().join("examples");
        let mut command = match language {
            Language::Python => {
                let mut command = Command::new(examples_python());
                command.arg(examples.join("python/push.py"));
                command
            }
            Language::Node => {
                let modules = examples.join("node/node_modules");
                assert!(modules.exists(), "{} is not there: run `cargo xtask setup`", modules.display());
                let mut command = Command::new("node");
                command.arg(examples.join("node/push.mjs"));
                command
            }
            Language::Rust => Command::new(place::binary("example-push")),
        };
        let printed = self.0.path().join("printed");
        // No proxy of the machine's, and no compiled files beside the sources.
        command.args(words).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("PYTHONPATH", self.0.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PUSH_MANAGER_ADDRESS", addresses.join(","));
        command.stdin(Stdio::null()).stdout(File::create(&printed).unwrap());
        // With these conditions it is only that the program ends with the test.
        Variant::IoUring.apply(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Run { child, printed }
    }

    /// Runs a program to its end: its exit code and what it printed.
    async fn run(&self, language: Language, addresses: &[String], words: &[&str]) -> (i32, Vec<String>) {
        self.start(language, addresses, words).end().await
    }
}

struct Run {
    child: Child,
    printed: PathBuf,
}

impl Run {
    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    async fn end(mut self) -> (i32, Vec<String>) {
        let status =
            eventually("the program ends", TIMEOUT, async || self.child.try_wait().unwrap().ok_or("it runs"))
                .await;
        let printed = std::fs::read_to_string(&self.printed).unwrap();
        (status.code().expect("an exit code"), printed.lines().map(str::to_owned).collect())
    }
}

/// The Python that has the packages of the example.
fn examples_python() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| place::root().join("target"), PathBuf::from);
    let python = target.join("examples-venv/bin/python");
    assert!(python.exists(), "{} is not there: run `cargo xtask setup`", python.display());
    python
}

/// What a member gets next, as far as the examples fill it in.
async fn next(member: &mut Member) -> (String, String, String, String) {
    let PushFrame { kind, room_id, user_id, content, .. } = member.push().await.unwrap();
    (kind, room_id, user_id, String::from_utf8(content).unwrap())
}

fn frame(kind: &str, room: &str, user: &str, content: &str) -> (String, String, String, String) {
    (kind.into(), room.into(), user.into(), content.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_language_pushes_and_says_what_became_of_it() {
    const STREAMED: usize = 40;
    let (desk, system) = (Desk::new(), System::start(SystemPlan::nodes(2)).await);
    system.pusher().await;
    let mut members = Members::default();
    let mut alice = members.join(Kind::Tungstenite, system.nodes[0].http, "user-001", ROOM).await;
    let mut bob = members.join(Kind::Python, system.nodes[1].http, "user-002", ROOM).await;
    let mut carol = members.join(Kind::Node, system.nodes[1].http, "user-003", "elsewhere").await;
    // One of the two is not there, and may be asked first.
    let addresses = [format!("127.0.0.1:{}", free_port()), system.push.grpc.to_string()];
    for language in LANGUAGES {
        let (code, mut printed) =
            desk.run(language, &addresses, &[ROOM, "user-001", &STREAMED.to_string()]).await;
        assert_eq!(code, 0, "{language:?}: {printed:?}");
        let streamed: BTreeSet<String> = printed.split_off(3).into_iter().collect();
        let calls = [
            "room room-001: delivered; members 2, written 2",
            "user user-001: delivered; members 1, written 1",
            "everyone: delivered; members 3, written 3",
        ];
        assert_eq!(printed, calls, "{language:?}");
        let expected = (1..=STREAMED).map(|n| format!("stream {n}: delivered; members 2, written 2"));
        assert_eq!(streamed, expected.collect::<BTreeSet<_>>(), "{language:?}");

        for member in [&mut alice, &mut bob] {
            assert_eq!(next(member).await, frame("text", ROOM, "", "Hello everyone!"), "{language:?}");
        }
        let translation = alice.push().await.unwrap();
        assert_eq!((translation.kind.as_str(), translation.user_id.as_str()), ("translation", "user-001"));
        assert_eq!(translation.content, "你好！".as_bytes());
        assert_eq!(translation.metadata.get("source_language").map(String::as_str), Some("en"));
        assert_eq!(translation.metadata.get("target_language").map(String::as_str), Some("zh"));
        for member in [&mut alice, &mut bob, &mut carol] {
            assert_eq!(next(member).await, frame("system", "", "", "System announcement"), "{language:?}");
        }
        for member in [&mut alice, &mut bob] {
            for tick in 1..=STREAMED {
                let expected = frame("text", ROOM, "", &format!("tick {tick}"));
                assert_eq!(next(member).await, expected, "{language:?}, {}: in order", member.user);
            }
        }
    }
    // What is sent last comes last: nothing else is on its way to anybody.
    system.pusher().await.all(b"fence", 5000).await.unwrap();
    for member in [&mut alice, &mut bob, &mut carol] {
        assert_eq!(next(member).await, frame("text", "", "", "fence"), "{}", member.user);
        assert_eq!(member.unread(), [], "{}", member.user);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_arrive_is_told_by_line_and_exit_code() {
    let (desk, system) = (Desk::new(), System::start(SystemPlan::nodes(1)).await);
    system.pusher().await;
    let served = [system.push.grpc.to_string()];
    let nobody = [format!("127.0.0.1:{}", free_port())];
    let long = "x".repeat(65);
    for language in LANGUAGES {
        let (code, printed) = desk.run(language, &served, &[ROOM, "user-001", "1"]).await;
        let expected = [
            "room room-001: not delivered (room unknown); members 0",
            "user user-001: not delivered (user offline); members 1, offline 1",
            "everyone: not delivered (nobody connected); members 0",
            "stream 1: not delivered (room unknown); members 0",
        ];
        assert_eq!((code, printed), (1, expected.map(str::to_owned).to_vec()), "{language:?}");

        let (code, printed) = desk.run(language, &served, &[long.as_str(), "user-001", "1"]).await;
        assert_eq!(code, 3, "{language:?}: {printed:?}");
        for (line, what) in [(0, format!("room {long}")), (3, "stream 1".to_owned())] {
            let refused = format!("{what}: refused INVALID_ARGUMENT ROOM_ID_INVALID; room_id ");
            assert!(printed[line].starts_with(&refused), "{language:?}: {}", printed[line]);
        }

        let (code, printed) = desk.run(language, &nobody, &[ROOM, "user-001", "1"]).await;
        assert_eq!(code, 4, "{language:?}: {printed:?}");
        assert!(
            printed.iter().all(|line| line.ends_with(": unreachable; nothing was pushed")),
            "{language:?}: {printed:?}"
        );
        assert_eq!(printed.len(), 4, "{language:?}: {printed:?}");

        assert_eq!(desk.run(language, &served, &[ROOM, "user-001", "many"]).await.0, 2, "{language:?}");
        assert_eq!(desk.run(language, &[",".into()], &[]).await.0, 2, "{language:?}");
    }
}

/// A push manager beside that of the system, once it has its routes.
async fn push_manager(folder: &Path, system: &System, id: &str) -> Service {
    let (grpc, metrics) = (free_port(), free_port());
    let config = format!(
        "push:\n  id: {id}\n  grpc_port: {grpc}\n  metrics_port: {metrics}\n  controller_address: '{}'\n",
        system.control.grpc
    );
    let service = Service::launch(folder, "push", id, &config, [grpc, metrics, 0], |_| {});
    eventually("the push manager has its routes", TIMEOUT, async || {
        let pusher = Pusher::connect(service.grpc).await.map_err(|error| error.to_string())?;
        pusher.user("nobody-is-called-so", b"?").await.map(drop).map_err(|status| status.to_string())
    })
    .await;
    service
}

/// The push manager that holds the program's stream.
async fn holder(services: &mut [Service; 2]) -> &mut Service {
    let place = eventually("a stream is open", TIMEOUT, async || {
        let open = |service: &Service| service.metric("ringcast_push_streams").is_ok_and(|open| open > 0.0);
        services.iter().position(open).ok_or("none yet")
    })
    .await;
    &mut services[place]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_manager_that_is_stopped_loses_no_push_and_doubles_none() {
    let (desk, system) = (Desk::new(), System::start(SystemPlan::nodes(1)).await);
    let folder = tempfile::tempdir().unwrap();
    let mut members = Members::default();
    let mut alice = members.join(Kind::Tungstenite, system.nodes[0].http, "user-001", ROOM).await;
    for (number, language) in LANGUAGES.into_iter().enumerate() {
        let mut services = [
            push_manager(folder.path(), &system, &format!("first-{number}")).await,
            push_manager(folder.path(), &system, &format!("second-{number}")).await,
        ];
        let addresses = [services[0].grpc.to_string(), services[1].grpc.to_string()];
        let (streamed, words) = (20_000, [ROOM, "user-001", "20000"]);
        let mut run = desk.start(language, &addresses, &words);
        let stopped = holder(&mut services).await;
        assert!(run.is_running(), "{language:?}: it was to be stopped in the midst");
        let status = stopped.terminate(TIMEOUT);
        assert!(status.success(), "{language:?}: {status}");
        let (code, printed) = run.end().await;
        // It answers for all that it took and says that it stops: whatever it did not take goes to the other one.
        let odd: Vec<&String> = printed.iter().filter(|line| !line.contains(": delivered; ")).collect();
        assert_eq!(odd, Vec::<&String>::new(), "{language:?}");
        assert_eq!((code, printed.len()), (0, streamed + 3), "{language:?}");

        system.pusher().await.user("user-001", b"the end").await.unwrap();
        let mut ticks = BTreeSet::new();
        loop {
            let content = String::from_utf8(alice.push().await.unwrap().content).unwrap();
            if content == "the end" {
                break;
            }
            assert!(ticks.insert(content.clone()), "{language:?}: {content} came twice");
        }
        assert_eq!(ticks.len(), streamed + 3, "{language:?}");
        assert_eq!(alice.unread(), [], "{language:?}: more than was pushed");
    }
}
