//! A pipeline's workers: as many threads as there are to be now. What each does is in `worker`.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use crate::config::steering::Steering;
use crate::model::error::Result;
use crate::model::events;
use crate::model::live::Trouble;
use crate::runs::worker::Worker;

use super::threads::Threads;

/// Whom the workers are made after, and how many there are.
pub(super) struct Crew {
    pattern: Worker,
    steering: Arc<Steering>,
    /// By a worker's number; dropped to let it go, after the run that it has.
    employed: Vec<Option<Sender<()>>>,
    trouble: Trouble,
}

const WHAT: &str = "starting workers";

impl Crew {
    pub(super) fn new(pattern: Worker, steering: Arc<Steering>) -> Crew {
        Crew { pattern, steering, employed: Vec::new(), trouble: Trouble::default() }
    }

    /// Starts workers that are wanted and not there, lets those go that are not wanted any more. One
    /// that still ends under its name is waited for: it is asked again when it has.
    ///
    /// # Errors
    /// As `thread::spawn`; those that could be started are there.
    pub(super) fn fit(&mut self, threads: &mut Threads) -> Result<()> {
        let wanted = self.steering.settings().max_concurrent_runs;
        self.pattern.live.set_workers(wanted);
        if self.employed.len() > wanted {
            self.employed.truncate(wanted);
            self.pattern.queue.look_again();
        }
        self.employed.resize_with(wanted, || None);
        for (index, employed) in self.employed.iter_mut().enumerate() {
            let name = format!("worker-{index}");
            if employed.is_some() || threads.is_running(&name) {
                continue;
            }
            let worker = Worker { index, ..self.pattern.clone() };
            let (sender, retired) = bounded(0);
            threads.add(events::spawn(&name, &self.pattern.events, move || worker.run(&retired))?);
            *employed = Some(sender);
        }
        Ok(())
    }

    /// As `fit`, while the pipeline runs: it goes on with those that there are.
    pub(super) fn fit_or_warn(&mut self, threads: &mut Threads) {
        match self.fit(threads) {
            Ok(()) => self.trouble.end(WHAT),
            Err(error) => self.trouble.begin(WHAT, &error.to_string()),
        }
    }

    /// Whether the thread of this name is a worker that was let go.
    pub(super) fn was_let_go(&self, name: &str) -> bool {
        let index = name.strip_prefix("worker-").and_then(|index| index.parse::<usize>().ok());
        index.is_some_and(|index| !matches!(self.employed.get(index), Some(Some(_))))
    }
}

impl Drop for Crew {
    /// Workers of a pipeline that could not be started end too.
    fn drop(&mut self) {
        self.employed.clear();
        self.pattern.queue.look_again();
    }
}
