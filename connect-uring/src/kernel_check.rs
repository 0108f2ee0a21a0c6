//! What the machine allows: open files, the kernel's version, io_uring.
//!
//! Owns: what is set for the process at the start, and one line for each thing that is not as it
//! should be. Must not: stop the start; a node on epoll works. Talks to: `main`'s boot order and `shard_loop`.

use std::io;

/// The oldest kernel whose io_uring is used (SINGLE_ISSUER and DEFER_TASKRUN).
pub(crate) const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// Raises the soft limit of open files to the hard one and returns it.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_max)
}

/// Asks for memory in small pages, for the whole process. The allocator would take huge ones where it may, and a
/// node that holds many small things would then pay for 2 MiB wherever it touches a few bytes.
pub(crate) fn use_small_pages() {
    // SAFETY: no pointers are passed. Where it fails nothing is changed, and the node is only larger.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// The bridge's niceness beside many shards: its share of a core is then that of nine of them.
const BRIDGE_NICE: libc::c_int = -10;

/// Gives this thread a larger share of the cores than the others of its process. The bridge serves all shards; where
/// those are many on few cores, an equal share of one thread would make each join and each push wait. Takes
/// CAP_SYS_NICE or RLIMIT_NICE; where it is refused nothing is changed. Says whether it was granted.
pub(crate) fn put_thread_first() -> bool {
    // SAFETY: no pointers are passed; on Linux 0 names the calling thread (setpriority(2), C library differences).
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, BRIDGE_NICE) == 0 }
}

/// Why io_uring is not to be tried at all, in words for the log.
pub(crate) fn io_uring_unfit() -> Option<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = parse_release(&release)?;
    let (major, minor) = KERNEL_FLOOR;
    (version < KERNEL_FLOOR).then(|| {
        format!("kernel {} is older than {major}.{minor}, the oldest whose io_uring is used", release.trim())
    })
}

/// What an error of `io_uring_setup` most likely means, in words for the log.
pub(crate) fn explain_refusal(error: &io::Error) -> String {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let why = match (error.raw_os_error(), setting.trim()) {
        (Some(libc::EPERM), "1") => "kernel.io_uring_disabled is 1: only root and io_uring_group may use it",
        (Some(libc::EPERM), "2") => "kernel.io_uring_disabled is 2",
        (Some(libc::EPERM), _) => "a seccomp filter refuses it, as container runtimes do by default",
        (Some(libc::ENOSYS), _) => "the kernel, or a seccomp filter, has no io_uring",
        (Some(libc::ENOMEM), _) => "the limit of locked memory (ulimit -l) is too low",
        (Some(libc::EINVAL), _) => "the kernel lacks SINGLE_ISSUER or DEFER_TASKRUN",
        _ => return error.to_string(),
    };
    format!("{error}: {why}")
}

/// Major and minor number of a release like `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(parse_release("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(parse_release("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(parse_release("6.18-rc1"), Some((6, 18)));
        assert_eq!(parse_release(""), None);
    }

    #[test]
    fn huge_pages_are_switched_off() {
        use_small_pages();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("THP_enabled:")).unwrap();
        assert_eq!(line.split_whitespace().last(), Some("0"));
    }

    #[test]
    fn only_the_thread_that_asks_is_put_first() {
        // SAFETY: no pointers are passed.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let before = nice();
        let (granted, after) = std::thread::spawn(move || (put_thread_first(), nice())).join().unwrap();
        assert_eq!(after, if granted { BRIDGE_NICE } else { before });
        assert_eq!(nice(), before);
    }

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let raised = raise_open_files().unwrap();
        assert_eq!(raise_open_files().unwrap(), raised);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers, [raised, raised]);
    }
}
