//! The worker threads: as many as the settings ask for now. What a worker does is in `runs::worker`.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use crate::model::error::Result;
use crate::model::events;
use crate::model::live::Trouble;
use crate::runs::engine::Engine;
use crate::runs::worker::Worker;

use super::threads::Threads;

/// The workers of a pipeline, and how many of them there are.
pub(super) struct Workers {
    engine: Arc<Engine>,
    /// By a worker's number. Dropping an entry retires the worker after the run that it has.
    employed: Vec<Option<Sender<()>>>,
    trouble: Trouble,
}

const WHAT: &str = "starting workers";

impl Workers {
    pub(super) fn new(engine: Arc<Engine>) -> Workers {
        Workers { engine, employed: Vec::new(), trouble: Trouble::default() }
    }

    /// Starts missing workers and retires superfluous ones. If a retired worker of the same number has not
    /// ended yet, its replacement is started by a later call.
    ///
    /// # Errors
    /// Those of `thread::spawn`; workers that could be started run.
    pub(super) fn adjust(&mut self, threads: &mut Threads) -> Result<()> {
        let wanted = self.engine.steering.settings().max_concurrent_runs;
        self.engine.live.set_workers(wanted);
        if self.employed.len() > wanted {
            self.employed.truncate(wanted);
            self.engine.queue.look_again();
        }
        self.employed.resize_with(wanted, || None);
        for (index, employed) in self.employed.iter_mut().enumerate() {
            let name = format!("worker-{index}");
            if employed.is_some() || threads.is_running(&name) {
                continue;
            }
            let worker = Worker { index, engine: Arc::clone(&self.engine) };
            let (sender, retired) = bounded(0);
            threads.add(events::spawn(&name, &self.engine.events, move || worker.run(&retired))?);
            *employed = Some(sender);
        }
        Ok(())
    }

    /// Like `adjust`, for a pipeline that runs already: it goes on with the workers it has.
    pub(super) fn adjust_or_warn(&mut self, threads: &mut Threads) {
        match self.adjust(threads) {
            Ok(()) => self.trouble.end(WHAT),
            Err(error) => self.trouble.begin(WHAT, &error.to_string()),
        }
    }

    /// Whether the thread of this name is a worker that was retired.
    pub(super) fn was_retired(&self, name: &str) -> bool {
        let index = name.strip_prefix("worker-").and_then(|index| index.parse::<usize>().ok());
        index.is_some_and(|index| !matches!(self.employed.get(index), Some(Some(_))))
    }
}

impl Drop for Workers {
    /// The workers of a pipeline that could not be started end too.
    fn drop(&mut self) {
        self.employed.clear();
        self.engine.queue.look_again();
    }
}
