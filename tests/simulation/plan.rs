//! What a seed chooses once: how often what goes wrong, and how each life is set up. Rates differ
//! from seed to seed, so that some seeds are all of one kind of trouble.

use std::time::Duration;

use fastrand::Rng;
use mb::config::limits;
use mb::config::{
    Config, Connection, DeadLetterTo, OnFailure, OnMissingOffsets, OnOutage, Order, StartFrom,
};

use crate::dead_topic;

const MAX_BATCH: usize = 6;
const MAX_LANES: u32 = 4;
/// Longer than any seed's time.
pub const ENDLESS_PATIENCE: Duration = Duration::from_secs(1_000_000_000);

/// "One in so many"; 0 is never.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub u32);

impl Rate {
    fn choose(rng: &mut Rng, rates: &[u32]) -> Rate {
        Rate(one_of(rng, rates))
    }

    pub fn hits(self, rng: &mut Rng) -> bool {
        self.0 > 0 && rng.u32(0..self.0) == 0
    }
}

/// What acts next, in the order of `Plan::weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    Sensor,
    Take,
    Attempt,
    Write,
    Conclude,
    Commit,
    Time,
    Outside,
    /// Pauses, resumes, requests ticks, changes settings, moves the cursor.
    Person,
    /// The thread that works on replays and redrives.
    Requests,
    /// A person who asks for replays and redrives, cancels them, discards dead letters.
    Asker,
    /// The thread that brings dead letters to their topic.
    Deliver,
}

pub const ACTORS: [Actor; 12] = [
    Actor::Sensor,
    Actor::Take,
    Actor::Attempt,
    Actor::Write,
    Actor::Conclude,
    Actor::Commit,
    Actor::Time,
    Actor::Outside,
    Actor::Person,
    Actor::Requests,
    Actor::Asker,
    Actor::Deliver,
];

#[derive(Clone, Debug)]
pub struct Plan {
    pub lives: u32,
    pub partitions: i32,
    /// Where the log begins.
    pub beginning: i64,
    /// Records in each partition before the first life.
    pub records: usize,
    pub value_bytes: usize,
    pub from: StartFrom,
    pub weights: [u32; ACTORS.len()],
    /// A broker call fails.
    pub broker_faults: Rate,
    pub commit_faults: Rate,
    /// The dead-letter topic is unknown, refuses, answers late or not at all.
    pub topic_faults: Rate,
    /// Others act in the middle of a call.
    pub interleave: Rate,
    /// The log has gaps.
    pub gaps: Rate,
    pub compaction: Rate,
    /// The log's end is cut off, under another leader.
    pub cuts: Rate,
    /// The group's log loses its end.
    pub lost_commits: Rate,
    /// A record that no attempt can process.
    pub poison: Rate,
    /// An attempt that fails, whatever it has.
    pub flaky: Rate,
    /// The step's target goes away when time passes.
    pub outages: Rate,
    pub on_outage: OnOutage,
    pub outage_patience: Duration,
    /// A step that knows names its failed records.
    pub names: bool,
    /// A failed attempt had its effect all the same; not where records may go on in other runs.
    pub late_failure: Rate,
    pub on_failure: OnFailure,
    pub until_caught_up: Rate,
    /// A life that ends in order.
    pub orderly: Rate,
    /// Lives whose batches are halved.
    pub bisect: Rate,
    /// The order in all lives; chosen anew for each where there is none.
    pub order: Option<Order>,
    /// The same settings in each life.
    pub steady: Option<Config>,
}

impl Plan {
    pub fn choose(rng: &mut Rng) -> Plan {
        let mut weights = [0; ACTORS.len()];
        weights.iter_mut().for_each(|weight| *weight = 1 + rng.u32(0..8));
        weights[Actor::Outside as usize] = rng.u32(0..3);
        weights[Actor::Person as usize] = one_of(rng, &[0, 0, 1, 3]);
        weights[Actor::Asker as usize] = one_of(rng, &[0, 0, 1, 2]);
        let from = if rng.u32(0..10) == 0 { StartFrom::Latest } else { StartFrom::Earliest };
        let on_failure = if rng.u32(0..6) == 0 { OnFailure::Halt } else { OnFailure::DeadLetter };
        let bisect = Rate::choose(rng, &[0, 1, 2]);
        let names = rng.u32(0..3) == 0;
        let late_failure = if bisect.0 > 0 || names { Rate(0) } else { Rate(one_of(rng, &[0, 3])) };
        let orders = [None, Some(Order::None), Some(Order::Partition), Some(Order::Key)];
        let mut plan = Plan {
            lives: rng.u32(0..6),
            partitions: rng.i32(1..4),
            beginning: one_of(rng, &[0, 0, 7, 3_000_000_000]),
            records: rng.usize(0..14),
            value_bytes: one_of(rng, &[0, 3, 10, 50]),
            from,
            weights,
            broker_faults: Rate::choose(rng, &[0, 0, 30, 6]),
            commit_faults: Rate::choose(rng, &[0, 0, 6, 2]),
            topic_faults: Rate::choose(rng, &[0, 6, 3]),
            interleave: Rate::choose(rng, &[0, 4, 2]),
            gaps: Rate::choose(rng, &[0, 5, 2]),
            compaction: Rate::choose(rng, &[0, 0, 20, 4]),
            cuts: Rate(0),
            lost_commits: Rate(0),
            poison: Rate::choose(rng, &[0, 0, 12, 4]),
            flaky: Rate::choose(rng, &[0, 0, 6, 2]),
            outages: Rate::choose(rng, &[0, 20, 4]),
            on_outage: one_of(rng, &[OnOutage::DeadLetter, OnOutage::Hold, OnOutage::Hold]),
            outage_patience: one_of(rng, &[Duration::from_secs(10), ENDLESS_PATIENCE]),
            names,
            late_failure,
            bisect,
            order: one_of(rng, &orders),
            on_failure,
            until_caught_up: Rate::choose(rng, &[0, 3]),
            orderly: Rate::choose(rng, &[0, 3]),
            steady: None,
        };
        plan.cuts = Rate::choose(rng, &[0, 0, 0, 2, 8]);
        if plan.cuts.0 > 0 {
            // What is reprocessed may be gone: that is for tests of replays.
            plan.weights[Actor::Asker as usize] = 0;
        }
        plan.lost_commits = Rate::choose(rng, &[0, 0, 3]);
        if rng.u32(0..3) == 0 {
            plan.steady = Some(plan.config(rng));
        }
        plan
    }

    /// The largest batch that any life makes fits: less would block a stored range, as mb says then.
    fn least_queue_bytes(&self, bisect: bool) -> usize {
        let lanes = if matches!(self.order, None | Some(Order::Key)) { MAX_LANES } else { 1 };
        // Without halving, pieces of a run that was split before count as runs, one a record at most.
        let is_split = self.bisect.0 > 0 || self.names;
        let pieces = if is_split && !bisect { MAX_BATCH } else { 1 };
        let halves = if bisect { MAX_BATCH * limits::SPLIT_RECORD_BYTES } else { 0 };
        pieces.max(lanes as usize) * limits::RUN_OVERHEAD_BYTES + halves + 560
    }

    /// A life's settings.
    pub fn config(&self, rng: &mut Rng) -> Config {
        if let Some(steady) = &self.steady {
            return steady.clone();
        }
        let bisect = self.bisect.hits(rng);
        let millis = |rng: &mut Rng, choices: &[u64]| Duration::from_millis(one_of(rng, choices));
        Config {
            connection: Connection {
                topic: "t".into(),
                group: "g".into(),
                ..Connection::default()
            },
            max_batch: rng.usize(1..=MAX_BATCH),
            max_batch_bytes: one_of(rng, &[60, 150, 1000]),
            max_wait: millis(rng, &[0, 5, 10_000]),
            tick_runtime: millis(rng, &[1, 20, 300]),
            sensors: rng.usize(1..3),
            from: self.from,
            queue: rng.usize(1..5),
            queue_bytes: self.least_queue_bytes(bisect) + one_of(rng, &[0, 0, 500, 5_000]),
            max_concurrent_runs: rng.usize(1..4),
            max_attempts: rng.u32(1..4),
            retry_backoff: millis(rng, &[1, 100]),
            on_failure: self.on_failure,
            on_outage: self.on_outage,
            outage_patience: self.outage_patience,
            dead_letter: match rng.u32(0..4) {
                // A letter of a record that was replaced would count for the new one.
                _ if self.cuts.0 > 0 => DeadLetterTo::Store,
                0 => DeadLetterTo::Topic(dead_topic::NAME.into()),
                1 => DeadLetterTo::Both(Some(dead_topic::NAME.into())),
                _ => DeadLetterTo::Store,
            },
            on_missing_offsets: OnMissingOffsets::Skip,
            history_keep: one_of(rng, &[1, 4, 1000]),
            order: self
                .order
                .unwrap_or_else(|| one_of(rng, &[Order::None, Order::Partition, Order::Key])),
            lanes: one_of(rng, &[None, Some(1), Some(2), Some(MAX_LANES)]),
            bisect,
            ..Config::default()
        }
    }
}

pub fn one_of<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}
