//! What the kernel says of a process.
//!
//! Owns: reading /proc. Must not: guess where a file is gone; that is an error.

use std::path::Path;

use anyhow::Context as _;

/// The resident set, in bytes.
pub fn rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number in VmRSS")?.parse()?;
    Ok(kib * 1024)
}

/// CPU that a process has used, user and system, in seconds.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th field behind it.
    let fields = stat.rsplit_once(')').context("no name in stat")?.1;
    let ticks: Result<Vec<u64>, _> = fields.split_whitespace().skip(11).take(2).map(str::parse).collect();
    // SAFETY: sysconf takes no pointer.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks?.iter().sum::<u64>() as f64 / per_second as f64)
}

/// A line of /proc/meminfo, in bytes.
pub fn memory(name: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name)).context("no such line")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number in it")?.parse()?;
    Ok(kib * 1024)
}

/// Open descriptors of each thread: threads may have tables of their own. Sorted by thread.
pub fn descriptors_by_thread(pid: u32) -> anyhow::Result<Vec<(String, usize)>> {
    let mut threads = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread may end while it is looked at.
        let Ok(count) = count_entries(&task.join("fd")) else { continue };
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        let id = task.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default();
        threads.push((format!("{} {id}", name.trim()), count));
    }
    threads.sort();
    Ok(threads)
}

fn count_entries(folder: &Path) -> std::io::Result<usize> {
    Ok(std::fs::read_dir(folder)?.count())
}

/// The effective user of a process.
pub fn user(pid: u32) -> anyhow::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("Uid:")).context("no Uid")?;
    Ok(line.split_whitespace().nth(2).context("no effective user")?.parse()?)
}
