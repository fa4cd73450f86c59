//! The thread `dead-letters`: writes the records of failed runs to the dead-letter topic, and settles the runs
//! once the topic has acknowledged them.
//!
//! Workers hand failed runs over and take the next run. If the topic is unavailable, the runs wait in the queue
//! with their memory, and the writes are retried with growing pauses; no worker waits. When such runs fill the
//! byte budget, the sensors stop reading, so an outage of the topic keeps the records in the log.

use std::sync::Arc;

use crate::model::clock;
use crate::model::run::Run;
use crate::runs::apply::apply;
use crate::runs::dead_letters::{DeadLetterWriter, NotWritten};
use crate::runs::engine::Engine;
use crate::runs::outcome;
use crate::runs::undelivered::Undelivered;

/// The work of the thread `dead-letters`.
pub struct Delivery {
    engine: Arc<Engine>,
    writer: DeadLetterWriter,
}

impl Delivery {
    /// `None` if dead letters go to no topic.
    pub fn new(engine: &Arc<Engine>) -> Option<Delivery> {
        let topic = Arc::clone(engine.dead_letters.as_ref()?);
        let writer = DeadLetterWriter::new(Arc::clone(&engine.broker), topic);
        Some(Delivery { engine: Arc::clone(engine), writer })
    }

    /// Delivers until the queue is closed. The next start repeats the runs that are not delivered by then.
    pub fn run(mut self) {
        while let Some((run, undelivered)) = self.engine.queue.next_undelivered() {
            self.deliver(run, undelivered);
        }
    }

    /// Delivers the dead letters of one run, if any are due: for a caller that does not wait.
    #[cfg(feature = "testing")]
    pub fn step(&mut self) -> bool {
        let Some((run, undelivered)) = self.engine.queue.try_next_undelivered() else {
            return false;
        };
        self.deliver(run, undelivered);
        true
    }

    fn deliver(&mut self, run: Run, mut undelivered: Undelivered) {
        let queue = &self.engine.queue;
        let _with_worker = queue.with_worker(&run);
        match self.writer.write(&run.key, &undelivered, &|| queue.is_closed()) {
            Ok(()) => {
                if !queue.has_undelivered() {
                    self.writer.recovered();
                }
                let error = undelivered.error().to_owned();
                let Undelivered { attempt, dead_letters, .. } = undelivered;
                let effects = outcome::settle(&run, attempt.number, error, dead_letters);
                apply(&self.engine, run, attempt, effects);
            }
            Err(NotWritten::Stopping) => {}
            Err(NotWritten::Failed(cause)) => {
                let pause = self.writer.failed(&run.key, &undelivered, &cause);
                undelivered.tries = undelivered.tries.saturating_add(1);
                queue.keep_undelivered(run, undelivered, clock::now() + pause);
            }
        }
    }
}
