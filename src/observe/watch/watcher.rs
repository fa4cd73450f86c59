//! The three watching threads. `watch` takes a sample each second; `watch-lag` asks the log for its ends, and
//! `watch-offsets` for the group's offsets: either may take long if a broker is in trouble, and must not delay the
//! others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;

use super::advice::Work;
use super::findings::{Findings, LogEnds, Memory, Watch};
use super::health::{self, Facts, Stall};
use super::others::Others;
use super::partition::{self, Reached};
use super::samples::{Counts, Samples};
use super::verdict::{catch_up, is_behind, verdict};
use crate::commit::in_log::{Finding, Foreign, judge};
use crate::commit::ledger::LedgerView;
use crate::config::limits;
use crate::history::mark::Mark;
use crate::kafka::Committed;
use crate::model::clock;
use crate::model::error::Result;
use crate::model::live::{READING_A_PARTITION, Running, Trouble};
use crate::model::offset::{Offset, Partition};
use crate::model::thread::stopped_within;
use crate::observe::overview::{FreshnessView, LagView, PartitionLag, VerdictState};
use crate::runs::engine::Engine;
use crate::source::cursor_move::CursorMover;

/// The work of the threads `watch`, `watch-lag` and `watch-offsets`.
#[derive(Clone)]
pub struct Watcher {
    pub watch: Arc<Watch>,
    pub engine: Arc<Engine>,
    cursor: Arc<CursorMover>,
    /// The threads count their intervals from here.
    begin: Instant,
}

/// The name of that thread.
const OFFSETS: &str = "watch-offsets";

/// What the thread `watch-offsets` has logged of the offsets that it follows.
#[derive(Debug, Default)]
struct Following {
    logged: BTreeMap<Partition, Foreign>,
    trouble: Trouble,
}

/// What a look at the partitions has found.
struct PartitionLags {
    rows: Vec<PartitionLag>,
    /// Without progress for too long, the longest first.
    stalls: Vec<Stall>,
    /// Held back by an open transaction, but not for as long yet; the longest first.
    waits: Vec<Stall>,
    /// By how much the log has grown.
    grown: u64,
}

impl Watcher {
    pub fn new(watch: Arc<Watch>, engine: Arc<Engine>, cursor: Arc<CursorMover>) -> Watcher {
        Watcher { watch, engine, cursor, begin: Instant::now() }
    }

    /// Thread `watch`: looks each second until `stop` is closed.
    pub fn run(&self, stop: &Receiver<()>) {
        let begin = self.begin + limits::SAMPLE_AFTER_ASKING;
        while !stopped_within(stop, until_next(begin, Instant::now(), limits::SAMPLE_INTERVAL)) {
            self.look(Instant::now(), clock::now_ms());
        }
    }

    /// Thread `watch-lag`: asks the log for its ends until `stop` is closed. The pipeline's start has asked for
    /// them already, so this begins with a pause.
    pub fn run_lag(&self, stop: &Receiver<()>) {
        let partitions = || -> Vec<Partition> {
            self.engine.ledgers.views().into_iter().map(|(partition, _)| partition).collect()
        };
        let mut interval = lag_interval(partitions().len());
        while !stopped_within(stop, until_next(self.begin, Instant::now(), interval)) {
            let partitions = partitions();
            self.ask_for_ends(&partitions);
            interval = lag_interval(partitions.len());
        }
    }

    /// Thread `watch-offsets`: compares the group's offsets in the log with what mb has committed, and follows a
    /// person's, until `stop` is closed.
    pub fn run_offsets(&self, stop: &Receiver<()>) {
        let interval = limits::OFFSETS_LOOK_INTERVAL;
        let mut following = Following::default();
        while !stopped_within(stop, until_next(self.begin, Instant::now(), interval)) {
            if let Err(error) = self.ask_for_offsets(&mut following) {
                // The committer has the same trouble as soon as it has something to do.
                log::debug!("asking the log for the group's offsets: {error}");
            }
        }
    }

    /// Whose the group's offsets are. What the log has lost is to be committed again; where a person has moved the
    /// offset, mb follows.
    fn ask_for_offsets(&self, following: &mut Following) -> Result<()> {
        let Engine { broker, ledgers, history, config, topic_name: topic, .. } = &*self.engine;
        let group = &config.connection.group;
        let before: BTreeMap<_, _> = ledgers.views().into_iter().collect();
        if before.is_empty() {
            return Ok(());
        }
        let partitions: Vec<Partition> = before.keys().copied().collect();
        let in_log: BTreeMap<_, _> = broker
            .group_offsets(group, topic, &partitions)?
            .into_iter()
            .filter_map(|(partition, found)| Some((partition, found.ok()?)))
            .collect();
        self.look_for_others(&in_log);
        let (mut lost, mut moved) = (Vec::new(), BTreeMap::new());
        let mut memory = self.watch.lock();
        for (partition, after) in ledgers.views() {
            let (Some(before), Some(found)) = (before.get(&partition), in_log.get(&partition))
            else {
                continue;
            };
            let finding = judge(history.own(), before, &after, found.as_ref());
            memory.offsets.note(partition, &finding);
            match finding {
                Finding::Ours => {}
                Finding::Lost(ours) => lost.push((partition, found.as_ref(), ours)),
                Finding::Foreign(foreign) if foreign.is_followed() => {
                    moved.insert(partition, foreign);
                }
                Finding::Foreign(_) => {}
            }
        }
        drop(memory);
        for (partition, in_log, ours) in lost {
            if ledgers.forget_committed(partition, ours) {
                let why = match in_log {
                    None => "no offset any more: it expired, or somebody deleted it".to_owned(),
                    Some(Committed { offset, .. }) => format!(
                        "offset {offset}, an older commit of this mb: the log of the group's offsets has lost its end"
                    ),
                };
                log::warn!(
                    "of group {group} in {topic}/{partition} the log has {why}; {ours} is committed again"
                );
            }
        }
        self.follow(moved, following);
        Ok(())
    }

    /// Goes on where a person has moved the group's offsets to. What fails is tried again at the next look.
    fn follow(&self, moved: BTreeMap<Partition, Foreign>, following: &mut Following) {
        const WHAT: &str = "following the group's offsets";
        let (group, topic) = (&self.engine.config.connection.group, &self.engine.topic_name);
        let is_new =
            |(one, found): &(&Partition, &Foreign)| following.logged.get(*one) != Some(*found);
        let new: Vec<_> = moved.iter().filter(is_new).collect();
        for line in health::foreign_lines(&new, group, topic) {
            log::warn!("{line}");
        }
        let targets: Vec<_> = moved.iter().map(|(one, found)| (*one, found.in_log)).collect();
        following.logged = moved;
        match self.cursor.follow(&targets) {
            Ok(()) => {
                following.trouble.end(WHAT);
                self.engine.live.troubles.end(OFFSETS);
            }
            Err(error) => {
                following.trouble.begin(WHAT, &error.to_string());
                self.engine.live.troubles.begin(OFFSETS, WHAT, &error.to_string());
            }
        }
    }

    /// Logs as an error that another mb commits for the group.
    fn look_for_others(&self, in_log: &BTreeMap<Partition, Option<Committed>>) {
        let now = Instant::now();
        let own = self.engine.history.own().instance;
        let mark = |(partition, found): (&Partition, &Option<Committed>)| {
            Some((*partition, Mark::of(&found.as_ref()?.metadata)))
        };
        let marks = in_log.iter().filter_map(mark).collect();
        let mut memory = self.watch.lock();
        memory.others.look(own, marks, now);
        let other = self.other(&memory.others, now);
        let other = other.filter(|_| memory.others.is_log_due(now));
        drop(memory);
        if let Some(other) = other {
            log::error!("{other}");
        }
    }

    /// Another mb that commits for the group, in words.
    fn other(&self, others: &Others, now: Instant) -> Option<String> {
        let instance = others.found(now)?;
        Some(format!(
            "another mb (instance {instance}; this one is {}) commits for group {} and topic {} too: every record is \
             processed by both; stop one of them, or give it another --group",
            self.engine.history.own().instance,
            self.engine.config.connection.group,
            self.engine.topic_name
        ))
    }

    /// Takes a sample, and finds out what follows from it.
    fn look(&self, now: Instant, now_ms: i64) {
        let views = self.engine.ledgers.views();
        let running = self.engine.live.running();
        let mut memory = self.watch.lock();
        let PartitionLags { rows: partitions, stalls, waits, grown } =
            self.partitions(&mut memory, now, &views, &running);
        memory.arrived += grown;
        let arrived = memory.arrived;
        let known = memory.log.asked.is_some_and(|asked| {
            now.saturating_duration_since(asked) < lag_interval(views.len()) + limits::LAG_KNOWN_FOR
        });
        let total = known.then(|| partitions.iter().map(|partition| partition.lag).sum());
        let counts = self.counts((now, now_ms), &memory.log, arrived, total, running.len());
        memory.samples.push(counts);
        memory.latency.push(now, self.engine.live.latency.time.buckets());
        // What is not known is not shown as if it were.
        let seconds = total.and_then(|_| {
            partitions.iter().filter_map(|partition| partition.lag_s).reduce(f64::max)
        });
        let mut lag = LagView {
            total,
            seconds,
            catch_up_s: None,
            at_ms: memory.log.asked_ms,
            error: memory.log.error(),
            partitions: views.len() as u64,
            top: partitions,
        };
        let freshness = self.engine.config.freshness.map(|policy| FreshnessView {
            policy_s: policy.as_secs_f64(),
            age_s: seconds,
            // If the age is unknown, the broker is to blame, and that is another reason.
            fresh: seconds.is_none_or(|age| age <= policy.as_secs_f64()),
        });
        let stalled = stalls.len() as u64;
        let mut facts = self.facts(&memory.log, now, stalls, &running, freshness);
        facts.waits = waits;
        facts.work = self.work(&memory.samples, views.len());
        let in_step = running.iter().map(|run| now.saturating_duration_since(run.since)).max();
        let looks = lag_interval(views.len());
        facts.explained = facts.work.explained(
            in_step.unwrap_or_default(),
            self.engine.config.tick_runtime,
            looks,
        );
        facts.trend = memory.samples.trend(&facts.explained);
        (facts.lag, facts.lag_error, facts.age_s) = (total, lag.error.clone(), seconds);
        facts.foreign = views
            .iter()
            .filter_map(|(one, view)| Some((*one, memory.offsets.of(*one, view)?.clone())))
            .collect();
        facts.other = self.other(&memory.others, now);
        let is_behind = is_behind(&facts);
        let since = memory.behind_since.filter(|_| is_behind || total.is_none());
        memory.behind_since = since.or_else(|| is_behind.then_some(now));
        facts.behind_for = memory
            .behind_since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let verdict = verdict(&facts, &self.engine.topic_name, 0);
        if verdict.state == VerdictState::CatchingUp {
            lag.catch_up_s = catch_up(&facts).map(|left| left.as_secs_f64());
        }
        let mut announced = std::mem::take(&mut memory.announced);
        let rates = memory.samples.rates();
        let latency = memory.latency.view();
        let findings = Arc::new(Findings { rates, latency, lag, stalled, facts });
        memory.findings = Some(Arc::clone(&findings));
        drop(memory);
        // Writing log lines may take a while, and must not delay those who read the findings.
        announced.log_news(&findings.facts, &verdict, &self.engine.topic_name, now);
        self.watch.lock().announced = announced;
    }

    /// The counters and gauges of now. `log`: what is known of its ends. `lag`: in records, if it is known.
    fn counts(
        &self,
        (now, now_ms): (Instant, i64),
        log: &LogEnds,
        arrived: u64,
        lag: Option<u64>,
        running: usize,
    ) -> Counts {
        let live = &self.engine.live;
        let (attempts, in_step) = live.run_time.count_and_sum();
        Counts {
            at: now,
            at_ms: now_ms,
            asked: log.asked.unwrap_or(now),
            arrived,
            records_in: live.records_in.get(),
            bytes_in: live.bytes_in.get(),
            records_done: live.records_done(),
            bytes_done: live.bytes_done.get(),
            messages_posted: live.messages_posted.get(),
            attempts,
            in_step,
            lag,
            queued: self.engine.queue.len() as u64,
            parked: self.engine.queue.parked() as u64,
            running: running as u64,
        }
    }

    /// What mb works with, and how much of it is in use.
    fn work(&self, samples: &Samples, partitions: usize) -> Work {
        let Engine { config, queue, budget, steering, .. } = &*self.engine;
        let settings = steering.settings();
        Work {
            workers: settings.max_concurrent_runs,
            pace: samples.pace(),
            waiting_retries: queue.waiting_retries(),
            bytes: budget.used(),
            bytes_limit: budget.limit(),
            max_batch: settings.max_batch,
            max_batch_bytes: config.max_batch_bytes,
            max_wait: settings.max_wait,
            tick_interval: settings.tick_interval,
            sensors: config.sensors,
            partitions,
            order: config.order,
            lanes: config.lane_count() as usize,
        }
    }

    fn partitions(
        &self,
        memory: &mut Memory,
        now: Instant,
        views: &[(Partition, LedgerView)],
        running: &[Running],
    ) -> PartitionLags {
        let paused = self.engine.steering.is_paused();
        // Between two ticks, nothing is expected to move.
        let limit =
            self.engine.config.stall_after.max(2 * self.engine.steering.settings().tick_interval);
        let (mut rows, mut grown) = (Vec::with_capacity(views.len()), 0);
        let (mut stalls, mut waits) = (Vec::new(), Vec::new());
        for (partition, view) in views {
            // A new partition is asked for from the next time on.
            let Some(marks) = memory.log.marks.get(partition) else { continue };
            let track = memory.tracks.entry(*partition).or_default();
            let own = view.committed.unwrap_or(view.start);
            // An offset that somebody else has set is what the log, and each start after this one, goes by.
            let foreign = memory.offsets.of(*partition, view).map(|foreign| foreign.in_log);
            let committed = foreign.or(view.committed);
            let done = foreign.unwrap_or(own);
            // The sensor may have read beyond the end that the log had when it was asked.
            let (end, seen) = match memory.log.asked {
                Some(asked) if view.position <= marks.end => (marks.end, asked),
                _ => (view.position, now),
            };
            grown += track.saw_end(seen, end);
            // Records that retention has removed are no lag: nobody can read them.
            let lag_from = |offset: Offset| end.distance_from(offset.max(marks.beginning).min(end));
            let lag = lag_from(done);
            let behind = track.behind_for(now, done);
            let reached = Reached { committed: view.committed, done: view.committable };
            let stuck = track.stuck_for(now, lag_from(own), reached, paused && view.runs == 0);
            rows.push(PartitionLag {
                partition: *partition,
                beginning: marks.beginning.get(),
                end: end.get(),
                committed: committed.map(Offset::get),
                cursor: view.position.get(),
                lag,
                lag_s: Some(if lag == 0 { 0.0 } else { behind.as_secs_f64() }),
                in_flight: view.runs as u64,
                stuck_s: stuck.map(|stuck| stuck.as_secs_f64()),
            });
            let open = memory.log.transactions.get(partition);
            let open = open.filter(|open| view.runs == 0 && view.position >= open.first);
            let Some(stuck) = stuck.filter(|stuck| *stuck >= limit || open.is_some()) else {
                continue;
            };
            let mine: Vec<&Running> =
                running.iter().filter(|run| run.key.partition == *partition).collect();
            let what = match open {
                Some(open) => partition::held_by(open, clock::now_ms()),
                None => health::under_way(&mine, view.runs),
            };
            let stall = Stall { partition: *partition, offset: done, lag, stuck, what };
            if stuck >= limit { &mut stalls } else { &mut waits }.push(stall);
        }
        stalls.sort_by_key(|stall| std::cmp::Reverse(stall.stuck));
        waits.sort_by_key(|wait| std::cmp::Reverse(wait.stuck));
        PartitionLags { rows, stalls, waits, grown }
    }

    fn facts(
        &self,
        log: &LogEnds,
        now: Instant,
        stalls: Vec<Stall>,
        running: &[Running],
        freshness: Option<FreshnessView>,
    ) -> Facts {
        let ago = |since: Instant| now.saturating_duration_since(since);
        let asking = log.failing.iter().map(|(since, cause)| {
            ("asking the log for its ends".to_owned(), ago(*since), cause.clone())
        });
        let unknown = log
            .unknown
            .values()
            .map(|(since, cause)| (READING_A_PARTITION.to_owned(), ago(*since), cause.clone()));
        let threads = self.engine.live.troubles.read().into_iter();
        let threads =
            threads.map(|failing| (failing.what.to_owned(), ago(failing.since), failing.cause));
        let (in_a_row, last) = self.engine.live.failures.read();
        let stalled_runs = running.iter().filter(|run| run.stalled).map(|run| {
            format!(
                "run {} ({}) has been in its step on worker-{} for {} s, and cannot be ended",
                run.id,
                run.key,
                run.worker,
                ago(run.since).as_secs()
            )
        });
        Facts {
            broker: asking.chain(unknown).chain(threads).collect(),
            held: self.engine.queue.held().map(|held| (ago(held.since), held.cause)),
            stalls,
            stalled_runs: stalled_runs.collect(),
            failures: (in_a_row, last.map(|(error, at)| (error, ago(at)))),
            disk: self.engine.history.is_failing(),
            freshness,
            group: self.engine.config.connection.group.clone(),
            is_paused: self.engine.steering.is_paused(),
            records_in: self.engine.live.records_in.get(),
            ..Facts::default()
        }
    }
}

/// How long it is from `now` until the next multiple of `interval` after `begin`. So looks keep their times
/// however long they take.
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

/// How often a log of that many partitions is asked for its ends: the more partitions, the less often.
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
    fn looks_keep_their_times_however_long_they_take() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let ms = Duration::from_millis;
        assert_eq!(until_next(begin + ms(200), begin, second), ms(200));
        for (after, wait) in [(0, 1000), (1, 999), (999, 1), (1000, 1000), (3700, 300)] {
            assert_eq!(until_next(begin, begin + ms(after), second), ms(wait), "{after} ms");
        }
    }
}
