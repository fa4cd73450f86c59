//! `--step-delay`: a cancel and a stop end the pause, and what the caller is told of a cancel is what happens.

use std::sync::Arc;

use models::model::batch::Batch;
use models::model::offset::RunKey;
use models::step::{Attempt, Delayed, Step, StepError};
use shuttle::thread;

use crate::queue::run;
use crate::{HOUR, explore};

/// It must never be run: no pause of a model is over.
struct Never;

impl Step for Never {
    fn name(&self) -> &str {
        "never"
    }

    fn run(&self, _attempt: &mut Attempt<'_>) -> Result<(), StepError> {
        panic!("the pause is not over");
    }
}

fn pause(step: &Arc<Delayed<Never>>, key: &RunKey) -> thread::JoinHandle<StepError> {
    let (step, key) = (Arc::clone(step), key.clone());
    thread::spawn(move || {
        let batch = Batch::default();
        step.run(&mut Attempt::new(&key, 1, &batch)).expect_err("the step is not run")
    })
}

/// Fails if a cancel ends the pause of another run, or none; or if a stop does not end all.
#[test]
fn a_cancel_ends_the_pause_of_its_run_and_a_stop_all_pauses() {
    explore(|| {
        let step = Arc::new(Delayed::new(HOUR, Never));
        let keys = [0, 1].map(|offset| run(0, offset).key);
        let [cancelled, other] = [0, 1].map(|at| pause(&step, &keys[at]));
        let is_cancelled = step.cancel(&keys[0]);
        let error = if is_cancelled {
            // It ends although the other one goes on.
            let error = cancelled.join().unwrap();
            step.stopping();
            error
        } else {
            step.stopping();
            cancelled.join().unwrap()
        };
        assert_eq!(matches!(error, StepError::Retry(_)), is_cancelled, "{error}");
        assert!(matches!(other.join().unwrap(), StepError::NotDone(_)));
    });
}
