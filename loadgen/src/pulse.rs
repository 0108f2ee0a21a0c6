//! When each client was heard last, by the number of its frames.
//!
//! Owns: these times. Must not: touch a connection. Talks to: `worker`.

/// The clients of one thread.
#[derive(Default)]
pub(crate) struct Pulse {
    next_ns: u64,
    /// Connection and frames of each client when it was looked at, and since when they are so.
    heard: Vec<((u32, u32), u64)>,
}

impl Pulse {
    /// Whether it is time to look; if so, the next time is so much later.
    pub(crate) fn take_due(&mut self, now_ns: u64, every_ns: u64) -> bool {
        let due = now_ns >= self.next_ns;
        if due {
            self.next_ns = now_ns + every_ns;
        }
        due
    }

    /// For how long nothing has come on a client's connection, as far as was looked.
    pub(crate) fn silent_ns(&mut self, local: usize, connection: u32, frames: u32, now_ns: u64) -> u64 {
        if self.heard.len() <= local {
            self.heard.resize(local + 1, ((0, 0), now_ns));
        }
        let (known, since_ns) = &mut self.heard[local];
        if *known != (connection, frames) {
            (*known, *since_ns) = ((connection, frames), now_ns);
        }
        now_ns - *since_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_last_frame_of_this_connection() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.silent_ns(3, 0, 0, 100), 0);
        assert_eq!(pulse.silent_ns(3, 0, 0, 150), 50);
        assert_eq!(pulse.silent_ns(3, 0, 1, 200), 0, "a frame came");
        assert_eq!(pulse.silent_ns(3, 0, 1, 260), 60);
        assert_eq!(pulse.silent_ns(3, 1, 1, 270), 0, "a new connection");
    }

    #[test]
    fn it_looks_every_so_often() {
        let mut pulse = Pulse::default();
        let due: Vec<bool> = [5, 14, 15, 40].map(|now| pulse.take_due(now, 10)).into();
        assert_eq!(due, [true, false, true, true]);
    }
}
