//! `history::transaction` with a stand-in for the file: a group is written as one, at the end of the transaction.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::reset::Intended;
use super::scope::ScopeId;
use super::write::Write;
use crate::file::Written;

#[derive(Debug, Default)]
pub(super) struct Effects {
    pub ignored: BTreeSet<usize>,
    pub sequences: BTreeMap<usize, i64>,
    pub resets: BTreeMap<usize, Intended>,
}

pub(super) fn write(
    db: &mut Connection,
    _scope: ScopeId,
    _client: &str,
    group: &[Write],
) -> rusqlite::Result<Effects> {
    let mut effects = Effects::default();
    let mut writes = Vec::new();
    for (at, write) in group.iter().enumerate() {
        writes.push(match write {
            Write::Planned(runs) | Write::Split(_, runs) => {
                Written::Planned(runs.iter().map(|run| run.id.0).collect())
            }
            Write::Outcome(outcome, _) => Written::Outcome(outcome.id.0),
            Write::Tick(tick) => Written::Tick(tick.sensor),
            Write::Cancel(requests, ..) => {
                let started = requests.iter().flat_map(|(_, started)| started);
                Written::Cancelled(started.map(|run| run.0).collect())
            }
            Write::Reset(reset) => {
                if !reset.claim.take() {
                    continue;
                }
                effects.resets.insert(at, Intended { void_runs: 0, sequence: 1 });
                Written::Reset(reset.resets[0].partition)
            }
            Write::Intend(..) => {
                effects.sequences.insert(at, 1);
                Written::Other
            }
            _ => Written::Other,
        });
    }
    // A transaction takes its time.
    shuttle::thread::yield_now();
    db.commit(writes)?;
    Ok(effects)
}
