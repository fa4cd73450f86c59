//! A pause before another step, to simulate slow work (`--step-delay`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Attempt, Step, StepError};
use crate::model::error::Result;
use crate::model::offset::RunKey;
use crate::model::sync::{Condvar, Mutex};

/// Runs another step after a pause. A cancel or a stop of mb ends the pause at once, and the step does not run.
pub struct Delayed<S> {
    delay: Duration,
    step: S,
    state: Mutex<State>,
    /// A run was cancelled, or mb stops.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The runs in their pause, and whether they were cancelled meanwhile.
    waiting: HashMap<RunKey, bool>,
    is_stopping: bool,
}

impl<S: Step> Delayed<S> {
    pub fn new(delay: Duration, step: S) -> Delayed<S> {
        Delayed { delay, step, state: Mutex::default(), changed: Condvar::new() }
    }

    fn stop_waiting(&self) {
        self.state.lock().is_stopping = true;
        self.changed.notify_all();
    }

    fn pause(&self, key: &RunKey) -> Result<(), StepError> {
        let deadline = Instant::now() + self.delay;
        let mut state = self.state.lock();
        state.waiting.insert(key.clone(), false);
        loop {
            let is_over = Instant::now() >= deadline;
            if is_over || state.is_stopping || state.waiting.get(key) == Some(&true) {
                let is_cancelled = state.waiting.remove(key) == Some(true);
                return match is_over {
                    // The error is replaced: the run ends with the reason that the person gave.
                    _ if is_cancelled => Err(StepError::Retry("cancelled".to_owned())),
                    true => Ok(()),
                    false => Err(StepError::NotDone("mb stops in its --step-delay".to_owned())),
                };
            }
            self.changed.wait_until(&mut state, deadline);
        }
    }
}

impl<S: Step> Step for Delayed<S> {
    fn name(&self) -> &str {
        self.step.name()
    }

    fn prepare(&self, topic: &str) -> Result<()> {
        self.step.prepare(topic)
    }

    fn run(&self, attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        self.pause(attempt.key)?;
        self.step.run(attempt)
    }

    fn cancel(&self, key: &RunKey) -> bool {
        if let Some(is_cancelled) = self.state.lock().waiting.get_mut(key) {
            *is_cancelled = true;
            self.changed.notify_all();
            return true;
        }
        self.step.cancel(key)
    }

    fn output(&self, key: &RunKey) -> Option<String> {
        self.step.output(key)
    }

    fn stopping(&self) {
        self.stop_waiting();
        self.step.stopping();
    }

    fn abort(&self) {
        self.stop_waiting();
        self.step.abort();
    }

    fn finish(&self) {
        self.step.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crossbeam_channel::bounded;

    use super::super::Discard;
    use super::*;
    use crate::model::batch::{Batch, Record};
    use crate::model::offset::{Offset, OffsetRange};
    use crate::model::thread;

    /// So long that nobody waits for its end, and a test that does fails.
    const LONG: Duration = Duration::from_secs(60);

    fn key(partition: i32) -> RunKey {
        RunKey::new("t", partition, OffsetRange::new(Offset::ZERO, Offset::ZERO))
    }

    /// Attempts a run on a thread of its own, and waits until it is in its pause.
    fn attempt(
        step: &Arc<Delayed<Discard>>,
        partition: i32,
    ) -> thread::Thread<Result<(), StepError>> {
        let (begins, begun) = bounded(1);
        let attempted = {
            let step = Arc::clone(step);
            move || {
                let batch: Batch = [Record::default()].into_iter().collect();
                let key = key(partition);
                begins.send(()).unwrap();
                step.run(&mut Attempt::new(&key, 1, &batch))
            }
        };
        let thread = thread::spawn("attempt", attempted).unwrap();
        begun.recv().unwrap();
        while !step.state.lock().waiting.contains_key(&key(partition)) {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_cancel_ends_the_delay_of_its_run_and_a_stop_ends_that_of_all() {
        let step = Arc::new(Delayed::new(LONG, Discard));
        let [first, second, third] = [1, 2, 3].map(|partition| attempt(&step, partition));
        assert!(step.cancel(&key(1)));
        assert_eq!(first.join(), Ok(Err(StepError::Retry("cancelled".into()))));
        assert!(!second.is_finished() && !third.is_finished());
        step.stopping();
        for thread in [second, third] {
            assert!(matches!(thread.join(), Ok(Err(StepError::NotDone(_)))));
        }
        assert!(step.state.lock().waiting.is_empty());
        assert!(!step.cancel(&key(2)), "it is the other step's now");
    }

    #[test]
    fn the_step_runs_after_the_delay() {
        let step = Delayed::new(Duration::from_millis(1), Discard);
        let batch = Batch::default();
        assert_eq!(step.run(&mut Attempt::new(&key(1), 1, &batch)), Ok(()));
        assert!(step.state.lock().waiting.is_empty());
    }
}
