//! Lists over HTTP: the fields of their queries, and pages of their rows.

use schemars::JsonSchema;
use serde::Serialize;

use super::failure::Failure;
use super::query::{Field, Kind};
use super::route::Call;
use crate::api::operations::dead_letters::{
    CountDeadLetterErrors, ListDeadLetters, SearchDeadLetters,
};
use crate::api::operations::overview::ListTicks;
use crate::api::operations::requests::ListRequests;
use crate::api::operations::runs::ListRuns;
use crate::history::dead_letters::{self, DeadLetterRow, ErrorCount, Found};
use crate::history::query::{self, RunRow, TickRow, TickSelection};
use crate::history::requests::{self, RequestRow};
use crate::model::error::Error;

const BEFORE: Field = Field::new("before", Kind::Integer, "Rows below this number only.");
const LIMIT: Field = Field::new("limit", Kind::PageRows, "Rows of a page.");
const ERROR: Field = Field::new("error", Kind::Text, "A part of the error.");
const DEAD_LETTER_STATE: Field =
    Field::new("state", Kind::Text, "open, redriving, redriven, discarded or all.").or("open");

/// A page of runs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Runs")]
pub(super) struct RunPage {
    runs: Vec<RunRow>,
    /// What the next page is asked for with; null on the last page.
    next: Option<NextRuns>,
}

#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum NextRuns {
    Before { before: i64 },
    Skip { skip: u32 },
}

pub(super) const RUN_FIELDS: &[Field] = &[
    Field::new(
        "state",
        Kind::Choice(&["queued", "running", "succeeded", "failed", "halted", "voided", "split"]),
        "failed includes halted runs.",
    ),
    Field::new("partition", Kind::Integer, "Runs of this partition."),
    ERROR,
    Field::new("since", Kind::Integer, "Queued at or after this time, in ms since 1970 (UTC)."),
    Field::new("until", Kind::Integer, "Queued before this time, in ms since 1970 (UTC)."),
    Field::new("request", Kind::Integer, "Runs of this redrive or replay."),
    Field::new(
        "sort",
        Kind::Choice(&["id", "records", "bytes", "attempts", "queued", "wait", "run_time"]),
        "What the runs are sorted by.",
    )
    .or("id"),
    Field::new("order", Kind::Choice(&["asc", "desc"]), "Lowest or highest first.").or("desc"),
    Field::new(
        "before",
        Kind::Integer,
        "Runs below this number: the next page of the newest first.",
    ),
    Field::new("skip", Kind::Integer, "Rows to pass over: the next page of any other order."),
    LIMIT,
];

pub(super) fn runs(call: &mut Call<'_>) -> Result<RunPage, Failure> {
    let query = call.query()?;
    let limit = query.limit()?;
    let of_request = query.number("request")?;
    let (sort, order, before) =
        (query.text("sort")?, query.text("order")?, query.number("before")?);
    let skip = query.number::<u32>("skip")?.unwrap_or_default();
    let is_newest_first = matches!(sort.as_deref(), None | Some("id"))
        && matches!(order.as_deref(), None | Some("desc"));
    if !is_newest_first && before.is_some() {
        let message = "before: only pages of the newest first go by it; others by skip";
        return Err(Error::Usage(message.into()).into());
    }
    let selection = query::Selection {
        state: query.text("state")?,
        of_request,
        partition: query.number("partition")?,
        error: query.text("error")?,
        since: query.number("since")?,
        until: query.number("until")?,
        sort,
        order,
        before,
        skip,
        limit: limit + 1,
        ..query::Selection::default()
    };
    let rows = call.perform(ListRuns(selection)).map_err(|failure| {
        // The one thing that is looked up before the rows are.
        if of_request.is_some() && failure.status == 409 {
            return Failure { status: 404, kind: "not_found", ..failure };
        }
        failure
    })?;
    let (runs, is_more) = page(rows, limit);
    let last = runs.last().filter(|_| is_more);
    let next = last.map(|last| match is_newest_first {
        true => NextRuns::Before { before: last.id },
        false => NextRuns::Skip { skip: skip.saturating_add(limit) },
    });
    Ok(RunPage { runs, next })
}

/// A page of ticks.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ticks")]
pub(super) struct TickPage {
    ticks: Vec<TickRow>,
    /// The next page's `before`; null on the last page.
    next: Option<i64>,
}

pub(super) const TICK_FIELDS: &[Field] = &[
    Field::new(
        "ended_by",
        Kind::Text,
        "runtime, queue-full, memory-full, paused, interrupted, stop or error.",
    ),
    Field::new("busy", Kind::Boolean, "Only ticks that found records or failed."),
    BEFORE,
    LIMIT,
];

pub(super) fn ticks(call: &mut Call<'_>) -> Result<TickPage, Failure> {
    let query = call.query()?;
    let limit = query.limit()?;
    let selection = TickSelection {
        ended_by: query.text("ended_by")?,
        busy: query.is_set("busy")?,
        before: query.number("before")?,
        limit: limit + 1,
    };
    let (ticks, is_more) = page(call.perform(ListTicks(selection))?, limit);
    let next = ticks.last().filter(|_| is_more).map(|tick| tick.id);
    Ok(TickPage { ticks, next })
}

/// A page of dead letters.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeadLetters")]
pub(super) struct DeadLetterPage {
    dead_letters: Vec<DeadLetterRow>,
    /// What the next page is asked for with: its `before` if the newest come first, else its `after`; null on the
    /// last page.
    next: Option<i64>,
    /// How far a search looked; null without one.
    searched: Option<Searched>,
}

/// How far a search looked for this page.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Searched")]
pub(super) struct Searched {
    /// How many dead letters it looked at.
    looked_at: u64,
    /// The page is not full, but the search stopped: it had looked at so many. `next` goes on from there.
    stopped: bool,
}

pub(super) const DEAD_LETTER_FIELDS: &[Field] = &[
    DEAD_LETTER_STATE,
    ERROR,
    Field::new(
        "search",
        Kind::Text,
        "A text in the error, or in the key or value of the record; the case of ASCII letters is ignored.",
    ),
    Field::new("sort", Kind::Choice(&dead_letters::SORTS), "Which come first.").or("newest"),
    BEFORE,
    Field::new(
        "after",
        Kind::Integer,
        "The rows behind this one: the next page, unless the newest come first.",
    ),
    LIMIT,
];

pub(super) fn dead_letters(call: &mut Call<'_>) -> Result<DeadLetterPage, Failure> {
    let query = call.query()?;
    let limit = query.limit()?;
    let selection = dead_letters::Selection {
        state: Some(query.text("state")?.unwrap_or_else(|| "open".to_owned())),
        error: query.text("error")?,
        sort: query.text("sort")?,
        before: query.number("before")?,
        after: query.number("after")?,
        limit: limit + 1,
        ..dead_letters::Selection::default()
    };
    let (found, searched) = match query.text("search")? {
        None => {
            let dead_letters = call.perform(ListDeadLetters(selection))?;
            (Found { dead_letters, ..Found::default() }, None)
        }
        Some(text) => {
            let found = call.perform(SearchDeadLetters { selection, text })?;
            let (looked_at, stopped) = (found.looked_at, found.stopped_at.is_some());
            (found, Some(Searched { looked_at, stopped }))
        }
    };
    let (dead_letters, is_more) = page(found.dead_letters, limit);
    let last = dead_letters.last().filter(|_| is_more).map(|letter| letter.id);
    Ok(DeadLetterPage { dead_letters, next: last.or(found.stopped_at), searched })
}

/// How many dead letters have which error.
#[derive(Serialize, JsonSchema)]
pub(super) struct DeadLetterErrors {
    errors: Vec<ErrorCount>,
}

pub(super) const DEAD_LETTER_ERROR_FIELDS: &[Field] =
    &[DEAD_LETTER_STATE, Field::new("skip", Kind::Integer, "Rows to pass over."), LIMIT];

pub(super) fn dead_letter_errors(call: &mut Call<'_>) -> Result<DeadLetterErrors, Failure> {
    let query = call.query()?;
    let selection = dead_letters::Selection {
        state: Some(query.text("state")?.unwrap_or_else(|| "open".to_owned())),
        skip: query.number("skip")?.unwrap_or_default(),
        limit: query.limit()?,
        ..dead_letters::Selection::default()
    };
    Ok(DeadLetterErrors { errors: call.perform(CountDeadLetterErrors(selection))? })
}

/// Redrives and replays.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Requests")]
pub(super) struct RequestList {
    requests: Vec<RequestRow>,
}

pub(super) const REQUEST_FIELDS: &[Field] = &[
    Field::new("id", Kind::Integer, "This redrive or replay only."),
    Field::new("state", Kind::Text, "open, done, cancelled or all.").or("all"),
    LIMIT,
];

pub(super) fn requests(call: &mut Call<'_>) -> Result<RequestList, Failure> {
    let query = call.query()?;
    let selection = requests::Selection {
        id: query.number("id")?,
        state: query.text("state")?,
        limit: query.limit()?,
        ..requests::Selection::default()
    };
    Ok(RequestList { requests: call.perform(ListRequests(selection))? })
}

/// A page of rows, of which one more than `limit` was read to know whether there is a next page.
fn page<T>(mut rows: Vec<T>, limit: u32) -> (Vec<T>, bool) {
    let is_more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    (rows, is_more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::run::RunState;

    fn choices(name: &str) -> Vec<&'static str> {
        let field = RUN_FIELDS.iter().find(|field| field.name == name).unwrap();
        let Kind::Choice(choices) = field.kind else { panic!("{name} is a choice") };
        choices.to_vec()
    }

    #[test]
    fn runs_can_be_selected_by_every_state_and_sorted_by_everything_the_history_sorts_by() {
        let states: Vec<_> = RunState::ALL.iter().map(|state| state.name()).collect();
        assert_eq!(choices("state"), states);
        assert_eq!(choices("sort"), query::SORTS.map(|(name, _)| name));
    }
}
