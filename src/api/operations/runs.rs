//! Runs: lists, one run whole, how many there are, and how one is made again.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use super::dead_letters::Redrive;
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::config::limits;
use crate::history::dead_letters::{self, Pick};
use crate::history::query::{self, RunCounts, RunDetail, RunRow, Selection};
use crate::history::requests::{self, Place, Replay};
use crate::kafka::Backend;
use crate::model::error::{Error, Result};

/// The newest runs, at most `limits::LIST_ROWS`. Answers are whole in memory: a longer list is asked for page
/// by page.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListRuns(pub Selection);

impl Operation for ListRuns {
    type Answer = Vec<RunRow>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<RunRow>> {
        let mut selection = self.0;
        selection.limit = selection.limit.min(limits::LIST_ROWS);
        // The history does not know which of its queued runs are with a worker by now.
        query::runs_now(context.history(session)?, &selection, &context.running())
    }
}

/// One run with its failed attempts; null if the history does not have it (any more).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetRun {
    pub id: i64,
}

impl Operation for GetRun {
    type Answer = Option<RunDetail>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Option<RunDetail>> {
        let mut detail = query::run(context.history(session)?, self.id)?;
        if let Some(detail) = &mut detail
            && let Some(running) = context.running().iter().find(|run| run.id.0 == self.id)
        {
            detail.run.mark_running(running);
            let of_step = |pipeline: &RunningPipeline| pipeline.engine.step.output(&running.key);
            detail.output = context.of_pipeline(of_step).flatten();
        }
        Ok(detail)
    }
}

/// How many runs are in each state.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CountRuns {}

impl Operation for CountRuns {
    type Answer = RunCounts;

    fn perform(self, context: &Context, session: &mut Session) -> Result<RunCounts> {
        let running = context.running();
        query::counts(context.history(session)?, &running)
    }
}

/// Processes a run's records again: redrives its open dead letters, if it left some. Otherwise replays its offsets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunAgain {
    pub id: i64,
}

/// What running again does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Again {
    Redrive,
    Replay,
}

/// The request that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RunAgain")]
pub struct RanAgain {
    pub request: i64,
    /// `redrive`: the run's open dead letters are processed, and nothing else of it. `replay`: all of its offsets are,
    /// because it has no open dead letter.
    #[serde(default = "replay")]
    pub did: Again,
    /// How many dead letters are redriven.
    #[serde(default)]
    pub dead_letters: u64,
}

/// What an earlier mb has done, which does not say so.
fn replay() -> Again {
    Again::Replay
}

impl Operation for RunAgain {
    type Answer = RanAgain;

    fn perform(self, context: &Context, session: &mut Session) -> Result<RanAgain> {
        let id = self.id;
        requests::place(context.history(session)?, id)?;
        let (open, redriven_by) = dead_letters::open_of_run(context.history(session)?, id)?;
        if open.is_empty() {
            if let Some(request) = redriven_by.first() {
                return Err(Error::Other(format!(
                    "run {id} is not made again: request {request} redrives its dead letters already"
                )));
            }
            let ReplayRequested { request } = ReplayRun { id }.perform(context, session)?;
            return Ok(RanAgain { request, did: Again::Replay, dead_letters: 0 });
        }
        let pick = Pick { ids: open, ..Pick::default() };
        let requests = Redrive(pick).perform(context, session)?;
        // They are of one scope, so there is one request.
        let dead_letters = requests.iter().map(|request| request.letters).sum();
        let request = requests.first().map(|request| request.request).unwrap_or_default();
        log::info!(
            "run {id}: {dead_letters} open dead letter(s) are redriven as request {request}"
        );
        Ok(RanAgain { request, did: Again::Redrive, dead_letters })
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Replays the offsets of a run, whatever came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayRun {
    pub id: i64,
}

/// The number of the request that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RequestNumber")]
pub struct ReplayRequested {
    pub request: i64,
}

impl Operation for ReplayRun {
    type Answer = ReplayRequested;

    fn perform(self, context: &Context, session: &mut Session) -> Result<ReplayRequested> {
        let id = self.id;
        let place = requests::place(context.history(session)?, id)?;
        context.with_pipeline(|pipeline| check_scope(pipeline, &place, id))?;
        let replay = Replay {
            embedded: place.embedded,
            cluster_id: place.cluster_id,
            group: place.group,
            topic: place.topic,
            topic_id: place.topic_id,
            ranges: vec![(place.partition, place.range.first.get(), place.range.last.get())],
        };
        let numbers = requests::add_replay(&mut context.history_to_change()?, &replay)?;
        context.signal_new_request();
        let request = numbers.first().copied().unwrap_or_default();
        log::info!("run {id} is replayed as request {request}");
        Ok(ReplayRequested { request })
    }
}

/// A run of another topic or group is not this mb's to touch.
pub(super) fn check_scope(pipeline: &RunningPipeline, place: &Place, id: i64) -> Result<()> {
    if place.scope == pipeline.engine.scope {
        return Ok(());
    }
    let connection = &pipeline.engine.config.connection;
    let (topic, group) = (&connection.topic, &connection.group);
    let is_embedded = pipeline.engine.broker.backend() == Backend::Embedded;
    let why = if place.topic != *topic || place.group != *group || place.embedded != is_embedded {
        format!(
            "it is of topic {}, group {}; this mb reads topic {topic}, group {group}",
            place.topic, place.group
        )
    } else {
        format!(
            "topic {topic} was deleted and created again since: its offsets belong to other records now"
        )
    };
    Err(Error::Usage(format!("run {id}: {why}")))
}
