//! Replays and redrives: what must become of those that a person asks for (`asker`). Each ends, and what the
//! history counts of it is what happened.
//!
//! A replay processes every record of its range that the log still has, at least once and under one run key,
//! and commits nothing. A redrive gives each of its dead letters to one run; those that it processed are redriven,
//! those that it gave up on are open again, and no dead letter vanishes in any other way.

use std::collections::{BTreeMap, BTreeSet};

use mb::history::dead_letters::DeadLetterState;
use mb::history::requests::{self, RequestRow, Selection};
use mb::history::{CANCELLED, Outcome, WriterTask};
use mb::model::batch::Batch;
use mb::model::offset::{Offset, OffsetRange, Partition, Reprocess, RunKey};
use mb::model::run::RunState;
use rusqlite::Connection;

use crate::oracle::is_piece;
use crate::outage;
use crate::world::World;

/// Lists are looked at each time that a request has ended, and once in so many other times.
const LIST_EVERY: u64 = 16;

/// What is known of the requests, whatever became of the processes.
#[derive(Default)]
pub struct Requests {
    asked: BTreeMap<i64, Asked>,
    /// The dead letters in the history by their numbers, as they were found last.
    letters: BTreeMap<i64, Letter>,
    /// Records whose dead letters were redriven or discarded: these may be removed.
    resolved: BTreeSet<(Partition, i64)>,
    /// Which run key holds a record's effect, for each request.
    held: BTreeMap<(i64, Partition, i64), RunKey>,
    /// Records that a request's runs have given up on, in the history.
    given_up: BTreeSet<(i64, Partition, i64)>,
    /// Of each run key whether the last attempt processed everything, and how many records it had.
    last: BTreeMap<RunKey, (bool, usize)>,
    looks: u64,
}

struct Asked {
    what: What,
    /// As the file has it.
    is_open: bool,
    /// A person has begun to cancel it.
    may_be_cancelled: bool,
    /// That person was answered: no attempt of it begins any more, in this process.
    is_cancelled: bool,
    /// As `is_cancelled`, and in no later process.
    stays_cancelled: bool,
    /// What the outcomes in the file add up to.
    succeeded: u64,
    failed: u64,
    records: u64,
    records_failed: u64,
}

#[derive(Clone, Debug)]
pub enum What {
    Replay(Partition, OffsetRange),
    /// The numbers of the dead letters.
    Redrive(BTreeSet<i64>),
}

struct Letter {
    partition: Partition,
    offset: i64,
    /// The run that gave up on it was a replay's.
    is_of_replay: bool,
    state: DeadLetterState,
    /// The request that a person redrove it with last.
    redrive: Option<i64>,
}

impl Requests {
    pub fn are_all_ended(&self) -> bool {
        self.open().next().is_none()
    }

    pub fn open(&self) -> impl Iterator<Item = i64> {
        self.asked.iter().filter(|(_, asked)| asked.is_open).map(|(request, _)| *request)
    }

    /// Whether the dead letters of the record may be gone.
    pub fn is_resolved(&self, partition: Partition, offset: i64) -> bool {
        self.resolved.contains(&(partition, offset))
    }

    pub fn add(&mut self, request: i64, what: What) {
        if let What::Redrive(letters) = &what {
            for letter in letters {
                let letter = self.letters.get_mut(letter).expect("it was found before");
                (letter.state, letter.redrive) = (DeadLetterState::Redriving, Some(request));
            }
        }
        let asked = Asked {
            what,
            is_open: true,
            may_be_cancelled: false,
            is_cancelled: false,
            stays_cancelled: false,
            succeeded: 0,
            failed: 0,
            records: 0,
            records_failed: 0,
        };
        assert!(self.asked.insert(request, asked).is_none(), "request {request} was there before");
    }

    /// A person has discarded dead letters.
    pub fn discarded(&mut self, letters: &BTreeSet<i64>) {
        for letter in letters {
            let letter = self.letters.get_mut(letter).expect("it was found before");
            letter.state = DeadLetterState::Discarded;
            self.resolved.insert((letter.partition, letter.offset));
        }
    }

    pub fn cancel_begins(&mut self, request: i64) {
        self.asked.get_mut(&request).expect("it is open").may_be_cancelled = true;
    }

    /// `stays`: it is in the file. Otherwise it gets there, unless the process is killed before.
    pub fn is_cancelled(&mut self, request: i64, stays: bool) {
        let asked = self.asked.get_mut(&request).expect("it is known");
        asked.is_cancelled = true;
        asked.stays_cancelled |= stays;
    }

    /// A process begins.
    pub fn begin_life(&mut self) {
        for asked in self.asked.values_mut() {
            asked.is_cancelled = asked.stays_cancelled;
        }
    }

    /// The letters that the request has still to redrive.
    fn redriving(&self, request: i64) -> impl Iterator<Item = &Letter> {
        self.letters.values().filter(move |letter| {
            letter.state == DeadLetterState::Redriving && letter.redrive == Some(request)
        })
    }
}

/// An attempt of a request's run begins.
pub fn check_attempt(world: &World, key: &RunKey, batch: &Batch) -> Result<(), String> {
    let Some(reprocess) = key.reprocess else { return Ok(()) };
    let requests = world.requests.borrow();
    let request = reprocess.request();
    let asked = requests.asked.get(&request).ok_or("nobody asked for it")?;
    if !asked.is_open || asked.is_cancelled {
        return Err(format!("request {request} has ended"));
    }
    match (reprocess, &asked.what) {
        (Reprocess::Replay(_), What::Replay(partition, range)) => {
            let of_range = batch.records().all(|record| range.contains(record.offset));
            if key.partition != *partition || !of_range {
                return Err(format!("the replay is of {partition}: {range}"));
            }
        }
        (Reprocess::Redrive(_), What::Redrive(_)) => {
            let is_of_run = |letter: &&Letter| {
                letter.partition == key.partition && key.range.contains(Offset::new(letter.offset))
            };
            let letters = requests.redriving(request).filter(is_of_run);
            let letters: BTreeSet<i64> = letters.map(|letter| letter.offset).collect();
            let records: BTreeSet<i64> =
                batch.records().map(|record| record.offset.get()).collect();
            if letters != records {
                return Err(format!("it has records {records:?}, and to redrive are {letters:?}"));
            }
        }
        (Reprocess::Redrive(_), What::Replay(..)) | (Reprocess::Replay(_), What::Redrive(_)) => {
            return Err("the request is of the other kind".into());
        }
    }
    Ok(())
}

/// How an attempt of a request's run ended.
pub fn attempted(world: &World, key: &RunKey, batch: &Batch, has_processed_all: bool) {
    if key.reprocess.is_some() {
        let mut requests = world.requests.borrow_mut();
        requests.last.insert(key.clone(), (has_processed_all, batch.len()));
    }
}

/// The step has had its effect on a record, for a request.
pub fn store(world: &World, key: &RunKey, request: i64, offset: Offset) {
    let place = (request, key.partition, offset.get());
    let mut requests = world.requests.borrow_mut();
    let is_redriven = requests.redriving(request).any(|letter| {
        (letter.partition, letter.offset) == (key.partition, offset.get()) && !letter.is_of_replay
    });
    if is_redriven {
        requests.resolved.insert((key.partition, offset.get()));
    }
    if let Some(before) = requests.held.insert(place, key.clone())
        && before != *key
        && !is_piece(key, &before)
    {
        world.violate(format!("record {place:?} is held twice: by {before} and by {key}"));
    }
}

/// A transaction is in the file.
pub fn written(world: &World, writer: &WriterTask) {
    let mut are_kept = false;
    for outcome in writer.outcomes() {
        are_kept |= outcome.dead_letters.is_some();
        if let Err(what) = outage::check_outcome(world, outcome) {
            world.violate(format!("run {}: {what}", outcome.key));
        }
        if let Some(reprocess) = outcome.key.reprocess
            && let Err(what) = count(world, outcome, reprocess.request())
        {
            world.violate(format!("run {}: {what}", outcome.key));
        }
    }
    for (parent, passed_on) in writer.splits() {
        if let Some(reprocess) = parent.key.reprocess {
            let mut requests = world.requests.borrow_mut();
            if let Some(asked) = requests.asked.get_mut(&reprocess.request()) {
                asked.records += (parent.records - passed_on) as u64;
            }
        }
    }
    look(world, writer.db(), are_kept);
}

/// What the file says that a run came to is what its step did.
fn count(world: &World, outcome: &Outcome, request: i64) -> Result<(), String> {
    let mut requests = world.requests.borrow_mut();
    let last = requests.last.get(&outcome.key).copied();
    let asked = requests.asked.get_mut(&request).ok_or("nobody asked for it")?;
    match outcome.state {
        RunState::Succeeded => {
            let records = outcome.records;
            // A run that compaction has emptied needs no step.
            let is_right = match records {
                0 => is_removed(world, &outcome.key),
                _ => last == Some((true, records)),
            };
            if !is_right {
                return Err(format!("succeeded with {records} records, the step says {last:?}"));
            }
            asked.succeeded += 1;
            asked.records += outcome.records as u64;
        }
        RunState::Failed => {
            let is_cancelled = outcome.dead_letters.as_ref().is_some_and(|of| of.why == CANCELLED);
            if !is_cancelled && last.is_none_or(|(has_processed_all, _)| has_processed_all) {
                return Err(format!("failed, the step says {last:?}"));
            }
            asked.failed += 1;
            let given_up = outcome.dead_letters.as_ref().map_or(0, |of| of.batch.len());
            asked.records += (outcome.records - given_up) as u64;
            asked.records_failed += given_up as u64;
        }
        _ => {}
    }
    if let Some(given_up) = &outcome.dead_letters {
        let place = |offset: Offset| (request, outcome.key.partition, offset.get());
        requests.given_up.extend(given_up.batch.records().map(|record| place(record.offset)));
    }
    Ok(())
}

/// Whether the log has nothing of the run's range any more.
fn is_removed(world: &World, key: &RunKey) -> bool {
    let log = world.log.borrow();
    let of_range = |offset: i64| key.range.contains(Offset::new(offset));
    let mut entries = log.partitions[key.partition as usize].now.entries.iter();
    entries.all(|entry| entry.removed || !of_range(entry.offset))
}

/// Looks at what is in the file; at the dead letters too if that is certain to be worth it. A run that is in its step
/// when its request is cancelled resolves its letters after the request's end, so those are looked at as long as one
/// is being redriven.
pub fn look(world: &World, db: &Connection, has_letters: bool) {
    let mut requests = world.requests.borrow_mut();
    let is_open = requests.open().next().is_some();
    let is_redriving = |letter: &Letter| letter.state == DeadLetterState::Redriving;
    if has_letters
        || is_open && !requests.letters.is_empty()
        || requests.letters.values().any(is_redriving)
    {
        look_at_letters(world, &mut requests, db);
    }
    if is_open {
        look_at_requests(world, &mut requests, db);
    }
}

fn look_at_letters(world: &World, requests: &mut Requests, db: &Connection) {
    let mut select = db
        .prepare_cached(
            "SELECT id, partition, record_offset, state, instr(run_key, '.replay-') > 0 \
             FROM dead_letters ORDER BY id",
        )
        .unwrap();
    let mut rows = select.query([]).unwrap();
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next().unwrap() {
        let (id, code) = (row.get(0).unwrap(), row.get::<_, i64>(3).unwrap());
        let state = DeadLetterState::ALL.into_iter().find(|state| state.code() == code).unwrap();
        found.insert(id);
        let Some(known) = requests.letters.get(&id) else {
            let letter = Letter {
                partition: row.get(1).unwrap(),
                offset: row.get(2).unwrap(),
                is_of_replay: row.get(4).unwrap(),
                state: DeadLetterState::Open,
                redrive: None,
            };
            requests.letters.insert(id, letter);
            continue;
        };
        if known.state != state {
            if let Err(what) = requests.check_change(known, state) {
                world.violate(format!("dead letter {id}: {what}"));
            }
            requests.letters.get_mut(&id).expect("found above").state = state;
        }
    }
    requests.letters.retain(|id, letter| {
        let is_open = matches!(letter.state, DeadLetterState::Open | DeadLetterState::Redriving);
        if is_open && !found.contains(id) {
            world.violate(format!("dead letter {id} was {}, and is gone", letter.state.name()));
        }
        found.contains(id)
    });
}

impl Requests {
    /// Whether a dead letter may have come to be in this state without a person.
    fn check_change(&self, letter: &Letter, now: DeadLetterState) -> Result<(), String> {
        let Letter { partition, offset, state, redrive, .. } = letter;
        let what = format!("it was {}, and is {}", state.name(), now.name());
        let Some(request) = redrive.filter(|_| *state == DeadLetterState::Redriving) else {
            return Err(what);
        };
        let place = (request, *partition, *offset);
        let is_allowed = match now {
            DeadLetterState::Redriven => self.held.contains_key(&place),
            DeadLetterState::Open => {
                self.given_up.contains(&place)
                    || self.asked.get(&request).is_some_and(|asked| asked.may_be_cancelled)
            }
            DeadLetterState::Redriving | DeadLetterState::Discarded => false,
        };
        if is_allowed {
            Ok(())
        } else {
            Err(format!("{what}, which request {request} has not done"))
        }
    }
}

/// Looks at the requests in the file.
fn look_at_requests(world: &World, requests: &mut Requests, db: &Connection) {
    requests.looks += 1;
    let mut states = db.prepare_cached("SELECT id FROM requests WHERE state = 0").unwrap();
    let open = states.query_map([], |row| row.get(0)).unwrap();
    let open: BTreeSet<i64> = open.collect::<Result<_, _>>().unwrap();
    let has_ended =
        requests.asked.iter().any(|(request, asked)| asked.is_open && !open.contains(request));
    if !has_ended && !requests.looks.is_multiple_of(LIST_EVERY) {
        return;
    }
    let selection = Selection { limit: u32::MAX, ..Selection::default() };
    let rows = requests::list(db, &selection, &BTreeMap::new()).expect("the file can be read");
    let rows: BTreeMap<i64, RequestRow> = rows.into_iter().map(|row| (row.id, row)).collect();
    let mut ended = Vec::new();
    for (request, asked) in requests.asked.iter().filter(|(_, asked)| asked.is_open) {
        match rows.get(request) {
            None => world.violate(format!("request {request} is not in the file any more")),
            Some(row) => match check_row(world, requests, asked, row) {
                Ok(true) => {}
                Ok(false) => ended.push(*request),
                Err(what) => world.violate(format!("request {request}: {what}; {row:?}")),
            },
        }
    }
    for request in ended {
        world.note(|| format!("request {request} has ended"));
        world.count(|figures| figures.requests += 1);
        requests.asked.get_mut(&request).expect("found above").is_open = false;
    }
}

/// Whether the request is open, as it may be.
fn check_row(
    world: &World,
    requests: &Requests,
    asked: &Asked,
    row: &RequestRow,
) -> Result<bool, String> {
    let counted = (row.runs_succeeded, row.runs_failed, row.records, row.records_failed);
    let happened = (asked.succeeded, asked.failed, asked.records, asked.records_failed);
    if counted != happened {
        return Err(format!("succeeded and failed, runs and records, are {happened:?}"));
    }
    let left = requests.redriving(row.id).count() as u64;
    match row.state.as_str() {
        "cancelled" if asked.may_be_cancelled => return Ok(false),
        _ if left != row.letters_left => return Err(format!("{left} dead letters are left")),
        "open" => return Ok(true),
        "done" => {}
        state => return Err(format!("it is {state}, and nobody wanted that")),
    }
    if row.runs_left > 0 || left > 0 {
        return Err("it is done, and something is left".into());
    }
    if let What::Replay(partition, range) = asked.what {
        check_replayed(world, requests, row.id, partition, range)?;
    }
    Ok(false)
}

fn check_replayed(
    world: &World,
    requests: &Requests,
    request: i64,
    partition: Partition,
    range: OffsetRange,
) -> Result<(), String> {
    let log = world.log.borrow();
    let entries = &log.partitions[partition as usize].now.entries;
    let from = entries.partition_point(|entry| entry.offset < range.first.get());
    for entry in entries[from..].iter().take_while(|entry| entry.offset <= range.last.get()) {
        let place = (request, partition, entry.offset);
        let is_done = requests.held.contains_key(&place) || requests.given_up.contains(&place);
        if !is_done && !entry.removed {
            return Err(format!("done, but record {} was not processed", entry.offset));
        }
    }
    Ok(())
}

/// Nothing is left to do in this process, as its thread says.
pub fn check_idle(world: &World) {
    let requests = world.requests.borrow();
    if let Some(request) = requests.open().next() {
        world.violate(format!("no request is left to do, but {request} is open"));
    }
}
