//! Requests that look: overview, lag, series, ticks, how many runs are in which state.

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::requests::{Context, Session};
use crate::error::{Error, Result};

/// Which ticks are listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TickSelection {
    /// As in the list: `runtime`, `queue-full`, `memory-full`, `stop`, `paused`, `error`.
    pub ended_by: Option<String>,
    /// Ticks that found something, or failed.
    #[serde(default)]
    pub busy: bool,
    /// Ticks below this number only.
    #[serde(default)]
    pub before: Option<i64>,
    pub limit: u32,
}

fn todo<T>() -> Result<T> {
    Err(Error::Other("not there yet".into()))
}

pub(super) fn overview(_context: &Context, _session: &mut Session) -> Result<Value> {
    todo()
}

pub(super) fn series(_context: &Context) -> Result<Value> {
    todo()
}

pub(super) fn lag(_context: &Context) -> Result<Value> {
    todo()
}

pub(super) fn ticks(
    context: &Context,
    session: &mut Session,
    _selection: TickSelection,
) -> Result<Value> {
    let _: &Connection = session.history(context)?;
    todo()
}

pub(super) fn run_counts(_context: &Context, _session: &mut Session) -> Result<Value> {
    todo()
}
