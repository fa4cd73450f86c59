//! Wiring: makes everything a pipeline consists of and connects it, without starting a thread.
//!
//! The threads are started in `supervise`. The deterministic simulation uses the same wiring and lets each
//! part act when a seed says so; what is tested there is what runs.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::commit::committer::{Committer, MoveJob};
use crate::commit::ledgers::Ledgers;
use crate::config::{Config, limits};
use crate::history::requests::Reader;
use crate::history::{History, Settled};
use crate::kafka::{Broker, TopicInfo};
use crate::model::error::Result;
use crate::model::events::Event;
use crate::pipeline::startup::Recovered;
use crate::runs::deliver::Delivery;
use crate::runs::engine::{Engine, Lasting, Parts};

use crate::source::cursor_move::CursorMover;
use crate::source::reprocess::{Reprocessor, Resources, WorkSignal};
use crate::source::sensor::Sensor;
use crate::step::Step;

/// What a pipeline is made from: the parts that were opened and asked before.
pub struct Inputs {
    pub config: Config,
    pub step: Arc<dyn Step>,
    pub broker: Arc<dyn Broker>,
    pub topic: TopicInfo,
    pub recovered: Recovered,
    /// A commit of an earlier process may still be on its way.
    pub in_doubt: bool,
    pub lasting: Lasting,
}

/// A pipeline that is wired and not started.
pub struct Assembly {
    pub engine: Arc<Engine>,
    pub sensors: Vec<Sensor>,
    /// Moves the cursor of single partitions.
    pub cursor: Arc<CursorMover>,
    pub committer: Committer,
    /// What the committer does besides committing.
    pub committer_jobs: Receiver<MoveJob>,
    /// How the thread of reprocess requests learns that there is work.
    pub work_signal: Arc<WorkSignal>,
    woken_by_signal: Receiver<()>,
    /// Gets a message when no reprocess request is left.
    pub requests_rest: Receiver<()>,
    /// What the threads report.
    pub events: Receiver<Event>,
    /// Dropping it stops sensors, producer and reprocess requests.
    pub intake: Sender<()>,
    pub intake_stop: Receiver<()>,
}

/// Wires a pipeline. `open_history` gets what is to be called with the runs that a transaction has ended; it
/// returns the history and what writes it: a thread, or in the simulation a `WriterTask`.
///
/// # Errors
/// `Config` if the broker cannot do what the settings ask for; those of `open_history`.
pub fn wire<W>(
    inputs: Inputs,
    open_history: impl FnOnce(&Config, Settle, Sender<Event>) -> Result<(Arc<History>, W)>,
) -> Result<(Assembly, W)> {
    let Inputs { config, step, broker, topic, recovered, in_doubt, lasting } = inputs;
    broker.capabilities().isolation(config.isolation)?;
    let ledgers = Arc::new(Ledgers::default());
    let (events_in, events) = bounded(limits::EVENTS);
    let (intake, intake_stop) = bounded(0);
    let settle = {
        let ledgers = Arc::clone(&ledgers);
        Box::new(move |settled: &[Settled]| ledgers.settle(settled))
    };
    let (history, writer) = open_history(&config, settle, events_in.clone())?;
    let engine = Arc::new(Engine::new(Parts {
        config,
        topic,
        scope: recovered.scope,
        broker,
        step,
        history,
        ledgers,
        lasting,
        events: events_in,
    }));
    let (work_signal, woken_by_signal, requests_rest) =
        WorkSignal::new(&engine.queue, &engine.history);
    let sensors = sensors(&engine, recovered, &intake_stop);
    let (jobs, committer_jobs) = bounded(1);
    let handles = sensors.iter().map(Sensor::handle).collect();
    let cursor = Arc::new(CursorMover::new(Arc::clone(&engine), handles, jobs));
    let committer = committer(&engine, in_doubt);
    let assembly = Assembly {
        engine,
        sensors,
        cursor,
        committer,
        committer_jobs,
        work_signal,
        woken_by_signal,
        requests_rest,
        events,
        intake,
        intake_stop,
    };
    Ok((assembly, writer))
}

/// What the history calls with the runs that a transaction has ended.
pub type Settle = Box<dyn Fn(&[Settled]) + Send>;

fn sensors(engine: &Arc<Engine>, recovered: Recovered, stop: &Receiver<()>) -> Vec<Sensor> {
    let make = |index| Sensor::new(index, engine, stop.clone());
    let mut sensors: Vec<Sensor> = (0..engine.config.sensors).map(make).collect();
    let count = sensors.len();
    let index = |partition| usize::try_from(partition).expect("not negative") % count;
    for (partition, resume) in recovered.resumes {
        sensors[index(partition)].adopt(partition, resume);
    }
    for (partition, at) in recovered.late_starts {
        sensors[index(partition)].start_late(partition, at);
    }
    for (partition, why) in recovered.unread {
        sensors[index(partition)].leave_unread(partition, &why);
    }
    sensors
}

fn committer(engine: &Engine, in_doubt: bool) -> Committer {
    Committer {
        broker: Arc::clone(&engine.broker),
        group: engine.config.connection.group.clone(),
        topic: engine.topic.name.clone(),
        topic_id: engine.topic.id.clone(),
        history: Arc::clone(&engine.history),
        ledgers: Arc::clone(&engine.ledgers),
        live: Arc::clone(&engine.live),
        events: engine.events.clone(),
        in_doubt,
    }
}

impl Assembly {
    /// The worker of this number.
    #[cfg(any(test, feature = "testing"))]
    pub fn worker(&self, index: usize) -> crate::runs::worker::Worker {
        crate::runs::worker::Worker { index, engine: Arc::clone(&self.engine) }
    }

    /// What brings dead letters to their topic; `None` if they go to none.
    pub fn delivery(&self) -> Option<Delivery> {
        Delivery::new(&self.engine)
    }

    /// What makes runs of reprocess requests; `reader` is a connection to the history of its own.
    pub fn reprocessor(&self, reader: Reader) -> Reprocessor {
        let resources = Resources::new(&self.engine, reader, self.intake_stop.clone());
        Reprocessor::new(resources, Arc::clone(&self.work_signal), self.woken_by_signal.clone())
    }
}
