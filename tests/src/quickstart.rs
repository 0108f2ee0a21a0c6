//! The quick start as a text whose commands are run: `go run` stands for our binaries, and scripts in a folder of their own
//! stand for what a test machine does not have.
//!
//! Owns: the shell that blocks are run in, what stands for what. Must not: judge what a block printed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Kind, Member, Members, Process, Variant, eventually, place};

const DOCUMENT: &str = include_str!("../quickstart.zh.md");

/// How long a block's commands may take.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What `go` stands for: the binary that belongs to the folder of the quick start. The document's one file of settings
/// lies a folder above the services'.
const GO: &str = r#"#!/bin/bash
shift
config=()
if [ -e ../config.yaml ]; then config=(--config ../config.yaml); fi
case "$1" in
  *example_client.go) shift; exec "$BIN/biz" "$@" ;;
  .) case "$(basename "$PWD")" in
       controller-manager) exec "$BIN/control" ${config[@]+"${config[@]}"} ;;
       connect-node) exec "$BIN/connect-uring" ${config[@]+"${config[@]}"} ;;
       push-manager) exec "$BIN/push" ${config[@]+"${config[@]}"} ;;
     esac ;;
esac
echo "go run $*: unknown in $PWD" >&2
exit 64
"#;

const GRPCURL: &str = "#!/bin/bash\nexec \"$PYTHON\" \"$GRPC_SCRIPT\" \"$@\"\n";

/// A desktop's opener: the page has to be there.
const OPEN: &str = "#!/bin/bash\ngrep -qi '<html' \"$1\"\n";

/// The client of MySQL; `localhost` means a socket to it, which the server in its container does not have.
const MYSQL: &str = "#!/bin/bash\nexec mariadb --no-defaults --protocol=tcp --port=3306 \"$@\"\n";

/// A person's desk: the folder of the document's project, and a shell.
pub struct Desk {
    folder: tempfile::TempDir,
    /// Where the last block left the shell.
    pub cwd: PathBuf,
    /// The services that have been started.
    pub running: Vec<Process>,
    environment: Vec<(String, String)>,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// With nothing started.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().to_owned();
        for part in ["controller-manager", "connect-node", "push-manager", "biz-server"] {
            std::fs::create_dir_all(root.join("examples/pubsub").join(part)).expect("a folder in our own");
        }
        let page = root.join("examples/pubsub/connect-node/client.html");
        std::fs::copy(place::root().join("web/client.html"), page).expect("the page of this project");
        let shims = root.join("shims");
        std::fs::create_dir(&shims).expect("a folder in our own");
        let docker =
            std::fs::read_to_string(place::client_script("quickstart/docker")).expect("our own script");
        let docker = docker
            .replace("$(dirname \"$0\")/..", &place::root().join("tests/clients").display().to_string());
        for (name, text) in [
            ("go", GO),
            ("grpcurl", GRPCURL),
            ("open", OPEN),
            ("xdg-open", OPEN),
            ("mysql", MYSQL),
            ("docker", &docker),
        ] {
            let path = shims.join(name);
            std::fs::write(&path, text).expect("a file in our own folder");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, mode).expect("our own file");
        }
        std::fs::create_dir(root.join("docker")).expect("a folder in our own");
        Self { folder, cwd: root, running: Vec::new(), environment: Vec::new() }
    }

    /// One more variable of all that is run.
    pub fn variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// The folder that the document calls `examples/pubsub`.
    pub fn project(&self) -> PathBuf {
        self.folder.path().join("examples/pubsub")
    }

    /// What stands for docker keeps the output of a server here.
    pub fn docker_log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("docker").join(name).join("log")).unwrap_or_default()
    }

    /// A command of the document.
    pub fn command(&self, script: &str, cwd: &Path) -> Command {
        let shims = self.folder.path().join("shims");
        let mut command = Command::new("bash");
        command.arg("-ec").arg(script).current_dir(cwd).env_clear();
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", shims.display()));
        command.env("BIN", place::binary("control").parent().expect("a binary lies in a folder"));
        command.env("DOCKER_FOLDER", self.folder.path().join("docker"));
        let variant = Variant::from_env();
        // Another user could not look into the folder that the scripts lie in.
        if !variant.drops_root() {
            variant.apply(&mut command);
        }
        command
            .env("PYTHON", place::python())
            .env("GRPC_SCRIPT", place::client_script("reflection_client.py"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
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
    pub fn run(&mut self, block: &str) -> String {
        let (success, out, err) = self.try_run(block);
        assert!(success, "{block}\n{out}\n{err}");
        out
    }

    /// Runs a block to its end: whether it succeeded, and what it printed.
    pub fn try_run(&mut self, block: &str) -> (bool, String, String) {
        self.enter(block);
        let script: String =
            block.lines().filter(|line| !line.starts_with("cd ")).map(|line| format!("{line}\n")).collect();
        let mut process = Process::start("a block of the quick start", &mut self.command(&script, &self.cwd));
        let status = process.wait(TIMEOUT);
        let (out, err) = process.output();
        (status.success(), out, err)
    }

    /// Starts a block whose last command serves until it is ended. Where it shows several ways to start the same
    /// service, each is tried, and the last one stays.
    pub async fn serve(&mut self, block: &str, ready: &str) {
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
            eventually(&format!("{way}: {ready}"), Duration::from_secs(30), async || {
                if let Some(status) = process.exited() {
                    panic!("{way}: {status}: {}", process.stderr());
                }
                let probe = self.command(ready, &self.cwd).output().expect("bash is there");
                if probe.status.success() { Ok(()) } else { Err(format!("{probe:?}")) }
            })
            .await;
            running = Some(process);
        }
        self.running.extend(running);
    }

    /// The service whose start holds this word.
    pub fn service(&mut self, word: &str) -> &mut Process {
        let found = self.running.iter_mut().find(|process| process.name().contains(word));
        found.unwrap_or_else(|| panic!("{word} was not started"))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for name in ["jaeger", "etcd", "redis", "mysql"] {
            let stop = self.command(&format!("docker stop {name}"), self.folder.path()).status();
            // Whatever does not end now ends by itself.
            let _ = stop;
        }
    }
}

/// The blocks of shell commands, in their order; not those that are only remarks.
pub fn blocks() -> Vec<&'static str> {
    let mut blocks = Vec::new();
    let mut rest = DOCUMENT;
    while let Some((_, after)) = rest.split_once("```bash\n") {
        let (block, after) = after.split_once("```").expect("every block ends");
        if block.lines().any(|line| !line.is_empty() && !line.starts_with('#')) {
            blocks.push(block);
        }
        rest = after;
    }
    blocks
}

/// The document's file of settings.
pub fn config() -> &'static str {
    let (_, after) = DOCUMENT.split_once("```yaml\n").expect("the document has settings");
    after.split_once("```").expect("every block ends").0
}

/// Alice, Bob and Charlie on their three nodes.
pub async fn join_people() -> Vec<Member> {
    let mut members = Members::default();
    let mut people = Vec::new();
    for (user, port) in [("user-001", 8080), ("user-002", 8081), ("user-003", 8082)] {
        people.push(members.join(Kind::Tungstenite, ([127, 0, 0, 1], port).into(), user, "room-001").await);
    }
    people
}

/// Each push reached the first so many people, in this order.
pub async fn expect(people: &mut [Member], pushes: &[(&str, &str, usize)]) {
    for (place, member) in people.iter_mut().enumerate() {
        for (text, kind, _) in pushes.iter().filter(|(_, _, count)| place < *count) {
            let frame = member.push().await.expect("a push");
            assert_eq!(
                (String::from_utf8_lossy(&frame.content).as_ref(), frame.kind.as_str()),
                (*text, *kind)
            );
        }
        assert_eq!(member.unread(), []);
    }
}
