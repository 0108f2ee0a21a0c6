//! The rules of style that no compiler knows; a ratchet: `cargo test` runs it too.
//!
//! Owns: the rules and their wording. Must not: change a file.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result};

/// The longest source file, in lines.
const MAX_LINES: usize = 600;

/// Folders that hold nothing of ours.
const FOREIGN: [&str; 5] = [".git", "target", "node_modules", ".venv", "ringcast-data"];

/// Names that say nothing about what a file holds.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "helpers", "common", "manager", "impls"];

/// What the pure core does not have.
const NOT_IN_CORE: [&str; 16] = [
    "Instant::now",
    "SystemTime",
    "std::thread",
    "std::net",
    "std::sync::Mutex",
    "RwLock",
    "async fn",
    "async move",
    "unsafe {",
    "unsafe fn",
    "tokio",
    "monoio",
    "libc::",
    "std::fs",
    "fastrand",
    "rand::",
];

/// The files that may name monoio: the runtime of a shard's loop is the part most likely to be changed one day.
const MAY_NAME_MONOIO: [&str; 5] =
    ["acceptor.rs", "shard_loop.rs", "bridge.rs", "main.rs", "kernel_check.rs"];

/// Files that run on a shard's thread: a waker of another runtime would write to a descriptor number of another
/// table.
const ON_SHARDS: [&str; 8] = [
    "acceptor.rs",
    "shard_loop.rs",
    "shard_driver.rs",
    "shard_intake.rs",
    "socket_table.rs",
    "plane.rs",
    "plane_uring.rs",
    "plane_epoll.rs",
];

/// Endings by which a word in a document is taken for a file of ours.
const FILE_ENDINGS: [&str; 10] =
    [".rs", ".md", ".toml", ".yaml", ".proto", ".sh", ".py", ".mjs", ".html", ".sql"];

/// What breaks a rule, one line each; empty: nothing does.
pub(crate) fn complaints(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    gather(root, root, &mut files)?;
    let mut found = Vec::new();
    for file in &files {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        if !matches!(ending, "rs" | "md") {
            continue;
        }
        let text =
            fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {}", file.display()))?;
        if ending == "rs" {
            source(file, &text, &mut found);
        } else if !file.starts_with("tests") {
            // What lies with the tests is given to them, not written about this project.
            document(file, &text, &files, &mut found);
        }
    }
    Ok(found)
}

/// All files under `folder`, as paths from `root`.
fn gather(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !FOREIGN.contains(&name.as_ref()) {
                gather(root, &path, files)?;
            }
        } else {
            files.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
        }
    }
    Ok(())
}

fn source(file: &Path, text: &str, found: &mut Vec<String>) {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut complain = |line: usize, what: String| found.push(format!("{}:{line}: {what}", file.display()));
    let lines = text.lines().count();
    if lines > MAX_LINES {
        complain(lines, format!("{lines} lines; does it still hold one concept? At most {MAX_LINES}"));
    }
    if EMPTY_NAMES.iter().any(|empty| name == format!("{empty}.rs")) {
        complain(1, "the name says nothing about what the file holds".into());
    }
    let core = file.starts_with("connect-uring/core/src");
    let node = file.starts_with("connect-uring/src");
    // This file names what it bans.
    let own = file.ends_with("xtask/src/tidy.rs");
    // Tests come last in a file, and may roll dice.
    let tests_from = text.lines().position(|line| line == "#[cfg(test)]").unwrap_or(usize::MAX);
    for (number, line) in text.lines().enumerate().filter(|_| !own) {
        let code = line.split("//").next().unwrap_or_default();
        let in_core = core && number < tests_from;
        let number = number + 1;
        if in_core && let Some(word) = NOT_IN_CORE.iter().find(|word| code.contains(**word)) {
            complain(
                number,
                format!(
                    "`{word}` in the core, which has no socket, clock, thread, lock, async, chance or unsafe"
                ),
            );
        }
        if has_word(code, "monoio") && !(node && MAY_NAME_MONOIO.contains(&name.as_ref())) {
            complain(number, format!("monoio may be named only in {}", MAY_NAME_MONOIO.join(", ")));
        }
        if node && ON_SHARDS.contains(&name.as_ref()) && has_word(code, "tokio") {
            complain(number, "tokio in a file that runs on a shard".into());
        }
        if code.trim() == "#[ignore]" {
            complain(number, "an ignored test says why: #[ignore = \"...\"]".into());
        }
    }
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

/// Every file that a document names in `code` or in a link is there.
fn document(file: &Path, text: &str, files: &[PathBuf], found: &mut Vec<String>) {
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut in_block = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let spans = line.split('`').skip(1).step_by(2);
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for named in spans.chain(links).filter(|named| names_a_file(named)) {
            if !is_there(named, folder, files) {
                found.push(format!("{}:{}: names {named}, which is not there", file.display(), number + 1));
            }
        }
    }
}

fn names_a_file(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let ending = FILE_ENDINGS.iter().any(|ending| word.ends_with(ending) && word.len() > ending.len());
    let folder = word.ends_with('/') && !FOREIGN.contains(&word.trim_matches(['.', '/']));
    plain && (ending || folder) && !word.starts_with('/')
}

/// A path counts from the document or from the root; a bare name may stand anywhere.
fn is_there(named: &str, folder: &Path, files: &[PathBuf]) -> bool {
    let candidates = [plain(&folder.join(named)), plain(Path::new(named))];
    files.iter().any(|file| {
        candidates.iter().any(|path| *file == *path || (named.ends_with('/') && file.starts_with(path)))
            || (!named.contains('/') && file.file_name().is_some_and(|name| name == named))
    })
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let complaints = complaints(root).unwrap();
        assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
    }

    fn of_source(file: &str, text: &str) -> usize {
        let mut found = Vec::new();
        source(Path::new(file), text, &mut found);
        found.len()
    }

    #[test]
    fn each_rule_for_sources_bites() {
        let core = "connect-uring/core/src/shard.rs";
        assert_eq!(of_source(core, "let now = Instant::now();"), 1);
        assert_eq!(of_source(core, "// never Instant::now\nlet later = now + 5;"), 0);
        assert_eq!(of_source(core, "#[cfg(test)]\nmod tests { use fastrand; }"), 0);
        assert_eq!(of_source("push/src/routing.rs", "let now = Instant::now();"), 0);
        assert_eq!(of_source("connect-uring/src/plane.rs", "use monoio::time;"), 1);
        assert_eq!(of_source("connect-uring/src/acceptor.rs", "use monoio::time;"), 0);
        assert_eq!(of_source("connect-uring/src/acceptor.rs", "use tokio::sync::mpsc;"), 1);
        assert_eq!(of_source("connect-uring/src/http.rs", "use tokio::sync::mpsc;"), 0);
        assert_eq!(of_source("push/src/lib.rs", "    #[ignore]"), 1);
        assert_eq!(of_source("push/src/lib.rs", "    #[ignore = \"nightly: an hour\"]"), 0);
        assert_eq!(of_source("push/src/utils.rs", ""), 1);
        assert_eq!(of_source("push/src/lib.rs", &"\n".repeat(MAX_LINES)), 0);
        assert_eq!(of_source("push/src/lib.rs", &"\n".repeat(MAX_LINES + 1)), 1);
    }

    #[test]
    fn a_document_names_only_what_is_there() {
        let files = ["push/src/routing.rs", "README.md", "docs/more.md"].map(PathBuf::from);
        let complaints = |file: &str, text: &str| {
            let mut found = Vec::new();
            document(Path::new(file), text, &files, &mut found);
            found.len()
        };
        assert_eq!(complaints("README.md", "`routing.rs` in `push/src/`, see [more](docs/more.md#part)"), 0);
        assert_eq!(
            complaints("docs/more.md", "[back](../README.md) [this](more.md) `/etc/fstab.d/` `a b.rs`"),
            0
        );
        assert_eq!(complaints("README.md", "`router.rs`"), 1);
        assert_eq!(complaints("README.md", "[gone](docs/gone.md)"), 1);
        assert_eq!(complaints("README.md", "`pusher/`"), 1);
        assert_eq!(complaints("README.md", "```sh\n`router.rs`\n```\n`ringcast-data/` and `target/`"), 0);
    }
}
