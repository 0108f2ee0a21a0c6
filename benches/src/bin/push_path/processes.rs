//! The system under measurement, each service a process of its own, and the CPU time that each has used.
//!
//! Owns: starting, pinning, ending them; reading `/proc`. Must not: leave one running.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long the services may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// The processes, and where they are.
pub(crate) struct System {
    /// Push manager, node, controller.
    children: Vec<(&'static str, Child)>,
    folder: PathBuf,
    /// Where clients connect.
    pub(crate) http: SocketAddr,
    /// The push API's host:port.
    pub(crate) push_address: String,
}

impl System {
    /// Starts all and waits until joins and pushes are taken.
    pub(crate) fn start(
        programs: &Path,
        shards: u16,
        port: u16,
        push_core: Option<usize>,
        other_core: Option<usize>,
    ) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("push_path-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let port = |offset: u16| (port + offset).to_string();
        let controller = format!("127.0.0.1:{}", port(0));
        let mut system = Self {
            children: Vec::new(),
            folder: folder.clone(),
            http: format!("127.0.0.1:{}", port(4)).parse()?,
            push_address: format!("127.0.0.1:{}", port(2)),
        };
        let mut start = |name, core, arguments: &[&str]| {
            let mut command = command(&programs.join(name), core);
            command.current_dir(&folder).env("RUST_LOG", "warn").args(arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            let child = command.spawn().with_context(|| format!("{name} in {}", programs.display()))?;
            system.children.push((name, child));
            anyhow::Ok(())
        };
        let ports = [port(2), port(3)];
        let node_ports = [port(5), port(6), shards.to_string()];
        start(
            "push",
            push_core,
            &["--grpc-port", &ports[0], "--metrics-port", &ports[1], "--controller-address", &controller],
        )?;
        start(
            "connect-uring",
            other_core,
            &[
                "--http-port",
                &port(4),
                "--grpc-port",
                &node_ports[0],
                "--metrics-port",
                &node_ports[1],
                "--shards",
                &node_ports[2],
                "--controller-address",
                &controller,
            ],
        )?;
        start(
            "control",
            other_core,
            &["--grpc-port", &port(0), "--metrics-port", &port(1), "--room-max-users", "0"],
        )?;
        system.ready(shards)?;
        Ok(system)
    }

    /// A plain GET asks what a join would be told: 426 where it would be accepted.
    fn ready(&self, shards: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut answers = 0;
        while answers < 8 * shards {
            answers = if join_would_be_accepted(self.http) { answers + 1 } else { 0 };
            ensure!(Instant::now() < deadline, "the services are not ready");
            if answers == 0 {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// What a profiler attaches to.
    pub(crate) fn pids(&self) -> String {
        let pids = self.children.iter().map(|(name, child)| format!("{name} {}", child.id()));
        pids.collect::<Vec<_>>().join(", ")
    }

    /// What all have used since they were started.
    pub(crate) fn used(&self) -> anyhow::Result<Used> {
        let mut processes = Vec::new();
        for (name, child) in &self.children {
            processes.push(used_by(name, child.id())?);
        }
        processes.push(used_by("the caller", std::process::id())?);
        Ok(Used { processes })
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            // Nothing is kept that a clean end would save.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program by its absolute path, on one core where one is given.
fn command(program: &Path, core: Option<usize>) -> Command {
    let program = std::path::absolute(program).unwrap_or_else(|_| program.to_owned());
    match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string()]).arg(program);
            command
        }
    }
}

fn join_would_be_accepted(http: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut socket = TcpStream::connect_timeout(&http, Duration::from_secs(1))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /ws?user_id=probe&room_id=probe HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 426"))
}

/// Moves this process, with the threads that it is going to start, to a core.
pub(crate) fn pin_self(core: usize) -> anyhow::Result<()> {
    // SAFETY: an all-zero set is a valid, empty one; the calls write within it and read it only.
    let pinned = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if pinned != 0 {
        bail!("core {core}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// CPU time of all processes.
pub(crate) struct Used {
    /// Push manager, node, controller, and the caller with its clients.
    pub(crate) processes: Vec<ProcessUsed>,
}

/// CPU time of a process.
pub(crate) struct ProcessUsed {
    /// Its name.
    pub(crate) name: String,
    /// By thread name.
    pub(crate) threads: BTreeMap<String, ThreadUsed>,
    /// Clock ticks in user space and in the kernel.
    ticks: (u64, u64),
    /// The share in user space, 0 to 1.
    pub(crate) user_share: f64,
}

/// CPU time of the threads of one name.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ThreadUsed {
    /// Nanoseconds.
    pub(crate) ns: u64,
    /// How often one was given a core, which tells of its wake-ups.
    pub(crate) runs: u64,
}

impl ProcessUsed {
    /// Nanoseconds of all its threads.
    pub(crate) fn total_ns(&self) -> u64 {
        self.threads.values().map(|thread| thread.ns).sum()
    }
}

impl Used {
    /// What was used since then.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.processes.iter_mut().zip(&before.processes) {
            for (name, thread) in &mut now.threads {
                let before = before.threads.get(name).copied().unwrap_or_default();
                thread.ns -= before.ns.min(thread.ns);
                thread.runs -= before.runs.min(thread.runs);
            }
            let (user, system) = (now.ticks.0 - before.ticks.0, now.ticks.1 - before.ticks.1);
            now.user_share = user as f64 / (user + system).max(1) as f64;
        }
        self
    }
}

fn used_by(name: &str, pid: u32) -> anyhow::Result<ProcessUsed> {
    let mut threads: BTreeMap<String, ThreadUsed> = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("{name} has ended"))? {
        let task = task?.path();
        // A thread may end meanwhile.
        let Ok(schedstat) = std::fs::read_to_string(task.join("schedstat")) else { continue };
        let Ok(comm) = std::fs::read_to_string(task.join("comm")) else { continue };
        // Nanoseconds on a core, nanoseconds of waiting for one, how often it was given one.
        let mut fields = schedstat.split_ascii_whitespace().map(|field| field.parse::<u64>().unwrap_or(0));
        let thread = threads.entry(comm.trim().to_owned()).or_default();
        thread.ns += fields.next().unwrap_or(0);
        thread.runs += fields.nth(1).unwrap_or(0);
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_ascii_whitespace().skip(11).map(|field| field.parse().unwrap_or(0));
    let ticks = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    Ok(ProcessUsed { name: name.to_owned(), threads, ticks, user_share: 0.0 })
}
