//! What is watched while mb runs: the log's ends, the last 15 minutes, what is stuck, how fresh the
//! data is. A thread, `watch`, looks each second; whoever shows it reads what it found.

/// What was found last.
#[derive(Debug, Default)]
pub struct Watch {}
