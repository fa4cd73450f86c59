//! A redrive: dead letters become runs again, from their records as the history has them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::history::Planned;
use crate::history::requests::{Chunk, Unfinished};
use crate::model::batch::Batch;
use crate::model::clock;
use crate::model::error::Result;
use crate::model::offset::{Again, Partition, RunKey};
use crate::model::run::Run;
use crate::runs::queue::Refused;

use super::{Requests, Turn};

pub(super) struct Redrive {
    request: i64,
    /// The last letter that has a run.
    after: (Partition, i64),
    /// Runs that have their identity and are not in the queue yet.
    due: VecDeque<Unfinished>,
    /// Letters without a run are left.
    more: bool,
    /// Runs that are too large for this process, and why the first one is.
    blocked: (usize, String),
}

impl Redrive {
    /// Goes on where an earlier process ended: its runs come first, under their keys.
    pub(super) fn begin(with: &Requests, request: i64) -> Result<Redrive> {
        let due: VecDeque<_> = with.reader.unfinished(request)?.into();
        match due.len() {
            0 => log::info!("redrive {request}: taken on"),
            runs => log::info!("redrive {request}: taken on, {runs} unfinished run(s) come again"),
        }
        Ok(Redrive { request, after: (-1, -1), due, more: true, blocked: Default::default() })
    }

    pub(super) fn work(&mut self, with: &Requests, until: Instant) -> Result<Turn> {
        loop {
            if with.is_stopping() {
                return Ok(Turn::Stopping);
            }
            if clock::now() >= until {
                return Ok(Turn::More);
            }
            let run = match self.due.front() {
                Some(run) => *run,
                None if !self.more => return self.made(with),
                None => {
                    let limits = with.limits();
                    let next = with.reader.next_letters(
                        self.request,
                        self.after,
                        limits.max_records,
                        limits.max_bytes,
                    )?;
                    let Some(chunk) = next else {
                        self.more = false;
                        continue;
                    };
                    let Some(run) = self.plan(with, chunk) else { return Ok(Turn::Stopping) };
                    self.due.push_back(run);
                    continue;
                }
            };
            let size = with.reader.size(run.run)?;
            let (records, bytes) = size;
            let memory = with.limits.batch_overhead
                + records * (Batch::ENTRY_BYTES + with.limits.record_overhead)
                + bytes;
            if memory > with.engine.budget.limit() {
                let why = format!(
                    "run {} needs {memory} bytes, more than --queue-bytes ({}) has: it waits for an mb \
                     with a larger --queue-bytes",
                    self.key(with, &run),
                    with.engine.budget.limit()
                );
                log::error!("redrive {}: {why}", self.request);
                let (runs, first) = &mut self.blocked;
                *runs += 1;
                if first.is_empty() {
                    *first = why;
                }
                self.due.pop_front();
                continue;
            }
            let Some(permit) = with.engine.budget.acquire_until(memory, until) else {
                return Ok(Turn::More);
            };
            let batch = with.reader.letters(run.run, size)?;
            debug_assert!(batch.heap_bytes() <= memory);
            let made = Run {
                id: run.run,
                key: self.key(with, &run),
                whole: run.whole,
                batch,
                permit: Arc::new(permit),
                failed_attempts: run.failed_attempts,
                queued: clock::now(),
            };
            match with.engine.queue.push(made, until, &with.stop) {
                Ok(()) => {
                    with.engine.live.records_in.add(records as u64);
                    self.due.pop_front();
                }
                Err(Refused::Full) => return Ok(Turn::More),
                Err(Refused::Stopping) => return Ok(Turn::Stopping),
            }
        }
    }

    /// Every letter has its run. Where those that are left are blocked, nobody here waits for them.
    fn made(&self, with: &Requests) -> Result<Turn> {
        let (runs, why) = &self.blocked;
        let is_blocked = *runs > 0 && with.reader.left(self.request)? <= *runs;
        Ok(if is_blocked { Turn::Blocked(why.clone()) } else { Turn::Made })
    }

    /// Gives the letters a run's identity, in the history. `None` where mb stops.
    fn plan(&mut self, with: &Requests, chunk: Chunk) -> Option<Unfinished> {
        let Chunk { partition, range, records, bytes } = chunk;
        let again = Some(Again::Redrive(self.request));
        let key =
            RunKey { again, ..RunKey::new(Arc::clone(&with.engine.topic_name), partition, range) };
        let run = with.engine.history.plan(vec![Planned::whole(key, records, bytes)])?;
        self.after = (partition, range.last.get());
        // Its letters are its own only when that is in the file.
        with.engine.history.wait_planned(run).then_some(Unfinished {
            run,
            partition,
            range,
            whole: range,
            failed_attempts: 0,
        })
    }

    fn key(&self, with: &Requests, run: &Unfinished) -> RunKey {
        let again = Some(Again::Redrive(self.request));
        RunKey {
            again,
            ..RunKey::new(Arc::clone(&with.engine.topic_name), run.partition, run.range)
        }
    }
}
