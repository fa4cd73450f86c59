//! What people do with open dead letters: request a redrive, or discard them.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::redriven::redriven;
use super::state::DeadLetterState;
use crate::history::migrations::KIND_REDRIVE;
use crate::model::clock;
use crate::model::error::{Error, Result};

/// Which open dead letters to redrive or discard: those that `ids` names, or without `ids` all that the other
/// fields select.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pick {
    pub ids: Vec<i64>,
    pub topic: Option<String>,
    pub group: Option<String>,
    pub error: Option<String>,
}

/// A redrive that was requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RedriveRequest {
    pub request: i64,
    pub topic: String,
    pub group: String,
    pub letters: u64,
    /// Dead letters that stay open: another one has the same offset and other bytes, and is redriven first.
    pub left: u64,
}

/// Requests that open dead letters are redriven: one request for each topic and group that they belong to, and
/// all of them or none.
///
/// # Errors
/// `Other` if a named dead letter does not exist or is not open, or if none is selected; `Storage` if the file
/// cannot be written.
pub fn redrive(db: &mut Connection, pick: &Pick) -> Result<Vec<RedriveRequest>> {
    let change = begin(db)?;
    let requests = redrive_in(&change, pick)?;
    end(change)?;
    Ok(requests)
}

/// `redrive` as a part of a larger change, which begins with `begin` and ends with `end`.
///
/// # Errors
/// As `redrive`.
pub(super) fn redrive_in(change: &Transaction<'_>, pick: &Pick) -> Result<Vec<RedriveRequest>> {
    let groups = pick_marked(change, pick, "redriven")?;
    let request = || -> rusqlite::Result<Vec<RedriveRequest>> {
        let mut requests = Vec::new();
        for (topic, group) in groups {
            change.execute(
                "INSERT INTO requests(scope, kind, asked_ms) \
                 SELECT max(id), ?3, ?4 FROM scopes WHERE topic = ?1 AND group_name = ?2",
                params![topic, group, KIND_REDRIVE, clock::now_ms()],
            )?;
            let request = change.last_insert_rowid();
            let letters = change.execute(
                "UPDATE dead_letters SET state = ?3, request = ?4, redrive_run = NULL \
                 WHERE id IN (SELECT id FROM picked) AND topic = ?1 AND scope IN \
                 (SELECT id FROM scopes WHERE topic = ?1 AND group_name = ?2)",
                params![topic, group, DeadLetterState::Redriving.code(), request],
            )?;
            // A run has one record per offset. Another record of the same offset would get the same run
            // key, and a step that is idempotent by run key would skip it.
            let differs = |column| {
                let [other, own] = ["other", "dead_letters"].map(|table| redriven(table, column));
                format!("{other} IS NOT {own}")
            };
            let left = change.execute(
                &format!(
                    "UPDATE dead_letters SET state = ?2, request = NULL WHERE request = ?1 AND EXISTS \
                     (SELECT 1 FROM dead_letters other WHERE other.request = ?1 \
                         AND other.partition = dead_letters.partition \
                         AND other.record_offset = dead_letters.record_offset \
                         AND other.id < dead_letters.id \
                         AND ({} OR {} OR other.headers IS NOT dead_letters.headers))",
                    differs("key"),
                    differs("value")
                ),
                params![request, DeadLetterState::Open.code()],
            )?;
            let letters = (letters - left) as u64;
            requests.push(RedriveRequest { request, topic, group, letters, left: left as u64 });
        }
        Ok(requests)
    };
    request().map_err(storage)
}

/// Marks open dead letters as not needed, for the reason in `note`. Returns how many.
///
/// # Errors
/// As `redrive`.
pub fn discard(db: &mut Connection, pick: &Pick, note: &str) -> Result<u64> {
    let change = begin(db)?;
    pick_marked(&change, pick, "discarded")?;
    let discarded = change
        .execute(
            "UPDATE dead_letters SET state = ?1, resolved_ms = ?2, note = ?3 \
             WHERE id IN (SELECT id FROM picked)",
            params![DeadLetterState::Discarded.code(), clock::now_ms(), note],
        )
        .map_err(storage)?;
    end(change)?;
    Ok(discarded as u64)
}

pub(super) fn begin(db: &mut Connection) -> Result<Transaction<'_>> {
    db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(storage)
}

pub(super) fn end(change: Transaction<'_>) -> Result<()> {
    change.commit().map_err(storage)
}

/// Fills the temporary table `picked` with the dead letters that `pick` selects, and returns their topics and
/// groups. `done` says, for errors, what was to be done to them.
fn pick_marked(change: &Transaction<'_>, pick: &Pick, done: &str) -> Result<Vec<(String, String)>> {
    change
        .execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS picked(id INTEGER PRIMARY KEY); DELETE FROM picked;",
        )
        .map_err(storage)?;
    // Each named one is looked up by its number. One statement for both cases would read the whole table
    // for each.
    let select = |which: &str| {
        format!(
            "INSERT OR IGNORE INTO picked SELECT d.id FROM dead_letters d \
             JOIN scopes s ON s.id = d.scope WHERE d.state = 0 AND {which} \
             AND ifnull(d.topic = ?2, true) AND ifnull(s.group_name = ?3, true) \
             AND ifnull(instr(d.error, ?4) > 0, true)"
        )
    };
    let (named, any) = (select("d.id = ?1"), select("?1 IS NULL"));
    let Pick { ids, topic, group, error } = pick;
    let insert = |id: Option<i64>| {
        let select = if id.is_some() { &named } else { &any };
        change
            .prepare_cached(select)
            .and_then(|mut insert| insert.execute(params![id, topic, group, error]))
            .map_err(storage)
    };
    for id in ids {
        if insert(Some(*id))? == 0 {
            explain(change, *id, done)?;
        }
    }
    if ids.is_empty() && insert(None)? == 0 {
        return Err(Error::Other(format!(
            "no dead letter is {done}: no open one fits (mb dead-letters list --state all shows \
             every one)"
        )));
    }
    let mut groups = change
        .prepare(
            "SELECT DISTINCT s.topic, s.group_name FROM picked p JOIN dead_letters d ON d.id = p.id \
             JOIN scopes s ON s.id = d.scope ORDER BY 1, 2",
        )
        .map_err(storage)?;
    let groups = groups.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(storage)?;
    groups.collect::<rusqlite::Result<_>>().map_err(storage)
}

/// Why a named dead letter was not picked. `Ok` if it was: it is named twice.
fn explain(change: &Transaction<'_>, id: i64, done: &str) -> Result<()> {
    let picked = change
        .query_row("SELECT 1 FROM picked WHERE id = ?1", [id], |_| Ok(()))
        .optional()
        .map_err(storage)?;
    if picked.is_some() {
        return Ok(());
    }
    let cause = why_not_open(change, id)?
        .unwrap_or_else(|| "is of another topic, group or error than was asked for".to_owned());
    Err(Error::Other(format!("nothing is {done}: dead letter {id} {cause}")))
}

/// Why nothing can be done with a dead letter; `None` if it is open.
pub(super) fn why_not_open(db: &Connection, id: i64) -> Result<Option<String>> {
    let found = db
        .query_row("SELECT state, request FROM dead_letters WHERE id = ?1", [id], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?))
        })
        .optional()
        .map_err(storage)?;
    Ok(match found.map(|(state, request)| (DeadLetterState::from_code(state), request)) {
        None => Some(
            "is not in the history (mb dead-letters list --state all shows every one)".to_owned(),
        ),
        Some((Some(DeadLetterState::Open), _)) => None,
        Some((Some(DeadLetterState::Redriving), Some(request))) => {
            Some(format!("is being redriven, by request {request}"))
        }
        Some((state, _)) => {
            Some(format!("is {} already", state.map_or("resolved", DeadLetterState::name)))
        }
    })
}

fn storage(cause: rusqlite::Error) -> Error {
    Error::storage("use the dead letters in the history", cause)
}
