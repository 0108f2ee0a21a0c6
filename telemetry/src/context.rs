//! The context that a trace is carried by from one process to the next (W3C Trace Context, level 1, section 3.2).
//!
//! Owns: reading and writing `traceparent`. `tracestate` is not carried: nothing here adds to it.

use opentelemetry::trace::{SpanId, TraceId};

/// The name of the header, and of the key in gRPC's metadata.
pub const TRACEPARENT: &str = "traceparent";

/// Of whom a span is the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) sampled: bool,
}

/// Version, trace, parent and flags, with a dash between each.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads a header; `None` where it is not one, which begins a new trace (section 4.3).
    pub fn parse(header: &str) -> Option<Self> {
        // A later version may be longer, behind another dash.
        if header.len() < LENGTH || !header.is_ascii() {
            return None;
        }
        let (known, rest) = header.split_at(LENGTH);
        let mut fields = known.split('-');
        let (version, trace, parent, flags) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let lengths = (version.len(), trace.len(), parent.len(), flags.len());
        if lengths != (2, 32, 16, 2) || !known.bytes().all(is_lower_hex_or_dash) || version == "ff" {
            return None;
        }
        if !rest.is_empty() && (version == "00" || !rest.starts_with('-')) {
            return None;
        }
        let trace_id = TraceId::from_hex(trace).ok().filter(|id| *id != TraceId::INVALID)?;
        let span_id = SpanId::from_hex(parent).ok().filter(|id| *id != SpanId::INVALID)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, span_id, sampled })
    }

    /// The header.
    pub fn header(&self) -> String {
        format!("00-{}-{}-0{}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

fn is_lower_hex_or_dash(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte) || byte == b'-'
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_is_read_and_written_alike() {
        let parent = TraceParent::parse(HEADER).unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.header(), HEADER);
        let unsampled = HEADER.replace("-01", "-00");
        let parent = TraceParent::parse(&unsampled).unwrap();
        assert!(!parent.sampled);
        assert_eq!(parent.header(), unsampled);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = HEADER.replace("00-4b", "cc-4b");
        for header in [later.clone(), format!("{later}-more")] {
            assert_eq!(TraceParent::parse(&header).unwrap().header(), HEADER);
        }
    }

    #[test]
    fn what_is_no_header_is_not_read() {
        let zeros = "0".repeat(32);
        for wrong in [
            String::new(),
            HEADER[..54].to_owned(),
            HEADER.to_uppercase(),
            HEADER.replacen('-', "_", 1),
            HEADER.replace("00-4b", "ff-4b"),
            format!("{HEADER}-more"),
            HEADER.replace("4bf92f3577b34da6a3ce929d0e0e4736", &zeros),
            HEADER.replace("00f067aa0ba902b7", &zeros[..16]),
            HEADER.replace("4bf92f", "4bf9-f"),
            format!("{}é", &HEADER[..54]),
            format!("{}é-01", &HEADER[..50]),
        ] {
            assert_eq!(TraceParent::parse(&wrong), None, "{wrong:?} was read");
        }
    }
}
