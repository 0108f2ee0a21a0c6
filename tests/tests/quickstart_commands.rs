//! Promise: every command block of the quick start that needs no MySQL, Redis, etcd or Jaeger works as it stands,
//! with `go run` standing for our binaries and `grpcurl` for a client in Python.
//!
//! The document is read, its blocks are run in their order, each in the folder that the one before left. It names
//! fixed ports, so where the test may, it runs in a network of its own.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringcast_tests::{Kind, Member, Members, Process, Variant, enter_own_network, eventually, place};

const DOCUMENT: &str = include_str!("../quickstart.zh.md");

/// Blocks with one of these need what is not part of this test.
const NOT_HERE: [&str; 4] = ["docker ", "etcdctl", "mysql ", "jaeger"];

/// How long a block's commands may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What `go` stands for: the binary that belongs to the folder of the quick start.
const GO: &str = r#"#!/bin/bash
shift
case "$1" in
  *example_client.go) shift; exec "$BIN/biz" "$@" ;;
  .) case "$(basename "$PWD")" in
       controller-manager) exec "$BIN/control" ;;
       connect-node) exec "$BIN/connect-uring" ;;
       push-manager) exec "$BIN/push" ;;
     esac ;;
esac
echo "go run $*: unknown in $PWD" >&2
exit 64
"#;

const GRPCURL: &str = "#!/bin/bash\nexec \"$PYTHON\" \"$GRPC_SCRIPT\" \"$@\"\n";

/// A desktop's opener: the page has to be there.
const OPEN: &str = "#!/bin/bash\ngrep -qi '<html' \"$1\"\n";

struct Desk {
    folder: tempfile::TempDir,
    /// Where the last block left the shell.
    cwd: PathBuf,
    running: Vec<Process>,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        for part in ["controller-manager", "connect-node", "push-manager", "biz-server"] {
            std::fs::create_dir_all(root.join("examples/pubsub").join(part)).unwrap();
        }
        std::fs::create_dir(root.join("shims")).unwrap();
        for (name, text) in [("go", GO), ("grpcurl", GRPCURL), ("open", OPEN), ("xdg-open", OPEN)] {
            let path = root.join("shims").join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        Self { folder, cwd: root, running: Vec::new() }
    }

    fn command(&self, script: &str, cwd: &Path) -> Command {
        let shims = self.folder.path().join("shims");
        let mut command = Command::new("bash");
        command.arg("-ec").arg(script).current_dir(cwd).env_clear();
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", shims.display()));
        command.env("BIN", place::binary("control").parent().unwrap());
        let variant = Variant::from_env();
        // Another user could not look into the folder that the scripts lie in.
        if !variant.drops_root() {
            variant.apply(&mut command);
        }
        command
            .env("PYTHON", place::python())
            .env("GRPC_SCRIPT", place::client_script("reflection_client.py"));
        command
    }

    /// Where a block begins: at the top where it changes the folder first, else where the last one was left.
    fn enter(&mut self, block: &str) {
        let top = self.folder.path().to_owned();
        if let Some(folder) = block.lines().find_map(|line| line.strip_prefix("cd ")) {
            self.cwd = top.join(folder);
        } else if block.contains("examples/") {
            self.cwd = top;
        }
    }

    /// Runs a block to its end and gives what it printed.
    fn run(&mut self, block: &str) -> String {
        self.enter(block);
        let script: String =
            block.lines().filter(|line| !line.starts_with("cd ")).map(|line| format!("{line}\n")).collect();
        let mut process = Process::start("a block of the quick start", &mut self.command(&script, &self.cwd));
        let status = process.wait(TIMEOUT);
        let (out, err) = process.output();
        assert!(status.success(), "{block}\n{status}\n{out}\n{err}");
        out
    }

    /// Starts a block whose last command serves until it is ended. Where it shows several ways to start the same
    /// service, each is tried, and the last one stays.
    async fn serve(&mut self, block: &str, ready: &str) {
        self.enter(block);
        let ways: Vec<&str> = block
            .split("\n\n")
            .filter(|way| way.contains("go run .") || way.contains("http.server"))
            .collect();
        assert!(!ways.is_empty(), "{block}");
        let mut running = None;
        for way in ways {
            drop(running.take());
            let script: String =
                way.lines().filter(|line| !line.starts_with("cd ")).map(|line| format!("{line}\n")).collect();
            let mut process = Process::start(way, &mut self.command(&script, &self.cwd));
            eventually(&format!("{way}: {ready}"), Duration::from_secs(20), async || {
                if let Some(status) = process.exited() {
                    panic!("{way}: {status}: {}", process.stderr());
                }
                let probe = self.command(ready, &self.cwd).output().unwrap();
                if probe.status.success() { Ok(()) } else { Err(format!("{probe:?}")) }
            })
            .await;
            running = Some(process);
        }
        self.running.extend(running);
    }
}

/// The blocks of shell commands that belong here, in their order.
fn blocks() -> Vec<&'static str> {
    let mut blocks = Vec::new();
    let mut rest = DOCUMENT;
    while let Some((_, after)) = rest.split_once("```bash\n") {
        let (block, after) = after.split_once("```").expect("every block ends");
        let commands = block.lines().any(|line| !line.is_empty() && !line.starts_with('#'));
        if commands && !NOT_HERE.iter().any(|word| block.contains(word)) {
            blocks.push(block);
        }
        rest = after;
    }
    blocks
}

#[test]
fn every_command_of_the_quick_start_works() {
    enter_own_network();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(follow_the_document());
}

async fn follow_the_document() {
    let blocks = blocks();
    assert_eq!(blocks.len(), 16, "the document has changed: {blocks:#?}");
    let mut desk = Desk::new();

    desk.serve(blocks[0], "grpcurl -plaintext localhost:50051 list").await;
    let printed = desk.run(blocks[1]);
    assert!(printed.contains("pubsub.ControllerService") && printed.contains("total_rooms"), "{printed}");
    for (block, port) in blocks[2..5].iter().zip(8080..) {
        desk.serve(block, &format!("curl -sf http://localhost:{port}/health")).await;
    }
    let printed = desk.run(blocks[5]);
    for node in ["connect-node-1", "connect-node-2", "connect-node-3"] {
        assert!(printed.contains(node), "{printed}");
    }
    assert!(printed.contains("# TYPE "), "the metrics of node 1: {printed}");
    desk.serve(blocks[6], "grpcurl -plaintext localhost:50053 list").await;
    assert!(desk.run(blocks[7]).contains("pubsub.PushManagerService"));
    let page = desk.command(
        "curl -sf http://localhost:8080/client.html > client.html",
        &desk.cwd.join("../connect-node"),
    );
    assert!({ page }.status().unwrap().success(), "the node serves the page");
    desk.run(blocks[8]);
    desk.serve(blocks[9], "curl -sf http://localhost:8000/client.html").await;

    let mut people = join_people().await;
    desk.run(blocks[10]);
    expect(
        &mut people,
        &[("Hello everyone!", "text", 3), ("Hello Alice!", "text", 1), ("System announcement", "system", 3)],
    )
    .await;
    let printed = desk.run(blocks[11]);
    assert!(printed.contains("user-001") && printed.contains("user-003"), "{printed}");
    desk.run(blocks[12]);
    let pushes = [
        ("Hello Room!", "text", 3),
        ("Hi Alice!", "text", 1),
        ("audio_data_base64...", "audio", 3),
        ("你好！", "translation", 1),
    ];
    expect(&mut people, &pushes).await;
    assert_eq!(desk.run(blocks[13]).matches("\"node_id\":").count(), 3);
    desk.run(blocks[14]);
    let printed = desk.run(blocks[15]);
    assert!(printed.contains("connect-node-1") && printed.contains("room-001"), "{printed}");
    assert_metrics_are_served(&desk);
    a_node_goes_offline(&mut desk, &mut people).await;
}

/// Fault test 1: Ctrl+C on node 1. Alice's connection ends, the others' do not; she connects to another node, and
/// pushes find her there.
async fn a_node_goes_offline(desk: &mut Desk, people: &mut [Member]) {
    let node = desk.running.iter().position(|process| process.name().contains("connect-node-1")).unwrap();
    desk.running[node].signal_group(libc::SIGINT);
    assert_eq!(people[0].closed().await.unwrap().0, 1012);
    people[0] = Members::default()
        .join(Kind::Tungstenite, ([127, 0, 0, 1], 8081).into(), "user-001", "room-001")
        .await;
    desk.running[node].wait(TIMEOUT);
    desk.run("go run biz-server/example_client.go --action push-to-user --user user-001 --message again\n");
    assert_eq!(people[0].push().await.unwrap().content, b"again");
    desk.run("go run biz-server/example_client.go --action push-to-room --room room-001 --message all\n");
    expect(people, &[("all", "text", 3)]).await;
}

/// Alice, Bob and Charlie on their three nodes.
async fn join_people() -> Vec<Member> {
    let mut members = Members::default();
    let mut people = Vec::new();
    for (user, port) in [("user-001", 8080), ("user-002", 8081), ("user-003", 8082)] {
        people.push(members.join(Kind::Tungstenite, ([127, 0, 0, 1], port).into(), user, "room-001").await);
    }
    people
}

/// Each push reached the first so many people, in this order.
async fn expect(people: &mut [Member], pushes: &[(&str, &str, usize)]) {
    for (place, member) in people.iter_mut().enumerate() {
        for (text, kind, _) in pushes.iter().filter(|(_, _, count)| place < *count) {
            let frame = member.push().await.unwrap();
            assert_eq!(
                (String::from_utf8_lossy(&frame.content).as_ref(), frame.kind.as_str()),
                (*text, *kind)
            );
        }
        assert_eq!(member.unread(), []);
    }
}

/// Section 5 of the document: every service has its metrics where it says.
fn assert_metrics_are_served(desk: &Desk) {
    for port in [9090, 9091, 9092, 9093, 9094] {
        let script = format!("curl -sf http://localhost:{port}/metrics | grep -q '^# TYPE '");
        assert!(desk.command(&script, &desk.cwd).status().unwrap().success(), "the metrics on port {port}");
    }
}
