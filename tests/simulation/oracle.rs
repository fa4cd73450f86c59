//! What must hold, whatever happens: checked at each attempt, at each commit, and at the end.
//! The step of the simulation is here too, since it keeps what the checks compare.

use std::collections::BTreeMap;
use std::panic::resume_unwind;

use mb::batch::Batch;
use mb::history::recovery::Resume;
use mb::offset::{Offset, Partition, RunKey};
use mb::run::RunState;
use mb::step::{Attempt, Step, StepError};
use rusqlite::{Connection, params};

use crate::simulation::plan::Rate;
use crate::simulation::world::{Fate, World, world};
use mb::config::{OnFailure, StartFrom};

#[derive(Default)]
pub struct Oracle {
    /// Where the group began in each partition.
    starts: BTreeMap<Partition, i64>,
    /// Which run key holds a record's effect: the step stores by run key.
    held: BTreeMap<(Partition, i64), RunKey>,
    /// Everything below was found done at an earlier commit.
    done_below: BTreeMap<Partition, i64>,
    /// What this process knows as committed.
    committed: BTreeMap<Partition, Offset>,
}

/// A process has found where it goes on.
pub fn resumed(world: &World, resumes: &BTreeMap<Partition, Resume>) {
    let mut oracle = world.oracle.borrow_mut();
    oracle.committed.clear();
    let known_group = !oracle.starts.is_empty();
    for (partition, resume) in resumes {
        if let Some(committed) = resume.committed {
            oracle.committed.insert(*partition, committed);
        }
        if oracle.starts.contains_key(partition) {
            continue;
        }
        let log = world.log.borrow();
        let of = &log.partitions[*partition as usize];
        let latest = world.plan.from == StartFrom::Latest && !known_group;
        let start = if latest { resume.position.get() } else { of.beginning };
        // One that was added while mb ran may be further already.
        if !known_group && resume.position.get() != start {
            world.violate(format!("partition {partition} begins at {}", resume.position));
        }
        oracle.starts.insert(*partition, start);
    }
}

/// Nothing unfinished lies below, all below is known as done, and it never goes backwards.
pub fn check_commit(world: &World, offsets: &[(Partition, Offset)]) {
    let Some(life) = world.life.borrow().clone() else { return };
    life.with_history(|db| {
        for (partition, offset) in offsets {
            if let Err(what) = check_one_commit(world, db, *partition, *offset) {
                world.violate(format!("commit of {offset} in partition {partition}: {what}"));
            }
        }
    });
}

fn check_one_commit(
    world: &World,
    db: &Connection,
    partition: Partition,
    offset: Offset,
) -> Result<(), String> {
    let before = world.oracle.borrow().committed.get(&partition).copied();
    if before > Some(offset) {
        return Err(format!("it goes backwards from {before:?}"));
    }
    let log = world.log.borrow();
    if offset.get() > log.partitions[partition as usize].end {
        return Err("it lies beyond the log's end".into());
    }
    let unfinished: Option<i64> = db
        .prepare_cached(
            "SELECT min(first_offset) FROM runs WHERE partition = ?1 AND first_offset < ?2 \
             AND state IN (?3, ?4)",
        )
        .unwrap()
        .query_row(
            params![partition, offset.get(), RunState::Queued.code(), RunState::Halted.code()],
            |row| row.get(0),
        )
        .unwrap();
    if let Some(first) = unfinished {
        return Err(format!("the run at {first} is unfinished in the history"));
    }
    drop(log);
    all_done_below(world, db, partition, offset.get())
}

/// Every record below is held by a run key or a dead letter, or compaction has taken it.
fn all_done_below(
    world: &World,
    db: &Connection,
    partition: Partition,
    end: i64,
) -> Result<(), String> {
    let mut oracle = world.oracle.borrow_mut();
    let start = oracle.starts.get(&partition).copied();
    // A partition that was added: from its beginning.
    let start = start.unwrap_or(world.plan.beginning);
    let checked = oracle.done_below.get(&partition).copied().unwrap_or(start);
    let log = world.log.borrow();
    let entries = &log.partitions[partition as usize].entries;
    let from = entries.partition_point(|entry| entry.offset < checked);
    for entry in entries[from..].iter().take_while(|entry| entry.offset < end) {
        let held = oracle.held.contains_key(&(partition, entry.offset));
        if !held && !entry.removed && !is_dead_letter(db, partition, entry.offset) {
            return Err(format!("record {} was neither processed nor kept", entry.offset));
        }
    }
    oracle.done_below.insert(partition, checked.max(end));
    Ok(())
}

fn is_dead_letter(db: &Connection, partition: Partition, offset: i64) -> bool {
    db.prepare_cached(
        "SELECT count(*) FROM dead_letters WHERE partition = ?1 AND record_offset = ?2",
    )
    .unwrap()
    .query_row([i64::from(partition), offset], |row| row.get::<_, i64>(0))
    .unwrap()
        > 0
}

pub fn confirmed(world: &World, offsets: &[(Partition, Offset)]) {
    world.oracle.borrow_mut().committed.extend(offsets.iter().copied());
}

/// `--until-caught-up` says that it is.
pub fn check_caught_up(world: &World, target: &BTreeMap<Partition, Offset>) {
    let Some(life) = world.life.borrow().clone() else { return };
    life.with_history(|db| {
        for (partition, end) in target {
            if let Err(what) = all_done_below(world, db, *partition, end.get()) {
                world.violate(format!("caught up in partition {partition}, but {what}"));
            }
        }
    });
}

/// All is done and committed, in so far as the log says so.
pub fn is_all_committed(world: &World) -> bool {
    let log = world.log.borrow();
    log.partitions.iter().all(|partition| partition.committed == Some(partition.end))
}

/// After the last process.
pub fn check_end(world: &World, db: &Connection) {
    let ends: Vec<_> = world.log.borrow().partitions.iter().map(|of| of.end).collect();
    world.oracle.borrow_mut().done_below.clear();
    for (partition, end) in ends.into_iter().enumerate() {
        if let Err(what) = all_done_below(world, db, partition as Partition, end) {
            world.violate(format!("at the end, partition {partition}: {what}"));
        }
    }
    let mut letters = db
        .prepare_cached(
            "SELECT partition, record_offset, min(run_key), count(*) FROM dead_letters GROUP BY 1, 2",
        )
        .unwrap();
    let mut rows = letters.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let record: (Partition, i64) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (key, count): (String, i64) = (row.get(2).unwrap(), row.get(3).unwrap());
        if count > 1 {
            world.violate(format!("record {record:?} is a dead letter {count} times"));
        }
        let oracle = world.oracle.borrow();
        if let Some(holder) = oracle.held.get(&record).filter(|holder| holder.to_string() != key) {
            world.violate(format!("record {record:?} is held by {holder}, a dead letter of {key}"));
        }
    }
    let unfinished: i64 = db
        .query_row(
            "SELECT count(*) FROM runs WHERE state IN (?1, ?2)",
            [RunState::Queued.code(), RunState::Halted.code()],
            |row| row.get(0),
        )
        .unwrap();
    if unfinished > 0 {
        world.violate(format!("at the end {unfinished} run(s) are unfinished in the history"));
    }
}

/// Stores each batch under its run key, as an idempotent step does.
pub struct SimulatedStep;

impl Step for SimulatedStep {
    fn name(&self) -> &str {
        "simulated"
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        let world = world();
        let killed = || StepError::Retry("killed".into());
        world.interleave();
        if world.is_dead() {
            return Err(killed());
        }
        world.count(|figures| figures.attempts += 1);
        world.note(|| format!("attempt {} of {}", attempt.number, attempt.key));
        if let Err(what) = check_content(&world, attempt.key, attempt.batch) {
            world.violate(format!("attempt {} of {}: {what}", attempt.number, attempt.key));
        }
        let failure = failure(&world, attempt);
        let has_effect = failure.is_none() || world.hits(world.plan.late_failure);
        if has_effect {
            match world.effect() {
                Fate::Never => return Err(killed()),
                Fate::Happens | Fate::Last => store(&world, attempt),
            }
        }
        world.interleave();
        match failure {
            _ if world.is_dead() => Err(killed()),
            None => Ok(()),
            Some(Failure::Error(error)) => {
                world.note(|| format!("{} fails: {error:?}", attempt.key));
                Err(error)
            }
            Some(Failure::Panic) => resume_unwind(Box::new("a panic in the step")),
        }
    }
}

enum Failure {
    Error(StepError),
    Panic,
}

fn failure(world: &World, attempt: &Attempt<'_>) -> Option<Failure> {
    // A halt is answered by mending what is wrong.
    let mended = world.calm.get() && world.plan.on_failure == OnFailure::Halt;
    let partition = attempt.key.partition as u64;
    let poison = |offset: Offset| {
        !mended && world.fixed(world.plan.poison, &[1, partition, offset.get() as u64])
    };
    if let Some(record) = attempt.batch.records().find(|record| poison(record.offset)) {
        let hopeless = world.fixed(Rate(3), &[2, partition, record.offset.get() as u64]);
        let text = "poison".to_owned();
        let error = if hopeless { StepError::DeadLetter(text) } else { StepError::Retry(text) };
        return Some(Failure::Error(error));
    }
    if !world.hits(world.plan.flaky) {
        return None;
    }
    Some(match world.below(12) {
        0 => Failure::Error(StepError::Stop("stop".into())),
        1 => Failure::Panic,
        _ => Failure::Error(StepError::Retry("flaky".into())),
    })
}

/// The batch has what the log has in the range, and nothing that was never posted.
fn check_content(world: &World, key: &RunKey, batch: &Batch) -> Result<(), String> {
    let log = world.log.borrow();
    let entries = &log.partitions[key.partition as usize].entries;
    let from = entries.partition_point(|entry| entry.offset < key.range.first.get());
    let mut records = batch.records().peekable();
    for entry in entries[from..].iter().take_while(|e| e.offset <= key.range.last.get()) {
        match records.next_if(|record| record.offset.get() == entry.offset) {
            Some(record) => {
                if (record.key, record.value) != (entry.key.as_deref(), entry.value.as_deref()) {
                    return Err(format!("record {} is another than was posted", entry.offset));
                }
            }
            None if entry.removed => {}
            None => return Err(format!("record {} is missing", entry.offset)),
        }
    }
    match records.next() {
        Some(record) => Err(format!("record {} does not belong to it", record.offset)),
        None => Ok(()),
    }
}

fn store(world: &World, attempt: &Attempt<'_>) {
    let mut oracle = world.oracle.borrow_mut();
    for record in attempt.batch.records() {
        let place = (attempt.key.partition, record.offset.get());
        if let Some(before) = oracle.held.insert(place, attempt.key.clone())
            && before != *attempt.key
        {
            world.violate(format!(
                "record {place:?} is held twice: by {before} and by {}",
                attempt.key
            ));
        }
    }
}
