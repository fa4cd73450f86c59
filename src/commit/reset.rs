//! Moves a group's offsets while no mb runs (`mb offsets --execute`, which holds the data directory's lock), and
//! voids the ranges that the history has planned for the old ones. Also checks moves that name their offsets, for
//! this and for `source::cursor_move`, by which a running mb moves its cursor.
//!
//! Whether a committed offset is mb's own at the next start is decided in `history::resume`.

use std::path::Path;

use crate::commit::move_plan::{self, Move, Target};
use crate::history::clean_shutdown::{self, InUse};
use crate::history::mark::Stamp;
use crate::history::reset::{self, Intended, Reset};
use crate::history::schema;
use crate::history::scope::{self, ScopeKey};
use crate::kafka::{Broker, Commit, TopicInfo, Watermarks};
use crate::model::crash;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Plans moves to offsets that a program or the page has named. Changes nothing.
///
/// # Errors
/// `Usage` for a partition that does not exist or is named twice; as `move_plan::plan`.
pub fn plan(
    broker: &dyn Broker,
    group: &str,
    topic: &TopicInfo,
    targets: &[(Partition, Offset)],
) -> Result<Vec<(Reset, Watermarks)>> {
    for (index, (partition, _)) in targets.iter().enumerate() {
        if !topic.partitions.contains(partition) {
            let last = topic.partitions.last().copied().unwrap_or_default();
            return Err(Error::Usage(format!(
                "partition: got {partition}, expected one of topic {}, 0 to {last}",
                topic.name
            )));
        }
        if targets[..index].iter().any(|(other, _)| other == partition) {
            return Err(Error::Usage(format!(
                "partition: got {partition} twice, expected it once"
            )));
        }
    }
    let targets: Vec<_> =
        targets.iter().map(|(partition, to)| (*partition, Target::Offset(*to))).collect();
    let moves = move_plan::plan(broker, group, topic, &targets)?;
    let reset = |Move { partition, from, to, marks, .. }| {
        (Reset { partition, from, to, epoch: None }, marks)
    };
    Ok(moves.into_iter().map(reset).collect())
}

/// Voids the planned ranges in the history, commits the new offsets, and records that they are confirmed. The old
/// ranges are neither repeated nor skipped afterwards, even if a new offset equals one that mb has committed
/// itself. If the process is killed anywhere in between, the next start continues at the committed offset.
///
/// # Errors
/// `Storage` for a history that cannot be used, `Broker` for a commit that was not confirmed.
pub fn execute(
    broker: &dyn Broker,
    group: &str,
    topic: &TopicInfo,
    history: &Path,
    resets: &[Reset],
) -> Result<()> {
    clean_shutdown::check_place(history)?;
    let mut resets = resets.to_vec();
    look_epochs_up(broker, &topic.name, &mut resets);
    let whole = clean_shutdown::unchanged_since(history);
    let in_use = whole.map(|read| InUse::begin(history, Some(read))).transpose()?;
    // Opened first: a history that cannot be used must stop the move before anything is changed.
    let db = if history.exists() { Some(schema::open(history)?) } else { None };
    let prepared = match db {
        Some(db) => {
            // After a power cut the log would have the new offsets; without the intent in the file, mb would take
            // them for its own and skip or repeat the old ranges.
            db.pragma_update(None, "synchronous", "FULL")
                .map_err(|cause| Error::storage("use the history", cause))?;
            let key = ScopeKey::of(broker.backend(), group, topic);
            let scope = scope::find_or_add(&db, &key)?;
            let intended = reset::intend(&db, scope, &resets)?;
            Some((db, scope, intended))
        }
        None => None,
    };
    crash::point("move-intended");
    let sequence = prepared.as_ref().map_or(0, |(.., intended)| intended.sequence);
    // An mb that finds them follows.
    let commits = commits(&resets, &Stamp::of_person(sequence));
    broker.commit_all(group, &topic.name, &commits)?;
    crash::point("move-committed");
    let Some((db, scope, Intended { void_runs, sequence })) = prepared else { return Ok(()) };
    reset::confirm(&db, scope, &resets, sequence).map_err(|cause| {
        let doing = "record that the new offsets are confirmed (they are committed, and the next mb \
                     begins there all the same)";
        Error::storage(doing, cause)
    })?;
    drop(db);
    if let Some(in_use) = in_use {
        in_use.end();
    }
    if void_runs > 0 {
        log::info!(
            "{void_runs} unfinished run(s) of the old offsets are void: mb reads from the new offsets"
        );
    }
    Ok(())
}

/// Finds the leader epochs of the records below the new offsets. Without it an offset holds all the same, and its log is
/// not checked.
pub fn look_epochs_up(broker: &dyn Broker, topic: &str, resets: &mut [Reset]) {
    let last = |reset: &Reset| Some((reset.partition, reset.to.before()?));
    let asked: Vec<_> = resets.iter().filter_map(last).collect();
    let mut found = broker.epochs_at(topic, &asked);
    for reset in resets {
        reset.epoch = found.remove(&reset.partition).and_then(|epoch| epoch.ok().flatten());
    }
}

/// The new offsets as they are committed.
pub fn commits(resets: &[Reset], mark: &Stamp) -> Vec<Commit> {
    let commit = |reset: &Reset| Commit {
        partition: reset.partition,
        offset: reset.to,
        epoch: reset.epoch,
        metadata: mark.to_string(),
    };
    resets.iter().map(commit).collect()
}
