//! Cancels a run: it fails, and its records become dead letters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use super::runs::check_scope;
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::config::limits;
use crate::history::requests;
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::run::RunId;
use crate::runs::cancels::Found;

/// Cancels a run that has not ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelRun {
    pub id: i64,
    /// Why, for people; at most `limits::CANCEL_NOTE_CHARS`.
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancelled {
    pub did: CancelEffect,
}

/// What cancelling the run did at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CancelEffect {
    /// The run is waiting. A worker will take it and fail it without calling the step.
    Waiting,
    /// The run's command gets a signal.
    Ended,
    /// The run is in a step inside mb, which cannot be ended: mb marks it as stalled, and waits for it.
    Stalled,
}

impl Operation for CancelRun {
    type Answer = Cancelled;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Cancelled> {
        let CancelRun { id, note } = self;
        let place = requests::place(context.history(session)?, id)?;
        let error = error_of(&note)?;
        let found = context.with_pipeline(|pipeline| {
            if !place.is_unfinished() {
                return Err(has_ended(id));
            }
            check_scope(pipeline, &place, id)?;
            find(pipeline, id, &error)
        })?;
        let did = match found {
            (Found::NotBegun, _) => {
                let still_open = requests::place(context.history(session)?, id)?.is_unfinished();
                context.with_pipeline(|pipeline| {
                    // If it ended because its turn came meanwhile, it was the cancel that ended it.
                    if !still_open && pipeline.engine.queue.cancels.take_back(RunId(id)) {
                        return Err(has_ended(id));
                    }
                    Ok(CancelEffect::Waiting)
                })?
            }
            (Found::InStep, Some(running)) => {
                context.with_pipeline(|pipeline| Ok(end_step(pipeline, &running)))?
            }
            // The step returned in this very moment. The run's outcome tells whether the cancel was in time.
            (Found::InStep, None) => CancelEffect::Ended,
            (Found::Ending, _) => {
                return Err(Error::Other(format!(
                    "run {id} is just ending, and the history cannot be written now; try again"
                )));
            }
        };
        let effect = serde_json::to_value(did).unwrap_or_default();
        log::info!("run {id}: {error} ({})", effect.as_str().unwrap_or_default());
        Ok(Cancelled { did })
    }
}

/// Marks the run as cancelled; says where it is, and with which worker.
fn find(pipeline: &RunningPipeline, id: i64, error: &str) -> Result<(Found, Option<Running>)> {
    let run = RunId(id);
    let found = pipeline.engine.queue.cancels.cancel(run, error, limits::HISTORY_STOP_LIMIT);
    if found == Found::NotBegun {
        pipeline.engine.queue.hurry(run);
        // Brings the outcomes of runs that ended before this into the file, where the caller looks next.
        if !pipeline.engine.history.flush(limits::HISTORY_STOP_LIMIT) {
            return Err(Error::Other(format!(
                "run {id}: the history cannot be written now; unless the run has ended already, it fails \
                 when a worker takes it"
            )));
        }
    }
    Ok((found, pipeline.engine.live.running().into_iter().find(|running| running.id == run)))
}

fn end_step(pipeline: &RunningPipeline, running: &Running) -> CancelEffect {
    if pipeline.engine.step.cancel(&running.key) {
        return CancelEffect::Ended;
    }
    pipeline.engine.live.stall(running.id);
    log::warn!(
        "run {} was cancelled while worker-{} was running it: a step inside mb cannot be ended, so mb \
         waits for it",
        running.key,
        running.worker
    );
    CancelEffect::Stalled
}

fn has_ended(id: i64) -> Error {
    Error::Usage(format!("run {id} has ended: there is nothing to cancel"))
}

/// The error of a cancelled run: one line, whatever the note has in it.
fn error_of(note: &str) -> Result<String> {
    let note = note.trim();
    if note.chars().count() > limits::CANCEL_NOTE_CHARS {
        return Err(Error::Usage(format!(
            "note: got {} characters, expected at most {}",
            note.chars().count(),
            limits::CANCEL_NOTE_CHARS
        )));
    }
    let mut line = String::new();
    for c in note.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Ok(if line.is_empty() { "cancelled".to_owned() } else { format!("cancelled: {line}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_cancelled_run_is_one_bounded_line() {
        assert_eq!(error_of(" ").as_deref(), Ok("cancelled"));
        assert_eq!(error_of("not\nnow").as_deref(), Ok("cancelled: not\\nnow"));
        assert!(error_of(&"x".repeat(501)).is_err());
    }

    #[test]
    fn effects_keep_their_words() {
        let effects = [CancelEffect::Waiting, CancelEffect::Ended, CancelEffect::Stalled];
        let json = serde_json::to_string(&effects).unwrap();
        assert_eq!(json, r#"["waiting","ended","stalled"]"#);
    }
}
