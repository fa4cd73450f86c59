//! What is watched while mb runs: the log's ends, the last 15 minutes, what is stuck, how fresh the
//! data is. A thread, `watch`, counts each second; another one, `watch-lag`, asks the log, which may
//! take its time where the broker is broken. Whoever shows it reads what they found.
//!
//! What the figures mean is decided in `partition`, `samples` and `health`; how they are shown, in
//! `control::watch` and `metrics`.

mod health;
mod partition;
mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use crate::commit::ledger::LedgerView;
use crate::config::limits;
use crate::kafka::Watermarks;
use crate::model::clock;
use crate::model::live::Running;
use crate::model::offset::Partition;
use crate::model::sync::{Mutex, MutexGuard};
use crate::model::thread::stopped_within;
use crate::observe::overview::{
    FreshnessView, HealthView, LagView, PartitionLag, Rates, Reason, Sample,
};
use crate::runs::engine::Engine;

use self::health::{Facts, Stall, Told};
use self::partition::Track;
use self::samples::{Counts, Samples};

/// What was found last.
#[derive(Debug, Default)]
pub struct Watch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    log: Log,
    tracks: BTreeMap<Partition, Track>,
    samples: Samples,
    told: Told,
    found: Option<Arc<Found>>,
}

/// What the log said when it was asked.
#[derive(Debug, Default)]
struct Log {
    marks: BTreeMap<Partition, Watermarks>,
    asked: Option<Instant>,
    asked_ms: Option<i64>,
    /// Since when it does not answer, and why.
    failing: Option<(Instant, String)>,
}

impl Log {
    fn said_now(marks: BTreeMap<Partition, Watermarks>) -> Log {
        let (asked, asked_ms) = (Some(Instant::now()), Some(clock::now_ms()));
        Log { marks, asked, asked_ms, failing: None }
    }
}

/// What one look of the watching thread found.
#[derive(Clone, Debug)]
pub struct Found {
    pub rates: Rates,
    /// With all partitions, by number.
    pub lag: LagView,
    /// Partitions with lag and without progress for `--stall-after`.
    pub stalled: u64,
    pub freshness: Option<FreshnessView>,
    pub health: HealthView,
}

impl Watch {
    /// The last look's; `None` before the first one.
    pub fn found(&self) -> Option<Arc<Found>> {
        self.lock().found.clone()
    }

    /// A pipeline begins anew, with offsets that may lie below those before: the last 15 minutes stay,
    /// what was known of the partitions does not. `marks` is where the log is now.
    pub fn begin_anew(&self, marks: BTreeMap<Partition, Watermarks>) {
        let mut state = self.lock();
        state.log = Log::said_now(marks);
        state.tracks.clear();
    }

    /// The last 15 minutes.
    pub fn samples(&self) -> Vec<Sample> {
        self.lock().samples.all()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// mb is not ready before it reads its topic.
pub fn starting(waiting_for: Option<&str>) -> HealthView {
    let detail = match waiting_for {
        Some(what) => format!("mb waits for {what}"),
        None => "mb has only just begun to read its topic".to_owned(),
    };
    HealthView { ready: false, reasons: vec![Reason { reason: "starting".to_owned(), detail }] }
}

/// The work of the two threads.
#[derive(Clone)]
pub struct Watcher {
    pub watch: Arc<Watch>,
    pub engine: Arc<Engine>,
    /// Both threads keep time from here.
    begin: Instant,
}

impl Watcher {
    pub fn new(watch: Arc<Watch>, engine: Arc<Engine>) -> Watcher {
        Watcher { watch, engine, begin: Instant::now() }
    }

    /// Thread `watch`: a look each second until `stop` is closed.
    pub fn run(&self, stop: &Receiver<()>) {
        let begin = self.begin + limits::SAMPLE_AFTER_ASKING;
        while !stopped_within(stop, until_next(begin, Instant::now(), limits::SAMPLE_INTERVAL)) {
            self.look(Instant::now(), clock::now_ms());
        }
    }

    /// Thread `watch-lag`: asks the log for its ends until `stop` is closed. What they are at the
    /// beginning is known.
    pub fn run_lag(&self, stop: &Receiver<()>) {
        let partitions = || -> Vec<Partition> {
            self.engine.ledgers.views().into_iter().map(|(partition, _)| partition).collect()
        };
        let mut interval = lag_interval(partitions().len());
        while !stopped_within(stop, until_next(self.begin, Instant::now(), interval)) {
            let partitions = partitions();
            self.ask(&partitions);
            interval = lag_interval(partitions.len());
        }
    }

    fn ask(&self, partitions: &[Partition]) {
        let began = Instant::now();
        let answer = match partitions.is_empty() {
            true => Ok(BTreeMap::new()),
            false => self.engine.broker.watermarks(&self.engine.topic_name, partitions),
        };
        let mut state = self.watch.lock();
        let since = state.log.failing.as_ref().map_or(began, |(since, _)| *since);
        let error = match answer {
            Ok(answers) => {
                let mut marks = BTreeMap::new();
                let mut error = None;
                for (partition, answer) in answers {
                    let known = match answer {
                        Ok(answer) => Some(answer),
                        // Nobody writes to a partition without a leader: it ends where it ended.
                        Err(cause) => {
                            error.get_or_insert(cause);
                            state.log.marks.get(&partition).copied()
                        }
                    };
                    marks.extend(known.map(|known| (partition, known)));
                }
                state.log = Log::said_now(marks);
                error
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            // The sensors' own trouble is in the log of mb already.
            log::debug!("asking the log for its ends: {error}");
            state.log.failing = Some((since, error.to_string()));
        }
    }

    /// One look: a sample, and what follows from it.
    fn look(&self, now: Instant, now_ms: i64) {
        let views = self.engine.ledgers.views();
        let running = self.engine.live.running();
        let mut state = self.watch.lock();
        let (partitions, stalls) = self.partitions(&mut state, now, &views, &running);
        let known = state.log.asked.is_some_and(|asked| {
            now.saturating_duration_since(asked) < lag_interval(views.len()) + limits::LAG_KNOWN_FOR
        });
        let total = known.then(|| partitions.iter().map(|partition| partition.lag).sum());
        state.samples.push(Counts {
            at: now,
            at_ms: now_ms,
            records_in: self.engine.live.records_in.get(),
            bytes_in: self.engine.live.bytes_in.get(),
            // Given up on is through with, too.
            records_done: self.engine.live.records_done.get() + self.engine.live.dead_letters.get(),
            bytes_done: self.engine.live.bytes_done.get(),
            messages_posted: self.engine.live.messages_posted.get(),
            lag: total,
            queued: self.engine.queue.len() as u64,
            running: running.len() as u64,
        });
        let seconds = partitions.iter().filter_map(|partition| partition.lag_s).reduce(f64::max);
        let lag = LagView {
            total,
            seconds,
            catch_up_s: state.samples.catch_up_s(),
            at_ms: state.log.asked_ms,
            error: state.log.failing.as_ref().map(|(_, cause)| cause.clone()),
            partitions: views.len() as u64,
            top: partitions,
        };
        let freshness = self.engine.config.freshness.map(|policy| FreshnessView {
            policy_s: policy.as_secs_f64(),
            age_s: seconds,
            // What is not known is the broker's reason, not this one's.
            fresh: seconds.is_none_or(|age| age <= policy.as_secs_f64()),
        });
        let stalled = stalls.len() as u64;
        let facts = self.facts(&state.log, now, stalls, &running, freshness);
        let health = health::reasons(&facts, &self.engine.topic_name);
        let mut told = std::mem::take(&mut state.told);
        let rates = state.samples.rates();
        state.found = Some(Arc::new(Found { rates, lag, stalled, freshness, health }));
        drop(state);
        // Whoever reads what was found does not wait for the log.
        told.tell(&facts, &self.engine.topic_name);
        self.watch.lock().told = told;
    }

    /// Each partition's figures, and those of them that are stalled, the longest first.
    fn partitions(
        &self,
        state: &mut State,
        now: Instant,
        views: &[(Partition, LedgerView)],
        running: &[Running],
    ) -> (Vec<PartitionLag>, Vec<Stall>) {
        let paused = self.engine.steering.is_paused();
        // Between two ticks nothing can move.
        let limit =
            self.engine.config.stall_after.max(2 * self.engine.steering.settings().tick_interval);
        let (mut rows, mut stalls) = (Vec::with_capacity(views.len()), Vec::new());
        for (partition, view) in views {
            // It is asked for from the next time on.
            let Some(marks) = state.log.marks.get(partition) else { continue };
            let track = state.tracks.entry(*partition).or_default();
            let done = view.committed.unwrap_or(view.start);
            // What retention has taken is no lag: nobody can read it.
            // What was read lies below the end, which may have been asked for before that.
            let (end, seen) = match state.log.asked {
                Some(asked) if view.position <= marks.end => (marks.end, asked),
                _ => (view.position, now),
            };
            track.saw_end(seen, end);
            let lag = end.distance_from(done.max(marks.beginning).min(end));
            let behind = track.behind_for(now, done);
            let progress = (view.committed, view.committable);
            let stuck = track.stuck_for(now, lag, progress, paused && view.runs == 0);
            rows.push(PartitionLag {
                partition: *partition,
                beginning: marks.beginning.get(),
                end: end.get(),
                committed: view.committed.map(|offset| offset.get()),
                cursor: view.position.get(),
                lag,
                lag_s: Some(if lag == 0 { 0.0 } else { behind.as_secs_f64() }),
                in_flight: view.runs as u64,
                stuck_s: stuck.map(|stuck| stuck.as_secs_f64()),
            });
            if let Some(stuck) = stuck.filter(|stuck| *stuck >= limit) {
                let mine: Vec<&Running> =
                    running.iter().filter(|run| run.key.partition == *partition).collect();
                let what = health::under_way(&mine, view.runs);
                stalls.push(Stall { partition: *partition, offset: done, lag, stuck, what });
            }
        }
        stalls.sort_by_key(|stall| std::cmp::Reverse(stall.stuck));
        (rows, stalls)
    }

    fn facts(
        &self,
        log: &Log,
        now: Instant,
        stalls: Vec<Stall>,
        running: &[Running],
        freshness: Option<FreshnessView>,
    ) -> Facts {
        let ago = |since: Instant| now.saturating_duration_since(since);
        let asking = log.failing.iter().map(|(since, cause)| {
            ("asking the log for its ends".to_owned(), ago(*since), cause.clone())
        });
        let threads = self.engine.live.troubles.read().into_iter();
        let threads =
            threads.map(|failing| (failing.what.to_owned(), ago(failing.since), failing.cause));
        let (on_end, last) = self.engine.live.failures.read();
        let stalled_runs = running.iter().filter(|run| run.stalled).map(|run| {
            format!(
                "run {} ({}) has been in its step with worker-{} for {} s, and cannot be ended",
                run.id,
                run.key,
                run.worker,
                ago(run.since).as_secs()
            )
        });
        Facts {
            broker: asking.chain(threads).collect(),
            stalls,
            stalled_runs: stalled_runs.collect(),
            failures: (on_end, last.map(|(error, at)| (error, ago(at)))),
            disk: self.engine.history.is_failing(),
            freshness,
        }
    }
}

/// How long it is until the next of the moments that are `interval` apart, from `begin` on.
fn until_next(begin: Instant, now: Instant, interval: Duration) -> Duration {
    let since = now.checked_duration_since(begin);
    since.map_or_else(
        || begin.saturating_duration_since(now),
        |since| {
            let into = since.as_nanos() % interval.as_nanos().max(1);
            interval - Duration::from_nanos(u64::try_from(into).unwrap_or(0))
        },
    )
}

/// How often the log of so many partitions is asked for its ends.
fn lag_interval(partitions: usize) -> Duration {
    let times = partitions.div_ceil(limits::LAG_PARTITIONS_PER_INTERVAL).max(1);
    let times = u32::try_from(times).unwrap_or(u32::MAX);
    limits::LAG_INTERVAL.saturating_mul(times).min(limits::LAG_INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_partitions_are_asked_for_less_often() {
        let seconds = [0, 1, 100, 101, 500, 1000, 100_000].map(|n| lag_interval(n).as_secs());
        assert_eq!(seconds, [1, 1, 1, 2, 5, 10, 10]);
    }

    #[test]
    fn looks_keep_their_time_whatever_they_take() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let ms = Duration::from_millis;
        assert_eq!(until_next(begin + ms(200), begin, second), ms(200));
        for (after, wait) in [(0, 1000), (1, 999), (999, 1), (1000, 1000), (3700, 300)] {
            assert_eq!(until_next(begin, begin + ms(after), second), ms(wait), "{after} ms");
        }
    }
}
