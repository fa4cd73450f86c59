//! A redrive: dead letters become runs again, with their records as the history has them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::history::Planned;
use crate::history::requests::{Chunk, Unfinished};
use crate::model::batch::Batch;
use crate::model::clock;
use crate::model::error::Result;
use crate::model::offset::{Partition, Reprocess, RunKey};
use crate::model::run::Run;
use crate::runs::queue::Refused;

use super::resources::{Resources, Turn};

pub(super) struct Redrive {
    request: i64,
    /// The last dead letter that has a run: partition and offset.
    after: (Partition, i64),
    /// Runs that have their identity and are not in the queue yet.
    due: VecDeque<Unfinished>,
    /// Some dead letters may have no run yet.
    more: bool,
    /// How many runs are too large for this process, and why the first one is.
    blocked: (usize, String),
}

impl Redrive {
    /// Goes on after an earlier process: the runs that it left come first, under their keys.
    pub(super) fn begin(with: &Resources, request: i64) -> Result<Redrive> {
        let due: VecDeque<_> = with.requests.unfinished(request)?.into();
        match due.len() {
            0 => log::info!("redrive {request}: started"),
            runs => {
                log::info!(
                    "redrive {request}: started, with {runs} unfinished run(s) of an earlier process"
                )
            }
        }
        Ok(Redrive { request, after: (-1, -1), due, more: true, blocked: Default::default() })
    }

    /// Fills the queue until `until`.
    pub(super) fn work(&mut self, with: &Resources, until: Instant) -> Result<Turn> {
        loop {
            if with.is_stopping() {
                return Ok(Turn::Stopping);
            }
            if clock::now() >= until {
                return Ok(Turn::More);
            }
            match self.due.front().copied() {
                Some(run) => {
                    if let Some(turn) = self.push(with, &run, until)? {
                        return Ok(turn);
                    }
                }
                None if !self.more => return self.made(with),
                None if !self.plan_next(with)? => return Ok(Turn::Stopping),
                None => {}
            }
        }
    }

    /// Gives the first due run to the queue, or puts it aside if it is too large. `None` to go on with the
    /// next one.
    fn push(&mut self, with: &Resources, run: &Unfinished, until: Instant) -> Result<Option<Turn>> {
        let size = with.requests.size(run.run)?;
        let (records, bytes) = size;
        let memory = with.limits.batch_overhead
            + records * (Batch::ENTRY_BYTES + with.limits.record_overhead)
            + bytes;
        let budget = &with.engine.budget;
        if memory > budget.limit() {
            let why = format!(
                "run {} needs {memory} bytes, more than --queue-bytes ({}) has: it waits for an mb with \
                 a larger --queue-bytes",
                self.key(with, run),
                budget.limit()
            );
            log::error!("redrive {}: {why}", self.request);
            let (runs, first) = &mut self.blocked;
            *runs += 1;
            if first.is_empty() {
                *first = why;
            }
            self.due.pop_front();
            return Ok(None);
        }
        let Some(permit) = budget.acquire_until(memory, until) else {
            return Ok(Some(Turn::More));
        };
        let batch = with.requests.records(run.run, size)?;
        debug_assert!(batch.heap_bytes() <= memory);
        let made = Run {
            id: run.run,
            key: self.key(with, run),
            whole: run.whole,
            batch,
            permit: Arc::new(permit),
            failed_attempts: run.failed_attempts,
            queued: clock::now(),
            failing: None,
        };
        match with.engine.queue.push(made, until, &with.stop) {
            Ok(()) => {
                with.engine.live.records_in.add(records as u64);
                self.due.pop_front();
                Ok(None)
            }
            Err(Refused::Full) => Ok(Some(Turn::More)),
            Err(Refused::Stopping) => Ok(Some(Turn::Stopping)),
        }
    }

    /// Every dead letter has its run. If all runs that are not done are blocked, nobody here waits for them.
    fn made(&self, with: &Resources) -> Result<Turn> {
        let (runs, why) = &self.blocked;
        let is_blocked = *runs > 0 && with.requests.unfinished_runs(self.request)? <= *runs;
        Ok(if is_blocked { Turn::Blocked(why.clone()) } else { Turn::Made })
    }

    /// Gives the next dead letters a run. False if mb stops.
    fn plan_next(&mut self, with: &Resources) -> Result<bool> {
        let limits = with.limits();
        let (records, bytes) = (limits.max_records, limits.max_bytes);
        match with.requests.next_dead_letters(self.request, self.after, records, bytes)? {
            None => self.more = false,
            Some(chunk) => match self.plan(with, chunk) {
                None => return Ok(false),
                Some(run) => self.due.push_back(run),
            },
        }
        Ok(true)
    }

    /// Gives dead letters the identity of a run, in the history. `None` if mb stops.
    fn plan(&mut self, with: &Resources, chunk: Chunk) -> Option<Unfinished> {
        let Chunk { partition, range, records, bytes } = chunk;
        let reprocess = Some(Reprocess::Redrive(self.request));
        let topic = Arc::clone(&with.engine.topic_name);
        let key = RunKey { reprocess, ..RunKey::new(topic, partition, range) };
        let history = &with.engine.history;
        let run = history.plan(vec![Planned::whole(key, records, bytes)])?;
        self.after = (partition, range.last.get());
        // The run owns its dead letters only once that is in the file.
        history.wait_planned(run).then_some(Unfinished {
            run,
            partition,
            range,
            whole: range,
            failed_attempts: 0,
        })
    }

    fn key(&self, with: &Resources, run: &Unfinished) -> RunKey {
        let reprocess = Some(Reprocess::Redrive(self.request));
        let topic = Arc::clone(&with.engine.topic_name);
        RunKey { reprocess, ..RunKey::new(topic, run.partition, run.range) }
    }
}
