//! The person who asks for replays and redrives, cancels them, and discards dead letters, as the API's
//! operations do: through what lies right below them, since those open files by their names.

use std::collections::BTreeSet;

use mb::history::dead_letters::{self, Pick};
use mb::history::requests::{add_replay, check_open};
use mb::model::error::Error;
use mb::model::offset::{Offset, Partition};
use mb::source::reprocess::plan::{self, Span};

use crate::life::Life;
use crate::requests::{self, What};
use crate::world::{Fate, World};

/// Requests that are open at the same time, at most.
const OPEN: usize = 3;

/// The person does something. The last process is asked once at most: a request that comes while it has nothing
/// to do must wake it.
pub fn act(world: &World, life: &Life) {
    if world.calm.get() && world.was_asked_in_calm.replace(true) {
        return;
    }
    let open: Vec<i64> = world.requests.borrow().open().collect();
    match world.below(8) {
        0 if !open.is_empty() => cancel(world, life, open[world.below(open.len() as u32) as usize]),
        1 => discard(world, life),
        _ if open.len() >= OPEN => {}
        2..5 => ask_for_replay(world, life),
        _ => ask_for_redrive(world, life),
    }
}

fn ask_for_replay(world: &World, life: &Life) {
    let topic = &life.engine.topic;
    let partition = topic.partitions[world.below(topic.partitions.len() as u32) as usize];
    let (from, to) = some_range(world, partition);
    let to = (!world.one_in(4)).then_some(to);
    let partitions =
        if world.one_in(4) { topic.partitions.clone() } else { Vec::from([partition]) };
    let span = Span::Offsets { from, to };
    world.note(|| format!("a person asks for a replay of {partitions:?}: {span:?}"));
    let broker = life.engine.broker.as_ref();
    let plan = match plan::plan(broker, &topic.name, &partitions, span) {
        Ok(plan) => plan,
        Err(refused) => {
            world.note(|| format!("the replay: {refused}"));
            if matches!(refused, Error::Config(_)) && has_one_of(world, partition, from, to) {
                world.violate(format!("a replay of {partition} from {from} is refused: {refused}"));
            }
            return;
        }
    };
    if world.effect() == Fate::Never {
        return;
    }
    let group = &life.engine.config.connection.group;
    let replay = plan.request(broker.backend(), topic, group);
    let numbers = add_replay(&mut life.people.borrow_mut(), &replay);
    let numbers = numbers.expect("the file can be written");
    for (number, (partition, range)) in numbers.iter().zip(&plan.ranges) {
        world.note(|| format!("request {number} is a replay of {partition}: {range}"));
        world.requests.borrow_mut().add(*number, What::Replay(*partition, *range));
    }
    if !world.is_dead() {
        life.work_signal.raise();
    }
}

/// Some offsets around records of the partition.
fn some_range(world: &World, partition: Partition) -> (Offset, Offset) {
    let log = world.log.borrow();
    let of = &log.partitions[partition as usize];
    let count = of.now.entries.len() as u32;
    let at = |index: u32| of.now.entries.get(index as usize).map_or(of.end, |entry| entry.offset);
    let first = world.below(count + 1);
    let last = (first + world.below(8)).min(count);
    let from = at(first) - i64::from(world.below(2));
    (Offset::new(from.max(0)), Offset::new(at(last) + i64::from(world.below(2))))
}

fn has_one_of(world: &World, partition: Partition, from: Offset, to: Option<Offset>) -> bool {
    let log = world.log.borrow();
    let mut entries = log.partitions[partition as usize].now.entries.iter();
    let last = to.map_or(i64::MAX, Offset::get);
    entries.any(|entry| (from.get()..=last).contains(&entry.offset))
}

fn ask_for_redrive(world: &World, life: &Life) {
    let Some((open, pick)) = pick(world, life) else { return };
    if world.effect() == Fate::Never {
        return;
    }
    let mut people = life.people.borrow_mut();
    let redriven = dead_letters::redrive(&mut people, &pick).expect("some are open");
    for of in &redriven {
        let select = "SELECT id FROM dead_letters WHERE request = ?1";
        let mut letters = people.prepare_cached(select).unwrap();
        let letters = letters.query_map([of.request], |row| row.get(0)).unwrap();
        let letters: BTreeSet<i64> = letters.collect::<Result<_, _>>().unwrap();
        world.note(|| format!("request {} is a redrive of {letters:?}", of.request));
        if letters != open || (of.letters, of.left) != (open.len() as u64, 0) {
            world.violate(format!("a redrive of {open:?} is of {letters:?}: {of:?}"));
        }
        world.requests.borrow_mut().add(of.request, What::Redrive(letters));
    }
    if !world.is_dead() {
        life.work_signal.raise();
    }
}

fn discard(world: &World, life: &Life) {
    let Some((open, pick)) = pick(world, life) else { return };
    if world.effect() == Fate::Never {
        return;
    }
    world.note(|| format!("a person discards {open:?}"));
    let discarded = dead_letters::discard(&mut life.people.borrow_mut(), &pick, "not needed");
    if discarded != Ok(open.len() as u64) {
        world.violate(format!("of {open:?} were discarded: {discarded:?}"));
    }
    world.requests.borrow_mut().discarded(&open);
}

/// All open dead letters, or some, if there are any.
fn pick(world: &World, life: &Life) -> Option<(BTreeSet<i64>, Pick)> {
    let people = life.people.borrow();
    requests::look(world, &people, true);
    let mut open = people.prepare_cached("SELECT id FROM dead_letters WHERE state = 0").unwrap();
    let open = open.query_map([], |row| row.get(0)).unwrap();
    let mut open: BTreeSet<i64> = open.collect::<Result<_, _>>().unwrap();
    let mut pick = Pick::default();
    if world.one_in(2) {
        open.retain(|_| world.one_in(2));
        pick.ids = open.iter().copied().collect();
    }
    (!open.is_empty()).then_some((open, pick))
}

fn cancel(world: &World, life: &Life, request: i64) {
    if check_open(&life.people.borrow(), &[request]).is_err() {
        return;
    }
    world.note(|| format!("a person cancels request {request}"));
    world.requests.borrow_mut().cancel_begins(request);
    let cancelled = life.work_signal.cancel(&[request], "not needed");
    world.note(|| format!("cancelled: {cancelled:?}"));
    if !world.is_dead() {
        world.requests.borrow_mut().is_cancelled(request, cancelled.is_ok());
    }
}
