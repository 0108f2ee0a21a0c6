//! The bench itself: which cores, which congestion control, which side pays for the receiver's TCP.
//!
//! Owns: what it changes of the machine, and putting it back. Must not: change anything for longer than a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Where Linux keeps the congestion control of new sockets.
const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// Where it keeps the cores that take the loopback's packets; empty bits: the core that sent them.
const STEERING: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";

/// Where it keeps how many packets may wait for a core. A fan-out fills the client's core with more than the usual
/// 1,000, and what is dropped there comes again 200 ms later, at the server's cost.
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

/// Packets that may wait for a core during a run.
const BACKLOG_PACKETS: &str = "100000";

/// The core that a contestant runs on.
pub const SERVER_CORE: usize = 0;

/// The core of everything else: subscribers, publisher, and a controller that a contestant needs.
pub const CLIENT_CORE: usize = 1;

/// A setting of the machine, put back when this is dropped.
pub struct Setting {
    path: PathBuf,
    before: String,
}

impl Setting {
    /// Sets it.
    pub fn set(path: &Path, value: &str) -> Result<Self> {
        let before = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(path, value)
            .with_context(|| format!("cannot set {} to {value}: root is needed", path.display()))?;
        Ok(Self { path: path.to_owned(), before: before.trim().to_owned() })
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            eprintln!("cannot put {} back to {}: {error}", self.path.display(), self.before);
        }
    }
}

/// The same congestion control for all: the machine's own may pace, which loopback does not need.
pub fn set_congestion_control(name: &str) -> Result<Setting> {
    Setting::set(Path::new(CONGESTION), name)
}

/// Lets a whole fan-out wait for the client's core.
pub fn deepen_backlog() -> Result<Setting> {
    Setting::set(Path::new(BACKLOG), BACKLOG_PACKETS)
}

/// Moves the receiver's side of TCP to the client's core, or leaves it with the sender.
pub fn steer(steered: bool) -> Result<Setting> {
    let mask = if steered { 1 << CLIENT_CORE } else { 0 };
    Setting::set(Path::new(STEERING), &format!("{mask:x}"))
}

/// Moves this process to the client's core; threads that are started later inherit it.
pub fn pin_to_client_core() -> Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        bail!("{cores} core: this bench needs two, one for a server and one for its clients");
    }
    let mut cores = CpuSet::new();
    cores.set(CLIENT_CORE);
    sched_setaffinity(None, &cores).context("cannot pin to the client's core")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("setting");
        fs::write(&path, "bbr\n").unwrap();
        let setting = Setting::set(&path, "cubic").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "cubic");
        drop(setting);
        assert_eq!(fs::read_to_string(&path).unwrap(), "bbr");
    }
}
