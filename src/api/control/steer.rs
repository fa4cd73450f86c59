//! Requests that act on the running pipeline: pause, resume, tick, cursor, cancel, again, settings.
//! Those that read the topic for people, a preview and a run's records, are answered by `look`.

use std::time::Duration;

use crossbeam_channel::{TrySendError, bounded};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::look;
use super::requests::{Attached, Context, Session};
use crate::commit::reset;
use crate::config::Config;
use crate::config::limits;
use crate::config::steering::{Settings, settings_view};
use crate::history::requests::{self, Place, Replay};
use crate::kafka::Backend;
use crate::model::error::{Error, Result};
use crate::model::events::CursorOrder;
use crate::model::events::Event;
use crate::model::offset::Offset;
use crate::model::run::RunId;
use crate::runs::cancels::Found;

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
    /// `key_base64`, `value` or `value_base64`, and `cut_bytes` (`cut_key_bytes`): how many bytes of
    /// its value (its key) are not shown.
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

pub(super) fn records(context: &Context, session: &mut Session, run: i64) -> Result<Value> {
    let place = requests::place(session.history(context)?, run)?;
    context.with_pipeline(|pipeline| Ok(json!(look::records(pipeline, &place)?)))
}

pub(super) fn preview(context: &Context) -> Result<Value> {
    context.with_pipeline(|pipeline| Ok(json!(look::preview(pipeline)?)))
}

pub(super) fn pause(context: &Context) -> Result<Value> {
    context.with_pipeline(|pipeline| {
        if pipeline.steering.pause() {
            log::info!("paused, as asked: no tick begins until it is resumed; runs go on");
        }
        Ok(json!({}))
    })
}

pub(super) fn resume(context: &Context) -> Result<Value> {
    context.with_pipeline(|pipeline| {
        if pipeline.steering.resume() {
            log::info!("resumed, as asked: ticks begin again");
        }
        Ok(json!({}))
    })
}

pub(super) fn tick(context: &Context) -> Result<Value> {
    context.with_pipeline(|pipeline| {
        log::info!("a tick begins, as asked");
        pipeline.steering.tick();
        Ok(json!({}))
    })
}

/// The topic is asked before and after the pipeline ends for it: the answer says what was asked for
/// when that was taken on.
pub(super) fn move_cursor(context: &Context, target: CursorTarget) -> Result<Value> {
    context.with_pipeline(|pipeline| {
        let mut targets = Vec::new();
        for (partition, offset) in &target.offsets {
            let offset = Offset::checked(*offset).ok_or_else(|| {
                Error::Usage(format!("offset: got {offset}, expected a number from 0 on"))
            })?;
            targets.push((*partition, offset));
        }
        if targets.is_empty() {
            return Err(Error::Usage(
                "offsets: got none, expected one partition's at least".into(),
            ));
        }
        let topic = &pipeline.topic;
        let group = &pipeline.config.connection.group;
        let planned = reset::plan(pipeline.broker.as_ref(), group, topic, &targets)?;
        let done = pipeline.ledgers.committable();
        let moves = planned.iter().map(|(one, marks)| CursorMove {
            partition: one.partition,
            from: one.from.or(done.get(&one.partition).copied()).unwrap_or(marks.beginning).get(),
            to: one.to.get(),
            beginning: marks.beginning.get(),
            end: marks.end.get(),
        });
        let moves: Vec<CursorMove> = moves.collect();
        if !target.dry_run {
            take_on(pipeline, CursorOrder { topic_id: topic.id.clone(), targets })?;
        }
        Ok(json!(moves))
    })
}

/// Waits until the watching thread has taken the order on.
fn take_on(pipeline: &Attached, order: CursorOrder) -> Result<()> {
    let refused = || {
        Error::Other(
            "mb is stopping or beginning anew, and did not move the cursor: try again".to_owned(),
        )
    };
    let (sender, taken) = bounded(1);
    match pipeline.events.try_send(Event::MoveCursor(order, sender)) {
        Ok(()) => taken.recv_timeout(limits::CONTROL_LIMIT).map_err(|_| refused()),
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(refused()),
    }
}

pub(super) fn cancel_run(
    context: &Context,
    session: &mut Session,
    id: i64,
    note: &str,
) -> Result<Value> {
    let place = requests::place(session.history(context)?, id)?;
    let error = error_of(note)?;
    let found = context.with_pipeline(|pipeline| {
        if !place.is_unfinished() {
            return Err(ended(id));
        }
        check_scope(pipeline, &place, id)?;
        let run = RunId(id);
        let found = pipeline.queue.cancels.cancel(run, &error, limits::HISTORY_STOP_LIMIT);
        if found == Found::NotBegun {
            pipeline.queue.hurry(run);
            // What ended before this is in the file then.
            if !pipeline.history.flush(limits::HISTORY_STOP_LIMIT) {
                return Err(Error::Other(format!(
                    "run {id}: the history cannot be written now: where the run has not ended \
                     already, it is given up at its turn"
                )));
            }
        }
        Ok((found, pipeline.live.running().into_iter().find(|running| running.id == run)))
    });
    let did = match found? {
        (Found::NotBegun, _) => {
            let still_open = requests::place(session.history(context)?, id)?.is_unfinished();
            context.with_pipeline(|pipeline| {
                // One that had its turn meanwhile was given up at it.
                if !still_open && pipeline.queue.cancels.forget(RunId(id)) {
                    return Err(ended(id));
                }
                Ok("waiting")
            })?
        }
        (Found::InStep, Some(running)) => context.with_pipeline(|pipeline| {
            if pipeline.step.cancel(&running.key) {
                return Ok("ended");
            }
            pipeline.live.stall(running.id);
            log::warn!(
                "run {} was cancelled, and is with worker-{}: a step inside mb cannot be ended, it is \
                 waited for",
                running.key,
                running.worker
            );
            Ok("stalled")
        })?,
        // Its step was over in this very moment: it is known whether it was in time by the run's end.
        (Found::InStep, None) => "ended",
        (Found::Ending, _) => {
            return Err(Error::Other(format!(
                "run {id} is just ending, and the history cannot be written now: try again"
            )));
        }
    };
    log::info!("run {id}: {error} ({did})");
    Ok(json!(Cancelled { did: did.to_owned() }))
}

fn ended(id: i64) -> Error {
    Error::Usage(format!("run {id} has ended: there is nothing to cancel"))
}

/// What a cancelled run ends with: one line.
fn error_of(note: &str) -> Result<String> {
    let note = note.trim();
    if note.chars().count() > limits::CANCEL_NOTE_CHARS {
        return Err(Error::Usage(format!(
            "note: got {} characters, expected at most {}",
            note.chars().count(),
            limits::CANCEL_NOTE_CHARS
        )));
    }
    let mut line = String::new();
    for c in note.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    Ok(if line.is_empty() { "cancelled".to_owned() } else { format!("cancelled: {line}") })
}

pub(super) fn run_again(context: &Context, session: &mut Session, id: i64) -> Result<Value> {
    let place = requests::place(session.history(context)?, id)?;
    context.with_pipeline(|pipeline| check_scope(pipeline, &place, id))?;
    let replay = Replay {
        embedded: place.embedded,
        cluster_id: place.cluster_id,
        group: place.group,
        topic: place.topic,
        topic_id: place.topic_id,
        ranges: vec![(place.partition, place.range.first.get(), place.range.last.get())],
    };
    let asked = requests::ask(&mut context.writable()?, &replay)?;
    context.ring();
    let request = asked.first().copied().unwrap_or_default();
    log::info!("run {id} is made again as request {request}, as asked");
    Ok(json!({ "request": request }))
}

/// A run of another topic, or of another group, is not this mb's to touch.
fn check_scope(pipeline: &Attached, place: &Place, id: i64) -> Result<()> {
    if place.scope == pipeline.scope {
        return Ok(());
    }
    let connection = &pipeline.config.connection;
    let (topic, group) = (&connection.topic, &connection.group);
    let is_embedded = pipeline.broker.backend() == Backend::Embedded;
    let why = if place.topic != *topic || place.group != *group || place.embedded != is_embedded {
        format!(
            "it is of topic {}, group {}; this mb reads topic {topic}, group {group}",
            place.topic, place.group
        )
    } else {
        format!("topic {topic} was made again since, and its offsets mean other records now")
    };
    Err(Error::Usage(format!("run {id}: {why}")))
}

pub(super) fn set(context: &Context, change: Change) -> Result<Value> {
    context.with_pipeline(|pipeline| {
        let (before, after) =
            pipeline.steering.set(|settings| apply(&change, settings, &pipeline.config))?;
        for line in changes(&before, &after) {
            log::info!("{line}, as asked");
        }
        if before.max_concurrent_runs != after.max_concurrent_runs {
            // Full: the watching thread looks each second anyhow.
            let _ = pipeline.events.try_send(Event::SettingsChanged);
        }
        Ok(json!(settings_view(&pipeline.steering)))
    })
}

/// Makes the change where each value is one that its flag takes, and all fit together.
fn apply(change: &Change, settings: &mut Settings, config: &Config) -> Result<()> {
    if let Some(rate) = change.rate {
        if settings.rate.is_none() {
            return Err(Error::Usage(
                "rate: this mb has no producer of its own (it was started without --rate)".into(),
            ));
        }
        let fits = rate == 0.0 || (limits::RATE_MIN..=limits::RATE_MAX).contains(&rate);
        if !fits {
            return Err(Error::Usage(format!(
                "rate: got {rate}, expected {} to {}, or 0 for as fast as it goes",
                limits::RATE_MIN,
                limits::RATE_MAX
            )));
        }
        settings.rate = Some(rate);
    }
    if let Some(records) = change.max_batch {
        settings.max_batch = whole("max_batch", records, limits::MAX_BATCH_RECORDS)?;
        Config { max_batch: settings.max_batch, ..config.clone() }
            .check()
            .map_err(|error| Error::Usage(format!("max_batch: got {records}: {error}")))?;
    }
    if let Some(runs) = change.max_concurrent_runs {
        settings.max_concurrent_runs = whole("max_concurrent_runs", runs, limits::WORKERS_MAX)?;
    }
    if let Some(seconds) = change.tick_interval_s {
        let interval = Duration::try_from_secs_f64(seconds).ok();
        settings.tick_interval =
            interval.filter(|interval| *interval <= limits::DURATION_MAX).ok_or_else(|| {
                Error::Usage(format!(
                    "tick_interval_s: got {seconds}, expected seconds from 0 to {}",
                    limits::DURATION_MAX.as_secs()
                ))
            })?;
    }
    Ok(())
}

fn whole(name: &str, value: u64, most: u64) -> Result<usize> {
    let fits = (1..=most).contains(&value);
    let value_in_memory = usize::try_from(value).ok().filter(|_| fits);
    value_in_memory
        .ok_or_else(|| Error::Usage(format!("{name}: got {value}, expected 1 to {most}")))
}

/// One line for each setting that is another one now.
fn changes(before: &Settings, after: &Settings) -> Vec<String> {
    let rate = |settings: &Settings| match settings.rate {
        Some(0.0) => "max".to_owned(),
        rate => rate.unwrap_or_default().to_string(),
    };
    let all = [
        ("rate", rate(before), rate(after)),
        ("max-batch", before.max_batch.to_string(), after.max_batch.to_string()),
        (
            "max-concurrent-runs",
            before.max_concurrent_runs.to_string(),
            after.max_concurrent_runs.to_string(),
        ),
        (
            "tick-interval",
            format!("{:?}", before.tick_interval),
            format!("{:?}", after.tick_interval),
        ),
    ];
    let changed = all.into_iter().filter(|(_, before, after)| before != after);
    changed.map(|(name, before, after)| format!("{name}: {before} -> {after}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Produce;

    fn applied(change: &Change, config: &Config) -> Result<Settings> {
        let mut settings = Settings::of(config);
        apply(change, &mut settings, config).map(|()| settings)
    }

    #[test]
    fn values_that_their_flags_do_not_take_are_refused_and_named() {
        let config = Config { produce: Some(Produce::default()), ..Config::default() };
        let none = Change::default();
        for (change, name) in [
            (Change { rate: Some(-1.0), ..none.clone() }, "rate"),
            (Change { rate: Some(f64::NAN), ..none.clone() }, "rate"),
            (Change { rate: Some(1e-9), ..none.clone() }, "rate"),
            (Change { max_batch: Some(0), ..none.clone() }, "max_batch"),
            (Change { max_batch: Some(1_000_001), ..none.clone() }, "max_batch"),
            (Change { max_concurrent_runs: Some(1001), ..none.clone() }, "max_concurrent_runs"),
            (Change { tick_interval_s: Some(-0.5), ..none.clone() }, "tick_interval_s"),
            (Change { tick_interval_s: Some(f64::INFINITY), ..none.clone() }, "tick_interval_s"),
            (Change { tick_interval_s: Some(1e9), ..none.clone() }, "tick_interval_s"),
        ] {
            let error = applied(&change, &config).unwrap_err();
            assert_eq!(error.exit_code(), 64);
            assert!(error.to_string().starts_with(&format!("{name}: got")), "{error}");
        }
        assert_eq!(applied(&none, &config), Ok(Settings::of(&config)));
    }

    #[test]
    fn a_rate_needs_a_producer_and_a_batch_its_memory() {
        let rate = Change { rate: Some(5.0), ..Change::default() };
        let error = applied(&rate, &Config::default()).unwrap_err();
        assert!(error.to_string().contains("no producer"), "{error}");
        let tight = Config { bisect: true, queue_bytes: 2 << 20, ..Config::default() };
        let batch = Change { max_batch: Some(100_000), ..Change::default() };
        let error = applied(&batch, &tight).unwrap_err().to_string();
        assert!(
            error.contains("max_batch: got 100000") && error.contains("--queue-bytes"),
            "{error}"
        );
        assert!(applied(&batch, &Config { bisect: false, ..tight }).is_ok());
    }

    #[test]
    fn a_change_is_one_line_and_what_stays_is_none() {
        let before = Settings::of(&Config::default());
        let after = Settings {
            max_batch: 200,
            tick_interval: Duration::from_millis(1500),
            ..before.clone()
        };
        let lines = changes(&before, &after);
        assert_eq!(lines, ["max-batch: 50 -> 200", "tick-interval: 1s -> 1.5s"]);
        let produced = Settings { rate: Some(0.0), ..before.clone() };
        let paced = Settings { rate: Some(20.5), ..before };
        assert_eq!(changes(&produced, &paced), ["rate: max -> 20.5"]);
    }

    #[test]
    fn a_cancelled_runs_error_is_one_bounded_line() {
        assert_eq!(error_of(" ").as_deref(), Ok("cancelled"));
        assert_eq!(error_of("not\nnow").as_deref(), Ok("cancelled: not\\nnow"));
        assert!(error_of(&"x".repeat(501)).is_err());
    }
}
