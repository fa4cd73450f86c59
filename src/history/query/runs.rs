//! Lists of runs, for people.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use serde::{Deserialize, Serialize};

use super::rows::{COLUMNS, RunRow, run_row};
use crate::config::limits;
use crate::history::requests::check_known;
use crate::model::error::{Error, Result};
use crate::model::live::Running;
use crate::model::run::RunState;

/// Which runs to list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// A name of `RunState`, of which `failed` selects halted runs too; any state if not set.
    pub state: Option<String>,
    pub topic: Option<String>,
    pub group: Option<String>,
    /// Runs of this redrive or replay. (On the control socket, `request` is the name of the command.)
    pub of_request: Option<i64>,
    pub partition: Option<i32>,
    /// Part of the run's error; the case of ASCII letters is ignored.
    pub error: Option<String>,
    /// Runs queued at or after this time, in ms since 1970.
    pub since: Option<i64>,
    /// Runs queued before this time.
    pub until: Option<i64>,
    /// A name in `SORTS`; `id` if not set.
    pub sort: Option<String>,
    /// `asc` or `desc`; `desc` if not set.
    pub order: Option<String>,
    /// Runs with a lower number only: the page that follows one that ended there, in a list that is sorted by
    /// number.
    #[serde(default)]
    pub before: Option<i64>,
    /// How many runs earlier pages have shown, in a list that is sorted in another way.
    #[serde(default)]
    pub skip: u32,
    pub limit: u32,
}

/// What runs can be sorted by: its name, and the SQL for it.
pub const SORTS: [(&str, &str); 7] = [
    ("id", "id"),
    ("records", "records"),
    ("bytes", "bytes"),
    ("attempts", "attempts"),
    ("queued", "queued_ms"),
    ("wait", "started_ms - queued_ms"),
    ("run_time", "run_us"),
];

/// The selected runs, the newest first unless `sort` or `order` say otherwise.
///
/// # Errors
/// `Usage` for an unknown state, sort or order; `Other` if the selected request does not exist; `Storage` if the
/// file cannot be read.
#[cfg(any(test, feature = "testing"))]
pub fn runs(db: &Connection, selection: &Selection) -> Result<Vec<RunRow>> {
    runs_now(db, selection, &[])
}

/// `runs`, for a running mb, whose workers have the runs in `running`: the file has those as queued.
///
/// # Errors
/// As `runs`.
pub fn runs_now(
    db: &Connection,
    selection: &Selection,
    running: &[Running],
) -> Result<Vec<RunRow>> {
    if let Some(request) = selection.of_request {
        check_known(db, request)?;
    }
    let (chosen, values) = chosen(selection, running)?;
    let (by, descending) = order(selection)?;
    let read = || -> rusqlite::Result<Vec<RunRow>> {
        let ids = match by {
            "id" => page_by_id(db, selection, &chosen, values, descending)?,
            by => sorted_page(db, selection, &chosen, values, by, descending)?,
        };
        whole_rows(db, &ids)
    };
    let mut rows = read().map_err(storage)?;
    for running in running {
        for row in rows.iter_mut().filter(|row| row.id == running.id.0) {
            row.mark_running(running);
        }
    }
    Ok(rows)
}

/// The selection as a condition on the table `runs`, and the values of its parameters.
fn chosen(selection: &Selection, running: &[Running]) -> Result<(String, Vec<SqlValue>)> {
    let mut conditions = vec!["true".to_owned()];
    let mut values = Vec::new();
    let mut add = |condition: &str, value: SqlValue| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("?{}", values.len())));
    };
    let Selection { topic, group, of_request, partition, error, since, until, before, .. } =
        selection;
    if let Some(topic) = topic {
        add("scope IN (SELECT id FROM scopes WHERE topic = ?)", topic.clone().into());
    }
    if let Some(group) = group {
        add("scope IN (SELECT id FROM scopes WHERE group_name = ?)", group.clone().into());
    }
    if let Some(request) = of_request {
        add("request = ?", (*request).into());
    }
    if let Some(partition) = partition {
        add("partition = ?", (*partition).into());
    }
    if let Some(error) = error {
        add("instr(lower(error), lower(?)) > 0", error.clone().into());
    }
    if let Some(since) = since {
        add("queued_ms >= ?", (*since).into());
    }
    if let Some(until) = until {
        add("queued_ms < ?", (*until).into());
    }
    if let Some(before) = before {
        add("id < ?", (*before).into());
    }
    let ids: Vec<String> = running.iter().map(|run| run.id.to_string()).collect();
    let ids = ids.join(", ");
    if let Some(name) = selection.state.as_deref() {
        let state = RunState::from_name(name).ok_or_else(|| unknown_state(name))?;
        let (queued, code) = (RunState::Queued.code(), state.code());
        conditions.push(match state {
            RunState::Failed => format!("state IN ({code}, {})", RunState::Halted.code()),
            RunState::Running => format!("state IN ({queued}, {code}) AND id IN ({ids})"),
            RunState::Queued => format!("state = {code} AND id NOT IN ({ids})"),
            _ => format!("state = {code}"),
        });
    }
    Ok((conditions.join(" AND "), values))
}

/// What to sort by, in SQL, and whether the largest comes first.
fn order(selection: &Selection) -> Result<(&'static str, bool)> {
    let name = selection.sort.as_deref().unwrap_or("id");
    let by =
        SORTS.iter().find(|(known, _)| *known == name).map(|(_, by)| *by).ok_or_else(|| {
            let known = SORTS.map(|(known, _)| known).join(", ");
            Error::Usage(format!("sort: got {name:?}, expected one of {known}"))
        })?;
    match selection.order.as_deref() {
        None | Some("desc") => Ok((by, true)),
        Some("asc") => Ok((by, false)),
        Some(other) => Err(Error::Usage(format!("order: got {other:?}, expected asc or desc"))),
    }
}

/// The numbers of a page's runs, in the table's own order.
fn page_by_id(
    db: &Connection,
    selection: &Selection,
    chosen: &str,
    values: Vec<SqlValue>,
    descending: bool,
) -> rusqlite::Result<Vec<i64>> {
    let way = if descending { "DESC" } else { "ASC" };
    let (limit, skip) = (selection.limit, selection.skip);
    let select =
        format!("SELECT id FROM runs WHERE {chosen} ORDER BY id {way} LIMIT {limit} OFFSET {skip}");
    let mut select = db.prepare_cached(&select)?;
    select.query_map(params_from_iter(values), |row| row.get(0))?.collect()
}

/// The numbers of a page's runs in another order. There is no index for it, since every run would pay for that.
/// All figures are read, but hardly more are kept in memory than lie up to the page's end. (SQLite's own
/// sorter took up to three times as long.)
fn sorted_page(
    db: &Connection,
    selection: &Selection,
    chosen: &str,
    values: Vec<SqlValue>,
    by: &str,
    descending: bool,
) -> rusqlite::Result<Vec<i64>> {
    let select = format!("SELECT id, {by} FROM runs WHERE {chosen}");
    let mut select = db.prepare_cached(&select)?;
    let mut rows = select.query(params_from_iter(values))?;
    let end = selection.skip as usize + selection.limit as usize;
    // Runs that have no figure yet come last in either order.
    let mut keys: Vec<(bool, i64, i64)> = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, figure): (i64, Option<i64>) = (row.get(0)?, row.get(1)?);
        let (figure_key, id_key) = match descending {
            true => (figure.map(|figure| -figure), -id),
            false => (figure, id),
        };
        keys.push((figure.is_none(), figure_key.unwrap_or_default(), id_key));
        if keys.len() >= 2 * end + limits::LIST_ROWS as usize {
            keys.select_nth_unstable(end);
            keys.truncate(end);
        }
    }
    keys.sort_unstable();
    let page = keys.into_iter().take(end).skip(selection.skip as usize);
    Ok(page.map(|(_, _, id)| id.abs()).collect())
}

/// The rows of these runs, in this order. Only rows that are shown are read whole, since errors make them long.
fn whole_rows(db: &Connection, ids: &[i64]) -> rusqlite::Result<Vec<RunRow>> {
    let mut select = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM runs JOIN scopes ON scopes.id = runs.scope WHERE runs.id = ?1"
    ))?;
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        // A run that was removed meanwhile is not shown.
        rows.extend(select.query_row([id], run_row).optional()?);
    }
    Ok(rows)
}

fn unknown_state(name: &str) -> Error {
    let known: Vec<_> = RunState::ALL.iter().map(|state| state.name()).collect();
    Error::Usage(format!("--state: got {name:?}, expected one of {}", known.join(", ")))
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("read the history", cause)
}
