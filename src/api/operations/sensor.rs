//! Pause, resume and tick: when sensors read the topic.

use serde::{Deserialize, Serialize};

use super::{Done, Operation};
use crate::api::context::Context;
use crate::api::session::Session;
use crate::model::error::Result;

/// Ends the current tick; no tick begins by itself until `Resume`. Queued runs go on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Pause {}

impl Operation for Pause {
    type Answer = Done;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Done> {
        context.with_pipeline(|pipeline| {
            if pipeline.engine.steering.pause() {
                log::info!("paused on request: no tick begins until it is resumed; runs go on");
            }
            Ok(Done {})
        })
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Resume {}

impl Operation for Resume {
    type Answer = Done;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Done> {
        context.with_pipeline(|pipeline| {
            if pipeline.engine.steering.resume() {
                log::info!("resumed on request: ticks begin by themselves again");
            }
            Ok(Done {})
        })
    }
}

/// Begins a tick now, even while paused.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tick {}

impl Operation for Tick {
    type Answer = Done;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Done> {
        context.with_pipeline(|pipeline| {
            log::info!("a tick begins on request");
            pipeline.engine.steering.tick();
            Ok(Done {})
        })
    }
}
