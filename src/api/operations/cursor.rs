//! Moves the cursor and the committed offsets of partitions.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::offset::{Offset, Partition};

/// Where partitions are to go on: their next offsets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveCursor {
    pub offsets: Vec<(i32, i64)>,
    /// Only says what would be moved.
    pub dry_run: bool,
    /// How long to wait for the partitions' running runs, in seconds; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<f64>,
}

impl MoveCursor {
    fn wait(&self) -> Duration {
        let seconds = self.wait_s.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        seconds.map_or(limits::CURSOR_MOVE_WAIT, |seconds| {
            Duration::from_secs_f64(seconds.min(limits::DURATION_MAX.as_secs_f64()))
        })
    }
}

/// One partition's move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CursorMove {
    pub partition: i32,
    /// The committed offset before; if there is none, the lowest offset that is not done.
    pub from: i64,
    pub to: i64,
    /// The log's first offset.
    pub beginning: i64,
    /// The log's end: the next offset that it will give.
    pub end: i64,
}

impl Operation for MoveCursor {
    type Answer = Vec<CursorMove>;

    /// The partitions' runs are waited for, then the log.
    fn answer_limit(&self) -> Duration {
        limits::CURSOR_RELEASE_LIMIT
            + self.wait()
            + limits::CURSOR_MOVE_LIMIT
            + limits::CONTROL_LIMIT
    }

    fn perform(self, context: &Context, _: &mut Session) -> Result<Vec<CursorMove>> {
        context.with_pipeline(|pipeline| {
            let targets = targets(&self.offsets)?;
            let planned = pipeline.cursor.plan(&targets)?;
            let done = pipeline.engine.ledgers.committable();
            let moves = planned.iter().map(|(reset, marks)| {
                let from = reset.from.or(done.get(&reset.partition).copied());
                CursorMove {
                    partition: reset.partition,
                    from: from.unwrap_or(marks.beginning).get(),
                    to: reset.to.get(),
                    beginning: marks.beginning.get(),
                    end: marks.end.get(),
                }
            });
            let moves = moves.collect();
            if !self.dry_run {
                pipeline.cursor.move_to(&targets, self.wait())?;
            }
            Ok(moves)
        })
    }
}

fn targets(offsets: &[(i32, i64)]) -> Result<Vec<(Partition, Offset)>> {
    if offsets.is_empty() {
        return Err(Error::Usage("offsets: got none, expected at least one partition's".into()));
    }
    let target = |(partition, offset): &(i32, i64)| {
        let offset = Offset::checked(*offset).ok_or_else(|| {
            Error::Usage(format!("offset: got {offset}, expected a number from 0 on"))
        })?;
        Ok((*partition, offset))
    };
    offsets.iter().map(target).collect()
}

/// Asks whether a cursor move waits for running runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetCursorMove {}

/// The partitions whose running runs a cursor move waits for; empty if there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingMove {
    pub partitions: Vec<Partition>,
}

impl Operation for GetCursorMove {
    type Answer = WaitingMove;

    fn perform(self, context: &Context, _: &mut Session) -> Result<WaitingMove> {
        context.with_pipeline(|pipeline| Ok(WaitingMove { partitions: pipeline.cursor.waiting() }))
    }
}

/// Calls off a cursor move that waits for running runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallOffCursorMove {}

/// Whether there was a move to call off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CalledOff {
    pub called_off: bool,
}

impl Operation for CallOffCursorMove {
    type Answer = CalledOff;

    fn perform(self, context: &Context, _: &mut Session) -> Result<CalledOff> {
        context.with_pipeline(|pipeline| Ok(CalledOff { called_off: pipeline.cursor.call_off() }))
    }
}
