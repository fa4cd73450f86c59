//! The newest results of the watching threads, and what these threads keep from one sample to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::health::{Announced, Facts};
use super::offsets::ForeignOffsets;
use super::others::Others;
use super::partition::PartitionTrack;
use super::recent_latency::RecentLatency;
use super::samples::Samples;
use crate::config::limits;
use crate::kafka::{OpenTransaction, Watermarks};
use crate::model::clock;
use crate::model::offset::Partition;
use crate::model::sync::{Mutex, MutexGuard};
use crate::observe::overview::{LagView, LatencyView, PartitionLag, Rates, Sample};

/// What the watching threads have found, for anybody who shows it.
#[derive(Debug, Default)]
pub struct Watch {
    memory: Mutex<Memory>,
}

/// What the threads remember from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub log: LogEnds,
    pub offsets: ForeignOffsets,
    pub others: Others,
    pub tracks: BTreeMap<Partition, PartitionTrack>,
    pub samples: Samples,
    pub latency: RecentLatency,
    /// By how much the log's ends have grown since mb started.
    pub arrived: u64,
    /// Since when the lag has been more than usual without falling.
    pub behind_since: Option<Instant>,
    pub announced: Announced,
    pub findings: Option<Arc<Findings>>,
}

/// The log's ends, as the broker last reported them.
#[derive(Debug, Default)]
pub(super) struct LogEnds {
    pub marks: BTreeMap<Partition, Watermarks>,
    pub asked: Option<Instant>,
    pub asked_ms: Option<i64>,
    /// Since when the broker does not answer, and why.
    pub failing: Option<(Instant, String)>,
    /// Partitions whose ends it does not report, each since when, and why.
    pub unknown: BTreeMap<Partition, (Instant, String)>,
    /// Open transactions, of partitions that make no progress.
    pub transactions: BTreeMap<Partition, OpenTransaction>,
}

impl LogEnds {
    pub fn reported_now(marks: BTreeMap<Partition, Watermarks>) -> LogEnds {
        let (asked, asked_ms) = (Some(Instant::now()), Some(clock::now_ms()));
        LogEnds { marks, asked, asked_ms, ..LogEnds::default() }
    }

    /// Why the ends are not all known.
    pub fn error(&self) -> Option<String> {
        let failing = self.failing.iter().chain(self.unknown.values().take(1));
        failing.map(|(_, cause)| cause.clone()).next()
    }
}

/// What follows from one look.
#[derive(Clone, Debug)]
pub struct Findings {
    pub rates: Rates,
    pub latency: Option<LatencyView>,
    /// With every partition, by number.
    pub lag: LagView,
    /// Partitions with lag and without progress for `--stall-after`.
    pub stalled: u64,
    /// The verdict's input.
    pub facts: Facts,
}

impl Watch {
    /// The newest findings; `None` before the first look.
    pub fn found(&self) -> Option<Arc<Findings>> {
        self.lock().findings.clone()
    }

    /// A pipeline starts, with `marks` as the log's ends. If it restarts within the process, its offsets may be
    /// lower than before, so what was known of the partitions is forgotten; the last 15 minutes stay.
    pub fn begin_anew(&self, marks: BTreeMap<Partition, Watermarks>) {
        let mut memory = self.lock();
        memory.log = LogEnds::reported_now(marks);
        memory.offsets = ForeignOffsets::default();
        memory.tracks.clear();
        memory.samples.begin_anew();
        memory.behind_since = None;
    }

    /// The last 15 minutes.
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().samples.all()
    }

    /// Partitions that have made no progress for a while, though mb has no run of them and their log goes on: an open
    /// transaction may hold them back.
    pub(super) fn held_back(&self) -> Vec<Partition> {
        let is_held = |of: &&PartitionLag| {
            let waits = |stuck: f64| stuck >= limits::TRANSACTION_ASKED_AFTER.as_secs_f64();
            of.stuck_s.is_some_and(waits) && of.in_flight == 0 && of.cursor < of.end
        };
        let found = self.found();
        let rows = found.iter().flat_map(|found| &found.lag.top);
        rows.filter(is_held).map(|of| of.partition).collect()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }
}
