//! Lists of dead letters, for people. `search` looks into their payload.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::redriven::redriven;
use super::state::DeadLetterState;
use crate::config::limits;
use crate::model::error::{Error, Result};
use crate::step::shown_record::ShownPair;

/// A dead letter as `mb dead-letters` lists it. Times are in milliseconds since 1970 (UTC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub struct DeadLetterRow {
    pub id: i64,
    pub state: String,
    pub topic: String,
    pub group: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
    /// The run that first gave up on the record.
    pub run: i64,
    pub run_key: String,
    /// The error of the last attempt.
    pub error: String,
    /// How many attempts failed, those of redrives included.
    pub attempts: u32,
    pub at_ms: i64,
    /// The open request that redrives it.
    pub request: Option<i64>,
    /// The run that redrives it, or did so last.
    pub redrive_run: Option<i64>,
    pub resolved_ms: Option<i64>,
    /// Why it was discarded.
    pub note: Option<String>,
    /// When a person edited its record; null if nobody has, or the edit was taken back.
    #[serde(default)]
    pub edited_ms: Option<i64>,
    /// The beginning of the record's key and value, of the edited record if there is one.
    #[serde(default)]
    pub preview: ShownPair,
}

/// How many dead letters have the same error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorCount {
    pub letters: i64,
    pub topic: String,
    pub group: String,
    pub error: String,
}

/// Which dead letters to list. A field that is not set selects all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    /// Part of the error's text.
    pub error: Option<String>,
    /// A name in `SORTS`; `newest` if not set.
    #[serde(default)]
    pub sort: Option<String>,
    /// Of the newest first: dead letters with a lower number only, which are the page that follows one that
    /// ended there.
    #[serde(default)]
    pub before: Option<i64>,
    /// Of another order: the dead letters that follow this one.
    #[serde(default)]
    pub after: Option<i64>,
    /// For the list of errors, the same: how many earlier pages have shown.
    #[serde(default)]
    pub skip: u32,
    pub limit: u32,
}

impl Selection {
    /// Selects what follows this dead letter, in the same order.
    pub fn go_on_after(&mut self, last: i64) {
        match self.sort.as_deref() {
            None | Some("newest") => self.before = Some(last),
            _ => self.after = Some(last),
        }
    }
}

/// The names of the orders in which dead letters can be listed. By error, the newest of each error come first.
pub const SORTS: [&str; 3] = ["newest", "oldest", "error"];

/// What `row` reads, of `dead_letters d` and `scopes s`.
pub(super) fn columns() -> String {
    // The length of a column is known without its bytes; that of an expression is not.
    let preview = |column| {
        let (shown, most) = (redriven("d", column), limits::PREVIEW_VALUE_BYTES);
        format!(
            "substr({shown}, 1, {most}), \
             iif(d.edited_ms IS NULL, length(d.{column}), length(d.edited_{column}))"
        )
    };
    format!(
        "d.id, d.state, d.topic, s.group_name, d.partition, d.record_offset, d.timestamp_ms, d.run, d.run_key, \
         d.error, d.attempts, d.at_ms, d.request, d.redrive_run, d.resolved_ms, d.note, d.edited_ms, {}, {}",
        preview("key"),
        preview("value")
    )
}

/// How many columns these are.
pub(super) const COLUMN_COUNT: usize = 21;

/// The selected dead letters, the newest first unless `sort` says otherwise.
///
/// # Errors
/// `Usage` for an unknown state or sort, or a place in the list that there is not; `Storage` if the file cannot
/// be read.
pub fn list(db: &Connection, selection: &Selection) -> Result<Vec<DeadLetterRow>> {
    let ids = ids(db, selection, selection.limit)?;
    rows(db, &ids).map_err(storage)
}

/// The numbers of the first selected dead letters, in the order that was asked for.
pub(super) fn ids(db: &Connection, selection: &Selection, limit: u32) -> Result<Vec<i64>> {
    let (mut conditions, mut values) = conditions(selection)?;
    let name = selection.sort.as_deref().unwrap_or(SORTS[0]);
    let (after, by) = match name {
        "newest" => ("d.id < ?", "d.id DESC"),
        "oldest" => ("d.id > ?", "d.id"),
        "error" => ("(d.error, -d.id) > (?, -?)", "d.error, d.id DESC"),
        _ => {
            let known = SORTS.join(", ");
            return Err(Error::Usage(format!("sort: got {name:?}, expected one of {known}")));
        }
    };
    let place = match (name, selection.before, selection.after) {
        (_, None, None) => None,
        ("newest", Some(before), None) => Some(before),
        ("oldest" | "error", None, Some(after)) => Some(after),
        _ => {
            let rule = "before: goes with the newest first, after with any other order";
            return Err(Error::Usage(rule.to_owned()));
        }
    };
    if let Some(place) = place {
        if name == "error" {
            values.push(error_of(db, place)?.into());
        }
        values.push(place.into());
        conditions.push(after.to_owned());
    }
    let index = if selection.error.is_some() || name == "error" { BY_ERROR } else { "" };
    let select = format!(
        "SELECT d.id FROM dead_letters d {index} WHERE {} ORDER BY {by} LIMIT {limit}",
        conditions.join(" AND ")
    );
    let read = || -> rusqlite::Result<Vec<i64>> {
        db.prepare_cached(&select)?.query_map(params_from_iter(values), |row| row.get(0))?.collect()
    };
    read().map_err(storage)
}

fn error_of(db: &Connection, id: i64) -> Result<String> {
    let select = "SELECT error FROM dead_letters WHERE id = ?1";
    let found = db.query_row(select, [id], |row| row.get(0)).optional().map_err(storage)?;
    found.ok_or_else(|| {
        Error::Usage(format!("after: dead letter {id} is not in the history (any more)"))
    })
}

/// This index has all that a choice by error needs. SQLite's planner would rather read the rows in the order that is
/// asked for, each with its payload.
const BY_ERROR: &str = "INDEXED BY dead_letters_by_error";

/// The selection, apart from its place in the list, as conditions on `dead_letters d` and their values in the same
/// order.
fn conditions(selection: &Selection) -> Result<(Vec<String>, Vec<SqlValue>)> {
    let mut conditions = vec!["true".to_owned()];
    let mut values: Vec<SqlValue> = Vec::new();
    let mut add = |condition: &str, value: SqlValue| {
        conditions.push(condition.to_owned());
        values.push(value);
    };
    if let Some(state) = state(selection)? {
        add("d.state = ?", state.into());
    }
    let Selection { topic, group, error, .. } = selection;
    if let Some(topic) = topic {
        add("d.topic = ?", topic.clone().into());
    }
    if let Some(group) = group {
        add("d.scope IN (SELECT id FROM scopes WHERE group_name = ?)", group.clone().into());
    }
    if let Some(error) = error {
        add("instr(d.error, ?) > 0", error.clone().into());
    }
    Ok((conditions, values))
}

/// The dead letters of these numbers, in this order. One that was removed meanwhile is not shown.
pub(super) fn rows(db: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<DeadLetterRow>> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {} FROM dead_letters d JOIN scopes s ON s.id = d.scope WHERE d.id = ?1",
        columns()
    ))?;
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        rows.extend(select.query_row([id], row).optional()?);
    }
    Ok(rows)
}

/// How many of the selected dead letters have which error, the most frequent error first.
///
/// # Errors
/// As `list`.
pub fn errors(db: &Connection, selection: &Selection) -> Result<Vec<ErrorCount>> {
    let (conditions, values) = conditions(selection)?;
    let Selection { limit, skip, .. } = selection;
    let select = format!(
        "SELECT sum(c.letters), c.topic, s.group_name, c.error FROM \
         (SELECT count(*) AS letters, d.topic, d.scope, d.error FROM dead_letters d {BY_ERROR} \
          WHERE {} GROUP BY d.error, d.topic, d.scope) c \
         JOIN scopes s ON s.id = c.scope GROUP BY 2, 3, 4 ORDER BY 1 DESC, 2, 3, 4 \
         LIMIT {limit} OFFSET {skip}",
        conditions.join(" AND ")
    );
    let count = |row: &Row<'_>| {
        Ok(ErrorCount {
            letters: row.get(0)?,
            topic: row.get(1)?,
            group: row.get(2)?,
            error: row.get(3)?,
        })
    };
    let read = || -> rusqlite::Result<Vec<ErrorCount>> {
        db.prepare_cached(&select)?.query_map(params_from_iter(values), count)?.collect()
    };
    read().map_err(storage)
}

fn state(selection: &Selection) -> Result<Option<i64>> {
    let Some(name) = selection.state.as_deref().filter(|name| *name != "all") else {
        return Ok(None);
    };
    let state = DeadLetterState::from_name(name).ok_or_else(|| {
        let known: Vec<_> = DeadLetterState::ALL.iter().map(|state| state.name()).collect();
        Error::Usage(format!("--state: got {name:?}, expected {} or all", known.join(", ")))
    })?;
    Ok(Some(state.code()))
}

/// A row of `columns`.
pub(super) fn row(row: &Row<'_>) -> rusqlite::Result<DeadLetterRow> {
    let state = DeadLetterState::from_code(row.get(1)?).map_or("unknown", DeadLetterState::name);
    let beginning = |column: usize| -> rusqlite::Result<Option<(&[u8], usize)>> {
        let bytes = row.get_ref(column)?.as_blob_or_null()?;
        let length = row.get::<_, Option<usize>>(column + 1)?.unwrap_or_default();
        Ok(bytes.map(|bytes| (bytes, length)))
    };
    let most = limits::PREVIEW_VALUE_BYTES;
    Ok(DeadLetterRow {
        id: row.get(0)?,
        state: state.to_owned(),
        topic: row.get(2)?,
        group: row.get(3)?,
        partition: row.get(4)?,
        offset: row.get(5)?,
        timestamp_ms: row.get(6)?,
        run: row.get(7)?,
        run_key: row.get(8)?,
        error: row.get(9)?,
        attempts: row.get(10)?,
        at_ms: row.get(11)?,
        request: row.get(12)?,
        redrive_run: row.get(13)?,
        resolved_ms: row.get(14)?,
        note: row.get(15)?,
        edited_ms: row.get(16)?,
        preview: ShownPair::cut_at(most, beginning(17)?, beginning(19)?),
    })
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the dead letters in the history", cause)
}
