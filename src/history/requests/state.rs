//! The states of a request, and of its runs.

use rusqlite::Row;

use crate::model::offset::{Offset, OffsetRange};
use crate::model::run::RunState;

/// `requests.state`.
pub const OPEN: i64 = 0;
pub const DONE: i64 = 1;
pub const CANCELLED: i64 = 2;

/// The names of `requests.state`.
pub(super) const NAMES: [(&str, i64); 3] =
    [("open", OPEN), ("done", DONE), ("cancelled", CANCELLED)];

/// `runs.state` of runs that are to be made again.
pub(super) const UNFINISHED: [i64; 3] = [0, 1, 4];

/// Failed attempts that count for a run that is made again. Somebody answered a halt by starting mb again, so
/// they count from the beginning then.
pub(super) fn failed_attempts(state: i64, attempts: u32) -> u32 {
    if state == RunState::Halted.code() { 0 } else { attempts }
}

/// The offsets in two columns, both included.
pub(super) fn range(row: &Row<'_>, first: usize) -> rusqlite::Result<OffsetRange> {
    Ok(OffsetRange::new(Offset::new(row.get(first)?), Offset::new(row.get(first + 1)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_states_are_those_that_are_made_again() {
        let states = [RunState::Queued, RunState::Running, RunState::Halted];
        assert_eq!(states.map(RunState::code), UNFINISHED);
    }
}
