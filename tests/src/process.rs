//! A process under test: what it says is kept, it ends with the test.
//!
//! Owns: the child. Must not: know which service it is.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Lines that are kept of each stream.
const KEPT_LINES: usize = 5_000;

/// Lines that are shown of each stream when a test fails.
const SHOWN_LINES: usize = 40;

/// How often an exit is looked for.
const POLL: Duration = Duration::from_millis(5);

type Lines = Arc<Mutex<VecDeque<String>>>;

/// A running, or ended, process.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a command with both streams kept and nothing on stdin.
    pub fn start(name: &str, command: &mut Command) -> Self {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        let mut readers = Vec::new();
        let stdout = keep(child.stdout.take(), &mut readers);
        let stderr = keep(child.stderr.take(), &mut readers);
        Self { name: name.into(), child, stdout, stderr, readers }
    }

    /// What it was started as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr.
    pub fn stderr(&self) -> String {
        text(&self.stderr, KEPT_LINES)
    }

    /// What it has written to stdout.
    pub fn stdout(&self) -> String {
        text(&self.stdout, KEPT_LINES)
    }

    /// All that it wrote to stdout and stderr, once it has ended.
    pub fn output(&mut self) -> (String, String) {
        for reader in self.readers.drain(..) {
            // A reader ends with its stream and holds no lock when it does.
            let _ = reader.join();
        }
        (self.stdout(), self.stderr())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so its id is still its own; no memory is involved.
        let done = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(done, 0, "{}: signal {signal}", self.name);
    }

    /// Sends a signal to it and to all that it started, as a terminal does.
    pub fn signal_group(&self, signal: libc::c_int) {
        // SAFETY: as above; the group is named by the child's id.
        let done = unsafe { libc::kill(-(self.child.id() as libc::pid_t), signal) };
        assert_eq!(done, 0, "{}: signal {signal} to the group", self.name);
    }

    /// How it ended, where it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended; panics where it has not in time.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} has not ended within {timeout:?}", self.name);
            std::thread::sleep(POLL);
        }
    }

    /// Ends it, and what it started, as `kill -9` does, and waits for its end.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            // SAFETY: the child has not been waited for, so the group is still its own; no memory is involved.
            unsafe { libc::kill(-(self.child.id() as libc::pid_t), libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} said:\n{}", self.name, text(&self.stderr, SHOWN_LINES));
            eprintln!("--- {} printed:\n{}", self.name, text(&self.stdout, SHOWN_LINES));
        }
    }
}

fn keep(stream: Option<impl Read + Send + 'static>, readers: &mut Vec<JoinHandle<()>>) -> Lines {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    if let Some(stream) = stream {
        readers.push(std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(String::from_utf8_lossy(&line).into_owned());
            }
        }));
    }
    lines
}

fn text(lines: &Lines, count: usize) -> String {
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    let skip = lines.len().saturating_sub(count);
    lines.iter().skip(skip).map(|line| format!("{line}\n")).collect()
}
