//! `cargo xtask scale N`: one node, its controller, its push manager and N joined clients on this machine.
//!
//! Owns: whether the machine can do it, what of its settings has to be raised for the time of the run, and that all
//! of it is put back. Must not: run it (`tests/src/bin/scale.rs` does).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::step::{HeldInterrupts, Step};

/// What a joined client takes: 6.7 KB of the kernel's memory for both ends of its connection, and what the node,
/// the controller, the push manager and the client's own side keep of it, in bytes.
const BYTES_PER_CLIENT: u64 = 6_700 + 400 + 300 + 150 + 450;

/// What has to be left for everything else, in bytes.
const SPARE_BYTES: u64 = 1 << 30;

/// Open files of a shard that are no clients.
const OTHER_FILES: u64 = 64;

/// Longest run, in minutes.
const RUN_MINUTES: u64 = 30;

/// A number of clients as people write it: `10000`, `100k`, `1M`.
pub(crate) fn parse_clients(text: &str) -> Result<u64, String> {
    let (digits, times) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000),
        _ => (text, 1),
    };
    let clients = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(times));
    clients.filter(|clients| *clients > 0).ok_or_else(|| "give a number such as 10000, 100k or 1M".to_owned())
}

/// Prepares the machine, runs it, puts everything back.
pub(crate) fn run(root: &Path, clients: u64, ping_s: Option<u64>, hold_s: u64, steer: bool) -> Result<()> {
    check_memory(clients)?;
    if steer && cores() < 2 {
        bail!("--steer gives the node a core and its clients another: this machine has one, leave it out");
    }
    let shards = shards(clients, open_files()?, cores());
    let ping_s = ping_s.unwrap_or_else(|| ping_interval(clients, cores()));
    println!(
        "{clients} clients, {} open files a thread: {shards} shards, pings after {ping_s} s",
        open_files()?
    );
    let packages = ["control", "push", "connect-uring", "ringcast-tests"].map(|package| ["-p", package]);
    let build = ["build", "--release", "--bins"].into_iter().chain(packages.into_iter().flatten());
    Step::new("cargo", &build.collect::<Vec<_>>()).minutes(crate::BUILD_MINUTES).run(root)?;

    let binaries = root.join("target/release");
    let binary = binaries.join("scale");
    let _held = HeldInterrupts::hold();
    let _raised = Raised::all(&wanted(clients)?)?;
    let _hurried = Hurried::all()?;
    let [clients, shards, ping_s, hold_s] =
        [clients, shards, ping_s, hold_s].map(|number| number.to_string());
    let args = [clients, shards, ping_s, hold_s, steer.to_string()];
    Step::new(&binary.to_string_lossy(), &args)
        .env("RINGCAST_BIN_DIR", &binaries.to_string_lossy())
        .called(&format!("scale {}", args.join(" ")))
        .minutes(RUN_MINUTES)
        .run(root)
}

fn check_memory(clients: u64) -> Result<()> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).context("no MemAvailable")?;
    let available = numbers(line).first().context("no number in MemAvailable")? * 1024;
    let needed = clients * BYTES_PER_CLIENT + SPARE_BYTES;
    if needed > available {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        bail!(
            "{clients} clients need {:.1} GiB of memory, {:.1} GiB are available: free some, or ask for at most {}",
            gib(needed),
            gib(available),
            available.saturating_sub(SPARE_BYTES) / BYTES_PER_CLIENT
        );
    }
    Ok(())
}

fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64
}

fn open_files() -> Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(std::io::Error::last_os_error()).context("reading the limit of open files");
    }
    Ok(limit.rlim_max)
}

/// One a core, or as many as the clients need. The kernel spreads clients over shards by chance, so that the fullest
/// has some deviations more than its share.
fn shards(clients: u64, open_files: u64, cores: u64) -> u64 {
    let each = open_files.saturating_sub(OTHER_FILES).max(1);
    let each = each.saturating_sub(8 * each.isqrt()).max(1);
    clients.div_ceil(each).max(cores)
}

/// The node's own interval, or a longer one where its pings would take more than a third of the cores: both ends of each
/// are here, and clients that join beside pings that take them all come late to their pongs and are closed.
fn ping_interval(clients: u64, cores: u64) -> u64 {
    const USUAL_S: u64 = 25;
    const MICROSECONDS_EACH: u64 = 40;
    USUAL_S.max((3 * clients * MICROSECONDS_EACH).div_ceil(cores * 1_000_000))
}

/// A setting of the kernel that is too low for the run.
struct Wanted {
    path: &'static str,
    least: Vec<u64>,
    why: &'static str,
}

fn wanted(clients: u64) -> Result<Vec<Wanted>> {
    let open = read("/proc/sys/fs/file-nr")?.first().copied().unwrap_or(0);
    let wanted = |path, least: &[u64], why| Wanted { path, least: least.to_vec(), why };
    let mut all = vec![
        wanted(
            "fs/file-max",
            &[open + 2 * clients + 100_000],
            "both ends of a connection are open files here",
        ),
        wanted(
            "net/ipv4/tcp_mem",
            &[clients / 4, clients / 2, clients],
            "a push to everybody lies in all sockets at once; in pages",
        ),
        wanted(
            "net/core/netdev_max_backlog",
            &[BACKLOG_PACKETS],
            "what the loopback has no place for is dropped, and TCP sends it again 200 ms later",
        ),
    ];
    if Path::new("/proc/sys/net/ipv4/tcp_child_ehash_entries").exists() {
        let entries = (4 * clients).next_power_of_two().min(MAX_EHASH_ENTRIES);
        let why = "the run has a network of its own, whose table of connections is made with so many chains";
        all.push(wanted("net/ipv4/tcp_child_ehash_entries", &[entries], why));
    }
    if Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists() {
        all.push(wanted("net/netfilter/nf_conntrack_max", &[2 * clients], "where connections are tracked"));
    }
    Ok(all)
}

/// Packets that may wait for a core. A push to everybody fills the usual 1,000 at once; among what is dropped then are
/// pongs, and the HTTP/2 pings of the services.
const BACKLOG_PACKETS: u64 = 100_000;

/// The most chains that the kernel gives a network's table of connections.
const MAX_EHASH_ENTRIES: u64 = 1 << 24;

/// Settings that were raised; they are put back when this is dropped.
struct Raised(Vec<(PathBuf, String)>);

impl Raised {
    fn all(wanted: &[Wanted]) -> Result<Self> {
        let mut raised = Self(Vec::new());
        for Wanted { path, least, why } in wanted {
            let name = path.replace('/', ".");
            let path = Path::new("/proc/sys").join(path);
            let now = read(&path)?;
            if now.iter().zip(least).all(|(now, least)| now >= least) {
                continue;
            }
            let values =
                now.iter().enumerate().map(|(at, now)| now.max(least.get(at).unwrap_or(now)).to_string());
            let (before, after) = (line(&now), values.collect::<Vec<_>>().join(" "));
            println!("{name} = {after} for the time of the run, was {before}: {why}");
            std::fs::write(&path, &after).with_context(|| {
                format!("{name} cannot be set to {after}: run this as root, or set it beforehand")
            })?;
            raised.0.push((path, before));
        }
        Ok(raised)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        for (path, before) in self.0.drain(..).rev() {
            match std::fs::write(&path, &before) {
                Ok(()) => println!("{} is {before} again", path.display()),
                Err(error) => eprintln!("{} could not be put back to {before}: {error}", path.display()),
            }
        }
    }
}

/// How much the kernel's packet threads come before a hundred threads of shards and clients on the same cores. At the
/// usual share of one among so many, packets wait for their turn, and with them pongs that were sent in time.
const PACKET_THREADS_NICE: libc::c_int = -10;

/// The kernel's threads that move packets when interrupts leave them over; their niceness is put back when this is
/// dropped.
struct Hurried(Vec<(libc::id_t, libc::c_int)>);

impl Hurried {
    fn all() -> Result<Self> {
        let mut hurried = Self(Vec::new());
        for process in std::fs::read_dir("/proc")? {
            let name = process?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            // One that has gone meanwhile is none of the kernel's.
            let called = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if called.starts_with("ksoftirqd/") {
                // SAFETY: no pointers are passed; a process that is gone makes an error (setpriority(2)).
                let (before, set) = unsafe {
                    let before = libc::getpriority(libc::PRIO_PROCESS, pid);
                    (before, libc::setpriority(libc::PRIO_PROCESS, pid, PACKET_THREADS_NICE))
                };
                if set < 0 {
                    return Err(std::io::Error::last_os_error())
                        .context("the kernel's packet threads cannot be put first: run this as root");
                }
                hurried.0.push((pid, before));
            }
        }
        println!("{} packet threads of the kernel at nice {PACKET_THREADS_NICE} meanwhile", hurried.0.len());
        Ok(hurried)
    }
}

impl Drop for Hurried {
    fn drop(&mut self) {
        for (pid, before) in self.0.drain(..) {
            // SAFETY: as above.
            if unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, before) } < 0 {
                eprintln!("the kernel's thread {pid} could not be put back to nice {before}");
            }
        }
    }
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u64>> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(numbers(&text))
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn line(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!(
            ["10000", "100k", "1M", "2m"].map(parse_clients),
            [10_000, 100_000, 1_000_000, 2_000_000].map(Ok)
        );
        for bad in ["", "k", "0", "-1", "1G", "99999999999999999999M"] {
            assert!(parse_clients(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_are_shards_for_all_clients_however_the_kernel_spreads_them() {
        assert_eq!(shards(10_000, 20_000, 2), 2);
        assert_eq!(shards(10_000, 1 << 20, 4), 4);
        let many = shards(1_000_000, 20_000, 2);
        assert!((52..60).contains(&many), "{many}");
        let mean = 1_000_000.0 / many as f64;
        assert!(mean + 6.0 * mean.sqrt() < 19_936.0, "the fullest of {many} shards has no room");
    }

    #[test]
    fn pings_leave_the_cores_time_for_more() {
        assert_eq!(ping_interval(10_000, 2), 25);
        assert_eq!(ping_interval(400_000, 2), 25);
        assert_eq!(ping_interval(1_000_000, 2), 60);
        assert_eq!(ping_interval(2_000_000, 2), 120);
        assert_eq!(ping_interval(1_000_000, 16), 25);
    }

    #[test]
    fn what_was_raised_is_put_back_and_what_is_high_enough_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("setting");
        std::fs::write(&file, "2 9 4\n").unwrap();
        let path: &'static str = Box::leak(file.to_string_lossy().into_owned().into_boxed_str());
        let wanted = |least: &[u64]| [Wanted { path, least: least.to_vec(), why: "of the test" }];
        drop(Raised::all(&wanted(&[1, 9, 4])).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "2 9 4\n");
        let raised = Raised::all(&wanted(&[5, 5, 5])).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "5 9 5");
        drop(raised);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "2 9 4");
    }

    #[test]
    fn a_run_that_memory_would_not_hold_is_refused() {
        let error = check_memory(1 << 40).unwrap_err().to_string();
        assert!(error.contains("GiB are available"), "{error}");
    }
}
