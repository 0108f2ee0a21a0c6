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
