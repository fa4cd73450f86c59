//! What must hold, whatever happens: checked at each attempt, at each commit, and at the end.
//! The step of the simulation is here too, since it keeps what the checks compare.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;

use mb::config::{OnFailure, Order, StartFrom};
use mb::history::recovery::Resume;
use mb::model::batch::{Batch, Record};
use mb::model::lane::lane_of_record;
use mb::model::offset::{Lane, Offset, OffsetRange, Partition, Reprocess, RunKey};
use mb::model::run::RunState;
use mb::step::{Attempt, Step, StepError};
use rusqlite::{Connection, params};

use crate::order::Orders;
use crate::outage;
use crate::plan::Rate;
use crate::requests;
use crate::version::Version;
use crate::world::{Fate, World, world};

#[derive(Default)]
pub struct Oracle {
    /// Where the group began in each partition.
    starts: BTreeMap<Partition, i64>,
    /// Which run key holds a record's effect: the step stores by run key.
    /// By partition, offset and leader epoch: a log that was cut off has other records at the same offsets.
    held: BTreeMap<(Partition, i64, i32), RunKey>,
    /// Everything below was found done at an earlier commit.
    done_below: BTreeMap<Partition, i64>,
    /// Every run key that was attempted.
    attempted: BTreeSet<RunKey>,
    orders: Orders,
    /// What this process knows as committed.
    committed: BTreeMap<Partition, Offset>,
    /// Offsets that a person has passed over by moving the cursor: from, and to before which.
    passed_over: Vec<(Partition, i64, i64)>,
    /// Partitions whose cursor was moved: a record of theirs may be done again under another key.
    moved: BTreeSet<Partition>,
}

impl Oracle {
    /// The partition's log was cut off, and may grow again with other records: what was planned above may come again,
    /// with other records or the same.
    pub fn cut(&mut self, partition: Partition) {
        self.attempted.retain(|key| key.partition != partition);
        self.orders.forget(partition);
        self.moved.insert(partition);
        self.done_below.remove(&partition);
        self.committed.remove(&partition);
    }
}

/// A cursor move begins: whatever becomes of it, what lies below its offset may be passed over, and planned ranges
/// may be void.
pub fn begin_move(world: &World, offsets: &[(Partition, Offset)]) {
    let mut oracle = world.oracle.borrow_mut();
    for (partition, to) in offsets {
        oracle.attempted.retain(|key| key.partition != *partition || key.reprocess.is_some());
        oracle.orders.forget(*partition);
        oracle.moved.insert(*partition);
        oracle.passed_over.push((*partition, i64::MIN, to.get()));
    }
}

/// The log has taken a cursor move. What lies above it has to be done once more.
pub fn moved(world: &World, offsets: &[(Partition, Offset)]) {
    let mut oracle = world.oracle.borrow_mut();
    for (partition, to) in offsets {
        world.outages.borrow_mut().forget(*partition);
        oracle.committed.insert(*partition, *to);
        oracle.held.retain(|(of, offset, _), _| of != partition || *offset < to.get());
        let done = oracle.done_below.get(partition).copied();
        oracle.done_below.extend(done.map(|done| (*partition, done.min(to.get()))));
    }
}

/// A process has found where it goes on.
pub fn resumed(world: &World, order: Order, resumes: &BTreeMap<Partition, Resume>) {
    world.requests.borrow_mut().begin_life();
    world.outages.borrow_mut().begin_life();
    let mut oracle = world.oracle.borrow_mut();
    oracle.orders.begin_life(order);
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
    // Until it notices, it commits what it has done of the log as it was.
    let is_cut = world.cut.borrow().contains(&partition);
    if !is_cut && offset.get() > log.partitions[partition as usize].end {
        return Err("it lies beyond the log's end".into());
    }
    let unfinished: Option<i64> = db
        .prepare_cached(
            "SELECT min(first_offset) FROM runs WHERE partition = ?1 AND first_offset < ?2 \
             AND state IN (?3, ?4) AND request IS NULL",
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
    if is_cut {
        return Ok(());
    }
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
    let now = &log.partitions[partition as usize].now;
    let entries = &now.entries;
    let from = entries.partition_point(|entry| entry.offset < checked);
    for entry in entries[from..].iter().take_while(|entry| entry.offset < end) {
        let place = (partition, entry.offset, now.epoch_of(entry.offset));
        let held = oracle.held.contains_key(&place)
            || oracle
                .passed_over
                .iter()
                .any(|(of, from, to)| *of == partition && (*from..*to).contains(&entry.offset));
        let held = held
            || world.requests.borrow().is_resolved(partition, entry.offset)
            || world.dead_topic.borrow().keeps(partition, entry.offset);
        if !held && !entry.removed && !is_dead_letter(db, partition, entry.offset) {
            return Err(format!("record {} was neither processed nor kept", entry.offset));
        }
    }
    oracle.done_below.insert(partition, checked.max(end));
    Ok(())
}

/// Those that a replay gave up on say nothing about what the group has done.
fn is_dead_letter(db: &Connection, partition: Partition, offset: i64) -> bool {
    db.prepare_cached(
        "SELECT count(*) FROM dead_letters WHERE partition = ?1 AND record_offset = ?2 \
         AND instr(run_key, '.replay-') = 0",
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
        let cut = world.cut.borrow().clone();
        // It is caught up with the log as it was.
        for (partition, end) in target.iter().filter(|(partition, _)| !cut.contains(partition)) {
            if let Err(what) = all_done_below(world, db, *partition, end.get()) {
                world.violate(format!("caught up in partition {partition}, but {what}"));
            }
        }
    });
}

/// All is done and committed, in so far as the log says so.
pub fn is_all_committed(world: &World) -> bool {
    let log = world.log.borrow();
    log.partitions.iter().all(|partition| {
        let committed = partition.committed.as_ref().map(|committed| committed.offset.get());
        committed == Some(partition.end)
    })
}

/// After the last process.
pub fn check_end(world: &World, db: &Connection) {
    requests::look(world, db, true);
    let ends: Vec<_> = world.log.borrow().partitions.iter().map(|of| of.end).collect();
    world.oracle.borrow_mut().done_below.clear();
    for (partition, end) in ends.into_iter().enumerate() {
        if let Err(what) = all_done_below(world, db, partition as Partition, end) {
            world.violate(format!("at the end, partition {partition}: {what}"));
        }
    }
    let mut letters = db
        .prepare_cached(
            "SELECT partition, record_offset, min(run_key), count(*) FROM dead_letters \
             WHERE instr(run_key, '.replay-') = 0 GROUP BY 1, 2",
        )
        .unwrap();
    let mut rows = letters.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let record: (Partition, i64) = (row.get(0).unwrap(), row.get(1).unwrap());
        let (run_key, count): (String, i64) = (row.get(2).unwrap(), row.get(3).unwrap());
        if count > 1 && !world.oracle.borrow().moved.contains(&record.0) {
            world.violate(format!("record {record:?} is a dead letter {count} times"));
        }
        let oracle = world.oracle.borrow();
        let letter = oracle.attempted.iter().find(|key| key.to_string() == run_key);
        let epoch = world.log.borrow().partitions[record.0 as usize].now.epoch_of(record.1);
        let place = (record.0, record.1, epoch);
        if let (Some(holder), Some(letter)) = (oracle.held.get(&place), letter)
            && holder != letter
            && !is_piece(letter, holder)
            && !oracle.moved.contains(&record.0)
        {
            world
                .violate(format!("record {record:?}: held by {holder}, a dead letter of {letter}"));
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
        outage::begins(&world, attempt.key);
        // Before others act: once a request is cancelled no attempt of it begins.
        let checked = requests::check_attempt(&world, attempt.key, attempt.batch);
        world.interleave();
        if world.is_dead() {
            return Err(killed());
        }
        world.count(|figures| figures.attempts += 1);
        world.note(|| format!("attempt {} of {}", attempt.number, attempt.key));
        let checked = checked
            .and_then(|()| check_content(&world, attempt.key, attempt.batch).map(drop))
            .and_then(|()| check_identity(&world, attempt.key))
            .and_then(|()| world.oracle.borrow_mut().orders.begin(attempt.key, attempt.batch));
        if let Err(what) = checked {
            world.violate(format!("attempt {} of {}: {what}", attempt.number, attempt.key));
        }
        let result = attempt_it(&world, attempt);
        world.oracle.borrow_mut().orders.end(attempt.key, attempt.batch);
        let has_processed_all = result.is_ok() && attempt.failed.is_empty();
        requests::attempted(&world, attempt.key, attempt.batch, has_processed_all);
        outage::ends(&world, attempt, result.as_ref().err());
        match result {
            _ if world.is_dead() => Err(killed()),
            Ok(()) => {
                world.note(|| format!("{} succeeds", attempt.key));
                Ok(())
            }
            Err(Failure::Panic) => resume_unwind(Box::new("a panic in the step")),
            Err(Failure::Error(error)) => {
                world.note(|| format!("{} fails: {error:?}, {:?}", attempt.key, attempt.failed));
                Err(error)
            }
        }
    }
}

/// The step's work: its effect, if it has one, and what it says.
fn attempt_it(world: &World, attempt: &mut Attempt<'_>) -> Result<(), Failure> {
    let failure = failure(world, attempt);
    let has_effect =
        failure.is_none() || !attempt.failed.is_empty() || world.hits(world.plan.late_failure);
    if has_effect {
        match world.effect() {
            Fate::Never => {}
            Fate::Happens | Fate::Last => store(world, attempt),
        }
    }
    world.interleave();
    failure.map_or(Ok(()), Err)
}

pub enum Failure {
    Error(StepError),
    Panic,
}

/// Whether no attempt of the run can process the record.
pub fn is_poison(world: &World, key: &RunKey, offset: Offset) -> bool {
    // A halt is answered by mending what is wrong.
    let mended = world.calm.get() && world.plan.on_failure == OnFailure::Halt;
    // What was wrong may be mended before a redrive.
    let redrive = match key.reprocess {
        Some(Reprocess::Redrive(request)) => request as u64,
        _ => 0,
    };
    let (partition, offset) = (key.partition as u64, offset.get() as u64);
    !mended
        && world.fixed(world.plan.poison, &[1, partition, offset])
        && (redrive == 0 || world.fixed(Rate(2), &[3, partition, offset, redrive]))
}

fn failure(world: &World, attempt: &mut Attempt<'_>) -> Option<Failure> {
    if let Some(error) = world.outages.borrow_mut().error(world, attempt.key) {
        return Some(Failure::Error(error));
    }
    let partition = attempt.key.partition as u64;
    if world.hits(world.plan.flaky) {
        return Some(match world.below(12) {
            0 => Failure::Error(StepError::Stop("stop".into())),
            1 => Failure::Panic,
            _ => Failure::Error(StepError::Retry("flaky".into())),
        });
    }
    let bad: Vec<Offset> = attempt.batch.records().map(|record| record.offset).collect();
    let bad: Vec<Offset> =
        bad.into_iter().filter(|offset| is_poison(world, attempt.key, *offset)).collect();
    let first = bad.first()?;
    let hopeless = world.fixed(Rate(3), &[2, partition, first.get() as u64]);
    let text = "poison".to_owned();
    if !world.plan.names {
        let error = if hopeless { StepError::DeadLetter(text) } else { StepError::Retry(text) };
        return Some(Failure::Error(error));
    }
    for offset in bad {
        attempt.fail(offset, "poison");
    }
    if hopeless { None } else { Some(Failure::Error(StepError::RetryFailed(text))) }
}

/// The batch has what the log has in the range, or had before it was cut off, and nothing that was never posted. Returns
/// how often it had been cut off then.
fn check_content(world: &World, key: &RunKey, batch: &Batch) -> Result<usize, String> {
    let log = world.log.borrow();
    let of = &log.partitions[key.partition as usize];
    let checked = has_content(&of.now, key, batch).map(|()| of.before.len());
    checked.or_else(|what| {
        let had = |version: &Version| has_content(version, key, batch).is_ok();
        of.before.iter().rposition(had).ok_or(what)
    })
}

fn has_content(version: &Version, key: &RunKey, batch: &Batch) -> Result<(), String> {
    let entries = &version.entries;
    let from = entries.partition_point(|entry| entry.offset < key.range.first.get());
    let mut records = batch.records().peekable();
    // Which of them it has is checked elsewhere.
    let is_redrive = matches!(key.reprocess, Some(Reprocess::Redrive(_)));
    for entry in entries[from..].iter().take_while(|e| e.offset <= key.range.last.get()) {
        let record = Record {
            offset: Offset::new(entry.offset),
            key: entry.key.as_deref(),
            ..Record::default()
        };
        let Lane { index, count } = key.lane;
        if count > 1 && lane_of_record(&record, count) != index {
            continue;
        }
        match records.next_if(|record| record.offset.get() == entry.offset) {
            Some(record) => {
                if (record.key, record.value) != (entry.key.as_deref(), entry.value.as_deref()) {
                    return Err(format!("record {} is another than was posted", entry.offset));
                }
            }
            None if entry.removed || is_redrive => {}
            None => return Err(format!("record {} is missing", entry.offset)),
        }
    }
    match records.next() {
        Some(record) => Err(format!("record {} does not belong to it", record.offset)),
        None => Ok(()),
    }
}

/// A run that was split is never tried again: nothing that it became has come before it.
fn check_identity(world: &World, key: &RunKey) -> Result<(), String> {
    let mut oracle = world.oracle.borrow_mut();
    let from_here = oracle.attempted.range(RunKey { range: first_of(key.range), ..key.clone() }..);
    let within = from_here.take_while(|other| other.range.first <= key.range.last);
    let mut pieces = within.filter(|other| is_piece(other, key));
    if let Some(piece) = pieces.next() {
        return Err(format!("{piece}, a part of it, came before"));
    }
    let life = world.life.borrow().clone();
    // What was split before a cut may be planned anew, in the same range.
    let is_split = !oracle.moved.contains(&key.partition)
        && life.is_some_and(|life| life.with_history(|db| is_split(db, key)));
    if is_split {
        return Err("the history has it as split".into());
    }
    oracle.attempted.insert(key.clone());
    Ok(())
}

fn first_of(range: OffsetRange) -> OffsetRange {
    OffsetRange::new(range.first, range.first)
}

/// Whether `piece` is of a run that `whole` was split into.
pub fn is_piece(piece: &RunKey, whole: &RunKey) -> bool {
    piece.partition == whole.partition
        && piece.reprocess == whole.reprocess
        && piece.lane == whole.lane
        && piece.range != whole.range
        && whole.range.contains(piece.range.first)
        && whole.range.contains(piece.range.last)
}

fn is_split(db: &Connection, key: &RunKey) -> bool {
    db.prepare_cached(
        "SELECT count(*) FROM runs WHERE partition = ?1 AND first_offset = ?2 AND last_offset = ?3 \
         AND lane = ?4 AND lanes = ?5 AND state = ?6 AND request IS ?7 \
         AND id > (SELECT ifnull(max(void_up_to), 0) FROM partitions WHERE partition = ?1)",
    )
    .unwrap()
    .query_row(
        params![
            key.partition,
            key.range.first.get(),
            key.range.last.get(),
            key.lane.index,
            key.lane.count,
            RunState::Split.code(),
            key.reprocess.map(Reprocess::request)
        ],
        |row| row.get::<_, i64>(0),
    )
    .unwrap()
        > 0
}

/// What the step does: all but the records that it names as failed are held by this run key. A run
/// that was split may have had its effect in a process that was killed before it knew.
fn store(world: &World, attempt: &Attempt<'_>) {
    let Ok(version) = check_content(world, attempt.key, attempt.batch) else { return };
    let log = world.log.borrow();
    let of = &log.partitions[attempt.key.partition as usize];
    let version = of.before.get(version).unwrap_or(&of.now);
    let mut oracle = world.oracle.borrow_mut();
    for record in attempt.batch.records() {
        if attempt.failed.iter().any(|failed| failed.offset == record.offset) {
            continue;
        }
        if let Some(reprocess) = attempt.key.reprocess {
            requests::store(world, attempt.key, reprocess.request(), record.offset);
            continue;
        }
        let offset = record.offset.get();
        let place = (attempt.key.partition, offset, version.epoch_of(offset));
        if let Some(before) = oracle.held.insert(place, attempt.key.clone())
            && before != *attempt.key
            && !is_piece(attempt.key, &before)
            && !oracle.moved.contains(&attempt.key.partition)
        {
            world.violate(format!(
                "record {place:?} is held twice: by {before} and by {}",
                attempt.key
            ));
        }
    }
}
