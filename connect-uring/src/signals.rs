//! Signals are for threads whose table of descriptors is the process's own.
//!
//! Owns: the mask that a shard's thread is born with. Must not: install a handler.

use std::mem::MaybeUninit;

/// Runs `start` with all signals blocked; threads that it starts keep them blocked.
pub(crate) fn blocked<R>(start: impl FnOnce() -> R) -> R {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset fills the set that it is given, pthread_sigmask reads it and writes the other one; both
    // live through the calls.
    let set = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr())
    };
    let result = start();
    if set == 0 {
        // SAFETY: the call above succeeded, so it has written the mask that was before.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut()) };
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The signals that the thread of this name blocks, as the kernel tells it.
    fn blocked_mask() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn threads_started_inside_take_no_signals_and_the_starter_takes_them_again() {
        let before = blocked_mask();
        let inside = blocked(|| std::thread::spawn(blocked_mask)).join().unwrap();
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            assert_ne!(inside & 1 << (signal - 1), 0, "signal {signal} is not blocked");
        }
        assert_eq!(blocked_mask(), before);
    }
}
