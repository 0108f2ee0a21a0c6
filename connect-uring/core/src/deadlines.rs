//! When each session is to be looked at again: a wheel of coarse buckets with one entry a session.
//!
//! Owns: buckets of slots. Must not: know why a session waits, nor call anyone. Talks to: `shard`, which checks
//! each slot that falls due against the session's own deadline.
//!
//! A session whose deadline moves later keeps its entry and is put in again when that falls due; one whose
//! deadline moves earlier gets a second entry and the first is ignored. So a byte that refreshes a session's
//! liveness costs nothing here.

/// The width of a bucket in milliseconds: no deadline of a session is met early, none more than this late.
pub(crate) const TICK_MS: u64 = 128;

/// Buckets of the wheel: 65 s. Deadlines past that are looked at on the way.
const BUCKETS: u64 = 512;

/// The tick of a session that has no entry.
pub(crate) const NO_TICK: u32 = u32::MAX;

/// Sessions keep the last bits of a tick: never all of them set, which is [`NO_TICK`].
const TICK_MASK: u32 = u32::MAX >> 1;

fn short(tick: u64) -> u32 {
    tick as u32 & TICK_MASK
}

/// A slot that fell due, with the tick of the entry that said so.
pub(crate) type Due = (u32, u32);

/// The wheel.
#[derive(Debug)]
pub(crate) struct Deadlines {
    buckets: Vec<Vec<u32>>,
    occupied: [u64; (BUCKETS / 64) as usize],
    /// All entries are later than this tick and at most `BUCKETS - 1` past it.
    tick: u64,
}

impl Deadlines {
    /// An empty wheel.
    pub(crate) fn new() -> Self {
        Self { buckets: vec![Vec::new(); BUCKETS as usize], occupied: [0; (BUCKETS / 64) as usize], tick: 0 }
    }

    /// Enters a slot for a time in monotonic milliseconds, unless its present entry `current` is early enough.
    /// Returns the tick of the entry that now counts.
    pub(crate) fn enter(&mut self, slot: u32, at_ms: u64, current: u32) -> u32 {
        let tick = at_ms.div_ceil(TICK_MS).clamp(self.tick + 1, self.tick + BUCKETS - 1);
        // Both are in the wheel, so less than its length apart.
        if current != NO_TICK && u64::from(short(tick).wrapping_sub(current) & TICK_MASK) < BUCKETS {
            return current;
        }
        let bucket = (tick % BUCKETS) as usize;
        self.buckets[bucket].push(slot);
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        short(tick)
    }

    /// When the first entry falls due, in monotonic milliseconds.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        let start = (self.tick + 1) % BUCKETS;
        let mut ahead = 0;
        while ahead < BUCKETS {
            let bucket = (start + ahead) % BUCKETS;
            let word = self.occupied[(bucket / 64) as usize] >> (bucket % 64);
            if word != 0 {
                let found = ahead + u64::from(word.trailing_zeros());
                return (found < BUCKETS).then(|| (self.tick + 1 + found) * TICK_MS);
            }
            ahead += 64 - bucket % 64;
        }
        None
    }

    /// Takes all entries that are due. They may have become void: the caller compares ticks.
    pub(crate) fn take_due(&mut self, now_ms: u64, due: &mut Vec<Due>) {
        let now = now_ms / TICK_MS;
        if now <= self.tick {
            return;
        }
        // However far the clock leapt, each bucket holds one tick only.
        for tick in self.tick + 1..=now.min(self.tick + BUCKETS) {
            let bucket = (tick % BUCKETS) as usize;
            if self.occupied[bucket / 64] & (1 << (bucket % 64)) != 0 {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
                // The bucket's memory is given back: kept, every bucket would grow to the size of the largest.
                due.extend(
                    std::mem::take(&mut self.buckets[bucket]).into_iter().map(|slot| (slot, short(tick))),
                );
            }
        }
        self.tick = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Deadlines, now_ms: u64) -> Vec<Due> {
        let mut due = Vec::new();
        wheel.take_due(now_ms, &mut due);
        due
    }

    #[test]
    fn nothing_falls_due_early_or_more_than_a_tick_late() {
        let mut wheel = Deadlines::new();
        assert_eq!(wheel.next_ms(), None);
        let tick = wheel.enter(7, 5_000, NO_TICK);
        let next = wheel.next_ms().expect("one entry");
        assert!((5_000..5_000 + TICK_MS).contains(&next));
        assert_eq!(due(&mut wheel, next - 1), []);
        assert_eq!(due(&mut wheel, next), [(7, tick)]);
        assert_eq!(wheel.next_ms(), None);
    }

    #[test]
    fn a_later_deadline_keeps_its_entry_and_an_earlier_one_makes_a_second() {
        let mut wheel = Deadlines::new();
        let first = wheel.enter(1, 10_000, NO_TICK);
        assert_eq!(wheel.enter(1, 20_000, first), first);
        let second = wheel.enter(1, 1_000, first);
        assert!(second < first);
        assert_eq!(due(&mut wheel, 30_000), [(1, second), (1, first)]);
    }

    #[test]
    fn ticks_may_wrap() {
        for start_ms in [TICK_MS << 31, TICK_MS << 32, (TICK_MS << 31) - 1_000] {
            let mut wheel = Deadlines::new();
            assert_eq!(due(&mut wheel, start_ms), []);
            let first = wheel.enter(1, start_ms + 10_000, NO_TICK);
            assert_eq!(wheel.enter(1, start_ms + 20_000, first), first);
            let second = wheel.enter(1, start_ms + 500, first);
            assert_eq!(due(&mut wheel, start_ms + 700), [(1, second)]);
            assert_eq!(due(&mut wheel, start_ms + 10_200), [(1, first)]);
        }
    }

    #[test]
    fn far_deadlines_and_leaps_of_the_clock_lose_nothing() {
        let mut wheel = Deadlines::new();
        let tick = wheel.enter(3, 3_600_000, NO_TICK);
        assert!(wheel.next_ms().expect("clamped to the wheel") <= BUCKETS * TICK_MS);
        assert_eq!(due(&mut wheel, 100 * 3_600_000), [(3, tick)]);
        let again = wheel.enter(3, 0, NO_TICK);
        assert_eq!(u64::from(again), 100 * 3_600_000 / TICK_MS + 1);
        assert_eq!(due(&mut wheel, 5), [], "a clock that went back is waited for");
        for slot in 0..600 {
            wheel.enter(slot, 100 * 3_600_000 + u64::from(slot) * TICK_MS, NO_TICK);
        }
        assert_eq!(due(&mut wheel, 200 * 3_600_000).len(), 601);
    }
}
