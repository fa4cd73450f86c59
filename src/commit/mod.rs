//! From finished runs to committed offsets. The `ledger` of a partition knows the lowest offset that is not done
//! yet (`ledgers` shares those of all partitions between threads), and the thread `committer` commits it.
//! Whose an offset in the log is, `in_log` says.
//!
//! A person moves a group's offsets in two ways, and `move_plan` plans both: with a running mb the committer
//! commits the move (`source::cursor_move`); without one, `mb offsets --execute` does it in `reset`.

pub mod committer;
pub mod in_log;
pub mod ledger;
pub mod ledgers;
pub mod move_plan;
pub mod renewal;
pub mod reset;
