//! One seed's world: what outlives a process (log, history file, the step's effects), its time,
//! its chances, and who acts next. Everything is on one thread, whose world is found by `world`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mb::model::clock::Simulated;
use mb::model::offset::{Offset, Partition};
use mb::model::thread::panic_message;

use crate::asker;
use crate::dead_topic::DeadTopic;
use crate::life::Life;
use crate::log::Log;
use crate::oracle::Oracle;
use crate::outage::Outages;
use crate::plan::{ACTORS, Actor, Plan, Rate};
use crate::requests::Requests;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

pub fn world() -> Rc<World> {
    WORLD.with_borrow(|world| Rc::clone(world.as_ref().expect("a seed is being run")))
}

/// What becomes of an effect outside the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Happens,
    /// It happens, and nobody in the process hears of it: the process is killed.
    Last,
    /// The process was killed before.
    Never,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub lives: u64,
    pub kills: u64,
    pub attempts: u64,
    pub commits: u64,
    pub acts: u64,
    /// Times that the step's target was away.
    pub outages: u64,
    /// Replays and redrives that were done.
    pub requests: u64,
    /// Dead letters that reached their topic.
    pub letters: u64,
}

impl Figures {
    pub fn add(&mut self, other: Figures) {
        self.lives += other.lives;
        self.kills += other.kills;
        self.attempts += other.attempts;
        self.commits += other.commits;
        self.acts += other.acts;
        self.outages += other.outages;
        self.requests += other.requests;
        self.letters += other.letters;
    }
}

pub struct World {
    pub seed: u64,
    pub plan: Plan,
    pub rng: RefCell<Rng>,
    pub log: RefCell<Log>,
    pub dead_topic: RefCell<DeadTopic>,
    pub oracle: RefCell<Oracle>,
    pub requests: RefCell<Requests>,
    pub outages: RefCell<Outages>,
    pub life: RefCell<Option<Rc<Life>>>,
    pub figures: Cell<Figures>,
    /// The offsets that a cursor move is about to commit.
    pub moving: RefCell<Vec<(Partition, Offset)>>,
    /// Every fault is over, and nothing is posted any more.
    pub calm: Cell<bool>,
    pub was_asked_in_calm: Cell<bool>,
    /// Partitions whose end was cut off since the process began, which it may not have noticed yet.
    pub cut: RefCell<BTreeSet<Partition>>,
    now: Cell<Instant>,
    began: Instant,
    dead: Cell<bool>,
    /// Effects until the process is killed.
    effects_left: Cell<Option<u32>>,
    /// How many callers wait, one in the other.
    depth: Cell<u32>,
    violation: RefCell<Option<String>>,
    trace: RefCell<Option<Vec<String>>>,
}

/// So many calls may be in the middle at once.
const DEPTH: u32 = 3;

impl World {
    pub fn enter(seed: u64, traced: bool) -> Rc<World> {
        fastrand::seed(seed);
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::choose(&mut rng);
        let now = Instant::now();
        let world = Rc::new(World {
            seed,
            log: RefCell::new(Log::new(&plan, &mut rng)),
            plan,
            rng: RefCell::new(rng),
            dead_topic: RefCell::default(),
            oracle: RefCell::default(),
            requests: RefCell::default(),
            outages: RefCell::default(),
            life: RefCell::default(),
            figures: Cell::default(),
            moving: RefCell::default(),
            calm: Cell::new(false),
            was_asked_in_calm: Cell::new(false),
            cut: RefCell::default(),
            now: Cell::new(now),
            began: now,
            dead: Cell::new(false),
            effects_left: Cell::new(None),
            depth: Cell::new(0),
            violation: RefCell::default(),
            trace: RefCell::new(traced.then(Vec::new)),
        });
        WORLD.set(Some(Rc::clone(&world)));
        mb::model::clock::simulate(&Time);
        let plan = &world.plan;
        world.note(|| format!("plan {plan:?}"));
        world
    }

    pub fn leave(&self) -> (Option<String>, Vec<String>) {
        WORLD.set(None);
        (self.violation.take(), self.trace.take().unwrap_or_default())
    }

    /// A line of the trace; made only where it is wanted.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace.borrow_mut().as_mut() {
            let time = self.now.get() - self.began;
            let indent = "  ".repeat(self.depth.get() as usize);
            trace.push(format!("{:>9.3} {indent}{}", time.as_secs_f64(), line()));
        }
    }

    /// A promise is broken: the first one counts, and the seed ends.
    pub fn violate(&self, what: String) {
        self.note(|| format!("VIOLATION: {what}"));
        self.violation.borrow_mut().get_or_insert(what);
        self.dead.set(true);
    }

    pub fn is_violated(&self) -> bool {
        self.violation.borrow().is_some()
    }

    pub fn count(&self, change: impl FnOnce(&mut Figures)) {
        let mut figures = self.figures.get();
        change(&mut figures);
        self.figures.set(figures);
    }

    pub fn below(&self, bound: u32) -> u32 {
        self.rng.borrow_mut().u32(0..bound)
    }

    pub fn hits(&self, rate: Rate) -> bool {
        !self.calm.get() && rate.hits(&mut self.rng.borrow_mut())
    }

    pub fn one_in(&self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// The same for the same numbers, whenever it is asked.
    pub fn fixed(&self, rate: Rate, what: &[u64]) -> bool {
        let mut hash = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        for number in what {
            hash = (hash ^ number).wrapping_mul(0xff51_afd7_ed55_8ccd);
            hash ^= hash >> 32;
        }
        rate.0 > 0 && hash.is_multiple_of(u64::from(rate.0))
    }

    pub fn now(&self) -> Instant {
        self.now.get()
    }

    pub fn pass(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    /// A process begins, to be killed after so many effects.
    pub fn begin_life(&self, effects: Option<u32>) {
        self.count(|figures| figures.lives += 1);
        // Runs of the logs as they were have come until now.
        for partition in self.cut.take() {
            self.oracle.borrow_mut().cut(partition);
        }
        self.dead.set(self.is_violated());
        self.effects_left.set(effects);
        self.note(|| format!("--- a process begins; killed after effects: {effects:?}"));
    }

    pub fn is_dead(&self) -> bool {
        self.dead.get()
    }

    pub fn kill(&self) {
        if !self.dead.replace(true) {
            self.count(|figures| figures.kills += 1);
            self.note(|| "KILLED".into());
        }
    }

    /// Asked at every effect outside the process.
    pub fn effect(&self) -> Fate {
        if self.is_dead() {
            return Fate::Never;
        }
        match self.effects_left.get() {
            None => Fate::Happens,
            Some(0) => {
                self.kill();
                if self.one_in(2) { Fate::Last } else { Fate::Never }
            }
            Some(left) => {
                self.effects_left.set(Some(left - 1));
                Fate::Happens
            }
        }
    }

    /// In the middle of somebody's call others may act.
    pub fn interleave(&self) {
        if self.depth.get() < DEPTH && !self.is_dead() && self.hits(self.plan.interleave) {
            self.let_others_act(1 + self.below(4));
        }
    }

    fn let_others_act(&self, times: u32) {
        self.depth.set(self.depth.get() + 1);
        for _ in 0..times {
            self.act();
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// Somebody acts, whoever chance names.
    pub fn act(&self) {
        if self.is_dead() {
            return;
        }
        self.count(|figures| figures.acts += 1);
        let weights = &self.plan.weights;
        let mut chosen = self.below(weights.iter().sum());
        let mut actor = Actor::Time;
        for (candidate, weight) in ACTORS.iter().zip(weights) {
            if chosen < *weight {
                actor = *candidate;
                break;
            }
            chosen -= weight;
        }
        self.act_as(actor);
    }

    pub fn act_as(&self, actor: Actor) {
        let Some(life) = self.life.borrow().clone() else { return };
        let acted = catch_unwind(AssertUnwindSafe(|| match actor {
            Actor::Sensor => life.tick(self),
            Actor::Take => life.take(self),
            Actor::Attempt => life.attempt(self),
            Actor::Write => life.write(self),
            Actor::Conclude => life.conclude(self),
            Actor::Commit => life.commit(self),
            Actor::Time => self.let_time_pass(),
            Actor::Outside => self.outside(),
            Actor::Person => life.person(self),
            Actor::Requests => life.work_on_requests(),
            Actor::Deliver => life.deliver(),
            Actor::Asker => asker::act(self, &life),
        }));
        if let Err(payload) = acted {
            self.violate(format!("{actor:?} panicked: {}", panic_message(payload.as_ref())));
        }
    }

    fn let_time_pass(&self) {
        let millis = match self.below(40) {
            0 => 61_000,
            n => [1, 20, 150, 1000][n as usize % 4],
        };
        self.pass(Duration::from_millis(millis));
        self.dead_topic.borrow_mut().let_time_pass(self);
        self.outages.borrow_mut().let_time_pass(self);
    }

    /// What happens to the log without mb.
    fn outside(&self) {
        if self.calm.get() {
            return;
        }
        let mut log = self.log.borrow_mut();
        let mut rng = self.rng.borrow_mut();
        match rng.u32(0..10) {
            8 if self.plan.cuts.hits(&mut rng) => {
                let cut = log.cut(&mut rng);
                self.note(|| format!("a log is cut off: {cut:?}"));
                if let Some((partition, _)) = cut {
                    self.cut.borrow_mut().insert(partition as Partition);
                    self.oracle.borrow_mut().cut(partition as Partition);
                }
            }
            8 => {
                let partition = log.elect(&mut rng);
                self.note(|| format!("partition {partition} has another leader"));
            }
            9 => {
                if self.plan.lost_commits.hits(&mut rng) {
                    let found = log.lose_commits(&mut rng);
                    self.note(|| format!("the group's log loses its end: {found:?}"));
                }
            }
            0 if log.partitions.len() < 4 => {
                let partition = log.add_partition(&self.plan);
                self.note(|| format!("partition {partition} is added"));
            }
            1..3 => {
                let landed = log.land_late_commit(self.now.get(), &mut rng);
                if let Some((landed, undone)) = landed {
                    self.note(|| format!("a late commit arrives: {landed:?}"));
                    if !undone.is_empty() {
                        self.violate(format!("a late commit undoes the move of {undone:?}"));
                    }
                }
            }
            3 => {
                let removed = log.compact(self.plan.compaction, &mut rng);
                self.note(|| format!("compaction removes {removed:?}"));
            }
            _ => {
                for _ in 0..rng.u32(1..6) {
                    log.post(&self.plan, &mut rng);
                }
                self.note(|| "records are posted".into());
            }
        }
    }
}

/// The thread's time is that of its world.
struct Time;

impl Simulated for Time {
    fn now(&self) -> Instant {
        world().now()
    }

    fn wait(&self, limit: Duration) {
        let world = world();
        // Who only looks takes time too, or a loop of looks would have no end.
        world.pass(Duration::from_micros(1));
        if limit.is_zero() {
            return;
        }
        if world.is_dead() {
            if let Some(life) = world.life.borrow().as_ref() {
                life.lose_history();
            }
            world.pass(limit);
        } else if world.depth.get() >= DEPTH {
            world.act_as(Actor::Conclude);
            world.act_as(Actor::Write);
            world.pass(limit);
        } else if world.one_in(3) {
            world.pass(limit / (1 + world.below(3)));
        } else {
            world.let_others_act(1 + world.below(3));
            world.pass(Duration::from_millis(1).min(limit));
        }
    }
}
