//! A server process: it can be killed, held, and started again with the same command; it ends with this process.
//!
//! Owns: the child and its log file. Must not: know which server it is.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::{fs, io};

use anyhow::{Context as _, Result};

use crate::client;

/// Lines of its log that are shown where it is not as it is to be.
const SHOWN_LINES: usize = 40;

/// A server, running or not.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    program: &'static str,
    package: &'static str,
    args: Vec<OsString>,
    folder: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    held: bool,
}

impl Server {
    /// Not started yet. It will run in `folder`, and log to a file there.
    pub(crate) fn new(name: &str, program: &'static str, package: &'static str, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let (name, folder, args) = (name.to_owned(), folder.to_owned(), Vec::new());
        Self { name, program, package, args, folder, log, child: None, held: false }
    }

    /// What it is started with; replaces what was given before.
    pub(crate) fn set_args(&mut self, args: impl IntoIterator<Item = impl Into<OsString>>) {
        self.args = args.into_iter().map(Into::into).collect();
    }

    /// Starts it, or starts it again; whether it is ready is for the caller to see.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.kill();
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = client::command(self.program, self.package)?;
        command.args(&self.args).current_dir(&self.folder).process_group(0);
        command.stdout(log.try_clone()?).stderr(log).stdin(Stdio::null());
        self.child = Some(spawn(command).with_context(|| format!("cannot start {}", self.program))?);
        Ok(())
    }

    /// Ends it as `kill -9` does, and waits for its end; it also ends where it is held.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error says that it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        self.held = false;
    }

    /// Holds it (SIGSTOP): its connections stay, and nothing answers.
    pub(crate) fn hold(&mut self) {
        self.signal(libc::SIGSTOP);
        self.held = true;
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn go_on(&mut self) {
        self.signal(libc::SIGCONT);
        self.held = false;
    }

    /// Whether it runs and is not held.
    pub(crate) fn is_live(&self) -> bool {
        self.child.as_ref().is_some_and(runs) && !self.held
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The end of what it logged.
    pub(crate) fn said(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("--- {} ({}) logged:\n{}\n", self.name, self.program, shown.join("\n"))
    }

    #[track_caller]
    fn signal(&self, signal: libc::c_int) {
        let child = self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name));
        // SAFETY: the child has not been waited for by `kill`, which takes it, so its id is still its own, or that
        // of nobody where it ended by itself; no memory is involved.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
    }
}

/// Whether a child has not ended; it is not waited for, so that it can be asked again.
fn runs(child: &Child) -> bool {
    // SAFETY: all zeroes is a value of this plain structure.
    let mut ended: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the structure lives through the call.
    let asked = unsafe { libc::waitid(libc::P_PID, child.id(), &raw mut ended, options) };
    // SAFETY: the kernel has filled in a child that has ended, or left the zeroes.
    asked == 0 && unsafe { ended.si_pid() } == 0
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what each of them logged.
pub(crate) fn said_by<'a>(servers: impl IntoIterator<Item = &'a Server>) -> String {
    servers.into_iter().map(Server::said).collect()
}

/// A command, the network that it is to run in, and who waits for its start.
type Order = (Command, File, mpsc::Sender<io::Result<Child>>);

/// Starts a child that ends with this process. Linux ends it with the *thread* that started it, and a test's thread
/// is gone long before its process: so one thread, which lives as long, starts all of them.
fn spawn(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (command, network, answer) in taken {
                // Whoever asked waits for the answer.
                let _ = answer.send(spawn_here(command, network));
            }
        });
        orders
    });
    let (answer, child) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts servers is gone");
    starter.send((command, own_network()?, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// The calling thread's network: a test may have entered one of its own.
fn own_network() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Starts a child of this thread.
fn spawn_here(mut command: Command, network: File) -> io::Result<Child> {
    // To enter a network needs rights, also where one is in it.
    let is_other = own_network()?.metadata()?.ino() != network.metadata()?.ino();
    let parent = std::process::id().cast_signed();
    let prepare = move || {
        // SAFETY: these calls take no memory and are async-signal-safe.
        unsafe {
            if is_other && libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) != 0 {
                return Err(io::Error::last_os_error());
            }
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
        }
        Ok(())
    };
    // SAFETY: `prepare` calls only what may be called between fork and exec, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
