//! Moves the cursor and the committed offsets of partitions.

use crossbeam_channel::{TrySendError, bounded};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::{Context, RunningPipeline};
use crate::api::session::Session;
use crate::commit::reset;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::model::events::{CursorOrder, Event};
use crate::model::offset::{Offset, Partition};

/// Where partitions are to go on: their next offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveCursor {
    pub offsets: Vec<(i32, i64)>,
    /// Only says what would be moved.
    pub dry_run: bool,
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

    fn perform(self, context: &Context, _: &mut Session) -> Result<Vec<CursorMove>> {
        context.with_pipeline(|pipeline| {
            let targets = targets(&self.offsets)?;
            let topic = &pipeline.engine.topic;
            let group = &pipeline.engine.config.connection.group;
            let planned = reset::plan(pipeline.engine.broker.as_ref(), group, topic, &targets)?;
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
                request_move(pipeline, CursorOrder { topic_id: topic.id.clone(), targets })?;
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

/// Waits until the supervisor has accepted the move.
fn request_move(pipeline: &RunningPipeline, request: CursorOrder) -> Result<()> {
    let refused = || {
        Error::Other(
            "mb is stopping or beginning anew, and did not move the cursor: try again".to_owned(),
        )
    };
    let (sender, accepted) = bounded(1);
    match pipeline.engine.events.try_send(Event::MoveCursor(request, sender)) {
        Ok(()) => accepted.recv_timeout(limits::CONTROL_LIMIT).map_err(|_| refused()),
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(refused()),
    }
}
