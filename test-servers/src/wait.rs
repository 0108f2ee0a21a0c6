//! Waiting for a condition, within bounds.

use std::time::{Duration, Instant};

/// Between two looks: short beside the start of any server, long beside a look.
const POLL: Duration = Duration::from_millis(10);

/// Looks until there is something to be seen; `None`: there was nothing in all this time.
pub(crate) fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// The same for what is so or is not; says whether it came about.
pub(crate) fn until_so(limit: Duration, mut so: impl FnMut() -> bool) -> bool {
    until(limit, || so().then_some(())).is_some()
}
