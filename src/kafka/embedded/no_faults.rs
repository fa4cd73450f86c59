//! Stands in for `faults` in builds without the feature `testing`: nothing fails on demand.

use std::time::Duration;

use crate::model::error::Result;
use crate::model::offset::Partition;

/// A plan of faults, of which there is none.
#[derive(Clone)]
pub(super) enum Faults {}

impl Faults {
    pub(super) fn refuses_commits(&self) -> bool {
        match *self {}
    }

    pub(super) fn offsets_kept(&self) -> Option<Duration> {
        match *self {}
    }

    pub(super) fn committed(&self, _: &str, _: impl Iterator<Item = Partition>) {
        match *self {}
    }

    pub(super) fn has_expired(&self, _: &str, _: Partition) -> bool {
        match *self {}
    }
}

/// See `faults`.
#[derive(Clone, Copy)]
pub(super) enum Call {
    Topic,
    Watermarks,
    Committed,
    Commit,
    Open,
    Poll,
    Write,
}

pub(super) fn is_leaderless(_: Option<&Faults>, _: Partition) -> bool {
    false
}

pub(super) fn under<T>(
    _: Option<&Faults>,
    _: Call,
    _: &str,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    body()
}
