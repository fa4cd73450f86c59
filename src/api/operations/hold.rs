//! What a person can do about a hold: have the step tried now, or give up on the runs that wait for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::model::error::Result;

/// Tries the step at once, with one of the runs that wait.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RetryNow {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retried {
    /// False if nothing is held, so there is nothing to try.
    #[serde(default = "yes")]
    pub tried: bool,
}

/// An mb from before there was this field answers only if something is held.
fn yes() -> bool {
    true
}

/// Gives up on every run that has failed and waits for the step: its records become dead letters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GiveUp {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GaveUp {
    /// How many runs; 0 if nothing is held.
    pub runs: u64,
}

impl Operation for RetryNow {
    type Answer = Retried;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Retried> {
        context.with_pipeline(|pipeline| {
            let tried = pipeline.engine.queue.probe_now();
            if tried {
                log::info!("the step is tried now, as requested");
            }
            Ok(Retried { tried })
        })
    }
}

impl Operation for GiveUp {
    type Answer = GaveUp;

    fn perform(self, context: &Context, _: &mut Session) -> Result<GaveUp> {
        context.with_pipeline(|pipeline| {
            let Some(held) = pipeline.engine.queue.held() else { return Ok(GaveUp { runs: 0 }) };
            let error = format!("given up on by a person during a hold; {}", held.cause);
            let runs = pipeline.engine.queue.give_up(&error, limits::HISTORY_STOP_LIMIT);
            log::info!("{runs} held run(s) are given up on, as requested");
            Ok(GaveUp { runs: runs as u64 })
        })
    }
}
