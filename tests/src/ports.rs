//! Free ports below 32768, where the range of ephemeral ports begins: no client's socket can take them first.
//!
//! Owns: which ports this process has given out. Must not: keep them bound.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port that nobody listens on and that was not given out before by this process.
pub fn free_port() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    for _ in 0..10_000 {
        let port = fastrand::u16(10_000..32_000);
        if given.insert(port) && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 10000 and 32000");
}
