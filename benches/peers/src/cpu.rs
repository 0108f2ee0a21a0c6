//! What a process, and all that it started, has used: CPU time to the nanosecond, and memory.
//!
//! Owns: reading the kernel's books. Must not: keep any.

use std::fs;

use anyhow::{Context as _, Result, bail};

/// CPU time used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// In all, from the kernel's exact clock of the process, threads that have ended included; in nanoseconds.
    pub total_ns: u64,
    /// Ticks of a hundredth of a second in user mode. The kernel splits the exact time by what its timer saw, so the
    /// split of a short window is rough.
    pub user_ticks: u64,
    /// The same in the kernel.
    pub system_ticks: u64,
}

impl Used {
    /// What was used since an earlier reading: total, user and system, in microseconds.
    pub fn since(self, earlier: Self) -> (f64, f64, f64) {
        let total = self.total_ns.saturating_sub(earlier.total_ns) as f64 / 1e3;
        let user = self.user_ticks.saturating_sub(earlier.user_ticks) as f64;
        let system = self.system_ticks.saturating_sub(earlier.system_ticks) as f64;
        let share = if user + system > 0.0 { user / (user + system) } else { 0.0 };
        (total, total * share, total * (1.0 - share))
    }
}

/// What a process and its descendants have used.
pub fn used(pid: u32) -> Result<Used> {
    let mut sum = Used::default();
    for pid in family(pid) {
        let used = used_by_one(pid)?;
        sum.total_ns += used.total_ns;
        sum.user_ticks += used.user_ticks;
        sum.system_ticks += used.system_ticks;
    }
    Ok(sum)
}

/// What a process alone has used.
pub fn used_by_one(pid: u32) -> Result<Used> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold spaces; what follows it does not.
    let fields: Vec<&str> = stat.rsplit_once(')').context("no name in stat")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok(Used { total_ns: clock_ns(pid)?, user_ticks: ticks(11), system_ticks: ticks(12) })
}

/// Resident memory of a process and its descendants, in bytes.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in family(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        sum += line.split_whitespace().nth(1).context("no number in VmRSS")?.parse::<u64>()? * 1024;
    }
    Ok(sum)
}

/// The process and its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let tasks = fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

/// Time of the process's own CPU clock, in nanoseconds.
fn clock_ns(pid: u32) -> Result<u64> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both calls write to the locals that they are given; a process that is gone is told by an error.
    let failed = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    if failed {
        bail!("process {pid} has no CPU clock: it is gone");
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The machine's time so far: stolen by the hypervisor, and in all, in ticks.
pub fn steal() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
    Ok((ticks.get(7).copied().unwrap_or(0), ticks.iter().sum()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen() {
        let before = used_by_one(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while used_by_one(std::process::id()).unwrap().total_ns - before.total_ns < 20_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let (total, user, system) = used_by_one(std::process::id()).unwrap().since(before);
        assert!(total >= 20_000.0 && (user + system - total).abs() < 1.0, "{total} {user} {system}");
        assert!(rss_bytes(std::process::id()).unwrap() > 100_000);
    }

    #[test]
    fn what_is_gone_is_an_error() {
        assert!(used(u32::MAX / 4).is_err());
    }
}
