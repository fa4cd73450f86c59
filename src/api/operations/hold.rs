//! What a person can do about a hold: have the step tried now, or give up on the runs that wait for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Done, Operation};
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::runs::queue::Held;

/// Tries the step at once, with one of the runs that wait.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RetryNow {}

/// Gives up on every run that has failed and waits for the step: its records become dead letters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GiveUp {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GaveUp {
    /// How many runs.
    pub runs: u64,
}

impl Operation for RetryNow {
    type Answer = Done;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Done> {
        context.with_pipeline(|pipeline| {
            held(pipeline)?;
            pipeline.engine.queue.probe_now();
            log::info!("the step is tried now, as requested");
            Ok(Done {})
        })
    }
}

impl Operation for GiveUp {
    type Answer = GaveUp;

    fn perform(self, context: &Context, _: &mut Session) -> Result<GaveUp> {
        context.with_pipeline(|pipeline| {
            let held = held(pipeline)?;
            let error = format!("given up on by a person during a hold; {}", held.cause);
            let runs = pipeline.engine.queue.give_up(&error, limits::HISTORY_STOP_LIMIT);
            log::info!("{runs} held run(s) are given up on, as requested");
            Ok(GaveUp { runs: runs as u64 })
        })
    }
}

fn held(pipeline: &RunningPipeline) -> Result<Held> {
    pipeline.engine.queue.held().ok_or_else(|| {
        Error::Usage("nothing is held: the step works, or runs have attempts left".to_owned())
    })
}
