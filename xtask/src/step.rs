//! One command of a task: announced, bounded in time, ended with all its children.
//!
//! Owns: the child's process group. Must not: know what the command is for.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How long an asked process group has to end before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// The process group that Ctrl+C is handed on to; 0: none.
static GROUP: AtomicI32 = AtomicI32::new(0);

/// Ctrl+C ends children only, for there is something to be put back when they have ended.
static HELD: AtomicBool = AtomicBool::new(false);

/// While this lives, Ctrl+C ends the child that runs, and this program goes on to put things back.
pub(crate) struct HeldInterrupts;

impl HeldInterrupts {
    /// From now on.
    pub(crate) fn hold() -> Self {
        HELD.store(true, Ordering::SeqCst);
        hand_on_interrupts();
        Self
    }
}

impl Drop for HeldInterrupts {
    fn drop(&mut self) {
        HELD.store(false, Ordering::SeqCst);
    }
}

/// A command that has not been started.
pub(crate) struct Step {
    command: Command,
    shown: String,
    limit: Duration,
}

impl Step {
    pub(crate) fn new(program: &str, args: &[impl AsRef<str>]) -> Self {
        let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new(program);
        command.args(&args);
        let shown = std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ");
        Self { command, shown, limit: Duration::from_secs(10 * 60) }
    }

    /// How long it may take.
    pub(crate) fn minutes(mut self, minutes: u64) -> Self {
        self.limit = Duration::from_secs(minutes * 60);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self.shown = format!("{name}={value} {}", self.shown);
        self
    }

    /// What to show instead of the whole command.
    pub(crate) fn called(mut self, shown: &str) -> Self {
        shown.clone_into(&mut self.shown);
        self
    }

    /// Runs it in `folder`; an error where it fails or takes too long.
    pub(crate) fn run(self, folder: &Path) -> Result<()> {
        let shown = self.shown.clone();
        if !self.run_lines(folder, |_| {})? {
            bail!("`{shown}` failed");
        }
        Ok(())
    }

    /// Runs it in `folder`, passes its output through, and shows each line of standard output to `see` as well.
    /// Says whether it succeeded; an error where it cannot be run or takes too long.
    pub(crate) fn run_lines(mut self, folder: &Path, mut see: impl FnMut(&str)) -> Result<bool> {
        println!("==> {}", self.shown);
        self.command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut child = self.command.spawn().with_context(|| format!("cannot run `{}`", self.shown))?;
        GROUP.store(child.id().cast_signed(), Ordering::SeqCst);
        hand_on_interrupts();
        let deadline = Instant::now() + self.limit;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().context("a child without its standard output")?;
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let in_time = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    println!("{line}");
                    see(&line);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break true,
                Err(mpsc::RecvTimeoutError::Timeout) => break false,
            }
        };
        if !in_time {
            end_group(&mut child);
            bail!("`{}` took longer than {} minutes and was ended", self.shown, self.limit.as_secs() / 60);
        }
        let status = child.wait()?;
        GROUP.store(0, Ordering::SeqCst);
        Ok(status.success())
    }
}

/// Whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Whether a command runs and succeeds; what it prints is dropped.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Children have a process group of their own, so that all of them can be ended; the terminal's Ctrl+C therefore
/// has to be handed on to them.
fn hand_on_interrupts() {
    extern "C" fn hand_on(signal: libc::c_int) {
        let group = GROUP.load(Ordering::SeqCst);
        if group > 0 {
            // SAFETY: kill is async-signal-safe.
            unsafe { libc::kill(-group, signal) };
        } else if !HELD.load(Ordering::SeqCst) {
            // SAFETY: _exit is async-signal-safe.
            unsafe { libc::_exit(130) };
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only loads atomics and calls async-signal-safe functions.
        unsafe { libc::signal(signal, hand_on as *const () as libc::sighandler_t) };
    }
}

fn end_group(child: &mut Child) {
    let group = child.id().cast_signed();
    // SAFETY: the group is that of our own child, which has not been waited for, so its number is still its own.
    unsafe { libc::kill(-group, libc::SIGTERM) };
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: as above; a group lives as long as one of its members.
    unsafe { libc::kill(-group, libc::SIGKILL) };
    let _ = child.wait();
    GROUP.store(0, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_seen_and_failure_is_told() {
        let mut seen = Vec::new();
        let step = Step::new("sh", &["-c", "echo one; echo two; exit 3"]);
        let succeeded = step.run_lines(Path::new("/"), |line| seen.push(line.to_owned())).unwrap();
        assert!(!succeeded);
        assert_eq!(seen, ["one", "two"]);
        assert!(Step::new("sh", &["-c", "exit 1"]).run(Path::new("/")).is_err());
    }

    #[test]
    fn a_step_that_takes_too_long_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let mut step = Step::new("sh", &["-c", "sleep 300 & echo $! > child; wait"]);
        step.limit = Duration::from_millis(500);
        let error = step.run(folder.path()).unwrap_err().to_string();
        assert!(error.contains("took longer"), "{error}");
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        let status = format!("/proc/{}/stat", child.trim());
        // Killed, and perhaps not yet collected by its new parent.
        let gone = |stat: std::io::Result<String>| stat.map_or(true, |stat| stat.contains(") Z "));
        assert!((0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            gone(std::fs::read_to_string(&status))
        }));
    }
}
