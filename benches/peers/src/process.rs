//! A process that this bench started: pinned, its words kept in a file, ended with the bench.
//!
//! Owns: the child. Must not: know what it serves.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(3);

/// A running process.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program on one core. It ends when the bench does, however that ends.
    pub fn start(program: &Path, args: &[&str], core: usize, folder: &Path, name: &str) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let core = core.to_string();
        let mut command = Command::new("setpriv");
        // The kernel ends the child when the thread that started it is gone.
        command.args(["--pdeathsig", "KILL", "taskset", "-c", &core]).arg(program).args(args);
        command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("RUST_LOG", "warn").stdin(Stdio::null());
        command.stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Its id: setpriv and taskset become the program.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with its last words where it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::bail!("it ended ({status}): {}", self.last_words());
        }
        Ok(())
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            // It may have ended by itself.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let until = Instant::now() + GRACE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.signal(Signal::KILL);
        }
        let _ = self.child.wait();
    }
}
