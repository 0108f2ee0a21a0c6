//! Latencies of one row.
//!
//! Owns: the range and the resolution. Must not: know what is measured.

use hdrhistogram::Histogram;

/// A distribution of times up to a minute, good to 0.2 %.
#[derive(Debug, Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("bounds that the crate takes"))
    }
}

impl Latency {
    /// Takes one in, in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The percentile (0 to 100), in milliseconds; 0 where there is nothing.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_percentile(percentile) as f64 / 1e6 }
    }
}
