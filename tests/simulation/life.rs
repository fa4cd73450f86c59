//! One process of mb: its real parts, put together as `pipeline` does, but each acts only when the
//! world tells it to. What a kill takes with it is all here; what stays is in the world.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mb::commit::committer::{Committer, Doubt, MoveJob};
use mb::commit::renewal::Renewals;
use mb::config::Config;
use mb::history::requests::{Reader, end_left_over};
use mb::history::{History, WriterTask, recovery};
use mb::kafka::Broker;
use mb::model::error::{Class, Error};
use mb::model::events::Event;
use mb::model::offset::{Offset, Partition};
use mb::model::run::Run;
use mb::pipeline::startup;
use mb::pipeline::wiring::{Assembly, Inputs, wire};
use mb::runs::dead_letters::prepare;
use mb::runs::deliver::Delivery;
use mb::runs::engine::{Engine, Lasting};
use mb::runs::worker::Worker;
use mb::source::cursor_move::CursorMover;
use mb::source::reprocess::{Reprocessor, WorkSignal};
use mb::source::sensor::Sensor;
use mb::step::Step;
use rusqlite::Connection;

use crate::dead_topic;
use crate::log::SimulatedBroker;
use crate::oracle::{self, SimulatedStep};
use crate::outage;
use crate::requests;
use crate::tables::Files;
use crate::world::{Fate, World};

pub struct Life {
    pub engine: Arc<Engine>,
    events: Receiver<Event>,
    /// Each is `None` while it ticks.
    sensors: Vec<RefCell<Option<Sensor>>>,
    workers: Vec<Desk>,
    /// `None` while it works on requests.
    reprocessor: RefCell<Option<Reprocessor>>,
    /// `None` while it delivers, and if dead letters go to no topic.
    delivery: RefCell<Option<Delivery>>,
    pub work_signal: Arc<WorkSignal>,
    /// The history as commands and the page change it.
    pub people: RefCell<Connection>,
    cursor: Arc<CursorMover>,
    committer: Committer,
    committer_jobs: Receiver<MoveJob>,
    /// Keeps the committer from taking a stop for requested.
    _running: Sender<()>,
    stop: Receiver<()>,
    committing: Cell<bool>,
    doubt: Cell<Doubt>,
    renewals: RefCell<Renewals>,
    writer: RefCell<WriterTask>,
    /// A transaction is in the file and not announced.
    written: Cell<bool>,
    intake: RefCell<Option<Sender<()>>>,
    /// `--until-caught-up`.
    target: Option<BTreeMap<Partition, Offset>>,
    caught_up: Cell<bool>,
    /// A sensor has found that the log was cut off: the process starts again.
    replaced: Cell<bool>,
}

/// A worker, and the run that it has taken.
struct Desk {
    worker: Worker,
    run: RefCell<Option<Run>>,
    busy: Cell<bool>,
}

/// A process from its start to its end or its kill. The history's file comes back.
pub fn live(world: &World, files: Files, config: &Config, acts: u32) -> Files {
    world.note(|| format!("config {config:?}"));
    let life = match Life::begin(world, files, config) {
        Ok(life) => Rc::new(life),
        Err(failed) => {
            let (files, error) = *failed;
            if error.class() != Class::Retry {
                world.violate(format!("mb cannot start: {error}"));
            }
            return files;
        }
    };
    world.life.replace(Some(Rc::clone(&life)));
    let mut ends = false;
    if world.calm.get() {
        ends = life.until_idle(world, acts);
    } else {
        for _ in 0..acts {
            world.act();
            ends = life.caught_up.get() || life.replaced.get() || life.has_halted(world);
            if world.is_dead() || ends {
                break;
            }
        }
    }
    if !world.is_dead() && (ends || world.hits(world.plan.orderly)) {
        world.note(|| "stopping in order".into());
        life.stop(world);
    }
    world.kill();
    world.life.replace(None);
    let Ok(life) = Rc::try_unwrap(life) else { panic!("nobody holds a process that has ended") };
    let reprocessor = life.reprocessor.into_inner().expect("nobody acts any more");
    let requests = reprocessor.into_reader().into_db();
    Files {
        history: life.writer.into_inner().into_db(),
        requests,
        people: life.people.into_inner(),
    }
}

impl Life {
    fn begin(world: &World, files: Files, config: &Config) -> Result<Life, Box<(Files, Error)>> {
        let broker: Arc<dyn Broker> = Arc::new(SimulatedBroker);
        let step: Arc<dyn Step> = Arc::new(SimulatedStep);
        let found = startup::topic(broker.as_ref(), config).and_then(|topic| {
            prepare(broker.as_ref(), config)?;
            let db = &files.history;
            end_left_over(db)?;
            let recovered = startup::recover_from(db, broker.as_ref(), config, &topic)?;
            let in_doubt = recovery::has_intents(db, recovered.scope)?;
            Ok((topic, recovered, in_doubt))
        });
        let (info, recovered, in_doubt) = match found {
            Ok(found) => found,
            Err(error) => return Err(Box::new((files, error))),
        };
        let scope = recovered.scope;
        world.note(|| format!("resumes {:?}", recovered.resumes));
        oracle::resumed(world, config.order, &recovered.resumes);
        let inputs = Inputs {
            config: config.clone(),
            step,
            broker,
            topic: info,
            recovered,
            in_doubt,
            lasting: Lasting::new(config),
        };
        let Files { history, requests, people } = files;
        let (mut assembly, writer) = wire(inputs, |config, settle, _| {
            History::without_thread(
                history,
                scope,
                SimulatedBroker.backend().name(),
                config.history_keep,
                settle,
            )
        })
        .expect("the log can do all that is asked for, and the history is readable");
        let workers = (0..config.max_concurrent_runs).map(|index| Desk {
            worker: assembly.worker(index),
            run: RefCell::default(),
            busy: Cell::new(false),
        });
        let workers = workers.collect();
        let sensors = std::mem::take(&mut assembly.sensors);
        let reprocessor = assembly.reprocessor(Reader::over(requests, scope));
        let delivery = assembly.delivery();
        let Assembly {
            engine, cursor, committer, committer_jobs, work_signal, events, intake, ..
        } = assembly;
        let target = world.hits(world.plan.until_caught_up).then(|| {
            let log = world.log.borrow();
            let ends = (0..).zip(&log.partitions).map(|(index, of)| (index, Offset::new(of.end)));
            let target: BTreeMap<_, _> = ends.collect();
            engine.ledgers.set_target(target.clone());
            target
        });
        let (running, stop) = bounded(0);
        Ok(Life {
            engine,
            events,
            sensors: sensors.into_iter().map(|sensor| RefCell::new(Some(sensor))).collect(),
            workers,
            reprocessor: RefCell::new(Some(reprocessor)),
            delivery: RefCell::new(delivery),
            work_signal,
            people: RefCell::new(people),
            cursor,
            committer,
            committer_jobs,
            _running: running,
            stop,
            committing: Cell::new(false),
            doubt: Cell::new(Doubt::at_start(in_doubt)),
            renewals: RefCell::default(),
            writer: RefCell::new(writer),
            written: Cell::new(false),
            intake: RefCell::new(Some(intake)),
            target,
            caught_up: Cell::new(false),
            replaced: Cell::new(false),
        })
    }

    pub fn with_history<T>(&self, read: impl FnOnce(&Connection) -> T) -> T {
        read(self.writer.borrow().db())
    }

    /// The process is killed: who waits in it for its history waits no more.
    pub fn lose_history(&self) {
        self.engine.history.close();
        self.engine.history.stop_waiting();
        if let Ok(mut writer) = self.writer.try_borrow_mut() {
            writer.lose();
        }
    }

    pub fn tick(&self, world: &World) {
        let at_first = world.below(self.sensors.len() as u32) as usize;
        let slot = &self.sensors[at_first];
        let Some(mut sensor) = slot.borrow_mut().take() else { return };
        world.note(|| format!("sensor-{at_first} ticks"));
        let error = sensor.tick();
        slot.replace(Some(sensor));
        let used = self.engine.budget.used();
        world.note(|| format!("sensor-{at_first} is done, {used} bytes in use: {error:?}"));
        if let Some(Error::LogReplaced(text)) = &error
            && !world.cut.borrow().is_empty()
        {
            world.note(|| format!("starting again: {text}"));
            self.replaced.set(true);
            return;
        }
        if let Some(error) = error
            && error.class() != Class::Retry
            && !world.is_dead()
        {
            world.violate(format!("sensor-{at_first} ends: {error}"));
        }
    }

    pub fn take(&self, world: &World) {
        let Some(desk) = self.workers.iter().find(|desk| desk.is_free()) else { return };
        let Some(run) = self.engine.queue.try_next() else { return };
        world.note(|| format!("worker-{} takes {}", desk.worker.index, run.key));
        let (had, held) = (run.permit.bytes(), run.batch.heap_bytes());
        if had < held {
            world.violate(format!("run {} holds {held} bytes and had {had}", run.key));
        }
        desk.run.replace(Some(run));
    }

    pub fn attempt(&self, world: &World) {
        let at_first = world.below(self.workers.len() as u32) as usize;
        let (before, from) = self.workers.split_at(at_first);
        let mut desks = from.iter().chain(before);
        let Some(desk) = desks.find(|desk| !desk.is_free() && !desk.busy.get()) else { return };
        let Some(run) = desk.run.take() else { return };
        desk.busy.set(true);
        desk.worker.work(run);
        desk.busy.set(false);
    }

    pub fn work_on_requests(&self) {
        let taken = self.reprocessor.borrow_mut().take();
        let Some(mut reprocessor) = taken else { return };
        reprocessor.step();
        self.reprocessor.replace(Some(reprocessor));
    }

    pub fn deliver(&self) {
        let taken = self.delivery.borrow_mut().take();
        let Some(mut delivery) = taken else { return };
        delivery.step();
        self.delivery.replace(Some(delivery));
    }

    pub fn write(&self, world: &World) {
        let Ok(mut writer) = self.writer.try_borrow_mut() else { return };
        let waiting = writer.waiting() as u32;
        if self.written.get() || waiting == 0 {
            return;
        }
        let fate = world.effect();
        if fate == Fate::Never {
            return;
        }
        let part = if world.one_in(2) { waiting } else { 1 + world.below(waiting) };
        writer.write(part as usize).expect("the file can be written");
        self.written.set(true);
        world.note(|| format!("history: {part} of {waiting} writes"));
        for outcome in writer.outcomes() {
            if let Err(what) = dead_topic::check_settled(world, &self.engine, outcome) {
                world.violate(format!("run {}: {what}", outcome.key));
            }
        }
        requests::written(world, &writer);
    }

    pub fn conclude(&self, world: &World) {
        if self.written.get() && !world.is_dead() {
            self.written.set(false);
            self.writer.borrow_mut().conclude();
            world.note(|| "history: announced".into());
        }
    }

    pub fn commit(&self, world: &World) {
        if self.committing.replace(true) {
            return;
        }
        let mut doubt = self.doubt.get();
        if let Ok(job) = self.committer_jobs.try_recv() {
            let offsets = job.resets.iter().map(|reset| (reset.partition, reset.to));
            let offsets: Vec<_> = offsets.collect();
            oracle::begin_move(world, &offsets);
            world.moving.replace(offsets);
            self.committer.serve(job, &mut doubt, &self.stop);
            world.moving.replace(Vec::new());
            self.doubt.set(doubt);
            self.committing.set(false);
            return;
        }
        let committed = self.committer.commit(&mut doubt);
        if let Ok(offsets) = &committed {
            // What fails is due again at the next commit.
            let _ = self.committer.renew(&mut self.renewals.borrow_mut(), offsets, &mut doubt);
        }
        self.doubt.set(doubt);
        self.committing.set(false);
        if let Some(target) = &self.target
            && committed.is_ok()
            && !world.is_dead()
            && self.engine.ledgers.is_caught_up()
            && self.work_signal.is_idle()
        {
            oracle::check_caught_up(world, target);
            requests::check_idle(world);
            self.caught_up.set(true);
        }
    }

    /// A person steers the process.
    pub fn person(&self, world: &World) {
        if world.calm.get() {
            return;
        }
        let steering = &self.engine.steering;
        match world.below(9) {
            8 => self.try_step_or_give_up(world),
            0 => drop(steering.pause()),
            1 | 2 => drop(steering.resume()),
            3 => steering.tick(),
            4 => {
                let max_batch = 1 + world.below(6) as usize;
                let changed: Result<_, ()> = steering.set(|settings| {
                    settings.max_batch = max_batch;
                    Ok(())
                });
                changed.expect("nothing refuses it");
            }
            _ => self.move_cursor(world),
        }
    }

    fn move_cursor(&self, world: &World) {
        let target = {
            let log = world.log.borrow();
            let partition = world.below(log.partitions.len() as u32) as usize;
            let of = &log.partitions[partition];
            let span = u32::try_from((of.end - of.beginning).min(20)).unwrap_or(0) + 1;
            (partition as Partition, Offset::new(of.end - i64::from(world.below(span))))
        };
        let limit = Duration::from_millis(u64::from(1 + world.below(3000)));
        world.note(|| format!("a person moves the cursor to {target:?}"));
        let moved = self.cursor.move_to(&[target], limit);
        world.note(|| format!("the move: {moved:?}"));
        if let Err(error) = moved
            && error.exit_code() == 64
            && !world.is_dead()
            && !world.cut.borrow().contains(&target.0)
        {
            world.violate(format!("the move to {target:?} is refused as wrong: {error}"));
        }
    }

    /// During a hold a person has the step tried at once, or gives up on what waits for it.
    fn try_step_or_give_up(&self, world: &World) {
        let queue = &self.engine.queue;
        if queue.held().is_none() {
            return;
        }
        if world.one_in(4) || world.calm.get() {
            let runs = queue.give_up("given up on by a person", Duration::ZERO);
            world.note(|| format!("a person gives up on {runs} held run(s)"));
        } else {
            world.note(|| "a person has the step tried at once".into());
            queue.probe_now();
        }
    }

    fn has_halted(&self, world: &World) -> bool {
        let event = self.events.try_recv().ok();
        if let Some(event) = &event {
            world.note(|| format!("{event:?}"));
        }
        event.is_some()
    }

    /// As `pipeline` stops: intake, workers, history, the last commit.
    fn stop(&self, world: &World) {
        self.intake.take();
        self.engine.budget.close();
        self.engine.queue.close();
        self.engine.history.stop_waiting();
        while self.workers.iter().any(|desk| !desk.is_free()) {
            self.attempt(world);
        }
        if self.engine.history.flush(Duration::from_secs(5)) {
            for _ in 0..3 {
                self.commit(world);
            }
        }
        self.engine.history.close();
        while !world.is_dead() && (self.written.get() || self.writer.borrow().waiting() > 0) {
            self.conclude(world);
            self.write(world);
        }
    }

    /// Faults are over: everything has to get done, within so many acts. True where it did.
    fn until_idle(&self, world: &World, acts: u32) -> bool {
        for act in 0..acts {
            world.act();
            if world.is_dead() {
                return false;
            }
            let is_over = || self.is_idle(world) && world.requests.borrow().are_all_ended();
            if act % 8 == 0 && is_over() && oracle::is_all_committed(world) {
                return true;
            }
            // Bad records with nothing to compare them with are a person's to give up on.
            let held = self.engine.queue.held();
            if held.is_some_and(|held| held.probes > outage::A_PERSONS_PATIENCE) {
                self.try_step_or_give_up(world);
            }
            if self.has_halted(world) {
                world.violate("mb halts though nothing is wrong".into());
            }
        }
        let committed: Vec<_> =
            world.log.borrow().partitions.iter().map(|of| (of.committed.clone(), of.end)).collect();
        world.violate(format!(
            "stuck: committed and end {committed:?}, in flight {}, queued {}, retries {}, parked {}, {} bytes, requests left: {}, waiting {:?}",
            self.engine.ledgers.in_flight(),
            self.engine.queue.len(),
            self.engine.queue.waiting_retries(),
            self.engine.queue.parked(),
            self.engine.budget.used(),
            !world.requests.borrow().are_all_ended(),
            self.work_signal.blocked()
        ));
        false
    }

    fn is_idle(&self, world: &World) -> bool {
        // An offset of before a cut may be the log's end again.
        let log = world.log.borrow();
        let done = self.engine.ledgers.committable();
        let is_done = |(partition, offset): (&Partition, &Offset)| {
            log.partitions[*partition as usize].end == offset.get()
        };
        done.iter().all(is_done)
            && self.engine.ledgers.in_flight() == 0
            && self.engine.queue.is_empty()
            && self.engine.queue.waiting_retries() == 0
            && self.engine.queue.parked() == 0
            && self.engine.queue.held().is_none()
            && self.engine.budget.used() == 0
    }
}

impl Desk {
    fn is_free(&self) -> bool {
        self.run.borrow().is_none() && !self.busy.get()
    }
}
