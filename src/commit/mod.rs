//! From finished runs to committed offsets: the `ledger` of one partition knows the lowest offset that is
//! not done yet, the `committer` is the only thread that commits it, and `reset` moves a group's offsets
//! when a person asks for it, as `move_plan` plans.

pub mod committer;
pub mod ledger;
pub mod ledgers;
pub mod move_plan;
pub mod reset;
