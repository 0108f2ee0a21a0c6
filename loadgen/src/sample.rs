//! A result for tests: a run as the generator keeps it.
//!
//! Owns: reading the kept sample. Must not: be part of the program.

use crate::result::RunResult;

/// A room push over two nodes, not yet judged.
pub(crate) fn room_push() -> RunResult {
    serde_json::from_str(include_str!("../tests/samples/room-push.json")).expect("the sample has the form")
}
