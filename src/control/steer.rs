//! Requests that act on the running pipeline, or read the topic for people: pause, resume, tick,
//! preview, cursor, cancel, again, settings, a run's records.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::requests::{Context, Session};
use crate::error::{Error, Result};

/// A change of settings; what is null stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Change {
    /// Messages per second, 0 as fast as it goes.
    pub rate: Option<f64>,
    pub max_batch: Option<u64>,
    pub max_concurrent_runs: Option<u64>,
    pub tick_interval_s: Option<f64>,
}

/// Where the cursor is to go: a partition's next offset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CursorTarget {
    pub offsets: Vec<(i32, i64)>,
    /// Only says what would be.
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CursorMove {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
    pub beginning: i64,
    pub end: i64,
}

/// What a tick would read now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    pub partitions: Vec<PreviewPartition>,
    /// The preview ended before the log did: there is more.
    pub more: bool,
    pub took_ms: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreviewPartition {
    pub partition: i32,
    /// What a tick starts at.
    pub cursor: i64,
    /// Behind the last record that was seen; the cursor where none was.
    pub next: i64,
    pub records: u64,
    pub bytes: u64,
    /// Batches that they would make.
    pub batches: u64,
    /// The first ones, as `Records::records`.
    pub first: Vec<Value>,
}

/// Records for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Records {
    /// At most `limits::SHOWN_RECORDS`; each has `partition`, `offset`, `timestamp_ms`, `key` or
    /// `key_base64`, `value` or `value_base64`, and `cut_bytes` where its value is longer than shown.
    pub records: Vec<Value>,
    /// How many the run had.
    pub of: u64,
    /// Why some of them are not here: retention took them, the topic was made again, …
    pub note: Option<String>,
}

/// What a cancel did: `waiting`, `ended` (its command gets a signal) or `stalled` (a step inside mb
/// cannot be ended: it is marked).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cancelled {
    pub did: String,
}

fn todo<T>() -> Result<T> {
    Err(Error::Other("not there yet".into()))
}

pub(super) fn records(_context: &Context, _session: &mut Session, _run: i64) -> Result<Value> {
    todo()
}

pub(super) fn pause(_context: &Context) -> Result<Value> {
    todo()
}

pub(super) fn resume(_context: &Context) -> Result<Value> {
    todo()
}

pub(super) fn tick(_context: &Context) -> Result<Value> {
    todo()
}

pub(super) fn preview(_context: &Context) -> Result<Value> {
    todo()
}

pub(super) fn move_cursor(_context: &Context, _target: CursorTarget) -> Result<Value> {
    todo()
}

pub(super) fn cancel_run(
    _context: &Context,
    _session: &mut Session,
    _id: i64,
    _note: &str,
) -> Result<Value> {
    todo()
}

pub(super) fn run_again(_context: &Context, _session: &mut Session, _id: i64) -> Result<Value> {
    todo()
}

pub(super) fn set(_context: &Context, _change: Change) -> Result<Value> {
    todo()
}
