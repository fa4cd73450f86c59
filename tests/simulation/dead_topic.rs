//! The dead-letter topic: a topic of the simulated broker that is unknown until somebody creates it, refuses
//! records, is away for a while, and loses answers or gives them late. What must hold: a run that ends with dead
//! letters ends after the topic has all of them, with their content and in their order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use mb::config::Order;
use mb::history::Outcome;
use mb::kafka::{Delivery, Message, Producer, Sent, TopicInfo};
use mb::model::error::{Error, Result};
use mb::model::offset::{Offset, Partition};
use mb::runs::engine::Engine;

use crate::world::{Fate, World, world};

pub const NAME: &str = "dead";
/// Fewer than the source may have: several of its partitions share one.
const PARTITIONS: usize = 2;
/// Messages that a producer's buffer has room for.
const BUFFER: usize = 3;

#[derive(Default)]
pub struct DeadTopic {
    exists: bool,
    partitions: [Vec<Letter>; PARTITIONS],
    /// Nobody knows whether these will arrive.
    late: VecDeque<(usize, Letter)>,
    away_until: Option<Instant>,
    /// In `--order partition`, by partition of the source: where the letters of the run that was settled last
    /// end.
    settled: BTreeMap<Partition, usize>,
    /// Records of settled runs that the history does not keep.
    kept: BTreeSet<(Partition, i64)>,
}

struct Letter {
    partition: Partition,
    offset: i64,
    run: String,
}

impl DeadTopic {
    /// Whether the topic alone keeps the record, of a run that has ended.
    pub fn keeps(&self, partition: Partition, offset: i64) -> bool {
        self.kept.contains(&(partition, offset))
    }

    /// What is under way arrives or not, and the topic may go away.
    pub fn let_time_pass(&mut self, world: &World) {
        if let Some((place, letter)) = self.late.pop_front()
            && world.one_in(2)
        {
            self.land(world, place, letter);
        }
        if self.exists && world.one_in(8) && world.hits(world.plan.topic_faults) {
            let time = Duration::from_millis(u64::from(world.below(40_000)));
            world.note(|| format!("the dead-letter topic is away for {time:?}"));
            self.away_until = Some(world.now() + time);
        }
    }

    pub fn lose_late_letters(&mut self) {
        self.late.clear();
        self.away_until = None;
    }

    fn is_away(&self, world: &World) -> bool {
        self.away_until.is_some_and(|until| world.now() < until)
    }

    fn land(&mut self, world: &World, place: usize, letter: Letter) {
        let Letter { partition, offset, run } = &letter;
        world.note(|| format!("dead letter {partition}/{offset} of {run} is in the topic"));
        world.count(|figures| figures.letters += 1);
        self.partitions[place].push(letter);
    }
}

pub fn info(world: &World) -> Result<TopicInfo> {
    let dead = world.dead_topic.borrow();
    if dead.is_away(world) {
        return Err(Error::broker("look the topic up", "simulated: it is away"));
    }
    if !dead.exists || world.hits(world.plan.topic_faults) {
        return Err(Error::UnknownTopic { topic: NAME.into() });
    }
    let partitions = (0..PARTITIONS as Partition).collect();
    Ok(TopicInfo {
        name: NAME.into(),
        id: None,
        cluster_id: None,
        partitions,
        is_internal: false,
        leader_epochs: BTreeMap::new(),
    })
}

pub fn create(world: &World) {
    world.dead_topic.borrow_mut().exists = true;
}

/// A run has ended, in the file, with dead letters.
pub fn check_settled(world: &World, engine: &Engine, outcome: &Outcome) -> Result<(), String> {
    let Some(letters) = &outcome.dead_letters else { return Ok(()) };
    let key = &outcome.key;
    let topic = engine.dead_letters.as_ref();
    if letters.stored != topic.is_none_or(|topic| topic.is_also_stored) {
        return Err(format!("its letters are stored: {}", letters.stored));
    }
    if topic.is_none() {
        return Ok(());
    }
    let mut dead = world.dead_topic.borrow_mut();
    let is_ordered = engine.config.order == Order::Partition && key.reprocess.is_none();
    let from = dead.settled.get(&key.partition).copied().filter(|_| is_ordered).unwrap_or(0);
    let run = key.to_string();
    let of_run = |letter: &Letter| letter.partition == key.partition && letter.run == run;
    let place = key.partition as usize % PARTITIONS;
    let mut at = from;
    for record in letters.batch.records() {
        let offset = record.offset.get();
        let mut rest = dead.partitions[place][at..].iter();
        let found = rest.position(|letter| letter.offset == offset && of_run(letter));
        at += 1 + found.ok_or_else(|| {
            format!(
                "it has ended, and its dead letter {offset} is not in the topic, or out of order"
            )
        })?;
    }
    if is_ordered {
        dead.settled.insert(key.partition, at);
    }
    if !letters.stored && !run.contains(".replay-") {
        let place = |offset: Offset| (key.partition, offset.get());
        dead.kept.extend(letters.batch.records().map(|record| place(record.offset)));
    }
    Ok(())
}

/// Its messages reach the topic in their order, or not at all.
pub struct SimulatedProducer {
    sending: VecDeque<(usize, Letter)>,
    delivery: Delivery,
}

impl SimulatedProducer {
    pub fn new(world: &World) -> Result<SimulatedProducer> {
        if world.dead_topic.borrow().is_away(world) || world.hits(world.plan.topic_faults) {
            return Err(Error::broker("make a producer", "simulated"));
        }
        Ok(SimulatedProducer { sending: VecDeque::new(), delivery: Delivery::default() })
    }

    /// The broker takes messages, until it takes no more for now.
    fn work(&mut self, world: &World) -> Result<()> {
        let killed = || Err(Error::broker("write", "killed"));
        while !self.sending.is_empty() {
            world.interleave();
            if world.is_dead() {
                return killed();
            }
            if world.dead_topic.borrow().is_away(world) {
                return Ok(());
            }
            let fault = world.hits(world.plan.topic_faults).then(|| world.below(4));
            if fault == Some(0) {
                return Ok(());
            }
            let Some((place, letter)) = self.sending.pop_front() else { break };
            let mut dead = world.dead_topic.borrow_mut();
            match fault {
                None => match world.effect() {
                    Fate::Never => return killed(),
                    Fate::Last => {
                        dead.land(world, place, letter);
                        return killed();
                    }
                    Fate::Happens => {
                        dead.land(world, place, letter);
                        self.delivery.acknowledged += 1;
                    }
                },
                Some(what) => {
                    self.delivery.failed += 1;
                    self.delivery.last_error = Some("simulated".into());
                    // It is refused, or nobody hears of it again; it may have arrived, or still be under way.
                    if what == 2 && world.effect() != Fate::Never {
                        dead.land(world, place, letter);
                    } else if what == 3 {
                        dead.late.push_back((place, letter));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Producer for SimulatedProducer {
    fn send(&mut self, message: Message<'_>, wait: Duration) -> Result<Sent> {
        let world = world();
        world.interleave();
        if world.is_dead() || world.one_in(4) && world.hits(world.plan.topic_faults) {
            return Err(Error::broker("write", "simulated"));
        }
        if self.sending.len() >= BUFFER {
            self.work(&world)?;
        }
        if self.sending.len() >= BUFFER {
            world.pass(wait);
            return Ok(Sent::Full);
        }
        let letter = letter(&message);
        check_content(&world, &message, &letter);
        self.sending.push_back((message.partition as usize, letter));
        Ok(Sent::Accepted)
    }

    fn delivery(&mut self) -> Delivery {
        self.delivery.clone()
    }

    fn flush(&mut self, limit: Duration) -> Result<u64> {
        let world = world();
        self.work(&world)?;
        if !self.sending.is_empty() {
            world.pass(limit);
        }
        Ok(self.sending.len() as u64)
    }
}

impl Drop for SimulatedProducer {
    /// What is under way may still arrive.
    fn drop(&mut self) {
        if !self.sending.is_empty() {
            world().dead_topic.borrow_mut().late.append(&mut self.sending);
        }
    }
}

fn letter(message: &Message<'_>) -> Letter {
    let text = |name: &str| {
        let header = message.headers.iter().find(|(known, _)| *known == name);
        let value = header.and_then(|(_, value)| *value).expect("each dead letter has it");
        String::from_utf8(value.to_vec()).expect("it is text")
    };
    Letter {
        partition: text("__connect.errors.partition").parse().expect("a number"),
        offset: text("__connect.errors.offset").parse().expect("a number"),
        run: text("__mb.errors.run-key"),
    }
}

fn check_content(world: &World, message: &Message<'_>, letter: &Letter) {
    let log = world.log.borrow();
    let of = &log.partitions[letter.partition as usize];
    let entry = of.now.entries.iter().find(|entry| entry.offset == letter.offset);
    let is_it = entry.is_some_and(|entry| {
        (entry.key.as_deref(), entry.value.as_deref()) == (message.key, message.value)
    });
    if !is_it || message.partition as usize != letter.partition as usize % PARTITIONS {
        let Letter { partition, offset, run } = letter;
        world.violate(format!("dead letter {partition}/{offset} of {run} is another record"));
    }
}
