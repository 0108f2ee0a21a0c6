//! A thread's own table of descriptors, and the process limit that every run needs raised.
//!
//! Owns: unsharing the table. Must not: open anything. Talks to: `worker`, which calls it before it opens anything.
//!
//! The kernel's limit of open files is one of the table, not of the process: with a table a thread, one process
//! holds as many sockets as its threads can. A number means nothing outside its thread from then on, so nothing
//! that owns a descriptor may go from one thread to another.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit for both calls, which only read or write it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
    }
    limit.rlim_cur
}

/// Gives the calling thread a table of its own, in which nothing but the standard streams and `keep` is open, and
/// owns `keep` in it. Where the system refuses a table, `keep` is duplicated in the shared one.
///
/// An unshared table is a copy: a listener or a connection that stayed open in it would outlive its owner's close.
pub(crate) fn own_descriptors(keep: RawFd) -> io::Result<OwnedFd> {
    let last = libc::c_uint::MAX;
    // Closes nothing, for there is no such descriptor. Containers that refuse unshare(2) allow this.
    if close_range(last, last, libc::CLOSE_RANGE_UNSHARE).is_err() {
        // SAFETY: no pointers; the caller keeps `keep` open during the call.
        let copy = unsafe { libc::fcntl(keep, libc::F_DUPFD_CLOEXEC, 3) };
        if copy < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned here alone.
        return Ok(unsafe { OwnedFd::from_raw_fd(copy) });
    }
    let kept = keep as libc::c_uint;
    if kept > 3 {
        close_range(3, kept - 1, 0)?;
    }
    close_range(kept + 1, last, 0)?;
    // SAFETY: in this thread's table, which is new, nothing else owns this number.
    Ok(unsafe { OwnedFd::from_raw_fd(keep) })
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: no pointers are passed. The caller has a table of its own, or closes nothing.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
