//! Which traces are kept: a new one by chance, one that has begun elsewhere as it was decided there.
//!
//! Owns: that decision. Talks to: `variables`, which says how it is set.

use opentelemetry::trace::TraceId;

use crate::context::TraceParent;

/// How it is decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sampler {
    /// The share of traces that are kept, 0 to 1, where it is decided here.
    pub(crate) ratio: f64,
    /// A trace that has begun elsewhere is kept if it is kept there.
    pub(crate) parent_based: bool,
}

impl Sampler {
    /// Draws the number of a new trace; `None`: it is not kept.
    pub(crate) fn draw(self) -> Option<TraceId> {
        let low = fastrand::u64(..);
        self.keeps(low).then(|| TraceId::from(u128::from(fastrand::u64(1..)) << 64 | u128::from(low)))
    }

    /// Whether a trace that has begun elsewhere is kept.
    pub(crate) fn follows(self, parent: &TraceParent) -> bool {
        if self.parent_based {
            return parent.sampled;
        }
        let bytes = parent.trace_id.to_bytes();
        let mut low = [0; 8];
        low.copy_from_slice(&bytes[8..]);
        self.keeps(u64::from_be_bytes(low))
    }

    /// By the lower half of the trace's number, as every SDK decides (OpenTelemetry, `TraceIdRatioBased`), so that the
    /// services that look at one trace decide alike.
    fn keeps(self, low: u64) -> bool {
        let bound = (self.ratio.clamp(0.0, 1.0) * (1u64 << 63) as f64) as u64;
        low >> 1 < bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(ratio: f64, parent_based: bool) -> Sampler {
        Sampler { ratio, parent_based }
    }

    #[test]
    fn so_many_new_traces_are_kept() {
        let kept = |ratio| (0..20_000).filter(|_| sampler(ratio, true).draw().is_some()).count();
        assert_eq!((kept(0.0), kept(1.0)), (0, 20_000));
        let tenth = kept(0.1);
        assert!((1_600..2_400).contains(&tenth), "{tenth} of 20000 at a ratio of 0.1");
    }

    #[test]
    fn a_trace_that_came_along_is_kept_as_it_was_decided_there() {
        let parent = |flags| TraceParent::parse(&format!("00-{:032x}-{:016x}-{flags}", 7, 7)).unwrap();
        assert!(sampler(0.0, true).follows(&parent("01")));
        assert!(!sampler(1.0, true).follows(&parent("00")));
        assert!(sampler(1.0, false).follows(&parent("00")));
        assert!(!sampler(0.0, false).follows(&parent("01")));
    }
}
