//! Dead letters: lists, one of them whole, and what is decided about them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Operation;
use crate::api::context::Context;
use crate::api::session::Session;
use crate::config::limits;
use crate::history::dead_letters::{
    self, DeadLetterDetail, DeadLetterRow, ErrorCount, Pick, RedriveRequest, Selection,
};
use crate::model::error::Result;

/// The newest dead letters, at most `limits::LIST_ROWS`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ListDeadLetters(pub Selection);

impl Operation for ListDeadLetters {
    type Answer = Vec<DeadLetterRow>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<DeadLetterRow>> {
        dead_letters::list(context.history(session)?, &at_most_a_page(self.0))
    }
}

/// How many dead letters have the same error, the most frequent error first; at most `limits::LIST_ROWS`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CountDeadLetterErrors(pub Selection);

impl Operation for CountDeadLetterErrors {
    type Answer = Vec<ErrorCount>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Vec<ErrorCount>> {
        dead_letters::errors(context.history(session)?, &at_most_a_page(self.0))
    }
}

fn at_most_a_page(selection: Selection) -> Selection {
    Selection { limit: selection.limit.min(limits::LIST_ROWS), ..selection }
}

/// One dead letter with its payload; null if the history does not have it (any more).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetDeadLetter {
    pub id: i64,
}

impl Operation for GetDeadLetter {
    type Answer = Option<DeadLetterDetail>;

    fn perform(self, context: &Context, session: &mut Session) -> Result<Option<DeadLetterDetail>> {
        dead_letters::find(context.history(session)?, self.id)
    }
}

/// Makes new runs of dead letters: a request for each topic and group.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Redrive(pub Pick);

impl Operation for Redrive {
    type Answer = Vec<RedriveRequest>;

    fn perform(self, context: &Context, _: &mut Session) -> Result<Vec<RedriveRequest>> {
        let requests = dead_letters::redrive(&mut context.history_to_change()?, &self.0)?;
        context.signal_new_request();
        Ok(requests)
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}

/// Discards dead letters; how many.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Discard {
    pub pick: Pick,
    /// Why they are not needed.
    pub note: String,
}

impl Operation for Discard {
    type Answer = u64;

    fn perform(self, context: &Context, _: &mut Session) -> Result<u64> {
        dead_letters::discard(&mut context.history_to_change()?, &self.pick, &self.note)
    }

    fn answer_limit(&self) -> Duration {
        limits::CHANGE_LIMIT
    }
}
