//! Under what conditions the system runs: which I/O driver it is offered, and with which rights.
//!
//! Owns: what happens in a child between fork and exec. Must not: allocate there. Talks to: `process`.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The user and group `nobody` of Debian.
const NOBODY: u32 = 65534;

/// The memlock limit of [`Variant::LowMemlock`], in bytes.
const LOW_MEMLOCK_BYTES: u64 = 64 * 1024;

/// The conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it comes: io_uring.
    IoUring,
    /// The epoll driver, by setting.
    Epoll,
    /// A seccomp filter answers EPERM to io_uring, as containers do.
    IoUringRefused,
    /// `ulimit -l 64`, and, where the test runs as root, the user nobody.
    LowMemlock,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::IoUring, Self::Epoll, Self::IoUringRefused, Self::LowMemlock];

    /// The one that `RINGCAST_TEST_DRIVER` names.
    pub fn from_env() -> Self {
        match std::env::var("RINGCAST_TEST_DRIVER").as_deref() {
            Err(_) | Ok("" | "io_uring") => Self::IoUring,
            Ok("epoll") => Self::Epoll,
            Ok("refused") => Self::IoUringRefused,
            Ok("memlock") => Self::LowMemlock,
            Ok(other) => panic!("RINGCAST_TEST_DRIVER = {other}: give io_uring, epoll, refused or memlock"),
        }
    }

    /// The `connect.driver` setting.
    pub fn driver_setting(self) -> &'static str {
        if self == Self::Epoll { "epoll" } else { "auto" }
    }

    /// The drivers that `/stats` may name.
    pub fn expected_drivers(self) -> &'static [&'static str] {
        match self {
            Self::IoUring => &["io_uring"],
            Self::Epoll | Self::IoUringRefused => &["epoll"],
            // Whether a ring fits into 64 KiB is the kernel's affair.
            Self::LowMemlock => &["io_uring", "epoll", "mixed"],
        }
    }

    /// The processes run as a user who cannot read what only root can.
    pub fn drops_root(self) -> bool {
        // SAFETY: the call has no arguments and cannot fail.
        self == Self::LowMemlock && unsafe { libc::geteuid() } == 0
    }

    /// Makes a command run under these conditions, and end with the thread that started it.
    pub fn apply(self, command: &mut Command) {
        let drops_root = self.drops_root();
        // SAFETY: between fork and exec only system calls are made, with memory that was there before.
        unsafe {
            command.pre_exec(move || {
                match self {
                    Self::IoUring | Self::Epoll => {}
                    Self::IoUringRefused => refuse_io_uring()?,
                    Self::LowMemlock => lower_memlock()?,
                }
                if drops_root {
                    become_nobody()?;
                }
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))
            });
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn lower_memlock() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: LOW_MEMLOCK_BYTES, rlim_max: LOW_MEMLOCK_BYTES };
    // SAFETY: `limit` is valid for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
}

fn become_nobody() -> io::Result<()> {
    // SAFETY: no pointers are given but a null list of zero groups.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setgid(NOBODY))?;
        check(libc::setuid(NOBODY))
    }
}

/// A filter that answers EPERM to io_uring_setup, io_uring_enter and io_uring_register, as the default profiles of
/// Docker and containerd do. Their numbers are the same on every architecture.
fn refuse_io_uring() -> io::Result<()> {
    const LOAD_SYSCALL: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const JUMP_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let (first, last) = (libc::SYS_io_uring_setup as u32, libc::SYS_io_uring_register as u32);
    let mut program = [
        libc::sock_filter { code: LOAD_SYSCALL, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: JUMP_AT_LEAST, jt: 0, jf: 2, k: first },
        libc::sock_filter { code: JUMP_ABOVE, jt: 1, jf: 0, k: last },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
        libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: filter and program are valid for the call, which copies them.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter))
    }
}
