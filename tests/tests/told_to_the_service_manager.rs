//! Promise: a service manager of systemd's kind hears from each service that it serves, that it is alive for as long as it
//! is, which a node with a shard that hangs is not, and that it is being stopped.
#![allow(clippy::unwrap_used)] // A test may end where something is not as it is to be.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use ringcast_tests::{System, SystemPlan, Variant};

const PATIENCE: Duration = Duration::from_secs(20);

/// For how long a service may be silent.
const WATCHDOG: Duration = Duration::from_millis(400);

struct Manager(UnixDatagram);

impl Manager {
    /// Reads until all of this has been said, in whatever order, each in one message.
    fn hears(&self, wanted: &[&str]) {
        let mut missing = wanted.to_vec();
        let until = Instant::now() + PATIENCE;
        let mut buffer = [0; 4096];
        while !missing.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "never said: {missing:?}");
            self.0.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = self.0.recv(&mut buffer) else { continue };
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            missing.retain(|wanted| said.trim_end() != *wanted);
        }
    }

    /// Reads on until nothing has come for longer than a service may be silent.
    fn hears_nothing(&self) {
        let until = Instant::now() + PATIENCE;
        self.0.set_read_timeout(Some(2 * WATCHDOG)).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {
            assert!(Instant::now() < until, "it still says that it is alive");
        }
    }

    /// Forgets what has been said.
    fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }
}

/// A thread that hangs, while the others of its process go on; it is let go when this is dropped.
struct HeldThread(libc::pid_t);

impl HeldThread {
    /// The thread of this name.
    fn of(pid: u32, name: &str) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut ids = tasks.map(|task| task.unwrap().path());
        let found =
            ids.find(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == name).unwrap();
        let id = found.file_name().unwrap().to_str().unwrap().parse().unwrap();
        Self::trace(libc::PTRACE_SEIZE, id);
        Self::trace(libc::PTRACE_INTERRUPT, id);
        // SAFETY: no status is asked for. It waits until the thread, which this one traces, has stopped.
        assert_eq!(unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::__WALL) }, id);
        Self(id)
    }

    fn trace(request: libc::c_uint, id: libc::pid_t) {
        // SAFETY: none of the requests made here reads or writes memory by its arguments.
        let done = unsafe { libc::ptrace(request, id, 0, 0) };
        assert_eq!(done, 0, "ptrace: {}", std::io::Error::last_os_error());
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        Self::trace(libc::PTRACE_DETACH, self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_says_that_it_serves_lives_and_stops() {
    if Variant::from_env() != Variant::IoUring {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let plan = SystemPlan::nodes(1)
        .shards(2)
        .variable("NOTIFY_SOCKET", path.to_str().unwrap())
        .variable("WATCHDOG_USEC", &WATCHDOG.as_micros().to_string());
    let mut system = System::start(plan).await;
    manager.hears(&[
        "READY=1\nSTATUS=takes joins",
        "READY=1\nSTATUS=takes pushes",
        "READY=1\nSTATUS=takes clients",
    ]);
    // Nothing happens, and each is alive: the only one that could say it now.
    let running = [&system.control, &system.push, &system.nodes[0]];
    for place in 0..running.len() {
        let others = || running.iter().enumerate().filter(|(other, _)| *other != place);
        others().for_each(|(_, other)| other.process.signal(libc::SIGSTOP));
        manager.forget();
        manager.hears(&["WATCHDOG=1"]);
        manager.hears(&["WATCHDOG=1"]);
        others().for_each(|(_, other)| other.process.signal(libc::SIGCONT));
    }
    for (service, status) in
        [(&mut system.push, "answers the pushes that are open"), (&mut system.control, "ends its streams")]
    {
        manager.forget();
        assert!(service.terminate(PATIENCE).success());
        manager.hears(&[&format!("STOPPING=1\nSTATUS={status}")]);
    }
    manager.forget();
    let node = &mut system.nodes[0];
    let held = HeldThread::of(node.process.pid(), "shard-1");
    manager.hears_nothing();
    drop(held);
    manager.hears(&["WATCHDOG=1"]);
    assert!(node.terminate(PATIENCE).success());
    manager.hears(&["STOPPING=1\nSTATUS=closes its sessions over the drain"]);
}
