//! Redrives and replays as requests: lists, their cancellation, and new replays.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::config::limits;
use crate::history::requests::{self, Replay, RequestRow, Selection};
use crate::model::error::{Error, Result};
use crate::model::offset::Offset;
use crate::source::reprocess::plan::{self, Span};

/// The newest redrives and replays. The note of one that only another process can work on says why.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListRequests(pub Selection);

impl Operation for ListRequests {
    type Answer = Vec<RequestRow>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<RequestRow>> {
        let blocked =
            context.of_pipeline(|pipeline| pipeline.work_signal.blocked()).unwrap_or_default();
        requests::list(context.history(session)?, &self.0, &blocked)
    }
}

/// Cancels open requests, all of them or none. Their runs that have started end as usual.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CancelRequests {
    pub ids: Vec<i64>,
    /// Why, for people.
    pub note: String,
}

impl Operation for CancelRequests {
    type Answer = ();

    fn perform(self, context: &Context, session: &mut Session) -> Result<()> {
        let CancelRequests { ids, note } = self;
        // While no pipeline runs, nothing of the requests is queued, and the file is all there is. None may
        // start meanwhile: it could queue their runs before the file says that they are cancelled.
        let in_file = || requests::cancel(&mut context.history_to_change()?, &ids, &note);
        if context.unless_running(in_file)?.is_some() {
            return Ok(());
        }
        requests::check_open(context.history(session)?, &ids)?;
        context.with_pipeline(|pipeline| pipeline.work_signal.cancel(&ids, &note))
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Replays ranges of the log: a request for each; their numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplayRanges(pub Replay);

/// The numbers of the requests that were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RequestNumbers")]
pub struct RequestNumbers {
    pub requests: Vec<i64>,
}

impl Operation for ReplayRanges {
    type Answer = Vec<i64>;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Vec<i64>> {
        let numbers = requests::add_replay(&mut context.history_to_change()?, &self.0)?;
        context.signal_new_request();
        Ok(numbers)
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Replays offsets of one partition of the topic that mb reads, as far as the log has them; the numbers of the
/// requests that were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayOffsets {
    pub partition: i32,
    pub from: i64,
    /// Included.
    pub to: i64,
}

impl Operation for ReplayOffsets {
    type Answer = Vec<i64>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<i64>> {
        let replay = context.with_pipeline(|pipeline| planned(pipeline, &self))?;
        ReplayRanges(replay).perform(context, session)
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// The part of the offsets that the log has now.
fn planned(pipeline: &RunningPipeline, offsets: &ReplayOffsets) -> Result<Replay> {
    let ReplayOffsets { partition, from, to } = *offsets;
    if !(0..=to).contains(&from) {
        return Err(Error::Usage(format!(
            "from, to: got {from} and {to}, expected offsets from 0 on, the lower one first"
        )));
    }
    let topic = &pipeline.engine.topic;
    if !topic.partitions.contains(&partition) {
        return Err(Error::Usage(format!(
            "partition: got {partition}, topic {} has no such one",
            topic.name
        )));
    }
    let span = Span::Offsets { from: Offset::new(from), to: Some(Offset::new(to)) };
    let broker = &pipeline.engine.broker;
    let plan = plan::plan(broker.as_ref(), &topic.name, &[partition], span)?;
    plan.log_notes();
    Ok(plan.request(broker.backend(), topic, &pipeline.engine.config.connection.group))
}
